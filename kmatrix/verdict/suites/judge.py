"""Whether a test command did on one target what it should: how it ended, what its sub-tests say, and which of them count there."""

from __future__ import annotations

import fnmatch
import signal as signals
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from kmatrix.verdict.suites.read import Suite
from kmatrix.verdict.suites.subtest import SubTest

Failure = Literal["test", "empty", "crash", "hang", "kernel", "infra"]
FAILURES: Mapping[Failure, str] = {
    "test": "a sub-test failed, or the command ended with an exit status other than 0",
    "empty": "no test was run, and the suite did not say that it skips",
    "crash": "a signal ended the command",
    "hang": "the command took longer than its timeout",
    "kernel": "the kernel panicked, oopsed, warned or locked up",
    "infra": "the machine room failed; says nothing about the command",
}
"""The classes of what goes wrong with a test command."""
assert set(FAILURES) == set(get_args(Failure))

_CHOSEN_BY: Mapping[str | None, str] = {
    "go test": "the pattern of -test.run or -test.skip",
    "go test -json": "the pattern of -run or -skip",
    "libtest": "the filter",
    "pytest": "the expression of -k or -m, or the paths",
    "GoogleTest": "the pattern of --gtest_filter",
    "test_progs": "the names of -t, -a or -n",
}
"""By a format's name: what chooses the tests of a program that prints it."""
_PYTEST_NOTHING = 5
"""pytest's exit status where it collected no test (pytest.ExitCode.NO_TESTS_COLLECTED)."""
_NAMED = 4
"""Sub-tests that one reason names."""


@dataclass(frozen=True)
class Ended:
    """How the command ended: one of exit status, signal, or the timeout in seconds."""

    exit: int | None = None
    signal: int | None = None
    timed_out: float | None = None
    """The timeout in seconds, where the command was still at work after it."""

    def __str__(self) -> str:
        if self.timed_out is not None:
            return f"still at work after {self.timed_out:g} s"
        if self.signal is not None:
            return f"ended by {signal_name(self.signal)}"
        return f"exit status {self.exit}"


def signal_name(number: int) -> str:
    """`SIGSEGV (signal 11)`."""
    try:
        return f"{signals.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True)
class Judgement:
    """What is said of the command on the target."""

    ok: bool
    failure: Failure | None
    reason: str
    subtests: tuple[SubTest, ...]
    """With what does not count there turned into `skipped`."""


def judge(ended: Ended, suite: Suite, not_counted: Mapping[str, str], splat: str | None = None) -> Judgement:
    """`not_counted`: patterns of sub-tests' names whose failures do not count on the target, with why; `splat`: what the kernel complained of."""
    subtests = tuple(_excused(each, not_counted) for each in suite.subtests)
    excused = sum(before.red and not after.red for before, after in zip(suite.subtests, subtests, strict=True))
    reds = leaves([each for each in subtests if each.red])
    began = [each.name for each in reds if each.ending == "unfinished"]
    during = f", while {began[-1]} was at work" if began and suite.format != "TAP" else ""
    if splat is not None:
        return Judgement(False, "kernel", splat, subtests)
    if ended.timed_out is not None:
        return Judgement(False, "hang", f"{ended}{during}", subtests)
    if ended.signal is not None:
        return Judgement(False, "crash", f"{ended}{during}", subtests)
    if reds:
        return Judgement(False, "test", _which(reds, subtests, ended), subtests)
    nothing = suite.format == "pytest" and ended.exit == _PYTEST_NOTHING
    if suite.nothing and (ended.exit == 0 or nothing):
        return _empty(suite, not_counted)
    if nothing and subtests and all(each.ending == "skipped" for each in subtests):  # while they were collected
        return Judgement(True, None, _passed(subtests), subtests)
    if ended.exit != 0 and not excused:
        told = ", though no sub-test failed" if subtests else ""
        return Judgement(False, "test", f"{ended}{told}", subtests)
    return Judgement(True, None, _passed(subtests), subtests)


def _empty(suite: Suite, not_counted: Mapping[str, str]) -> Judgement:
    """Nothing ran, which a misspelt pattern looks like. A pattern that takes every name, the empty one too, excuses it."""
    for pattern, why in not_counted.items():
        if fnmatch.fnmatchcase("", pattern):
            return Judgement(True, None, f"no test was run, which does not count: {why}", suite.subtests)
    correct = _CHOSEN_BY.get(suite.format, "what chooses the tests")
    return Judgement(
        False,
        "empty",
        f"no test was run: the program said {suite.nothing!r}; fix: correct {correct} in the command",
        suite.subtests,
    )


def takes(pattern: str, name: str) -> bool:
    """Whether a pattern takes the sub-test of that name. It takes the sub-tests of a test with it."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*")


def _excused(subtest: SubTest, not_counted: Mapping[str, str]) -> SubTest:
    """A red sub-test that does not count, as one that was skipped."""
    if not subtest.red:
        return subtest
    for pattern, why in not_counted.items():
        if takes(pattern, subtest.name):
            return replace(subtest, ending="skipped", message=f"{subtest.ending}, does not count: {why}")
    return subtest


def leaves(subtests: Sequence[SubTest]) -> list[SubTest]:
    """Those below which there is no other: a Go test fails with each of its sub-tests, which say more."""
    above = {name.rpartition("/")[0] for name in (each.name for each in subtests)}
    above |= {parent for name in above for parent in _parents(name)}
    return [each for each in subtests if each.name not in above]


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _which(reds: Sequence[SubTest], subtests: Sequence[SubTest], ended: Ended) -> str:
    shown = ", ".join(each.name for each in reds[:_NAMED])
    more = f" and {len(reds) - _NAMED} more" if len(reds) > _NAMED else ""
    count = len(leaves(subtests))
    status = f" ({ended})" if ended.exit == 0 else ""
    return f"{len(reds)} of {count} sub-test{'' if count == 1 else 's'} failed: {shown}{more}{status}"


def _passed(subtests: Sequence[SubTest]) -> str:
    if not subtests:
        return "exit status 0; its output names no sub-tests"
    found = leaves(subtests)
    passed, skipped = (sum(each.ending == ending for each in found) for ending in ("passed", "skipped"))
    return f"{passed} passed" + (f", {skipped} skipped" if skipped else "")
