"""GoogleTest's output, which CMocka prints too; and that of the kernel's test_progs (tools/testing/selftests/bpf)."""

from __future__ import annotations

import re

from kmatrix.verdict.suites.subtest import Ending, Kept, SubTest

_RUN = re.compile(r"^\[ RUN      \] (\S.*)$")
_END = re.compile(r"^\[\s+(OK|FAILED|SKIPPED|PASSED)\s+\] (\S+)(?:, where .*?)?(?: \((\d+) ms\))?$")
_PROGS = re.compile(r"^#(\d+(?:/\d+)?)\s+(\S.*?):(OK|FAIL|SKIP)(?:\s.*)?$")
_RAN = re.compile(r"^\[=+\] (?:\S+: )?(\d+) (?:tests? from .* ran\b|test\(s\) run\b)")
_DISABLED = re.compile(r"^\s*YOU HAVE \d+ DISABLED TESTS?$")
_PROGS_END = re.compile(r"^Summary: (\d+)/(\d+) PASSED, (\d+) SKIPPED, (\d+) FAILED$")
_WORDS: dict[str, Ending] = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped", "FAIL": "failed", "SKIP": "skipped"}


class GoogleTest:
    """What a program of GoogleTest's prints."""

    name = "GoogleTest"

    def __init__(self) -> None:
        self.recognised = 0
        self._tests: dict[str, tuple[Ending, float | None]] = {}
        self._kept: dict[str, Kept] = {}
        self._current: str | None = None
        self._ran = ""
        self._count = 0
        """The last line that counts the tests that ran, and how many ran in all."""
        self._disabled = False

    @property
    def nothing(self) -> str:
        """The line that counts no test. Tests that are disabled in the source, and that the filter would take, were skipped by the suite."""
        return self._ran if self._ran and not self._count and not self._tests and not self._disabled else ""

    def line(self, text: str) -> None:
        """One line."""
        if (run := _RUN.match(text)) is not None:
            self.recognised += 1
            self._current = run[1]
            self._tests[run[1]], self._kept[run[1]] = ("unfinished", None), Kept()
        elif (end := _END.match(text)) is not None and end[2] == self._current and end[1] in _WORDS:
            self.recognised += 1
            self._tests[end[2]] = (_WORDS[end[1]], int(end[3]) / 1000 if end[3] else None)
            self._current = None
        elif (ran := _RAN.match(text)) is not None:
            self.recognised += 1
            self._ran, self._count = text, self._count + int(ran[1])
        elif _DISABLED.match(text):
            self._disabled = True
        elif self._current is not None:
            self._kept[self._current].add(text)

    def results(self) -> list[SubTest]:
        """The tests."""
        return [_result(name, ending, seconds, self._kept[name]) for name, (ending, seconds) in self._tests.items()]


class TestProgs:
    """What the kernel's test_progs prints: the output of a test stands before its result."""

    name = "test_progs"

    def __init__(self) -> None:
        self.recognised = 0
        self._results: dict[str, SubTest] = {}
        self._kept = Kept()
        self._summary = ""
        self._count = 0

    @property
    def nothing(self) -> str:
        """The summary that counts no test."""
        return self._summary if self._summary and not self._count and not self._results else ""

    def line(self, text: str) -> None:
        """One line."""
        if (result := _PROGS.match(text)) is not None:
            self.recognised += 1
            name = f"#{result[1]} {result[2]}"
            if name not in self._results:  # failed ones are listed once more at the end
                self._results[name] = _result(name, _WORDS[result[3]], None, self._kept)
            self._kept = Kept()
        elif (summary := _PROGS_END.match(text)) is not None:
            self.recognised += 1
            self._summary, self._count = text, self._count + sum(map(int, summary.groups()))
        else:
            self._kept.add(text)

    def results(self) -> list[SubTest]:
        """The tests."""
        return list(self._results.values())


def _result(name: str, ending: Ending, seconds: float | None, kept: Kept) -> SubTest:
    if ending == "passed":
        return SubTest(name, ending, seconds)
    said = kept.text()
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return SubTest(name, ending, seconds, next((line for line in lines if ":FAIL:" in line), (lines or [""])[0]), said)
