"""JUnit's XML: one suite a target; in it a case for each cell, and for each sub-test of a test command (the command itself where it has none).

GitHub and GitLab group cases by class name. That of a cell is its target, so that one kernel's failures stand together; that of a sub-test
is `TARGET.TEST`. A cell's case has the cell's id for a name, so that it stays the same from run to run, and no two are alike.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from kmatrix.report import causes, reds, table
from kmatrix.report.explain import explain
from kmatrix.report.names import target_key
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.verdict.suites.judge import leaves
from kmatrix.verdict.suites.subtest import SubTest

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 cannot hold."""


def render(records: Iterable[Record], commands: Sequence[TestRecord], directory: Path) -> str:
    """The document of the records of cells, and of test commands, under the kmatrix directory."""
    found = table.ordered(records)
    document = JUnitXml("kmatrix")
    targets = {record.target for record in found} | {record.target for record in commands}
    for target in sorted(targets, key=target_key):
        cells = [record for record in found if record.target == target]
        tests = sorted((record for record in commands if record.target == target), key=lambda record: record.test)
        suite = TestSuite(target)
        suite.add_testcases([_cell(record, directory) for record in cells])
        suite.add_testcases([case for record in tests for case in _cases(record)])
        of_target: list[Record | TestRecord] = [*cells, *tests]
        if begun := min((record.started for record in of_target if record.started), default=""):
            suite.timestamp = begun.removesuffix("Z")
        first = of_target[0]
        for name, value in {**first.versions, "kernel": first.kernel, "arch": first.arch}.items():
            suite.add_property(name, _clean(value))
        document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode() + "\n"


def _cell(record: Record, directory: Path) -> TestCase:
    case = TestCase(record.cell, record.target, record.timings.get("total"))
    words = shlex.split(record.reproduce)
    if len(words) > 1 and "::" in words[1]:
        case._elem.set("file", words[1].partition("::")[0])  # GitLab links it
    if record.warning:  # JUnit has no warnings: what is skipped with a message fails nothing, and is shown
        case.result = [Skipped(_clean(f"warning: {record.expected} was promised: {reds.summary(record)}"))]
        case.system_out = _clean(explain(record, directory))
    elif not record.ok:
        kind = Error if record.failure == "infra" else Failure
        why = causes.headlines(record) or record.reason.partition("\n")[0]
        result = kind(_clean(f"{record.expected} was promised: {why}"), str(record.failure))
        result.text = _clean(explain(record, directory))
        case.result = [result]
    return case


def _cases(record: TestRecord) -> list[TestCase]:
    found = leaves(record.subtests)
    cases = [_case(record, each) for each in found]
    if record.says_more:
        cases.append(_of_command(record))
    return cases


def _case(record: TestRecord, subtest: SubTest) -> TestCase:
    case = TestCase(_clean(subtest.name), f"{record.target}.{record.test}", subtest.seconds)
    message = _clean(subtest.message)
    if subtest.red and record.warning:
        case.result = [Skipped(f"warning: {message or f'the sub-test is {subtest.ending}'}")]
    elif subtest.red:
        failure = Failure(message or f"the sub-test is {subtest.ending}", subtest.ending)
        failure.text = _clean(subtest.output)
        case.result = [failure]
    elif subtest.ending == "skipped":
        case.result = [Skipped(message)]
    return case


def _of_command(record: TestRecord) -> TestCase:
    """The command as a whole: nothing else says that it failed, or that it ran."""
    case = TestCase(record.test, f"{record.target}.{record.test}", record.timings.get("total"))
    if record.warning:
        case.result = [Skipped(_clean(f"warning: {record.failure}: {record.reason}"))]
    elif not record.ok:
        kind = Error if record.failure == "infra" else Failure
        result = kind(_clean(f"{record.failure}: {record.reason}"), record.failure)
        result.text = _clean("\n".join(part for part in (record.output, record.errors, f"reproduce: {record.reproduce}") if part))
        case.result = [result]
    return case


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
