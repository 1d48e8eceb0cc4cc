"""JUnit's XML: one suite a target; in it one case for each sub-test, or for the command where there are none.

GitHub and GitLab group cases by class name: here `TARGET.TEST`, so that one kernel's failures stand together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from kmatrix.report.names import target_key
from kmatrix.runs.test_records import TestRecord
from kmatrix.suites.judge import leaves
from kmatrix.suites.subtest import SubTest

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 cannot hold."""


def render(records: Sequence[TestRecord]) -> str:
    """The document."""
    document = JUnitXml("kmatrix")
    for target in sorted({record.target for record in records}, key=target_key):
        suite = TestSuite(target)
        of_target = [record for record in records if record.target == target]
        for record in sorted(of_target, key=lambda record: record.test):
            suite.add_testcases(cases(record))
            if record.started:
                suite.timestamp = record.started.removesuffix("Z")
            for name, value in (("kernel", record.kernel), ("arch", record.arch), *record.versions.items()):
                suite.add_property(name, clean(value))
        document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode()


def cases(record: TestRecord) -> list[TestCase]:
    """Those of one record."""
    found = leaves(record.subtests)
    made = [_case(record, each) for each in found]
    if not found or (not record.ok and (record.failure != "test" or not any(each.red for each in found))):
        made.append(_of_command(record))
    return made


def _case(record: TestRecord, subtest: SubTest) -> TestCase:
    case = TestCase(clean(subtest.name), f"{record.target}.{record.test}", subtest.seconds)
    message = clean(subtest.message)
    if subtest.red:
        failure = Failure(message or f"the sub-test is {subtest.ending}", subtest.ending)
        failure.text = clean(subtest.output)
        case.result = [failure]
    elif subtest.ending == "skipped":
        case.result = [Skipped(message)]
    return case


def _of_command(record: TestRecord) -> TestCase:
    """The command as a whole: nothing else says that it failed, or that it ran."""
    case = TestCase(record.test, f"{record.target}.{record.test}", record.timings.get("total"))
    if not record.ok:
        kind = Error if record.failure == "infra" else Failure
        result = kind(clean(f"{record.failure}: {record.reason}"), record.failure)
        result.text = clean("\n".join(part for part in (record.output, record.errors, f"reproduce: {record.reproduce}") if part))
        case.result = [result]
    return case


def clean(text: str) -> str:
    """`text`, with what XML 1.0 cannot hold replaced."""
    return _NOT_XML.sub("\ufffd", text)
