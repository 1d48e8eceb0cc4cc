"""Tables that fit the terminal: too many columns are folded below each other, and prose is wrapped in its column."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

LOG_LINES = 60
"""Lines of a verifier log shown; the whole log is in the record."""

OUTLINE, PLAIN, BARE = "rounded_outline", "simple", "plain"
"""The styles in use: with lines around it, with a line under the heads, with no line at all (tabulate's names)."""
_BETWEEN: Mapping[str, int] = {OUTLINE: 3, PLAIN: 2, BARE: 2}
"""Columns of the terminal that a style takes beside each column's text."""
_ELSEWHERE = 120
"""Columns where there is no terminal, and $COLUMNS does not say."""
_NARROWEST = 12
"""Columns that wrapped prose gets at least, however narrow the terminal is."""
_HEAD = 2
"""Columns that tabulate leaves free beside a head, and not beside a cell."""
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def terminal_width() -> int:
    """Columns of the terminal that standard output is; $COLUMNS where that is set, and 120 where it is no terminal."""
    return shutil.get_terminal_size((_ELSEWHERE, 24)).columns if sys.stdout is not None else _ELSEWHERE


@dataclass(frozen=True)
class Column:
    """A head (of one or more lines), and a text for each row."""

    head: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """Columns of the terminal that its widest line takes."""
        head = max(map(visible, self.head.splitlines()), default=-_HEAD) + _HEAD
        return max(head, *map(visible, "\n".join(self.cells).splitlines()), 0)


def folded(labels: Sequence[Column], groups: Sequence[Sequence[Column]], width: int, style: str = OUTLINE) -> str:
    """The columns of all groups in one table, if `width` has room for it; else a table a group, and several where one is still too wide.

    `labels` come first in each table; in those that go on with a group, the first of them alone.
    """
    whole = [column for group in groups for column in group]
    if _fits([*labels, *whole], width, style):
        return _table([*labels, *whole], style)
    tables = []
    for group in groups:
        first, rest = labels, list(group)
        while rest:
            count = _how_many(first, rest, width, style)
            tables.append(_table([*first, *rest[:count]], style))
            first, rest = labels[:1], rest[count:]
    return "\n\n".join(tables)


def _how_many(labels: Sequence[Column], columns: Sequence[Column], width: int, style: str) -> int:
    """How many of the columns the next table takes: as many as fit (one at least)."""
    fitting = [n for n in range(1, len(columns) + 1) if _fits([*labels, *columns[:n]], width, style)]
    return max(fitting, default=1)


def _fits(columns: Sequence[Column], width: int, style: str) -> bool:
    edges = 1 if style == OUTLINE else -_BETWEEN[style]
    return sum(column.width + _BETWEEN[style] for column in columns) + edges <= width


def _table(columns: Sequence[Column], style: str) -> str:
    rows = list(zip(*(column.cells for column in columns), strict=True))
    return tabulate(rows, headers=[column.head for column in columns], tablefmt=style, disable_numparse=True)


def prose(
    rows: Sequence[Sequence[str]], width: int, *, heads: Sequence[str] = (), style: str = PLAIN, wrap: Sequence[int] = (-1,)
) -> str:
    """A table whose columns `wrap` (by number) are wrapped between words to what the others leave of `width`."""
    if not rows:
        return ""
    columns = [Column(heads[number] if heads else "", [row[number] for row in rows]) for number in range(len(rows[0]))]
    wrapped = sorted({number % len(columns) for number in wrap})
    left = width - sum(column.width + _BETWEEN[style] for n, column in enumerate(columns) if n not in wrapped)
    room: dict[int, int] = {}
    for place, number in enumerate(sorted(wrapped, key=lambda n: columns[n].width)):  # a narrow one leaves its share to the others
        share = left // (len(wrapped) - place) - _BETWEEN[style]
        room[number] = max(min(_NARROWEST, columns[number].width), min(share, columns[number].width))
        left -= room[number] + _BETWEEN[style]
    cells = [[_wrap(text, room[n]) if n in room else text for n, text in enumerate(row)] for row in rows]
    table = tabulate(cells, headers=heads, tablefmt=style, disable_numparse=True)
    return "\n".join(line.rstrip() for line in table.splitlines())  # one long word must not make every line wrap


def _wrap(text: str, width: int) -> str:
    """`text` in lines of at most `width`, broken between words: a name or a path is left whole, so that it can be copied."""
    lines = [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return "\n".join(lines)


def visible(line: str) -> int:
    """The columns that a line takes, escape sequences left out."""
    return len(_ESCAPES.sub("", line))
