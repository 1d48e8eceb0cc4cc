"""Which format a test program's output is in, and the sub-tests that it tells of. The output is read as it streams, and not kept whole."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmatrix.suites.go import GoJson, GoTest
from kmatrix.suites.gtest import GoogleTest, TestProgs
from kmatrix.suites.libtest import Libtest
from kmatrix.suites.pytest_output import Pytest
from kmatrix.suites.subtest import Format, Kept, SubTest
from kmatrix.suites.tap import Tap

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


class Reader:
    """Reads an output while it comes."""

    def __init__(self, only: str | None = None) -> None:
        """`only`: a name of FORMATS that the output is known to be in; otherwise each is tried."""
        self._formats = [make() for name, make in FORMATS.items() if only in (None, name)]
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
        for each in self._formats:
            each.line(line)

    def end(self) -> Suite:
        """All was read: the sub-tests by the format that recognised most lines."""
        self.feed(b"\n" if self._rest else b"")
        best = max(self._formats, key=lambda each: each.recognised)
        if not best.recognised:
            return Suite(None, (), self._tail.text())
        return Suite(best.name, tuple(best.results()), self._tail.text())
