"""A badge for a README: on how many kernels and arches the cells are as promised. One SVG file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kmatrix.host.version import natural
from kmatrix.matrix.arch import ARCHES
from kmatrix.runs.cell_records import Record

_TEMPLATE = Path(__file__).with_name("badge.svg")
_LABEL = "kernels"
_GREEN, _RED, _YELLOW = "#1a7f37", "#cf222e", "#9a6700"
"""White text on each of them has a contrast of 4.5 or more (WCAG's AA)."""
_MARGIN = 6
_NARROW, _NARROW_PX, _WIDE_PX = "fijlrt .,:|()[]", 4.2, 7.0
"""About how wide characters are in Verdana at 11 px. The text is fitted to what that comes to, so a viewer's font does not matter."""


def render(records: Sequence[Record]) -> str:
    """The badge of the records."""
    text, colour = _said(records)
    left, right = (round(_width(each)) + 2 * _MARGIN for each in (_LABEL, text))
    environment = Environment(loader=FileSystemLoader(_TEMPLATE.parent), autoescape=True, undefined=StrictUndefined)
    return (
        environment.get_template(_TEMPLATE.name).render(
            label=_LABEL, text=text, colour=colour, left=left, right=right, width=left + right, margin=_MARGIN
        )
        + "\n"
    )


def _said(records: Sequence[Record]) -> tuple[str, str]:
    warnings = sum(record.warning for record in records)
    records = [record for record in records if not record.warning]  # what may come is no part of what is promised
    if not records:
        return f"{warnings} warning{'s' if warnings > 1 else ''} of what comes", _YELLOW
    red = sum(not record.ok and record.failure != "infra" for record in records)
    if red:
        return f"{red} of {len(records)} cells not as promised", _RED
    known = [record for record in records if record.ok]
    if len(known) < len(records):
        return f"{len(records) - len(known)} of {len(records)} cells not known", _YELLOW
    return f"{_kernels(known)} · {' + '.join(arch for arch in ARCHES if any(record.arch == arch for record in known))}", _GREEN


def _kernels(records: Sequence[Record]) -> str:
    """`5.4 – 6.12`; real kernels where there are some."""
    names = {record.kernel for record in records if not record.simulated} or {record.kernel for record in records}
    row = sorted(names, key=natural)
    return row[0] if len(row) == 1 else f"{row[0]} – {row[-1]}"


def _width(text: str) -> float:
    return sum(_NARROW_PX if letter in _NARROW else _WIDE_PX for letter in text)
