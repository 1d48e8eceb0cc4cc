"""What failed, grouped: cells of one collector that fail alike are one finding, told once in detail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kmatrix.report.names import shorten

if TYPE_CHECKING:
    from kmatrix.runs.cell_records import Record
    from kmatrix.runs.guest_test_records import TestRecord

_VARIES = re.compile(r"0x[0-9a-f]{4,}|(?<![-\w.])\d{3,}(?![\w.])")
"""What differs from VM to VM though the reason is the same: addresses, and numbers such as a pid. Not an errno (-524), not a version (5.15)."""


MOVES = "it moves on to newer releases, so what is not as promised there warns of what comes, and fails nothing"
"""Why a warning is one."""


def alike(records: Iterable[Record]) -> list[list[Record]]:
    """The records of what failed, in groups of cells that fail alike, in the order of each group's first."""
    return _grouped(record for record in records if record.red)


def warnings(records: Iterable[Record]) -> list[list[Record]]:
    """The records that warn of what comes, grouped in the same way."""
    return _grouped(record for record in records if record.warning)


def _grouped(records: Iterable[Record]) -> list[list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(kind(record), []).append(record)
    return list(groups.values())


def moving(records: Iterable[Record | TestRecord]) -> str:
    """The kernels of warnings, and the releases that they are: `latest (7.2.13-amd64)`."""
    releases: dict[str, list[str]] = {}
    for record in records:
        releases.setdefault(record.kernel, []).append(record.versions.get("release", ""))
    return ", ".join(
        f"{name} ({', '.join(found)})" if (found := list(dict.fromkeys(filter(None, each)))) else name
        for name, each in releases.items()
    )


def counted(warned: int) -> str:
    """What a headline says of that many warnings after the rest; nothing of none."""
    return f"; {warned} {'is a warning' if warned == 1 else 'are warnings'} of what comes" if warned else ""


def heading(kernels: str) -> str:
    """What stands over the warnings of these kernels: why they fail nothing."""
    return f"warnings, of {kernels}: {MOVES}"


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
