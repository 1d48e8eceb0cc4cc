"""A worker's matrix, held to the kernels that the run has; and whose snapshots are there, so that a cell goes where its target's lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kmatrix.host.errors import KmatrixError
from kmatrix.matrix.arch import parse_arch
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.lockfile import Lock, Locked
from kmatrix.matrix.selection import Matrix
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm.snapshot import SnapshotStore

Pins = Sequence[Mapping[str, str]]
"""The kernels of a run: `kernel` as kernels.toml calls it, `arch`, `release`, and `digest`, its KernelEntry.content."""


def pinned(matrix: Matrix, pins: Pins) -> Matrix:
    """The matrix, held to exactly the kernels of the run, whatever this machine's store has by their names."""
    held = [Locked(pin["kernel"], parse_arch(pin["arch"]), pin["release"], "import", pin["digest"]) for pin in pins]
    locked = {(each.kernel, each.arch): each for each in held}
    return replace(matrix, lock=Lock(Path("the run's kernels"), locked))


def ready(cwd: str, file: str | None, targets: Sequence[str], pins: Pins, accel: str) -> list[str]:
    """Those of the targets whose snapshot is on this machine."""
    matrix = pinned(load_matrix(Path(cwd), file=Path(file) if file else None), pins)
    room, store, found = MachineRoom(matrix, accel=accel), SnapshotStore(), []
    for name in targets:
        with suppress(KmatrixError):  # its cell says it
            if store.find(replace(room.spec(matrix.target(name)), confine=None)) is not None:
                found.append(name)
    return found
