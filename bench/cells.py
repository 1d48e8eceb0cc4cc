"""How long a cell takes end to end at one worker: restore, load, attach, trigger, judge, kill. Medians, from one run."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.kernel import Simulation, Target
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.simulation import OLDEST_BASE
from kmatrix.runs import cell
from kmatrix.runs.cell_records import Record
from kmatrix.runs.machine_room import MachineRoom

STAGES = ("restore", "inventory", "open", "load", "attach", "trigger", "events", "teardown", "kill", "judge")
COLUMNS = ("cell", "behaviour", "total", "min", "max", *STAGES)


def measure(targets: Sequence[str], collectors: Sequence[str], *, rounds: int) -> Iterator[list[str]]:
    """A row a cell: medians of `rounds` runs in seconds, after one that is not counted (it makes the snapshot)."""
    matrix = load_matrix()
    room = MachineRoom(matrix)
    for name in collectors:
        collector = load_collector(Path("collectors") / name)
        for target in targets:
            records = [_run(collector, matrix.target(target), room) for _ in range(rounds + 1)][1:]
            totals = [record.timings["total"] for record in records]
            stages = [statistics.median(record.timings.get(stage, 0.0) for record in records) for stage in STAGES]
            shown = {record.observed or record.failure or "" for record in records}
            yield [
                records[0].cell,
                "/".join(sorted(shown)),
                *(f"{seconds:.2f}" for seconds in (statistics.median(totals), min(totals), max(totals))),
                *(f"{seconds:.3f}" for seconds in stages),
            ]


SIMULATED_COLUMNS = ("cell", "as it is", "simulated as itself", "ratio", "min", "max")


def measure_simulation(targets: Sequence[str], name: str, *, rounds: int) -> Iterator[list[str]]:
    """What the simulation costs: a cell with and without the supervisor that hides nothing, in turns; medians in seconds, ratios in pairs."""
    matrix = load_matrix()
    room, collector = MachineRoom(matrix), load_collector(Path("collectors") / name)
    for target in map(matrix.target, targets):
        kernel = target.kernel
        if kernel.version < OLDEST_BASE:
            continue
        same = replace(target, kernel=replace(kernel, name=f"{kernel.name}-same", simulation=Simulation(kernel, kernel.version)))
        pairs = [[_run(collector, each, room).timings["total"] for each in (target, same)] for _ in range(rounds + 1)][1:]
        ratios = [simulated / plain for plain, simulated in pairs]
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        shown = (*medians, statistics.median(ratios), min(ratios), max(ratios))
        yield [cell.name_of(collector, target), *(f"{number:.2f}" for number in shown)]


def _run(collector: Collector, target: Target, room: MachineRoom) -> Record:
    with tempfile.TemporaryDirectory(prefix="kmatrix-bench-") as folder:
        return cell.run(collector, target, room, Path(folder))
