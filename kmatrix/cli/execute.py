"""`kmatrix exec`: a command of the host in a target's VM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from kmatrix.cli import complete, guest_options, options
from kmatrix.runs import command as commands
from kmatrix.runs.carried import Item
from kmatrix.runs.command import Options, Result, Streams
from kmatrix.runs.signals import Signals


def _items(*, folder: bool) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[Item, ...]]:
    def parse(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Item, ...]:  # noqa: ARG001
        return tuple(Item.parse(text, folder=folder) for text in value)

    return parse


@click.command("exec", cls=guest_options.BeforeCommand)
@click.argument("target", shell_complete=complete.kernels_and_targets)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--file", "files", multiple=True, callback=_items(folder=False), metavar="PATH[:GUEST]", help="Bring this file along."
)
@click.option("--dir", "dirs", multiple=True, callback=_items(folder=True), metavar="PATH[:GUEST]", help="Bring this folder along.")
@guest_options.guest
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
    given: Options,
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
    given = replace(given, files=(*dirs, *files), gdb=gdb)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.fileno()
    signals = Signals()
    out, err = signals.writer(1), signals.writer(2)
    result = commands.run(room, chosen, argv, Streams(out, err, stdin, signals, err if console else None), given)
    _tell(argv[0], result, given.timeout)
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
