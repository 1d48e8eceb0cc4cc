"""The tables that say since when, asked of booted kernels: each row is there from its release on, and not before, or says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kmatrix.guest.facts import FACTS
from kmatrix.guest.table_kfuncs import MODULES
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import ARCHES, parse_arch
from tests.guest.conftest import Guest

KERNELS = ("4.14", "5.4", "5.10", "5.15", "6.1", "6.12", "6.18", "latest", "next")
MOVING = ("latest", "next")
NAMES = [f"{kind}:{name}" for kind, rows in FACTS.items() for name in rows]
UNDECIDED = {f"kfunc:{name}" for name in MODULES}
"""Kernel functions of a module: its BTF is there when it is loaded."""


def test_every_release_has_a_kernel_on_either_side() -> None:
    """The newest of KERNELS is not older than the newest row: else nothing would show that a row is there at all."""
    newest = (6, 18)
    for kind, rows in FACTS.items():
        for name, row in rows.items():
            assert max(row.since, *row.arches.values(), row.since) <= newest, f"{kind}:{name}"


@pytest.mark.slow
@pytest.mark.parametrize("target", [f"{kernel}-{arch}" for kernel in KERNELS for arch in ARCHES])
def test_a_kernel_has_what_came_before_it_and_nothing_else(boot: Callable[[str], Guest], target: str) -> None:
    name, _, arch = target.rpartition("-")
    if name in MOVING and KernelStore().find(name, parse_arch(arch)) is None:
        pytest.skip(f"{name} moves on, and is tried where somebody fetched it: kmatrix kernels fetch {name} --arch {arch}")
    guest = boot(target)
    found = guest.vm.call("facts", names=NAMES, timeout=600)
    differing = {
        f"{name}: declared {guest.target.has(name)}, found {there}: {found['why'][name]}"
        for name, there in found["features"].items()
        if there is not guest.target.has(name) and not (there is None and name in UNDECIDED)
    }
    assert differing == set()
    assert guest.vm.splat() is None
