"""The records as one HTML file that needs nothing beside it: the heat map, why cells are red, and each cell's story."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kmatrix.host.errors import InputError
from kmatrix.report import reds, table
from kmatrix.report.page import collectors, guest_tests
from kmatrix.report.page.data import build
from kmatrix.report.page.model import RED, WARN, Row
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord

_PARTS = Path(__file__).parent / "page"
_STYLES = ("colours.css", "page.css", "story.css")
_EARLY = ("theme.js",)
"""Runs before anything is drawn, so that a dark page is never light first."""
_SCRIPTS = ("data.js", "parts.js", "matrix.js", "views.js", "main.js")
"""They share one scope, in this order."""


def render(
    records: Iterable[Record],
    directory: Path,
    bad: Sequence[InputError] = (),
    *,
    commands: Sequence[TestRecord] = (),
    more: Sequence[Row] = (),
) -> str:
    """The page of the records of cells, and of test commands, under the kmatrix directory; `bad` are the files there that are none.

    `more` are rows of other kinds.
    """
    found = table.ordered(records)
    rows = [*collectors.rows(found, directory), *guest_tests.rows(commands, directory), *more]
    data = build(rows, _run([*found, *commands]), [(str(error.where), error.message) for error in bad])
    environment = Environment(
        loader=FileSystemLoader(_PARTS), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    early, script, style = _joined(_EARLY), _joined(_SCRIPTS), _joined(_STYLES)
    return environment.get_template("page.html").render(
        headline=headline(rows),
        red=any(cell.tone in RED for row in rows for cell in row.cells),
        early=Markup(early),
        script=Markup(script),
        style=Markup(style),
        allowed={"script": " ".join(map(_digest, (early, script))), "style": _digest(style)},
        data=_embedded(data),
        plain=_plain(rows),
    )


def headline(rows: Sequence[Row]) -> str:
    """The whole page in one sentence."""
    cells = [cell for row in rows for cell in row.cells]
    red = sum(cell.tone in RED for cell in cells)
    many = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
    warned = sum(cell.tone == WARN for cell in cells)
    warns = reds.counted(warned)
    if red:
        return f"{red} of {many} {'is' if red == 1 else 'are'} not as promised{warns}"
    if warned:
        return f"{len(cells) - warned} of {many} as promised{warns}"
    return f"{many}, {'and it is' if len(cells) == 1 else 'each'} as promised"


def _run(records: Sequence[Record | TestRecord]) -> list[tuple[str, str]]:
    """When, where and with what the cells ran, as the records have it."""
    begun = sorted(record.started for record in records if record.started)
    when = " to ".join(dict.fromkeys((begun[0], begun[-1]))) if begun else ""

    def said(key: str) -> str:
        return "; ".join(sorted({record.versions[key] for record in records if record.versions.get(key)}))

    facts = [
        ("cells begun", when),
        ("host", said("host")),
        ("kmatrix", said("kmatrix")),
        ("QEMU", said("qemu")),
        ("VMs run by", said("accel")),
        ("objects loaded by", said("loader")),
    ]
    return [(name, text) for name, text in facts if text]


def _plain(rows: Sequence[Row]) -> str:
    """The cells as lines of text, for a browser that runs no scripts: a line for each word of a row, with the targets that have it."""
    lines = []
    for row in rows:
        words: dict[str, list[str]] = {}
        for cell in row.cells:
            words.setdefault(f"{'✗ ' if cell.tone in RED else '! ' if cell.tone == WARN else ''}{cell.word}", []).append(
                cell.target
            )
        lines += [row.name, *(f"  {word}: {' '.join(targets)}" for word, targets in words.items())]
    return "\n".join(lines)


@cache
def _joined(names: Sequence[str]) -> str:
    return "\n".join((_PARTS / name).read_text(encoding="utf-8") for name in names)


def _digest(text: str) -> str:
    """What the page's policy knows its own scripts and styles by: a text that came from a log is never run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: Any) -> Markup:
    """JSON inside a script element, which `</script>` in a text must not end."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    text = text.encode(errors="replace").decode()
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
