"""[test] of a manifest under pytest: an item a target, and a result for each sub-test of it.

Sub-tests are known when the command has run: an item's report brings its record along, and the process that shows the results makes one
of each sub-test (an xdist worker may only report its own items).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from kmatrix.host.errors import KmatrixError
from kmatrix.matrix.kernel import Target
from kmatrix.plugin import TEST_RECORD, WARNING
from kmatrix.report import tests
from kmatrix.runs import guest_test, guest_test_records
from kmatrix.runs.guest_test import GuestTest
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.verdict.suites.judge import leaves
from kmatrix.verdict.suites.subtest import SubTest


class _Run(Protocol):
    """What an item needs of kmatrix.plugin.session.Run."""

    directory: Path

    @property
    def room(self) -> MachineRoom: ...


class TestFailed(Exception):
    """The command did not pass on the target."""

    __test__ = False

    def __init__(self, record: TestRecord) -> None:
        super().__init__(f"{record.failure}: {record.reason}")
        self.record = record


class TestItem(pytest.Item):
    """A test command × target."""

    def __init__(self, *, test: GuestTest, target: Target, run: Callable[[], _Run], **kwargs: Any) -> None:
        name = f"test:{test.name}[{target}]"
        super().__init__(name=name, nodeid=f"{kwargs['parent'].nodeid}::{name}", **kwargs)
        self.test, self.target, self._run = test, target, run
        self.record: TestRecord | None = None
        self.add_marker(pytest.mark.kernel(target.kernel.name))
        self.add_marker(pytest.mark.arch(target.arch))
        self.add_marker(pytest.mark.collector(test.name))

    def setup(self) -> None:
        """Run it; raises what is not the command's fault."""
        run = self._run()
        if (why := self.test.unfit(self.target)) is not None:
            pytest.skip(why)
        try:
            self.record = guest_test.run(self.test, self.target, run.room, run.directory)
        except KmatrixError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        self.user_properties += [("kernel", self.target.kernel.name), ("arch", self.target.arch)]
        path = guest_test_records.path_of(run.directory, self.record.test, self.record.target)
        self.user_properties.append((TEST_RECORD, str(path)))
        if self.record.warning:
            self.user_properties.append((WARNING, self.record.reason))
        if self.record.failure == "infra":
            pytest.fail(f"infra: {self.record.reason}\n  reproduce {self.record.reproduce}", pytrace=False)

    def runtest(self) -> None:
        """Judge it."""
        assert self.record is not None, "setup ran the command"
        if self.record.warning:
            pytest.xfail(
                f"{self.record.failure}: {self.record.reason}"
            )  # where --runxfail is given, this does nothing, and the test fails
        if not self.record.ok:
            raise TestFailed(self.record)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A command that failed says what of it did; of its sub-tests, each says the rest."""
        if isinstance(excinfo.value, TestFailed):
            record = excinfo.value.record
            return "\n".join(
                [f"{record.failure}: {record.reason}", *tests.command_output(record), f"reproduce: {record.reproduce}"]
            )
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the test is defined."""
        return self.path, None, self.name


def record_of(report: pytest.TestReport) -> TestRecord | None:
    """The record that an item's report brings, when the item was judged; None for any other report."""
    path = dict(report.user_properties).get(TEST_RECORD)
    return guest_test_records.read(Path(str(path))) if report.when == "call" and path is not None else None


def subtest_reports(report: pytest.TestReport, record: TestRecord) -> Iterator[pytest.TestReport]:
    """The reports of each sub-test, as if it were an item: pytest counts, lists and writes them to JUnit's XML."""
    for subtest in leaves(record.subtests):
        yield from _reports(report, record, subtest)


def _reports(of: pytest.TestReport, record: TestRecord, subtest: SubTest) -> Iterator[pytest.TestReport]:
    # The target in brackets at the end: JUnit's XML, as pytest writes it, takes what stands before for classes and name.
    above, _, _ = of.nodeid.rpartition("[")
    name = f"{subtest.name}[{record.target}]"
    nodeid, location = f"{above}::{name}", (of.location[0], of.location[1], f"test:{record.test}::{name}")
    outcomes: Mapping[str, Literal["passed", "failed", "skipped"]] = {"passed": "passed", "skipped": "skipped"}
    longrepr: Any = None
    if subtest.red:
        longrepr = tests.of_subtest(record, subtest)
    elif subtest.ending == "skipped":
        longrepr = (of.location[0], of.location[1], f"Skipped: {subtest.message or 'no reason given'}")
    stages: Sequence[Literal["setup", "call", "teardown"]] = ("setup", "call", "teardown")
    for when in stages:
        called = when == "call"
        warns = called and subtest.red and record.warning
        properties = [("kernel", record.kernel), ("arch", record.arch), *([(WARNING, subtest.message)] if warns else [])]
        made = pytest.TestReport(
            nodeid,
            location,
            keywords={"kernel": 1},
            outcome="skipped" if warns else outcomes.get(subtest.ending, "failed") if called else "passed",
            longrepr=longrepr if called else None,
            when=when,
            duration=(subtest.seconds or 0.0) if called else 0.0,
            user_properties=properties,
        )
        if warns:
            made.wasxfail = f"{subtest.ending}: {subtest.message}"  # as pytest.xfail leaves it: no failure, and counted by itself
        yield made
