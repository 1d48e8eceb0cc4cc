"""TAP, the Test Anything Protocol (versions 12 to 14), as bats, prove and the kernel's kselftests print it (testanything.org)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kmatrix.verdict.suites.subtest import Ending, Kept, SubTest

_VERSION = re.compile(r"^(?:# )*\s*TAP version \d+$")
_PLAN = re.compile(r"^1\.\.(\d+)(?:\s*#\s*(.*))?$")
_POINT = re.compile(r"^(not )?ok\b(?: (\d+))?(?:\s*-)?\s*(.*)$")
_DIRECTIVE = re.compile(r"(?:^|\s)#\s*(SKIP|TODO|XFAIL|timeout|TIMEOUT)\S*\s*(.*)$", re.IGNORECASE)
_TIME = re.compile(r" in (\d+)ms$")
_BAIL = re.compile(r"^Bail out!\s*(.*)$")
_REMARK = re.compile(r"\s#\s*(.*)$")
_NAMED_BEFORE = "# selftests: "
"""The line by which kselftest says which test comes next."""
_NESTED = re.compile(r"^(?:# |    )")


@dataclass
class _Point:
    name: str
    ending: Ending
    message: str = ""
    seconds: float | None = None
    kept: Kept = field(default_factory=Kept)


class Tap:
    """What a producer of TAP prints. Points below another (indented, or kselftest's behind a #) are sub-tests of the one that follows them."""

    name = "TAP"

    def __init__(self) -> None:
        self.recognised = 0
        self._points: list[_Point] = []
        self._below: list[_Point] = []
        self._plan: int | None = None
        self._count = 0
        self._bailed: str | None = None
        self._yaml = False
        self._skips = False
        """Whether the plan says why it is empty: `1..0 # SKIP no hardware`."""

    @property
    def nothing(self) -> str:
        """The plan of no test."""
        empty = self._plan == 0 and not self._skips and self._bailed is None
        return "1..0" if empty and not self._points and not self._below else ""

    def line(self, text: str) -> None:
        """One line."""
        if self._yaml or text.strip() == "---":
            self._yaml = text.strip() != "..."
            if self._points:
                self._points[-1].kept.add(text)
        elif (plan := _PLAN.match(text)) is not None:
            self.recognised += 1
            self._plan = int(plan[1])
            self._skips = self._skips or bool(plan[2])
        elif _VERSION.match(text):
            self.recognised += 1
        elif (bail := _BAIL.match(text)) is not None:
            self.recognised += 1
            self._bailed = bail[1] or "no reason given"
        elif (point := _POINT.match(text)) is not None:
            self.recognised += point[2] is not None or " - " in text  # "ok then" is a sentence
            self._count += 1
            read = _point(point, self._count)
            for each in self._below:
                each.name = f"{read.name} / {each.name}"
            self._points += [*self._below, read]
            self._below = []
        elif (nested := _NESTED.match(text)) is not None and (point := _POINT.match(text[nested.end() :])) is not None:
            self._below.append(_point(point, len(self._below) + 1))
        elif text.startswith("#") and not text.startswith(_NAMED_BEFORE) and self._points:
            self._points[-1].kept.add(text.removeprefix("#").removeprefix(" "))

    def results(self) -> list[SubTest]:
        """The points; of a plan, those that did not come too."""
        found = [_result(point) for point in (*self._points, *self._below)]
        missing = range(self._count + 1, (self._plan or 0) + 1)
        why = f"the program gave up: {self._bailed}" if self._bailed is not None else "the plan announced it, and no result came"
        return found + [SubTest(str(number), "unfinished", None, why) for number in missing]


def _point(match: re.Match[str], number: int) -> _Point:
    failed, own_number, description = match.groups()
    ending: Ending = "failed" if failed else "passed"
    message, seconds = "", None
    if (directive := _DIRECTIVE.search(description)) is not None:
        word, why = directive.groups()
        description = description[: directive.start()].rstrip()
        message = why.strip() or word.lower()
        if word.upper() in ("SKIP", "XFAIL") or (word.upper() == "TODO" and failed):
            ending = "skipped"
    elif failed and (remark := _REMARK.search(description)) is not None:
        description, message = description[: remark.start()], remark[1]
    if (took := _TIME.search(description)) is not None:
        description, seconds = description[: took.start()], int(took[1]) / 1000
    return _Point(description.strip() or str(own_number or number), ending, message, seconds)


def _result(point: _Point) -> SubTest:
    if point.ending == "passed":
        return SubTest(point.name, point.ending, point.seconds)
    said = point.kept.text()
    return SubTest(point.name, point.ending, point.seconds, point.message or _first(said), said)


def _first(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() not in ("", "---", "...")]
    return next((line for line in lines if not line.startswith("(")), "")
