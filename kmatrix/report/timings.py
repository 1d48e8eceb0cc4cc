"""Where the time of a run's cells went: by stage, and which cells took longest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles

from kmatrix.report import grid
from kmatrix.runs.cell_records import Record

HOST = ("prepare", "probe", "restore", "files", "kill", "judge")
"""The stages that the host does. The others are the guest's own."""
REST = "between"
"""What of a cell's time is no stage's: requests and answers on their way, and what the host does with them."""
ABOUT = {
    "prepare": "fetching and building what the cell needs; nothing where it is here",
    "probe": "asking a guest for features with a parameter, once for each target",
    "restore": "a machine from its snapshot; the snapshot too, where it was made",
    "files": "a loader's files on their way into the guest",
    "inventory": "what is loaded in the kernel, before and after",
    "open": "the object opened by the loader's library",
    "load": "relocation, maps and the verifier",
    "attach": "programs onto their hooks",
    "test_run": "programs that the kernel runs on given input",
    "trigger": "what makes the event, from its child's start to its end",
    "events": "reading the buffers until each event is there",
    "effort": "measuring the verifier's work",
    "teardown": "detaching, and waiting until nothing is left",
    "kill": "the machine's end",
    "judge": "the verdict",
    REST: "requests and answers on their way",
}
"""What each stage is, in the order in which they come first."""
_SLOWEST = 5


@dataclass(frozen=True)
class Stage:
    """One stage over all cells that had it."""

    name: str
    where: str
    """`host` or `guest`."""
    cells: int
    median: float
    """Seconds, as the next two."""
    ninth_decile: float
    """Nine cells of ten took no longer."""
    sum: float
    share: float
    """Of the time of all cells together, from 0 to 1."""


def stages(records: Sequence[Record]) -> list[Stage]:
    """Each stage, in the order in which they come."""
    found: dict[str, list[float]] = {}
    for record in records:
        for name, seconds in _of(record).items():
            found.setdefault(name, []).append(seconds)
    whole = sum(record.timings.get("total", 0.0) for record in records) or 1.0
    order = [*ABOUT, *(name for name in found if name not in ABOUT)]
    return [_stage(name, found[name], whole) for name in order if name in found]


def _stage(name: str, seconds: Sequence[float], whole: float) -> Stage:
    most = quantiles(seconds, n=10, method="inclusive")[8] if len(seconds) > 1 else seconds[0]
    where = "host" if name in (*HOST, REST) else "guest"
    return Stage(name, where, len(seconds), median(seconds), most, sum(seconds), sum(seconds) / whole)


def _of(record: Record) -> Mapping[str, float]:
    timings = {name: seconds for name, seconds in record.timings.items() if name != "total"}
    rest = record.timings.get("total", 0.0) - sum(timings.values())
    return timings | ({REST: max(0.0, rest)} if "total" in record.timings else {})


def slowest(records: Sequence[Record]) -> list[Record]:
    """The cells that took longest, the longest first."""
    return sorted(records, key=lambda record: -record.timings.get("total", 0.0))[:_SLOWEST]


def render(records: Sequence[Record], *, width: int) -> str:
    """As text."""
    return "\n\n".join(_parts(records, width)) + "\n"


def _parts(records: Sequence[Record], width: int) -> Iterator[str]:
    totals = [record.timings.get("total", 0.0) for record in records]
    yield f"{len(records)} cells took {sum(totals):.1f} s together, and {median(totals):.2f} s each (median)."
    heads = ["stage", "where", "cells", "median", "9 of 10", "together", "share", "what it is"]
    rows = [
        [
            *(each.name, each.where, str(each.cells), _seconds(each.median), _seconds(each.ninth_decile)),
            *(f"{each.sum:.1f} s", f"{each.share:.0%}", ABOUT.get(each.name, "")),
        ]
        for each in stages(records)
    ]
    yield grid.prose(rows, width, heads=heads, wrap=(len(heads) - 1,))
    rows = []
    for record in slowest(records):
        longest = sorted(_of(record).items(), key=lambda pair: -pair[1])[:3]
        told = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in longest)
        rows.append([record.cell, f"{record.timings.get('total', 0.0):.2f} s", told])
    yield grid.prose(rows, width, heads=["slowest", "took", "of it"], wrap=(2,))


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def as_json(records: Sequence[Record]) -> str:
    """The same as JSON: `cells`, `stages`, `slowest`; seconds."""
    cells = {record.cell: dict(record.timings) for record in records}
    data = {"cells": cells, "stages": [asdict(each) for each in stages(records)], "slowest": [r.cell for r in slowest(records)]}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
