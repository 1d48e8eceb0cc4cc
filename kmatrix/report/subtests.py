"""Sub-tests as cells: for what compares cells, such as `kmatrix report --against`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kmatrix.report import tests
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.verdict.suites.judge import leaves

PROMISED = "passed"
"""What is expected of every sub-test."""


def cells(records: Iterable[TestRecord]) -> Iterator[Record]:
    """A cell for each command and each of its sub-tests, named `TEST` and `TEST: SUBTEST`.

    A command of which its sub-tests say all is left out, so that a sub-test that broke is one change and not two.
    """
    for record in records:
        found = leaves(record.subtests)
        if record.says_more:
            yield _cell(record, record.test, "passed" if record.ok else None, record.failure, record.reason, record.reproduce)
        for each in found:
            name = f"{record.test}: {each.name}"
            failure, observed = ("test", None) if each.red else (None, each.ending)
            yield _cell(record, name, observed, failure, each.message or each.ending, tests.again(record, each))


def _cell(record: TestRecord, name: str, observed: str | None, failure: str | None, reason: str, again: str) -> Record:
    return Record(
        cell=f"{name}[{record.target}]",
        collector=name,
        kernel=record.kernel,
        arch=record.arch,
        expected=PROMISED,
        observed=observed,
        ok=failure is None,
        failure=failure,
        reason=reason,
        facts=None,
        probe=None,
        timings=record.timings,
        console=record.console,
        versions=record.versions,
        reproduce=again,
        simulated=record.simulated,
        warning=record.warning and failure is not None,
        started=record.started,
    )
