"""`kmatrix exec`: a command of the host in a target's VM."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.host.errors import InputError
from kmatrix.runs import command as commands
from kmatrix.runs.carried import Item
from kmatrix.runs.command import Options, Result, Streams
from kmatrix.runs.machine_room import Shape
from kmatrix.runs.signals import Signals


class _Exec(click.Command):
    """Options stand before or after TARGET; what follows its command is the command's, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `--` in front of the command."""
        takes = {name for param in self.params if isinstance(param, click.Option) and not param.is_flag for name in param.opts}
        at = positional = 0
        while at < len(args) and args[at] != "--":
            word = args[at]
            if word.startswith("-") and word != "-":
                at += 2 if word in takes else 1
                continue
            positional += 1
            if positional == 2:
                args = [*args[:at], "--", *args[at:]]
                break
            at += 1
        return super().parse_args(ctx, args)


def _items(*, folder: bool) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[Item, ...]]:
    def parse(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Item, ...]:  # noqa: ARG001
        return tuple(Item.parse(text, folder=folder) for text in value)

    return parse


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    pairs = {}
    for text in value:
        name, equals, setting = text.partition("=")
        if not equals and param.name == "env":
            if name not in os.environ:
                raise InputError(f"this host has no variable {name}", where="--env", fix=f"--env {name}=VALUE")
            setting = os.environ[name]
        elif not equals or not name:
            raise InputError(f"{text!r} is not NAME=VALUE", where=f"--{param.name}")
        pairs[name] = setting
    return pairs


def _caps(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:  # noqa: ARG001
    return None if value is None else tuple(name for name in value.split(",") if name and name != "none")


@click.command("exec", cls=_Exec)
@click.argument("target", shell_complete=complete.kernels_and_targets)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--file", "files", multiple=True, callback=_items(folder=False), metavar="PATH[:GUEST]", help="Bring this file along."
)
@click.option("--dir", "dirs", multiple=True, callback=_items(folder=True), metavar="PATH[:GUEST]", help="Bring this folder along.")
@click.option(
    "--env", multiple=True, callback=_pairs, metavar="NAME[=VALUE]", help="A variable for the command (the host's value)."
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, help="Seconds for it.")
@click.option("--memory", type=click.IntRange(min=128), metavar="MIB", help="The VM's memory. Half of it is the limit of /tmp.")
@click.option("--cpus", type=click.IntRange(min=1, max=64), metavar="N", help="The VM's CPUs.")
@click.option("--cmdline", multiple=True, metavar="PARAMETER", help="A kernel parameter: the VM boots with it.")
@click.option("--sysctl", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Set a sysctl before the command starts.")
@click.option("--user", metavar="NAME|UID[:GID]", help="Run it as this user of the guest (default: root).")
@click.option("--cap", "caps", callback=_caps, metavar="CAP,…|none", help="Leave it these capabilities only, such as cap_bpf.")
@click.option("--cores", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Put core dumps in this folder.")
@click.option("--console", is_flag=True, help="Show the guest's console on standard error.")
@click.option("--gdb", type=click.IntRange(min=1, max=65535), metavar="PORT", help="Wait for gdb on this port before it starts.")
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
def execute(
    target: str,
    argv: tuple[str, ...],
    files: tuple[Item, ...],
    dirs: tuple[Item, ...],
    env: dict[str, str],
    timeout: float,
    memory: int | None,
    cpus: int | None,
    cmdline: tuple[str, ...],
    sysctl: dict[str, str],
    user: str | None,
    caps: tuple[str, ...] | None,
    cores: Path | None,
    console: bool,
    gdb: int | None,
    accel: str,
    cold: bool,
    kernels_file: Path | None,
) -> None:
    """Run a command in the VM of TARGET and exit with its status: `kmatrix exec 5.4-arm64 -- ./pkg.test -test.v`.

    A kernel alone (5.4) means the host's arch. Files that the command names are brought into the guest at the same path, and the
    libraries that a program needs; the working directory is the host's. Standard input is passed on unless it is a terminal, and so are
    Ctrl-C and SIGTERM. 124 where it took longer than --timeout, 125 where the kernel died, 128+N where signal N ended it.
    """
    matrix = options.load_matrix(kernels_file)
    chosen = options.target(matrix, target)
    room = options.room(matrix, accel, cold)
    shape = Shape(memory, cpus, cmdline)
    given = Options(
        files=(*dirs, *files), env=env, timeout=timeout, shape=shape, sysctl=sysctl, user=user, caps=caps, cores=cores, gdb=gdb
    )
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.fileno()
    signals = Signals()
    out, err = signals.writer(1), signals.writer(2)
    result = commands.run(room, chosen, argv, Streams(out, err, stdin, signals, err if console else None), given)
    _tell(argv[0], result, timeout)
    raise click.exceptions.Exit(result.status)


def _tell(name: str, result: Result, timeout: float) -> None:
    """What a person has to know beside the command's own output."""
    lines = []
    if result.exit == 127 and result.error is not None:
        lines.append(
            f"{name}: the guest has no such command ({result.error})\n  fix: name a file of this host by its path, or bring it by --file"
        )
    elif result.error is not None:
        lines.append(f"{name} cannot be started in the guest: {result.error}")
    if result.timed_out:
        lines.append(f"{name} took longer than {timeout:g} s")
    if result.died is not None:
        lines.append(f"the kernel died (class kernel): {result.died.title}\n{result.died.text}")
    elif result.splats:
        lines.append(f"the kernel complained meanwhile: {result.splats[0].title}\n{result.splats[0].text}")
    if result.oom:
        lines.append(f"the guest's memory was full, and its kernel killed {', '.join(result.oom)}; --memory gives it more")
    if result.full and result.status:
        lines.append(f"{', '.join(result.full)} in the guest was full (half of its memory); --memory gives it more")
    lines += [f"core dump: {path}" for path in result.cores]
    for line in lines:
        click.echo(f"kmatrix: {line}", err=True)
