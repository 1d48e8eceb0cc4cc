"""Rust's libtest: what a test program of cargo's prints (doc.rust-lang.org, "Tests", the default "pretty" format)."""

from __future__ import annotations

import re

from kmatrix.verdict.suites.subtest import Ending, Kept, SubTest

_RUNNING = re.compile(r"^running \d+ tests?$")
_TEST = re.compile(r"^test (.+?)(?: - should panic)? \.\.\. (.*)$")
_RESULT = re.compile(r"^(.*?)(ok|FAILED|ignored)(?:, (.*?))?(?: <(\d+(?:\.\d+)?)s>)?$")
_SECTION = re.compile(r"^---- (.+) stdout ----$")
_SUMMARY = re.compile(r"^test result: (ok|FAILED)\. \d+ passed;")
_COUNT = re.compile(r"(\d+) (?:passed|failed|ignored|measured)\b")
_WORDS: dict[str, Ending] = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}
_PANICKED = re.compile(r"^thread '.*' (?:\(\d+\) )?panicked at (.*)$")
_TRACE = ("stack backtrace:", "note: ")


class Libtest:
    """What a Rust test program prints."""

    name = "libtest"

    def __init__(self) -> None:
        self.recognised = 0
        self._endings: dict[str, Ending] = {}
        self._seconds: dict[str, float] = {}
        self._why: dict[str, str] = {}
        self._kept: dict[str, Kept] = {}
        self._open: str | None = None
        """A test of which the line began, and whose result is still to come: its output stands between (--nocapture)."""
        self._section: str | None = None
        self._among_failures = False
        self._listed: set[str] = set()
        """The tests of the list of failures."""
        self._finished = False
        self._summary = ""
        self._count = 0
        """The last summary, and the tests of all."""

    @property
    def nothing(self) -> str:
        """The summary, where all of them count no test."""
        return self._summary if self._summary and not self._count and not self._endings else ""

    def line(self, text: str) -> None:
        """One line."""
        if _RUNNING.match(text) or _SUMMARY.match(text):
            self.recognised += 1
            self._open, self._section, self._among_failures = None, None, False
            self._finished = text.startswith("test result")
            if self._finished:
                self._summary = text.partition("; finished in")[0]
                self._count += sum(int(number) for number in _COUNT.findall(text))
        elif (section := _SECTION.match(text)) is not None and section[1] in self._endings:
            self.recognised += 1
            self._section = section[1]
        elif text in ("failures:", "successes:"):
            self._section, self._among_failures = None, True
        elif self._among_failures:
            if self._section is not None:
                self._kept[self._section].add(text)
            elif text.startswith("    "):
                self._listed.add(text.strip())
        elif (begins := _TEST.match(text)) is not None:
            name, rest = begins.groups()
            self._endings[name], self._kept[name], self._open = "unfinished", Kept(), name
            self._ends(name, rest)
        elif self._open is not None:
            self._ends(self._open, text)

    def _ends(self, name: str, text: str) -> None:
        """Take `text` for the test's result where it is one, else for what the test said."""
        result = _RESULT.match(text)
        if result is None or (result[1] and not _is_output(result[1])):
            if text:
                self._kept[name].add(text)
            return
        self.recognised += 1
        if result[1]:
            self._kept[name].add(result[1])
        self._endings[name], self._open = _WORDS[result[2]], None
        if result[3]:
            self._why[name] = result[3]
        if result[4]:
            self._seconds[name] = float(result[4])

    def results(self) -> list[SubTest]:
        """The tests."""
        return [self._result(name, ending) for name, ending in self._endings.items()]

    def _result(self, name: str, ending: Ending) -> SubTest:
        if ending == "unfinished" and self._finished:  # its result stood in the same line as output of its own
            ending = "failed" if name in self._listed else "passed"
        said = "" if ending == "passed" else self._kept[name].text()
        return SubTest(name, ending, self._seconds.get(name), self._why.get(name) or _message(said), said)


def _is_output(before: str) -> bool:
    """Whether what stands before the word is a test's own output, and the word its result: output that did not end its line."""
    return not before[-1:].isalnum() and not before.endswith((" ", "_"))


def _message(said: str) -> str:
    """What a panic says: the line below the one that names its place, or the rest of that line (before Rust 1.73)."""
    lines = said.splitlines()
    for number, line in enumerate(lines):
        if (panicked := _PANICKED.match(line.strip())) is None:
            continue
        place = panicked[1]
        if place.endswith(":"):
            after = lines[number + 1].strip() if number + 1 < len(lines) else ""
            return f"{place} {after}" if after and not after.startswith(_TRACE) else place.rstrip(":")
        return place
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.strip().startswith(_TRACE)), "")
