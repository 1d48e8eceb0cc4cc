"""Go's testing package: `-test.v`, `-test.v=test2json`, no -v at all, and the JSON events of `go test -json` (cmd/test2json documents both)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from kmatrix.verdict.suites.subtest import Ending, Kept, SubTest

_MARK = "\x16"
"""What -test.v=test2json puts before each line of the framework's own (Go 1.20), so that they can be told from the tests' output."""
_BEGINS = re.compile(r"^=== (RUN|CONT|NAME|PAUSE) +(\S+)?$")
_ENDS = re.compile(r"--- (PASS|FAIL|SKIP): (\S+) \((\d+(?:\.\d+)?)s\)$")
_LEVEL = "    "
_LOCATED = re.compile(r"(?:^|\s)([\w.-]+\.go:\d+: .*)$")
"""A line of a test's log. It may stand behind output that did not end its line."""
_ALONE = re.compile(r"^\s*[\w.-]+\.go:\d+:\s*$")
_TRACE = re.compile(r"^\s*(stack:|Error Trace:|Test:|/|[\w.-]+\.go:\d+)")
_TOLD = 4
"""Lines that are told of what follows a place."""
_PANIC = re.compile(r"^(panic: |fatal error: )")
NOTHING = "testing: warning: no tests to run"
"""What a test program says on standard error where no test, example or fuzz target was run and no benchmark was asked for (testing.M.Run)."""
_PACKAGE = " [no tests to run]"
"""The end of a package's line of `go test` that means the same."""
_WORDS: dict[str, Ending] = {
    "PASS": "passed",
    "FAIL": "failed",
    "SKIP": "skipped",
    "pass": "passed",
    "fail": "failed",
    "skip": "skipped",
}


@dataclass
class _Test:
    ending: Ending = "unfinished"
    seconds: float | None = None
    kept: Kept = field(default_factory=Kept)


class GoTest:
    """What a compiled Go test program prints."""

    name = "go test"

    def __init__(self) -> None:
        self.recognised = 0
        self._tests: dict[str, _Test] = {}
        self._current: str | None = None
        self._ended: str | None = None
        """The test whose result was the last: lines that are indented below it are its log (all logs without -v, and before Go 1.14)."""
        self._passes = self._empty = 0
        """Programs that ended well, and those of them that ran nothing: a script may run several."""
        self._packages = self._empty_packages = 0
        """The same by the lines of `go test`, which has no other of a package without -v."""

    @property
    def nothing(self) -> str:
        """Go's warning, where each program gave it."""
        empty, of = (self._empty_packages, self._packages) if self._packages else (self._empty, self._passes)
        return NOTHING if empty and empty >= of and not self._tests else ""

    def line(self, text: str) -> None:
        """One line."""
        text = text.replace(_MARK, "")
        self._passes += text == "PASS"
        self._packages += text.startswith("ok  \t")
        if text.startswith("ok  \t") and text.endswith(_PACKAGE):
            self.recognised += 1
            self._empty_packages += 1
        if text == NOTHING:
            self.recognised += 1
            self._empty += 1
        elif (begins := _BEGINS.match(text)) is not None:
            self.recognised += 1
            self._ended = None
            what, name = begins.groups()
            if name is not None:
                self._tests.setdefault(name, _Test())
            self._current = None if what == "PAUSE" else name
        elif (ends := _ENDS.search(text)) is not None:
            self.recognised += 1
            word, name, seconds = ends.groups()
            test = self._tests.setdefault(name, _Test())
            test.ending, test.seconds = _WORDS[word], float(seconds)
            if (before := text[: ends.start()]).strip():  # a test's output that did not end its line
                self._say(self._current or name, before)
            self._current, self._ended = None, name
        elif text in ("PASS", "FAIL") or text.startswith(("ok  \t", "FAIL\t", "coverage: ")):
            self._current = self._ended = None
        elif _PANIC.match(text) or (self._ended is None and self._current is not None):
            self._say(self._ended or self._current, text)
        elif self._ended is not None and (text.startswith(_LEVEL) or not text):
            self._say(self._ended, text)
        elif self._ended is not None and self._tests[self._ended].ending == "failed":
            self._say(self._ended, text)  # a panic's trace

    def _say(self, name: str | None, text: str) -> None:
        if name is not None:
            self._tests[name].kept.add(text)

    def results(self) -> list[SubTest]:
        """The tests, and the sub-tests of each behind it."""
        return [subtest(name, test.ending, test.seconds, test.kept.text()) for name, test in self._tests.items()]


class GoJson:
    """What `go test -json` and test2json print: one JSON event a line, of several packages perhaps."""

    name = "go test -json"

    def __init__(self) -> None:
        self.recognised = 0
        self._tests: dict[tuple[str, str], _Test] = {}
        self._passed: set[str] = set()
        self._empty: set[str] = set()
        """Packages that ended well, and those that ran nothing."""

    @property
    def nothing(self) -> str:
        """Go's warning, where each package gave it."""
        return NOTHING if self._empty >= self._passed and self._empty and not self._tests else ""

    def line(self, text: str) -> None:
        """One line."""
        if not text.startswith("{"):
            return
        try:
            event: Any = json.loads(text)
        except ValueError:
            return
        if not isinstance(event, dict) or not isinstance(event.get("Action"), str):
            return
        self.recognised += 1
        name = event.get("Test")
        if not isinstance(name, str):
            self._of_package(str(event.get("Package") or ""), event)
            return
        test = self._tests.setdefault((str(event.get("Package") or ""), name), _Test())
        if event["Action"] == "output":
            said = str(event.get("Output") or "").rstrip("\n")
            if (ends := _ENDS.search(said)) is not None:
                self._ended_in_output(str(event.get("Package") or ""), ends)
            elif not _BEGINS.match(said):
                test.kept.add(said)
        elif event["Action"] in _WORDS:
            test.ending = _WORDS[event["Action"]]
            test.seconds = event["Elapsed"] if isinstance(event.get("Elapsed"), int | float) else None

    def _of_package(self, package: str, event: dict[str, Any]) -> None:
        if event["Action"] == "pass":
            self._passed.add(package)
        elif event["Action"] == "output" and str(event.get("Output") or "").rstrip("\n") == NOTHING:
            self._empty.add(package)

    def _ended_in_output(self, package: str, ends: re.Match[str]) -> None:
        """A result behind output that did not end its line: test2json takes both for output, and has no event of its own for it."""
        word, name, seconds = ends.groups()
        ended = self._tests.setdefault((package, name), _Test())
        ended.ending, ended.seconds = _WORDS[word], float(seconds)

    def results(self) -> list[SubTest]:
        """The tests, with their package where there are several."""
        packages = {package for package, _ in self._tests}
        return [
            subtest(f"{package}.{name}" if len(packages) > 1 else name, test.ending, test.seconds, test.kept.text())
            for (package, name), test in self._tests.items()
        ]


def _told_below(lines: list[str]) -> str:
    """What follows a place that stands alone in its line, as testify and quicktest write it, without their traces; empty where there is none."""
    places = [number for number, line in enumerate(lines) if _ALONE.match(line)]
    if not places:
        return ""
    at = places[-1]
    words: list[str] = []
    for line in lines[at + 1 :]:
        if _TRACE.match(line):
            if words:
                break
            continue
        said = " ".join(line.split())
        if words and words[-1].endswith(":"):
            words[-1] += f" {said}"
        else:
            words.append(said)
    place = lines[at].strip()
    return f"{place} {'; '.join(words[:_TOLD])}" if words else place.rstrip(":")


def subtest(name: str, ending: Ending, seconds: float | None, said: str) -> SubTest:
    """A Go test; what it said last with a place in the source is why it failed or was skipped."""
    if ending == "passed":
        return SubTest(name, ending, seconds)
    lines = [line for line in said.splitlines() if line.strip()]
    located = [found[1] for line in lines if (found := _LOCATED.search(line)) is not None]
    panics = [line.strip() for line in lines if _PANIC.match(line)]
    message = (panics or located[-1:] or [_told_below(lines)])[0]
    return SubTest(name, ending, seconds, message, said)
