"""Reds in pytest's own output: cells that fail alike are shown once, and each line of its short summary says why.

pytest's account of each failure (FAILURES, ERRORS) and its short summary are made from the reports at the end of the run. For the account,
the reports of the second and later cells of a kind are held back; records, JUnit's file and exit status have them all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kmatrix.report import reds
from kmatrix.report.explain import alike, explain
from kmatrix.runs.cell_records import Record

_OWN = {"collector", "kernel", "arch"}
"""The markers that each cell has."""


class Told:
    """A failure's text, and what a line of the short summary says of it."""

    def __init__(self, text: str, line: str) -> None:
        self.text = text
        self.reprcrash = _Crash(line)

    def toterminal(self, tw: Any) -> None:
        """Write the text."""
        tw.line(self.text)

    def __str__(self) -> str:
        return self.text


class _Crash:
    """What pytest asks a failure for, to make a line of it."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __str__(self) -> str:
        return self.message


def fold(
    stats: dict[str, list[Any]], record_of: Callable[[Any], Record | None], directory: Path, *, each: bool = False
) -> dict[str, list[Any]]:
    """Leave in `stats` one report of each kind of red cell, with the others named in it (or `each` of them); returns what was there."""
    before: dict[str, list[Any]] = {outcome: list(stats[outcome]) for outcome in ("failed", "error") if outcome in stats}
    for outcome, reports in before.items():
        stats[outcome] = _fold(reports, record_of, directory, each)
    return before


def _fold(reports: list[Any], record_of: Callable[[Any], Record | None], directory: Path, each: bool) -> list[Any]:
    records = {id(report): record for report in reports if (record := record_of(report)) is not None}
    alike_ones = [[record] for record in records.values()] if each else reds.alike(records.values())
    groups = {id(group[0]): group for group in alike_ones}
    kept = []
    same: dict[str, list[Any]] = {}
    for report in reports:
        record = records.get(id(report))
        if record is not None:
            group = groups.get(id(record))
            text = explain(record, directory, group[1:]) if group and record.failure != "infra" else str(report.longrepr)
            report.longrepr = Told(text, reds.summary(record))
            if group is None:
                continue
            if record.failure == "infra" and group[1:]:
                report.longrepr.text += f"\n{alike(group[1:])}"
        elif not each and set(getattr(report, "keywords", ())) >= _OWN:  # a cell that could not be run at all
            same.setdefault(str(report.longrepr), []).append(report)
            if len(same[str(report.longrepr)]) > 1:
                continue
        kept.append(report)
    for text, errors in same.items():
        if len(errors) > 1:
            cells = ", ".join(report.nodeid.rpartition("::")[2] for report in errors[1:])
            errors[0].longrepr = Told(f"{text}\n  alike     {cells}", text.partition("\n")[0])
    return kept
