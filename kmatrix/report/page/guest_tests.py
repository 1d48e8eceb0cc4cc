"""The records of test commands as rows of the HTML report: a row for the command, and one for each sub-test that is worth a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kmatrix.report import tests
from kmatrix.report.names import target_key
from kmatrix.report.page.model import Bars, Cell, Commands, Log, Pairs, Part, Row, Say, Step, Table, Tone
from kmatrix.runs.test_records import TestRecord
from kmatrix.suites.judge import FAILURES, leaves
from kmatrix.suites.subtest import SubTest

KIND = "tests"
_TONES: Mapping[str, Tone] = {"passed": "pass", "failed": "bad", "unfinished": "bad", "skipped": "skip"}


def rows(records: Iterable[TestRecord], directory: Path) -> list[Row]:
    """The rows; `directory` is the one that the records are under."""
    found = sorted(records, key=lambda record: (record.test, target_key(record.target)))
    made = []
    for test in dict.fromkeys(record.test for record in found):
        of_test = [record for record in found if record.test == test]
        made.append(Row(f"test:{test}", KIND, test, [_command(record, directory) for record in of_test], group=test))
        for name in tests.telling(of_test):
            cells = [_subtest(record, each) for record in of_test for each in leaves(record.subtests) if each.name == name]
            made.append(Row(f"test:{test}:{name}", KIND, name, cells, group=test))
    return made


def _command(record: TestRecord, directory: Path) -> Cell:
    found = leaves(record.subtests)
    parts: list[Part] = [Say(record.reason, "passed" if record.ok else str(record.failure), _tone(record))]
    if record.failure is not None:
        parts.append(Say(next((meaning for name, meaning in FAILURES.items() if name == record.failure), record.failure)))
    if found:
        bad = [number for number, each in enumerate(found) if each.red]
        lines = [
            [each.name, each.ending, each.message, f"{each.seconds:.2f}" if each.seconds is not None else ""] for each in found
        ]
        parts.append(Table("sub-tests", ["name", "ended", "why", "seconds"], lines, bad))
    logs: list[Part] = [
        Log(title, text) for title, text in (("standard output", record.output), ("standard error", record.errors)) if text
    ]
    console = directory / record.console if record.console is not None else None
    if console is not None and console.is_file():
        logs.append(Log("console", console.read_text(encoding="utf-8", errors="replace")))
    return Cell(
        target=record.target,
        tone=_tone(record),
        word="passed" if record.ok else str(record.failure),
        why=record.reason if record.ok else f"{record.failure}: {record.reason}",
        story=[
            Step("What happened", parts),
            *([Step("What it printed last", logs)] if logs else []),
            Step("How long it took", [_bars(record)]),
            Step("Do it again", [Commands([("on this target alone", record.reproduce)])]),
            Step("With what", [Pairs([*record.versions.items()])]),
        ],
        because=[f"{each.name}: {each.message or each.ending}" for each in found if each.red] if record.failure == "test" else [],
        reproduce=record.reproduce,
        facts={"ended": record.reason} | {each.name: each.ending for each in found},
        find=" ".join(each.name for each in found if each.red),
        simulated=record.simulated is not None,
    )


def _tone(record: TestRecord) -> Tone:
    return "pass" if record.ok else "infra" if record.failure == "infra" else "bad"


def _bars(record: TestRecord) -> Bars:
    total = record.timings.get("total", 0.0)
    return Bars([(name, seconds) for name, seconds in record.timings.items() if name != "total"], total)


def _subtest(record: TestRecord, subtest: SubTest) -> Cell:
    again = tests.again(record, subtest)
    parts: list[Part] = [Say(subtest.message or "the program says no more", subtest.ending, _TONES[subtest.ending])]
    if subtest.output:
        parts.append(Log("what it printed", subtest.output, mark=subtest.message))
    steps: Sequence[Step] = [Step("What happened", parts), Step("Do it again", [Commands([("this sub-test alone", again)])])]
    return Cell(
        target=record.target,
        tone=_TONES[subtest.ending],
        word=subtest.ending,
        why=subtest.message or subtest.ending,
        story=steps,
        because=[f"{subtest.name}: {subtest.message or subtest.ending}"] if subtest.red else [],
        reproduce=again,
        facts={"ended": subtest.ending, "why": subtest.message},
        simulated=record.simulated is not None,
    )
