"""The records as Markdown, for a CI job's summary page: the table, what failed, and (folded) what the rest rests on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import ARCHES
from kmatrix.report import causes, reds, table, tests
from kmatrix.report.explain import explain
from kmatrix.report.names import marked, target_key
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord

_WIDTH = 110
"""Columns that a summary page shows of a block."""


def render(records: Iterable[Record], directory: Path, bad: Sequence[InputError] = ()) -> str:
    """The report of the records under the kmatrix directory; `bad` are the files there that are none."""
    return "\n".join(_lines(table.ordered(records), directory, bad)) + "\n"


def of_commands(commands: Sequence[TestRecord]) -> str:
    """The part of test commands: their table, and what failed."""
    text = tests.render(commands, {}, colour=False, width=_WIDTH)
    return "\n".join([f"### kmatrix: {tests.headline(commands)}", "", *fenced(text)]) + "\n"


def _lines(records: Sequence[Record], directory: Path, bad: Sequence[InputError]) -> Iterator[str]:
    yield f"### kmatrix: {table.headline(records)}"
    for arch in ARCHES:
        yield from _matrix(arch, [record for record in records if record.arch == arch])
    simulated = {record.kernel: table.simulated(record.kernel, record.simulated) for record in records if record.simulated}
    if simulated:
        yield from ("", *(f"{plain(line)}  " for line in simulated.values()))
    if machines := {record.kernel: table.real(record.kernel, record.machine) for record in records if record.machine}:
        yield from ("", *(f"{plain(line)}  " for line in machines.values()))
    yield from (f"\nNot read: {plain(str(error.where))}: {plain(error.message)}" for error in bad)
    if told := [*causes.told_once([record for record in records if record.red])]:
        yield from ("", "Why, by cause:", "", *fenced("\n".join(told)))
    for group in reds.alike(records):
        head = f"<b>{escape(reds.title(group))}</b> {escape(reds.summary(group[0]))}"
        yield from folded(head, fenced(explain(group[0], directory, group[1:], logs=True)))
    if warned := reds.warnings(records):
        yield ("")
        yield f"Warnings, of {plain(reds.moving([record for group in warned for record in group]))}: {reds.MOVES}."
    for group in warned:
        head = f"⚠️ <b>{escape(reds.title(group))}</b> {escape(reds.summary(group[0]))}"
        yield from folded(head, fenced(explain(group[0], directory, group[1:], logs=True)))
    if green := table.why(records):
        yield from folded("Why each cell is what it is", table_of(["collector", "behaviour", "kernels", "why"], green))


def _matrix(arch: str, records: Sequence[Record]) -> Iterator[str]:
    """The table of one arch: both beside each other are wider than a summary page."""
    if not records:
        return
    simulated = {record.kernel for record in records if record.simulated}
    kernels = sorted({record.kernel for record in records}, key=lambda kernel: target_key(f"{kernel}-{arch}"))
    marks = {(record.collector, record.kernel): _mark(record) for record in records}
    rows = [[name, *(marks.get((name, kernel), "") for kernel in kernels)] for name in dict.fromkeys(r.collector for r in records)]
    yield ""
    real = {record.kernel for record in records if record.machine}
    heads = [marked(kernel, simulated=kernel in simulated, real=kernel in real) for kernel in kernels]
    yield from table_of([arch, *heads], rows)


def _mark(record: Record) -> str:
    if record.failure == "infra":
        return "⚠️ infra"
    return table.mark(record).replace("✗", "❌").replace("!", "⚠️")


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table; what stands in it is taken as it is."""
    for row in (heads, ["---"] * len(heads), *rows):
        yield "| " + " | ".join(cell if cell == "---" else plain(cell) for cell in row) + " |"


def folded(head: str, body: Iterable[str]) -> Iterator[str]:
    """Lines that show when `head`, which is HTML, is clicked."""
    yield from ("", f"<details><summary>{head}</summary>", "", *body, "", "</details>")


def fenced(text: str) -> Iterator[str]:
    """A block that `text` cannot end: its fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    yield from (fence, text, fence)


def plain(text: str) -> str:
    """`text` as it is, in a table's cell or a line: neither Markdown's nor HTML's signs mean anything in it."""
    return re.sub(r"([\\`*_|~\[\]])", r"\\\1", escape(text, quote=False)).replace("\n", "<br>")
