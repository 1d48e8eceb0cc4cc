"""The options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from kmatrix.host.progress import Terminal
from kmatrix.matrix import load
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.selection import DEFAULT_SET, Matrix
from kmatrix.runs.machine_room import MachineRoom, refuse_missing

F = TypeVar("F", bound=Callable[..., Any])

ACCEL = click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True, help="How VMs run.")
COLD = click.option("--cold", is_flag=True, help="Boot afresh instead of restoring a snapshot.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
KERNELS = click.option(
    "--kernels", metavar="EXPR", help="5.4,6.1 | '>=5.8' | 5.4..6.1 | a set | all (what can be had of: default)."
)
ARCH = click.option("--arch", metavar="ARCH", default="all", show_default=True, help="x86_64, arm64 or all.")
KERNELS_FILE = click.option(
    "--kernels-file", type=click.Path(path_type=Path), help="A kernels.toml of your own (default: the nearest above)."
)


def room(matrix: Matrix, accel: str, cold: bool) -> MachineRoom:
    """The machine room of a verb, with progress on standard error."""
    return MachineRoom(matrix, accel=accel, cold=cold, reporter=Terminal())


def select(
    machine_room: MachineRoom, kernels: str | None, arch: str, only: Collection[str] | None = None
) -> tuple[list[Target], dict[str, str]]:
    """The targets that run (of `only`, where it is given), and those that cannot be had with the reason.

    As for pytest: what is asked for by --kernels and cannot be had is an error, and so is an arch of which nothing can; of the default set
    it is listed and left out.
    """
    chosen = machine_room.matrix.targets(kernels or DEFAULT_SET, arch)
    targets = [target for target in chosen if only is None or str(target) in only]
    missing = machine_room.unavailable(targets, asked=kernels is not None)
    refuse_missing(targets, missing, kernels=kernels, arch=None if arch == "all" else arch)
    return [target for target in targets if str(target) not in missing], missing


def load_matrix(file: Path | None) -> Matrix:
    """The matrix in force for the current directory."""
    return load.load_matrix(file=file)
