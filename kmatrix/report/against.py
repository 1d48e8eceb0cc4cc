"""What changed against another run, as a person reads it: text, Markdown for a pull request's comment, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kmatrix.report import causes, markdown, reds, table
from kmatrix.report.changes import Change, Changes, Kind, diagnosis
from kmatrix.report.explain import explain
from kmatrix.report.names import shorten, target_key
from kmatrix.report.table import GREEN, RED, RESET, YELLOW
from kmatrix.runs.cell_records import Record

_MEANING: dict[Kind, str] = {
    "new red": "as promised there, and not here",
    "new warning": "a kernel that moves on does otherwise than promised, and not as there",
    "verdict changed": "another behaviour or class of failure than there",
    "diagnosis changed": "red here as there, for another cause",
    "gone cell": "there is no such cell here",
    "new cell": "there is no such cell there",
    "now green": "not as promised there, and as promised here",
}
MARKER = "<!-- kmatrix: changes -->"
"""The first line of the Markdown: a bot finds its own comment by it."""


def render(changes: Changes, other: Path, *, colour: bool) -> str:
    """The changes by kind, cells that changed alike together; then what else is to be known."""
    head = f"{headline(changes)}, against {other}"
    paint = RED if changes.worse else YELLOW if changes.changes else GREEN
    parts = [f"{paint}{head}{RESET}" if colour else head]
    for (kind, worse), groups in _by_kind(changes):
        title = f"{kind}{' (worse)' if worse else ''}: {_MEANING[kind]}"
        parts.append("\n".join([title, *(f"  {line}" for group in groups for line in _told(group))]))
    if notes := [*_notes(changes, other)]:
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def headline(changes: Changes) -> str:
    """The comparison in one sentence."""
    found, bad = len(changes.changes), sum(change.worse for change in changes.changes)
    if not found:
        return f"no change: {_cells(changes.compared)} compared"
    worse = "none for the worse" if not bad else "for the worse" if bad == found else f"{bad} of them for the worse"
    return f"{_cells(found)} changed, {worse} ({changes.compared} compared)"


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"


Group = Sequence[Change]


def _by_kind(changes: Changes) -> Iterator[tuple[tuple[Kind, bool], list[Group]]]:
    kinds: dict[tuple[Kind, bool], dict[tuple[Any, ...], list[Change]]] = {}
    for change in changes.changes:
        why = diagnosis(change.after) if change.after is not None and not change.after.ok else ()
        alike = (change.record.collector, _state(change.before), _state(change.after), why)
        kinds.setdefault((change.kind, change.worse), {}).setdefault(alike, []).append(change)
    for key, groups in kinds.items():
        yield key, [sorted(group, key=lambda change: target_key(change.record.target)) for group in groups.values()]


def _title(group: Group) -> str:
    first = group[0].record
    if len(group) == 1:
        return first.cell
    return f"{first.collector} on {shorten([change.record.target for change in group])} ({len(group)} cells)"


def _state(record: Record | None) -> str:
    return table.mark(record) if record is not None else "not there"


def _told(group: Group) -> Iterator[str]:
    first = group[0]
    yield f"{_title(group)}: was {_state(first.before)}, is {_state(first.after)}"
    if first.kind == "diagnosis changed" and first.before is not None:
        yield f"    was: {_why(first.before)}"
    if first.after is not None:
        yield f"    {'is: ' if first.kind == 'diagnosis changed' else ''}{_why(first.after)}"
    if first.after is not None and not first.after.ok:
        yield from (f"    at {place}" for place in causes.places(causes.relevant(first.after)))
        yield f"    reproduce: {first.after.reproduce}"


def _why(record: Record) -> str:
    """Why it is as it is, in one line."""
    if record.ok:
        return record.reason.partition("\n")[0]
    found = causes.headlines(record)
    return f"{reds.summary(record)} ({found})" if found else reds.summary(record)


def _notes(changes: Changes, other: Path) -> Iterator[str]:
    if changes.not_known:
        yield f"nothing is known of these, where the machines failed here or there: {', '.join(changes.not_known)}"
    if changes.not_compared:
        yield f"not compared, since no cell of theirs was run here: {', '.join(changes.not_compared)}"
    for target, (then, now) in changes.changed_kernels.items():
        yield f"{target}: the kernel is {now}; in {other} it was {then}"
    then, now = changes.kmatrix
    if then and then != now:
        yield f"the records of {other} are by kmatrix {then}, these by {now}: what it judges, and its words for a cause, may differ"


def in_markdown(changes: Changes, other: Path, directory: Path) -> str:
    """The same for a pull request's comment: a table, and each red one folded with its account."""
    lines = [MARKER, f"### kmatrix: {headline(changes)}"]
    groups = [(kind, worse, group) for (kind, worse), found in _by_kind(changes) for group in found]
    if groups:
        rows = [
            [f"❌ {kind}" if worse else kind, _title(group), _state(group[0].before), _state(group[0].after), _short(group[0])]
            for kind, worse, group in groups
        ]
        lines += ["", *markdown.table_of(["change", "cells", "was", "is", "why"], rows)]
    for _, _, group in groups:
        after = group[0].after
        if after is not None and not after.ok:
            others = [change.after for change in group[1:] if change.after is not None]
            head = f"<b>{escape(_title(group))}</b> {escape(reds.summary(after))}"
            lines += markdown.folded(head, markdown.fenced(explain(after, directory, others)))
    lines += [line for note in _notes(changes, other) for line in ("", markdown.plain(note))]
    return "\n".join(lines) + "\n"


def _short(change: Change) -> str:
    return _why(change.after) if change.after is not None else _MEANING[change.kind]


def as_json(changes: Changes, other: Path) -> str:
    """The same for a program. `was` and `is` are of the records, and null where there is none."""
    data = {
        "against": str(other),
        "worse": changes.worse,
        "compared": changes.compared,
        "changes": [
            {
                "kind": change.kind,
                "worse": change.worse,
                "cell": change.record.cell,
                "collector": change.record.collector,
                "kernel": change.record.kernel,
                "arch": change.record.arch,
                "was": _of(change.before),
                "is": _of(change.after),
            }
            for change in changes.changes
        ],
        "not_known": list(changes.not_known),
        "not_compared": list(changes.not_compared),
        "changed_kernels": {target: {"was": then, "is": now} for target, (then, now) in changes.changed_kernels.items()},
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _of(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    names = ("expected", "observed", "ok", "failure", "reason", "reproduce")
    return {name: getattr(record, name) for name in names} | {"causes": [dict(cause) for cause in causes.relevant(record)]}
