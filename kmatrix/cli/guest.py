"""`kmatrix shell` and `kmatrix exec`: a target's VM for a person, and for a script."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.host.paths import scratch_console
from kmatrix.manifest.load import find_collector
from kmatrix.runs import shell as shells

_STDIN = "/run/kmatrix-stdin"


@click.command("shell")
@click.argument("kernel", shell_complete=complete.kernels_and_targets)
@click.option(
    "--arch",
    metavar="ARCH",
    shell_complete=complete.arches,
    help="x86_64 or arm64 (or write KERNEL as 5.4-arm64; default: the host's).",
)
@click.option(
    "--collector",
    type=click.Path(path_type=Path),
    metavar="NAME|DIR",
    shell_complete=complete.collectors,
    help="Put this collector's objects in the guest, and start there.",
)
@click.option("--console", "serial", is_flag=True, help="Use the serial console instead of SSH.")
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
def shell(
    kernel: str, arch: str | None, collector: Path | None, serial: bool, accel: str, cold: bool, kernels_file: Path | None
) -> None:
    """A shell in the VM of KERNEL: pristine, thrown away afterwards; bpftool, python3 and libbpf are there."""
    matrix = options.load_matrix(kernels_file)
    target = options.target(matrix, kernel, arch)
    chosen = find_collector(collector, matrix.defined) if collector is not None else None
    room = options.room(matrix, accel, cold)
    with ExitStack() as stack:
        console = stack.enter_context(scratch_console(f"shell-{target}"))
        line = stack.enter_context(shells.serial_line()) if serial else None
        vm, _ = stack.enter_context(room.machine(target, console, serial=line))
        start = shells.lay_out(vm, chosen, target, mirrors=matrix.mirrors) if chosen is not None else "/root"
        status = shells.serial(vm, target, start) if serial else shells.ssh(vm, start)
    raise click.exceptions.Exit(status)


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("target", shell_complete=complete.kernels_and_targets)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds the command may take.")
@options.ACCEL
@options.COLD
@options.KERNELS_FILE
def execute(target: str, argv: tuple[str, ...], timeout: float, accel: str, cold: bool, kernels_file: Path | None) -> None:
    """Run a command in the VM of TARGET (5.4-arm64) and exit with its status: `kmatrix exec 5.4-arm64 -- uname -a`.

    A kernel alone (5.4) means the host's arch.     Standard input is passed on unless it is a terminal. 124 where it took longer than --timeout, 128+N where signal N ended it.
    """
    matrix = options.load_matrix(kernels_file)
    chosen = options.target(matrix, target)
    argv = argv[1:] if argv[0] == "--" else argv
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    room = options.room(matrix, accel, cold)
    with scratch_console(f"exec-{chosen}") as console, room.machine(chosen, console) as (vm, _):
        if stdin:
            vm.put(_STDIN, stdin)
            argv = ("sh", "-c", f'exec "$@" < {_STDIN}', "sh", *argv)
        ended = vm.run(argv, timeout=timeout)
    sys.stdout.buffer.write(ended.stdout)
    sys.stderr.buffer.write(ended.stderr)
    if ended.timed_out:
        click.echo(f"kmatrix: {argv[0]} took longer than {timeout:g} s", err=True)
        raise click.exceptions.Exit(124)
    raise click.exceptions.Exit(ended.exit if ended.exit is not None else 128 + (ended.signal or 0))
