"""The options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from kmatrix.cli import complete
from kmatrix.guest import limit
from kmatrix.host.errors import InputError
from kmatrix.host.progress import Terminal
from kmatrix.matrix import load
from kmatrix.matrix.arch import ARCHES, host_arch, parse_arches
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.selection import Matrix, asked_for
from kmatrix.runs.machine_room import MachineRoom, refuse_missing

F = TypeVar("F", bound=Callable[..., Any])

ACCEL = click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True, help="How VMs run.")
COLD = click.option("--cold", is_flag=True, help="Boot afresh instead of restoring a snapshot.")
LOAD_TIMEOUT = click.option(
    "--load-timeout",
    type=click.FloatRange(min=0, min_open=True, max=600),
    default=limit.SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long the verifier may be at work on one program.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
KERNELS = click.option(
    "--kernels",
    metavar="EXPR",
    shell_complete=complete.selections,
    help="5.4,6.1 | '>=5.8' | 5.4..6.1 | a set of kernels.toml | store (what is on this machine) | all | 6.1+lockdown, 6.1+cap=bpf,perfmon (docs/circumstances.md) | a real machine of [hosts], by its name. Default: what can be had of the set default.",
)
ARCH = click.option(
    "--arch", metavar="ARCH", default="all", show_default=True, shell_complete=complete.arches, help="x86_64, arm64 or all."
)
LOADER = click.option(
    "--loader",
    metavar="NAME",
    default="libbpf",
    show_default=True,
    help="What loads and attaches: libbpf, cilium (cilium/ebpf), or all, which also shows where they differ.",
)
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
    targets = [each for each in machine_room.targets(kernels, arch) if only is None or str(each) in only]
    asked = asked_for(kernels)
    missing = machine_room.unavailable(targets, asked=asked is not None)
    refuse_missing(targets, missing, kernels=asked, arch=None if arch == "all" else arch)
    return [target for target in targets if str(target) not in missing], missing


def target(matrix: Matrix, text: str, arch: str | None = None) -> Target:
    """`5.4 --arch arm64`, `5.4-arm64`, or `5.4` on the host's arch. Raises InputError."""
    if arch is None and matrix.find(text) is None and "-" in text:
        return matrix.target(text, where="KERNEL")
    known = matrix.kernel(text, where="KERNEL")
    if arch is None:
        return Target(known, host_arch() or ARCHES[0])
    arches = parse_arches(arch)
    if len(arches) != 1:
        raise InputError("a VM has one arch", where="--arch", fix="give x86_64 or arm64")
    return Target(known, arches[0])


def load_matrix(file: Path | None) -> Matrix:
    """The matrix in force for the current directory."""
    return load.load_matrix(file=file)
