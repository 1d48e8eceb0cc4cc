"""Rule 15 as facts: what CO-RE and the macros leave in a loaded program. Instructions are counted, no time is taken: that is `make overhead`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import overhead, twin
from kmatrix.host import paths
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.kernel import Target
from kmatrix.objects import compiled
from kmatrix.objects.btf import Btf
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm import Machine
from kmatrix.vm.channel import pack

Compiled = Callable[[str, Arch], Path | str]
FREE = ("`INIT_CORE_COMPAT()`", "`get_arg0(ctx)`", "`get_return_value(ctx)`", '`bpf_debug_printk("…", …)`')


class Lab(NamedTuple):
    """A guest that programs are loaded into; nothing of one stays for the next."""

    target: Target
    vm: Machine
    btf: Btf


@pytest.fixture(scope="module", params=ARCHES)
def lab(
    request: pytest.FixtureRequest, room: MachineRoom, need: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    need(f"6.1-{request.param}")
    target = room.matrix.target(f"6.1-{request.param}")
    with room.machine(target, tmp_path_factory.mktemp("lab") / "console.log") as (vm, _):
        yield Lab(target, vm, Btf(vm.get(overhead.BTF_FILE)))


def _both(lab: Lab, source: Path, work: Path) -> tuple[overhead.Account, overhead.Account]:
    """The only program of `source` with CO-RE, and its twin."""
    core = twin.compile_object(source, work / "core.o", lab.target.arch)
    plain = twin.compile_twin(source, lab.target.arch, lab.btf, work)
    assert compiled.inspect(core).uses_core
    assert not compiled.inspect(plain).uses_core
    loaded = [overhead.ask(lab.vm, {"op": "load", "object": pack(path.read_bytes())}) for path in (core, plain)]
    ((first,), (second,)) = (found.values() for found in loaded)
    return overhead.Account.of(first), overhead.Account.of(second)


@pytest.mark.parametrize(
    ("example", "most"),
    [
        ("core-read", 2),  # two hops
        ("direct-where-typed", 0),
        ("register", 0),
        ("guarded", 4),  # a hop, and what its test leaves
    ],
)
def test_core_costs_a_move_a_hop_and_direct_access_nothing(
    lab: Lab, compiled: Compiled, tmp_path: Path, example: str, most: int
) -> None:
    path = compiled(example, lab.target.arch)
    assert isinstance(path, Path)
    core, plain = _both(lab, path.with_name(f"{example}.bpf.c"), tmp_path)
    assert core.instructions - plain.instructions <= most
    assert (core.code == plain.code) == (most == 0)


def test_macros_that_are_free_leave_the_program_as_it_was(lab: Lab) -> None:
    costs = list(overhead.macro_costs(lab.vm, lab.target))
    assert {cost.macro.name: (cost.instructions, cost.jited) for cost in costs if cost.macro.name in FREE} == dict.fromkeys(
        FREE, (0, 0)
    )
    # What is not free is not free by accident: it reads memory or asks the kernel something.
    assert all(cost.instructions > 0 for cost in costs if cost.macro.name not in FREE)


def test_a_collector_and_its_twin_say_the_same(lab: Lab, room: MachineRoom) -> None:
    collector = load_collector(paths.data("collectors") / "execexit")
    pairs = overhead.pairs(lab.vm, None, collector, lab.target, room, pulls=2)
    assert {pair.program for pair in pairs} == {"handle_exec", "handle_exit"}
    for pair in pairs:
        assert pair.same_events  # and there were some: a layout taken wrongly shows in ppid, exit code and cgroup
        assert pair.core.time > 0
        assert 0 < pair.core.instructions - pair.twin.instructions <= 2 * pair.relocations


def test_a_collector_that_reads_directly_is_its_own_twin(lab: Lab, room: MachineRoom) -> None:
    """fentrysched, which has a variant here on x86_64 only (arm64's fentry is 6.4)."""
    collector = load_collector(paths.data("collectors") / "fentrysched")
    pairs = overhead.pairs(lab.vm, None, collector, lab.target, room, pulls=1)
    assert bool(pairs) == (lab.target.arch == "x86_64")
    assert all(pair.relocations and pair.core.code == pair.twin.code for pair in pairs)
