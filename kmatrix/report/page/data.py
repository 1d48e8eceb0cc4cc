"""The one JSON value that the page's script reads: the rows, made small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kmatrix.report.page.model import TONES, Cell, Log, Part, Row, arranged, findings, targets
from kmatrix.report.page.pack import Pack

SCHEMA = "kmatrix.report.page/1"
LONGEST = 1_000_000
"""Characters of one log that the page carries: of a longer one, the beginning and the end. The record has all of it."""


def build(rows: Sequence[Row], run: Sequence[tuple[str, str]] = (), bad: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The page's data: `run` says how the cells were run, `bad` names the files that are no records, with the reason."""
    shown = arranged(rows)
    columns = targets(shown)
    stories, logs = Pack(), Pack()
    cells = [
        _cell(cell, number, columns.index(cell.target), stories, logs) for number, row in enumerate(shown) for cell in row.cells
    ]
    tones = {cell.tone for row in shown for cell in row.cells}
    simulated = {cell.target for row in shown for cell in row.cells if cell.simulated}
    real = {cell.target for row in shown for cell in row.cells if cell.real}
    return {
        "schema": SCHEMA,
        "run": run,
        "bad": bad,
        "tones": [[tone, label] for tone, label in TONES.items() if tone in tones],
        "targets": [_target(name, name in simulated, name in real) for name in columns],
        "rows": [{"id": row.id, "kind": row.kind, "group": row.group, "name": row.name} for row in shown],
        "cells": cells,
        "findings": findings(shown),
        "stories": stories.blocks(),
        "logs": logs.blocks(),
    }


def _target(name: str, simulated: bool, real: bool) -> dict[str, Any]:
    kernel, _, arch = name.rpartition("-")
    return {"name": name, "kernel": kernel, "arch": arch, "simulated": simulated, "real": real}


def _cell(cell: Cell, row: int, target: int, stories: Pack, logs: Pack) -> dict[str, Any]:
    steps = [{"title": step.title, "parts": [_part(part, logs) for part in step.parts]} for step in cell.story]
    story = json.dumps({"facts": cell.facts, "steps": steps}, ensure_ascii=False, separators=(",", ":"))
    return {
        "row": row,
        "target": target,
        "tone": cell.tone,
        "word": cell.word,
        "why": cell.why,
        "find": " ".join([*cell.because, cell.find]).strip(),
        "reproduce": cell.reproduce,
        "story": stories.add(story),
    }


def _part(part: Part, logs: Pack) -> Mapping[str, Any]:
    """A part as the script draws it: its form, and what is not empty of it."""
    if isinstance(part, Log):
        lines = part.text.count("\n") + (not part.text.endswith("\n"))
        drawn: dict[str, Any] = asdict(part) | {"lines": lines, "text": logs.add(_bounded(part.text))}
    else:
        drawn = asdict(part)
    return {"form": part.form} | {key: value for key, value in drawn.items() if isinstance(value, float) or value}


def _bounded(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    cut = len(text) - 2 * half
    return f"{text[:half]}\n… {cut} characters are left out here; the record has them …\n{text[-half:]}"
