"""What the HTML report shows, as data that knows nothing of collectors: rows of cells over targets, and each cell's story.

The page draws these types and nothing else. Another kind of row is a module beside this one, with a function that makes `Row`s of its own
records, and a call of that in kmatrix.report.html. No script has to change for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from kmatrix.report.names import target_key

Tone = Literal["full", "partial", "fallback", "refusal", "pass", "skip", "warn", "bad", "infra"]
"""The colour of a cell, and the sign beside it. The four behaviours have one each; `pass` and `skip` are for rows that have no behaviours."""
TONES: Mapping[Tone, str] = {
    "bad": "not as promised",
    "infra": "infra",
    "warn": "warning",
    "full": "full",
    "partial": "partial",
    "fallback": "fallback",
    "refusal": "refusal",
    "pass": "passed",
    "skip": "skipped",
}
"""What each is called in the legend, in the legend's order."""
assert set(TONES) == set(get_args(Tone))

RED: Sequence[Tone] = ("bad", "infra")
"""Those of cells that somebody has to look at."""
WARN: Tone = "warn"
"""That of a cell that warns of what comes: it is listed with the red ones, and is none."""


@dataclass(frozen=True)
class Say:
    """A sentence, or some lines; `word` stands before it, in the colour of `tone`."""

    form: ClassVar[str] = "say"
    text: str
    word: str = ""
    tone: Tone | None = None


@dataclass(frozen=True)
class Pairs:
    """Names with what is known of them."""

    form: ClassVar[str] = "pairs"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A small table; rows whose number is in `bad` are marked."""

    form: ClassVar[str] = "table"
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    bad: Sequence[int] = ()


@dataclass(frozen=True)
class Finding:
    """Why something failed: the class, the cause in a line, where in the source, the last words, and what to do."""

    form: ClassVar[str] = "finding"
    kind: str
    headline: str
    of: str = ""
    places: Sequence[str] = ()
    """Lines of source, `text @ file:line`."""
    said: str = ""
    fix: str = ""
    see: str = ""
    promised: bool = False
    """Whether it failed as promised: then nobody has to do anything."""


@dataclass(frozen=True)
class Log:
    """A long text, folded. It is kept compressed, and once where several cells have the same."""

    form: ClassVar[str] = "log"
    title: str
    text: str
    note: str = ""
    mark: str = ""
    """Words whose line is marked: those that say what went wrong."""


@dataclass(frozen=True)
class Bars:
    """Seconds by stage, in order; `total` may be more than their sum."""

    form: ClassVar[str] = "bars"
    stages: Sequence[tuple[str, float]]
    total: float


@dataclass(frozen=True)
class Commands:
    """Commands to copy, each with what it does."""

    form: ClassVar[str] = "commands"
    commands: Sequence[tuple[str, str]]


Part = Say | Pairs | Table | Finding | Log | Bars | Commands


@dataclass(frozen=True)
class Step:
    """A chapter of a cell's story."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Cell:
    """One row on one target."""

    target: str
    """Kernel × arch, `5.4-arm64`."""
    tone: Tone
    word: str
    """What stands in the table, such as `full`, or `full→silent`."""
    why: str
    """The reason, in a line."""
    story: Sequence[Step]
    because: Sequence[str] = ()
    """Of a red cell, its causes, each in a line. Red cells of any row that have the same are listed together."""
    alike: str = ""
    """Of a red cell without a cause: what it has in common with those of its row that it is listed with. Default: `why`."""
    reproduce: str = ""
    """The command that runs the cell again."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What is compared with the row's other cells, side by side."""
    find: str = ""
    """More words that a search finds the cell by."""
    simulated: bool = False
    """Whether its target stands for an older kernel, and is none."""
    real: bool = False
    """Whether its target is a real machine, and no VM."""


@dataclass(frozen=True)
class Row:
    """A collector, or another thing that is tried on targets."""

    id: str
    """Names the row in addresses (`#cell=<id>@<target>`): no other row of the page has it."""
    kind: str
    """What it is, in the plural, as the heading of such rows: `collectors`."""
    name: str
    cells: Sequence[Cell]
    group: str = ""
    """What it belongs to, such as a test's package. Rows of a kind are sorted by group, and then stand as they came."""


def arranged(rows: Iterable[Row]) -> list[Row]:
    """The rows by kind, in the order in which the kinds come, and by group; raises ValueError where two have one id."""
    found = list(rows)
    kinds = list(dict.fromkeys(row.kind for row in found))
    ids = [row.id for row in found]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ValueError(f"two rows of the report have the same id: {', '.join(sorted(twice))}")
    return sorted(found, key=lambda row: (kinds.index(row.kind), row.group))


def targets(rows: Iterable[Row]) -> list[str]:
    """All targets of the rows, in the order of columns."""
    return sorted({cell.target for row in rows for cell in row.cells}, key=target_key)


def findings(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What is red, each cause once with all cells that have it; those of most cells first.

    A cell without a cause is listed with the cells of its row that are red alike.
    """
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        for cell in row.cells:
            for key, text in _reasons(row, cell):
                entry = groups.setdefault(key, {"tone": cell.tone, "text": text, "cells": []})
                entry["cells"].append(f"{row.id}@{cell.target}")
    order = (*RED, WARN)
    return sorted(groups.values(), key=lambda entry: (order.index(entry["tone"]), -len(entry["cells"])))


def _reasons(row: Row, cell: Cell) -> Iterator[tuple[tuple[str, ...], str]]:
    if cell.tone not in (*RED, WARN):
        return
    if not cell.because:
        yield (row.id, cell.tone, cell.word, cell.alike or cell.why), cell.why
    for text in dict.fromkeys(cell.because):
        yield (cell.tone, text), text
