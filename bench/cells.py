"""How long a cell takes end to end at one worker: restore, load, attach, trigger, judge, kill. Medians, from one run."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kmatrix import cell, config
from kmatrix.machine_room import MachineRoom

STAGES = ("restore", "inventory", "open", "load", "attach", "trigger", "events", "teardown", "kill", "judge")
COLUMNS = ("cell", "behaviour", "total", "min", "max", *STAGES)


def measure(targets: Sequence[str], collectors: Sequence[str], *, rounds: int) -> Iterator[list[str]]:
    """A row a cell: medians of `rounds` runs in seconds, after one that is not counted (it makes the snapshot)."""
    matrix = config.load_matrix()
    room = MachineRoom(matrix)
    for name in collectors:
        collector = config.load_collector(Path("collectors") / name)
        for target in targets:
            with tempfile.TemporaryDirectory(prefix="kmatrix-bench-") as folder:
                records = [cell.run(collector, matrix.target(target), room, Path(folder)) for _ in range(rounds + 1)][1:]
            totals = [record.timings["total"] for record in records]
            stages = [statistics.median(record.timings.get(stage, 0.0) for record in records) for stage in STAGES]
            shown = {record.observed or record.failure or "" for record in records}
            yield [
                records[0].cell,
                "/".join(sorted(shown)),
                *(f"{seconds:.2f}" for seconds in (statistics.median(totals), min(totals), max(totals))),
                *(f"{seconds:.3f}" for seconds in stages),
            ]
