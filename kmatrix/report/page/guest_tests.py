"""Test commands' records as rows of the HTML report: one for the command as a whole, and one for each sub-test that is worth it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kmatrix.report import tests
from kmatrix.report.names import target_key
from kmatrix.report.page.model import Cell, Commands, Log, Pairs, Part, Row, Say, Table, Tone
from kmatrix.report.page.shared import bars, chapters, file_text, versions, wrong_tone
from kmatrix.runs.guest_test_records import TestRecord, path_of
from kmatrix.verdict.suites.judge import FAILURES, leaves, signal_name
from kmatrix.verdict.suites.subtest import ENDINGS, Ending, SubTest

KIND = "tests"
_TONES: dict[Ending, Tone] = {"passed": "pass", "failed": "bad", "unfinished": "bad", "skipped": "skip"}


def rows(records: Iterable[TestRecord], directory: Path) -> list[Row]:
    """For each test a row of the whole command, and one of each sub-test that is red somewhere, or not the same on all targets.

    `directory` is the one that the records are under.
    """
    by_test: dict[str, list[TestRecord]] = {}
    for record in sorted(records, key=lambda each: (each.test, target_key(each.target))):
        by_test.setdefault(record.test, []).append(record)
    return [row for test, found in by_test.items() for row in _rows(test, found, directory)]


def _rows(test: str, records: Sequence[TestRecord], directory: Path) -> Iterator[Row]:
    yield Row(f"test:{test}", KIND, test, [_whole(record, directory) for record in records], test)
    by_target = {record.target: {each.name: each for each in leaves(record.subtests)} for record in records}
    for name in tests.telling(records):
        there = [(record, by_target[record.target][name]) for record in records if name in by_target[record.target]]
        yield Row(f"test:{test}:{name}", KIND, name, [_of_subtest(record, each) for record, each in there], test)


def _whole(record: TestRecord, directory: Path) -> Cell:
    """The command on one target. Where red sub-tests say why it failed, it is listed under their causes."""
    reds = [each for each in leaves(record.subtests) if each.red] if record.failure == "test" else []
    tone: Tone = "pass" if record.ok else wrong_tone(record)
    return Cell(
        target=record.target,
        tone=tone,
        word="passed" if record.ok else str(record.failure),
        why=record.reason,
        story=chapters(
            ("How it ended", _ended(record, tone)),
            ("Sub-tests", _subtests(record)),
            ("Output", _output(record, directory)),
            ("Time", bars(record.timings)),
            ("Reproduce", _commands(record, record.reproduce)),
            ("Ran on", _ran_on(record, directory)),
        ),
        because=[_cause(each) for each in reds],
        reproduce=record.reproduce,
        facts=dict(_facts(record)),
        simulated=record.simulated is not None,
    )


def _of_subtest(record: TestRecord, subtest: SubTest) -> Cell:
    again = tests.again(record, subtest)
    took = "" if subtest.seconds is None else f"{subtest.seconds:.2f}"
    tone = "warn" if subtest.red and record.warning else _TONES[subtest.ending]
    said = [Log("What it printed", subtest.output, "its last lines", subtest.message)] if subtest.output else []
    return Cell(
        target=record.target,
        tone=tone,
        word=subtest.ending,
        why=subtest.message or subtest.ending,
        story=chapters(
            ("How it ended", [Say(subtest.message, subtest.ending, tone), *([Pairs([("seconds", took)])] if took else [])]),
            ("Output", said),
            ("Reproduce", _commands(record, again)),
            ("Ran on", [Pairs([(name, text) for name, text in versions(record.versions) if text])]),
        ),
        because=[_cause(subtest)] if subtest.red else [],
        reproduce=again,
        facts={"ended": subtest.ending, "said": subtest.message, "seconds": took},
        simulated=record.simulated is not None,
    )


def _cause(subtest: SubTest) -> str:
    return f"{subtest.name}: {subtest.message or subtest.ending}"


def _ended(record: TestRecord, tone: Tone) -> Iterator[Part]:
    yield Say(record.reason, "passed" if record.ok else str(record.failure), tone)
    if not record.ok:
        yield Say(FAILURES.get(record.failure or "", ""))  # type: ignore[call-overload]
    pairs = [
        ("command", shlex.join(record.command)),
        ("exit status", "" if record.exit is None else str(record.exit)),
        ("signal", "" if record.signal is None else signal_name(record.signal)),
        ("read as", record.format or "" if record.subtests else ""),
        ("brought back", "\n".join(record.brought)),
    ]
    yield Pairs([(name, text) for name, text in pairs if text])


def _subtests(record: TestRecord) -> Iterator[Part]:
    """Those that are red first, then those that were skipped."""
    order: Sequence[Ending] = ("failed", "unfinished", "skipped", "passed")
    found = sorted(leaves(record.subtests), key=lambda each: order.index(each.ending))
    if found:
        lines = [(each.name, each.ending, "" if each.seconds is None else f"{each.seconds:.2f}", each.message) for each in found]
        bad = [number for number, each in enumerate(found) if each.red]
        yield Table(_counts(found), ("sub-test", "ended", "seconds", "said"), lines, bad)


def _counts(subtests: Sequence[SubTest]) -> str:
    numbers = {ending: sum(each.ending == ending for each in subtests) for ending in ENDINGS}
    return ", ".join(f"{number} {ending}" for ending, number in numbers.items() if number)


def _output(record: TestRecord, directory: Path) -> Iterator[Part]:
    for title, text in (("Standard output", record.output), ("Standard error", record.errors)):
        if text:
            yield Log(title, text, "its last lines")
    if record.console is not None and (text := file_text(directory / record.console)):
        yield Log("Console", text, "the VM's")


def _commands(record: TestRecord, again: str) -> Iterator[Part]:
    shell = shlex.join(["kmatrix", "shell", record.kernel, "--arch", record.arch])
    if again:
        yield Commands([("run it again", again), ("open a shell there", shell)])


def _facts(record: TestRecord) -> Iterator[tuple[str, str]]:
    """What is compared with the command's cells on other targets."""
    yield "ended", "passed" if record.ok else str(record.failure)
    yield "exit status", "" if record.exit is None else str(record.exit)
    yield "sub-tests", _counts(leaves(record.subtests))
    yield from ((f"sub-test {each.name}", each.ending) for each in leaves(record.subtests))
    yield "kernel release", record.versions.get("release", "")
    yield "seconds", f"{record.timings['total']:.2f}" if "total" in record.timings else ""


def _ran_on(record: TestRecord, directory: Path) -> Iterator[Part]:
    record_file = str(path_of(directory, record.test, record.target))
    pairs = [("begun", record.started), *versions(record.versions), ("record", record_file)]
    yield Pairs([(name, text) for name, text in pairs if text])
