"""What failed, grouped: cells of one collector that fail alike are one finding, told once in detail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kmatrix.report.names import shorten

if TYPE_CHECKING:
    from kmatrix.runs.cell_records import Record

_VARIES = re.compile(r"0x[0-9a-f]{4,}|(?<![-\w.])\d{3,}(?![\w.])")
"""What differs from VM to VM though the reason is the same: addresses, and numbers such as a pid. Not an errno (-524), not a version (5.15)."""


def alike(records: Iterable[Record]) -> list[list[Record]]:
    """The records of what failed, in groups of cells that fail alike, in the order of each group's first."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if not record.ok:
            groups.setdefault(kind(record), []).append(record)
    return list(groups.values())


def kind(record: Record) -> tuple[str, ...]:
    """What failures that are alike have in common: collector, class, behaviours and reason."""
    reason = _VARIES.sub("…", record.reason).replace(record.target, "…")
    return record.collector, str(record.failure), record.expected, str(record.observed), reason


def title(group: Sequence[Record]) -> str:
    """`openat[5.4-arm64]`, or `openat on 5.4 6.1-arm64 (3 cells)`."""
    first = group[0]
    if len(group) == 1:
        return first.cell
    return f"{first.collector} on {shorten([record.target for record in group])} ({len(group)} cells)"


def summary(record: Record) -> str:
    """Class and reason in one line."""
    head, _, _ = record.reason.partition("\n")
    return f"{record.failure}: {head}"
