"""Cells and test commands as JUnit's XML: one suite a target, in it one case for each cell and sub-test.

GitHub and GitLab group cases by class name: it is the target, so that one kernel's failures stand together. A case's name is the cell's id,
so that it stays the same from run to run, and no two are alike.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from kmatrix.report import causes, junit, table
from kmatrix.report.explain import explain
from kmatrix.report.names import target_key
from kmatrix.runs.cell_records import Record
from kmatrix.runs.test_records import TestRecord


def render(records: Iterable[Record], directory: Path, commands: Sequence[TestRecord] = ()) -> str:
    """The document of the records under the kmatrix directory, and of the commands of `kmatrix test` and [test] there."""
    found: list[Record | TestRecord] = [*table.ordered(records), *commands]
    document = JUnitXml("kmatrix")
    for target in sorted({record.target for record in found}, key=target_key):
        of_target = [record for record in found if record.target == target]
        suite = TestSuite(target)
        for record in of_target:
            suite.add_testcases(junit.cases(record) if isinstance(record, TestRecord) else [_case(record, directory)])
        if begun := min((record.started for record in of_target if record.started), default=""):
            suite.timestamp = begun.removesuffix("Z")
        first = of_target[0]
        for name, value in {**first.versions, "kernel": first.kernel, "arch": first.arch}.items():
            suite.add_property(name, junit.clean(value))
        document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode() + "\n"


def _case(record: Record, directory: Path) -> TestCase:
    case = TestCase(record.cell, record.target, record.timings.get("total"))
    words = shlex.split(record.reproduce)
    if len(words) > 1 and "::" in words[1]:
        case._elem.set("file", words[1].partition("::")[0])  # GitLab links it
    if not record.ok:
        kind = Error if record.failure == "infra" else Failure
        why = causes.headlines(record) or record.reason.partition("\n")[0]
        result = kind(junit.clean(f"{record.expected} was promised: {why}"), str(record.failure))
        result.text = junit.clean(explain(record, directory))
        case.result = [result]
    return case
