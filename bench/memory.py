"""What a VM takes of the host's memory after a cell has run in it: alone, and beside others of the same target, which share what they only read."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from kmatrix.manifest.load import load_collector
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.objects import compiled
from kmatrix.runs import core_btf
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.runs.request import request

COLUMNS = ("target", "VMs", "private, each", "PSS, each", "PSS, together")


def of_process(pid: int | str) -> tuple[int, int]:
    """(private, proportional) memory of a process in bytes, by proc(5).

    Private is what it has changed (Private_Dirty): what it has only read of a file is the page cache's. Proportional (PSS) has that too, shared out
    among the processes that map it.
    """
    private = proportional = 0
    for line in (Path("/proc") / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "Private_Dirty":
            private = int(rest.split()[0]) << 10
        elif name == "Pss":
            proportional = int(rest.split()[0]) << 10
    return private, proportional


def measure(targets: Sequence[str], counts: Sequence[int] = (1, 4, 8)) -> Iterator[list[str]]:
    """A row a target and number of VMs. Each has run the collector openat, and is still there."""
    matrix = load_matrix()
    room = MachineRoom(matrix)
    for name in targets:
        for count in counts:
            found = list(_at_once(room, matrix.target(name), count))
            private, proportional = zip(*found, strict=True)
            each = (statistics.median(private), statistics.median(proportional), sum(proportional))
            yield [name, str(count), *(f"{size / (1 << 20):.0f} MiB" for size in each)]


def _at_once(room: MachineRoom, target: Target, count: int) -> Iterator[tuple[int, int]]:
    collector = load_collector(Path("collectors") / "openat")
    with tempfile.TemporaryDirectory(prefix="kmatrix-bench-") as folder, ExitStack() as stack:
        machines = []
        for number in range(count):
            vm, _ = stack.enter_context(room.machine(target, Path(folder) / f"{number}.log"))
            question = request(collector, target)
            for variant in question["variants"]:
                info = compiled.load(collector, collector.variant(variant["name"]), target.arch)
                variant["core_btf"] = core_btf.minimal(vm, target, info, "libbpf")
            vm.call("cell", question, now=time.time(), timeout=60)
            machines.append(vm)
        for vm in machines:
            yield of_process(vm.pid)
