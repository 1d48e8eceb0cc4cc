"""`kmatrix shell`: a target's VM for a person."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from kmatrix.cli import complete, options
from kmatrix.host.paths import scratch_console
from kmatrix.manifest.load import find_collector
from kmatrix.runs import shell as shells


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
