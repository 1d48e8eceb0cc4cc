"""Simulated kernels and the tables: what is declared of one is what its guest's probes find, row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.guest.facts import FACTS
from kmatrix.guest.table_kfuncs import MODULES
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.machine_room import MachineRoom

NAMES = [f"{kind}:{name}" for kind, rows in FACTS.items() for name in rows if name not in MODULES]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["4.14-sim-x86_64", "5.4-sim-arm64", "6.1-nobtf-x86_64"])
def test_the_guest_finds_every_row_as_it_is_declared(target: str, need: Callable[[str], None], tmp_path: Path) -> None:
    room = MachineRoom(load_matrix(Path("/")))
    on = room.matrix.target(target)
    need(target)
    with room.machine(on, tmp_path / "console.log") as (vm, _):
        found = vm.call("facts", names=NAMES, timeout=600)
    differing = {
        f"{name}: declared {on.has(name)}, found {there}: {found['why'][name]}"
        for name, there in found["features"].items()
        if there is not on.has(name)
    }
    assert differing == set()
