"""Collectors' records as rows of the HTML report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from kmatrix.report import causes, reds, table
from kmatrix.report.page.model import Cell, Row, Tone
from kmatrix.report.page.shared import wrong_tone
from kmatrix.report.page.story import failure_of, programs, story
from kmatrix.runs.cell_records import Record

KIND = "collectors"


def rows(records: Iterable[Record], directory: Path) -> list[Row]:
    """A row for each collector, with a cell for each record; `directory` is the one that the records are under."""
    by_name: dict[str, list[Cell]] = {}
    for record in table.ordered(records):
        by_name.setdefault(record.collector, []).append(_cell(record, directory))
    return [Row(name, KIND, name, cells) for name, cells in by_name.items()]


def tone(record: Record) -> Tone:
    """The colour: the behaviour shown, or that something is wrong, or that the machine room is."""
    if record.ok:
        return cast(Tone, record.observed)
    return wrong_tone(record)


def _cell(record: Record, directory: Path) -> Cell:
    because = [causes.one_line(cause) for cause in causes.relevant(record)]
    return Cell(
        target=record.target,
        tone=tone(record),
        word=table.mark(record).removeprefix("✗ ").removeprefix("! "),
        why=record.reason if record.ok else reds.summary(record),
        story=story(record, directory),
        because=because,
        alike=" ".join(reds.kind(record)),
        reproduce=record.reproduce,
        facts=dict(_facts(record)),
        find=" ".join([record.expected, record.failure or "", str(record.expectation.get("variant") or "")]),
        simulated=record.simulated is not None,
        real=record.machine is not None,
    )


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    """What is compared with the collector's cells on other targets."""
    facts: Mapping[str, Any] = record.facts or {}
    yield "promised", record.expected
    yield "shown", record.observed or "none of the four"
    if record.failure:
        yield "wrong", failure_of(record)
    yield from ((f"cause {number}", causes.one_line(cause)) for number, cause in enumerate(causes.relevant(record), start=1))
    yield "runs", facts.get("running") or "nothing"
    for attempt in facts.get("attempts", ()):
        if attempt["variant"] == facts.get("running") or attempt is facts["attempts"][-1]:
            # How often it ran is different everywhere; that it never did is not.
            yield from ((f"program {name}", state.partition(", ran ")[0]) for name, state, *_ in programs(attempt))
            yield from ((f"map {name}", found.get("type") or "") for name, found in attempt.get("maps", {}).items())
    yield from ((f"events {name}", str(count)) for name, count in facts.get("counts", {}).items())
    yield from ((f"feature {name}", _known(there)) for name, there in ((record.probe or {}).get("features") or {}).items())
    yield "loader", record.versions.get("loader", "")
    yield "kernel release", record.versions.get("release", "")
    yield "seconds", f"{record.timings['total']:.2f}" if "total" in record.timings else ""


def _known(there: bool | None) -> str:
    return {True: "yes", False: "no"}.get(there, "cannot tell") if there is not None else "cannot tell"
