"""Which format a test program's output is in, and the sub-tests that it tells of. The output is read as it streams, and not kept whole."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmatrix.verdict.suites.go import NOTHING, GoJson, GoTest
from kmatrix.verdict.suites.gtest import GoogleTest, TestProgs
from kmatrix.verdict.suites.libtest import Libtest
from kmatrix.verdict.suites.pytest_output import Pytest
from kmatrix.verdict.suites.subtest import Format, Kept, SubTest
from kmatrix.verdict.suites.tap import Tap

FORMATS: Mapping[str, Callable[[], Format]] = {
    "go": GoTest,
    "go-json": GoJson,
    "libtest": Libtest,
    "tap": Tap,
    "pytest": Pytest,
    "gtest": GoogleTest,
    "test_progs": TestProgs,
}
"""The formats by the name that `--format` takes. A new one: a module with a Format, and a row here."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 1 << 16
"""Characters after which a line that does not end is cut: the memory of the reader is bounded."""


@dataclass(frozen=True)
class Suite:
    """What was read of an output."""

    format: str | None
    """The format's name; None where none was recognised."""
    subtests: tuple[SubTest, ...]
    tail: str
    """The last lines of the whole output."""
    nothing: str = ""
    """The framework's own words that no test was run; empty where one was, where the suite skips by itself, and where it does not say."""


class Lines:
    """The lines of an output while it comes; the last of them are kept."""

    def __init__(self, each: Callable[[str], None] | None = None) -> None:
        """`each` is given every line, without its end and without colours."""
        self._each = each
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._tail = Kept()

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        text = self._rest + self._decoder.decode(data)
        *lines, self._rest = text.split("\n")
        for line in lines:
            self._line(line)
        if len(self._rest) > _LONGEST:
            self._line(self._rest)
            self._rest = ""

    def _line(self, line: str) -> None:
        line = _ESCAPES.sub("", line.rstrip("\r")) if "\x1b" in line or line.endswith("\r") else line
        self._tail.add(line)
        if self._each is not None:
            self._each(line)

    def end(self) -> str:
        """All was fed: the last lines."""
        self.feed(b"\n" if self._rest else b"")
        return self._tail.text()


class Reader:
    """Reads an output as sub-tests while it comes."""

    def __init__(self, only: str | None = None) -> None:
        """`only`: a name of FORMATS that the output is known to be in; otherwise each is tried."""
        self._formats = [make() for name, make in FORMATS.items() if only in (None, name)]
        self._lines = Lines(self._line)

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._lines.feed(data)

    def _line(self, line: str) -> None:
        for each in self._formats:
            each.line(line)

    def aside(self, line: str) -> None:
        """A line of standard error. Of it, only Go's warning is read that no test was run."""
        if line == NOTHING:
            for each in self._formats:
                if isinstance(each, GoTest):
                    each.line(line)

    def end(self) -> Suite:
        """All was fed: the sub-tests by the format that recognised most lines."""
        tail = self._lines.end()
        best = max(self._formats, key=lambda each: each.recognised)
        if not best.recognised:
            return Suite(None, (), tail)
        return Suite(best.name, tuple(best.results()), tail, best.nothing)
