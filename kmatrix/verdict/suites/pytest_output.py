"""pytest's own output: `-v` names each test, without it the summary names those that did not pass."""

from __future__ import annotations

import re

from kmatrix.verdict.suites.subtest import Ending, Kept, SubTest

_STARTS = re.compile(r"^=+ test session starts =+$")
_ENDS = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in \d+\.\d+s(?: \([\d:, a-z]+\))? ?=*$")
_NOTHING = re.compile(r"^=* ?(no tests ran|\d+ deselected(?:, \d+ warnings?)?) in \d+\.\d+s(?: \([\d:, a-z]+\))? ?=*$")
_VERBOSE = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] )?(?:(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) )?(\S+::.+?)(?: (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)(?: \((.*)\))?)?(?: +\[ *\d+%\])?$"
)
_SUMMARY = re.compile(r"^(FAILED|ERROR) (\S+?(?:::.*?)?)(?: - (.*))?$")
_SECTION = re.compile(r"^_{3,} (?:ERROR (?:at \w+ of|collecting) )?(.+?) _{3,}$")
_HEAD = re.compile(r"^=+ .* =+$")
_COUNT = re.compile(r"(\d+) (passed|skipped)")
_WORDS: dict[str, Ending] = {
    "PASSED": "passed",
    "XPASS": "passed",
    "FAILED": "failed",
    "ERROR": "failed",
    "SKIPPED": "skipped",
    "XFAIL": "skipped",
}


class Pytest:
    """What pytest prints."""

    name = "pytest"

    def __init__(self) -> None:
        self.recognised = 0
        self._endings: dict[str, Ending] = {}
        self._why: dict[str, str] = {}
        self._sections: dict[str, Kept] = {}
        self._section: Kept | None = None
        self._summary = False
        self._session = False
        self._nothing = ""

    @property
    def nothing(self) -> str:
        """The last line, where it counts no test that ran."""
        return self._nothing if not self._endings else ""

    def line(self, text: str) -> None:
        """One line."""
        if (nothing := _NOTHING.match(text)) is not None:  # also with -q, where nothing says that a session begins
            self.recognised += 1
            self._nothing = nothing[1]
            self._session = self._summary = False
            self._section = None
        elif _STARTS.match(text):
            self.recognised += 1
            self._session = True
        elif not self._session:
            return
        elif (section := _SECTION.match(text)) is not None:
            self._section = self._sections.setdefault(section[1], Kept())
        elif (ends := _ENDS.match(text)) is not None:
            self.recognised += 1
            self._session = self._summary = False
            self._section = None
            self._unnamed(ends[1])
        elif _HEAD.match(text):
            self._section, self._summary = None, "short test summary" in text
        elif self._summary:
            if (summary := _SUMMARY.match(text)) is not None:
                word, name, why = summary.groups()
                self._endings[name] = _WORDS[word]
                self._why[name] = why or ""
        elif self._section is not None:
            self._section.add(text)
        elif (verbose := _VERBOSE.match(text)) is not None:
            before, name, after, why = verbose.groups()
            self._endings[name] = _WORDS[before or after] if before or after else "unfinished"
            if why:
                self._why[name] = why

    def _unnamed(self, counts: str) -> None:
        """Passed and skipped tests that no line named (pytest without -v): known by their number alone."""
        for number, word in _COUNT.findall(counts):
            ending: Ending = "passed" if word == "passed" else "skipped"
            named = sum(each == ending for each in self._endings.values())
            self._endings |= {f"({word}, not named: {n})": ending for n in range(named + 1, int(number) + 1)}

    def results(self) -> list[SubTest]:
        """The tests."""
        found = []
        for name, ending in self._endings.items():
            kept = self._sections.get(name.split("::", 1)[-1].replace("::", "."))
            found.append(SubTest(name, ending, None, self._why.get(name, ""), kept.text() if kept and ending != "passed" else ""))
        return found
