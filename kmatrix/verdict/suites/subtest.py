"""A sub-test: one test of a test program's many, with how it ended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Ending = Literal["passed", "failed", "skipped", "unfinished"]
"""How a sub-test ended. `unfinished`: it began, or was announced, and no result came: the program crashed, hung or left."""
ENDINGS: tuple[Ending, ...] = get_args(Ending)
RED: frozenset[Ending] = frozenset(("failed", "unfinished"))

KEPT_LINES = 400
"""Lines of output that are kept of a sub-test: the last ones."""
KEPT_CHARACTERS = 2000
"""Characters that are kept of a line."""


@dataclass(frozen=True)
class SubTest:
    """One sub-test's result."""

    name: str
    """As the program names it: `TestRingbuf/wakeup`, `tests::loads`, `12 adds up`."""
    ending: Ending
    seconds: float | None = None
    """What it took, where the program says so."""
    message: str = ""
    """One line that says why it failed or was skipped; empty where the program does not say."""
    output: str = ""
    """The last lines that it printed; only of one that did not pass."""

    @property
    def red(self) -> bool:
        """Whether it did not do what it should."""
        return self.ending in RED


class Format(Protocol):
    """A reader of one format. It is given each line of standard output, without its end, and may see other programs' lines among them."""

    name: str
    """What the format is called in records and reports."""

    @property
    def recognised(self) -> int:
        """How many lines were of this format beyond doubt."""

    @property
    def nothing(self) -> str:
        """The framework's own words that it ran no test at all; empty where it ran one, skips by itself, or does not say. Asked for at the end."""

    def line(self, text: str) -> None:
        """The next line."""

    def results(self) -> list[SubTest]:
        """The sub-tests, in the order in which they began; asked for when all lines are read."""


class Kept:
    """The last lines of an output."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)

    def add(self, line: str) -> None:
        """One more line; of a very long one its beginning."""
        self._lines.append(line if len(line) <= KEPT_CHARACTERS else line[:KEPT_CHARACTERS] + " …")

    def text(self) -> str:
        """The lines, without the indentation that they share."""
        lines = list(self._lines)
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        return "\n".join(line[indent:].rstrip() for line in lines).strip("\n")
