"""What a test command did on each target: sub-tests down, targets across; under it what failed, told once, and what replays it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from kmatrix.report.grid import Column, prose
from kmatrix.report.names import shorten, target_key
from kmatrix.report.reds import counted, heading, moving
from kmatrix.report.table import BOLD, DIM, GREEN, RED, RESET, YELLOW, across, missing, simulated
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.verdict.suites.again import alone
from kmatrix.verdict.suites.judge import leaves, takes
from kmatrix.verdict.suites.subtest import SubTest

_SHOWN = {"passed": "passed", "failed": "✗ failed", "unfinished": "✗ unfinished", "skipped": "skipped"}
_PAINT = {"passed": GREEN, "failed": RED, "unfinished": RED, "skipped": DIM}
_OUTPUT_LINES = 12
"""Lines of a failed sub-test's output that the report shows: the last ones. The record has more."""
_TAIL_LINES = 25
"""Lines of the whole output that it shows of a command that failed without a sub-test to name."""


def render(
    records: Sequence[TestRecord],
    unavailable: Mapping[str, str],
    *,
    colour: bool,
    width: int,
    logs: bool = False,
    brief: bool = False,
) -> str:
    """The whole report. `logs`: with all of the output that the records have; `brief`: what failed was told in detail already."""
    found = sorted(records, key=lambda record: (record.test, target_key(record.target)))
    parts = []
    for test in dict.fromkeys(record.test for record in found):
        of_test = [record for record in found if record.test == test]
        parts += [
            _table(test, of_test, colour, width),
            *([] if brief else _failed([record for record in of_test if record.red], RED if colour else "", logs)),
            *_warned([record for record in of_test if record.warning], colour, logs),
            *_passed(of_test, width),
        ]
    accounts = {record.kernel: record.simulated for record in found if record.simulated}
    if accounts:
        parts.append("\n".join(simulated(name, account) for name, account in accounts.items()))
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(part for part in parts if part)


def headline(records: Sequence[TestRecord]) -> str:
    """The whole run in one sentence."""
    red, warned = (sum(each) for each in ([record.red for record in records], [record.warning for record in records]))
    count = f"{len(records)} target{'' if len(records) == 1 else 's'}"
    warns = counted(warned)
    if red:
        empty = sum(record.red and record.failure == "empty" for record in records)
        none = f"; no test was run on {'any' if empty == len(records) else empty}" if empty else ""
        return f"failed on {red} of {count}{none}{warns}"
    return f"passed on {f'{len(records) - warned} of ' if warned else ''}{count}{warns}"


def unmatched(records: Sequence[TestRecord], patterns: Iterable[str]) -> list[str]:
    """The patterns that take no sub-test's name on any target. None where names are not all known: of Go without -v, of a command that broke off."""
    names = {each.name for record in records for each in record.subtests}
    if any(record.failure not in (None, "test") for record in records):
        return []
    if not any(each.ending == "passed" for record in records for each in record.subtests):
        return []
    return [pattern for pattern in patterns if not any(takes(pattern, name) for name in names)]


def _table(test: str, records: Sequence[TestRecord], colour: bool, width: int) -> str:
    """A row for each sub-test that is not the same everywhere, or red; one for all of them; one for the command itself."""
    by_target = {record.target: {each.name: each for each in leaves(record.subtests)} for record in records}
    names = telling(records)
    counted = any(by_target.values())
    rows = [test, *([f"{len({n for found in by_target.values() for n in found})} sub-tests"] if counted else []), *names]
    columns = {
        record.target: [
            _whole(record, colour),
            *([_counts(list(by_target[record.target].values()))] if counted else []),
            *(_cell(by_target[record.target].get(name), colour) for name in names),
        ]
        for record in records
    }
    return across([Column("test", rows)], columns, {record.target for record in records if record.simulated}, width)


def telling(records: Sequence[TestRecord]) -> list[str]:
    """The sub-tests of one test command that are worth a row: red somewhere, or not the same on all targets."""
    by_target = {record.target: {each.name: each for each in leaves(record.subtests)} for record in records}
    return [name for name in dict.fromkeys(name for found in by_target.values() for name in found) if _tells(name, by_target)]


def _tells(name: str, by_target: Mapping[str, Mapping[str, SubTest]]) -> bool:
    """Whether the sub-test is worth a row: it is red somewhere, or skipped or missing on some targets only."""
    endings = {found[name].ending if name in found else None for found in by_target.values() if found}
    return bool(endings & {"failed", "unfinished"}) or len(endings) > 1


def _whole(record: TestRecord, colour: bool) -> str:
    text = "passed" if record.ok else f"{'!' if record.warning else '✗'} {record.failure}"
    paint = GREEN if record.ok else YELLOW if record.warning or record.failure == "infra" else RED
    return f"{paint}{text}{RESET}" if colour else text


def _counts(subtests: Sequence[SubTest]) -> str:
    """`30 ✓ 2 ✗ 1 –`: passed, red, skipped."""
    if not subtests:
        return ""
    numbers = (
        sum(each.ending == "passed" for each in subtests),
        sum(each.red for each in subtests),
        sum(each.ending == "skipped" for each in subtests),
    )
    return " ".join(f"{number} {mark}" for number, mark in zip(numbers, "✓✗–", strict=True) if number)


def _cell(subtest: SubTest | None, colour: bool) -> str:
    if subtest is None:
        return ""
    text = _SHOWN[subtest.ending]
    return f"{_PAINT[subtest.ending]}{text}{RESET}" if colour else text


def _warned(records: Sequence[TestRecord], colour: bool, logs: bool) -> list[str]:
    """What did not pass on kernels that move on."""
    if not records:
        return []
    head = heading(moving(records))
    paint = YELLOW if colour else ""
    return [
        "\n".join([_painted(head, paint), *(f"  {line}" for part in _failed(records, paint, logs) for line in part.splitlines())])
    ]


def _failed(records: Sequence[TestRecord], paint: str, logs: bool) -> list[str]:
    """What is red: each sub-test with one message once, with its targets; commands that failed for another reason."""
    groups: dict[tuple[str, str], list[tuple[TestRecord, SubTest]]] = {}
    plain: dict[tuple[str | None, str], list[TestRecord]] = {}
    for record in records:
        reds = [each for each in leaves(record.subtests) if each.red] if not record.ok else []
        for each in reds:
            groups.setdefault((each.name, each.message), []).append((record, each))
        if not record.ok and record.says_more:
            plain.setdefault((record.failure, record.reason), []).append(record)
    told = [_command(found, paint, logs) for found in plain.values()]
    return told + [_subtest(found, paint, logs) for found in groups.values()]


def _command(records: Sequence[TestRecord], paint: str, logs: bool) -> str:
    first = records[0]
    head = f"{_painted(f'{first.test} on {shorten([r.target for r in records])}', paint)}  {first.failure}: {first.reason}"
    lines = [*command_output(first, logs=logs), f"reproduce: {first.reproduce}"]
    return "\n".join([head, *(f"  {line}" for line in lines)])


def command_output(record: TestRecord, *, logs: bool = False) -> list[str]:
    """What a failed command printed last, where no sub-test says it, and what came of it. `logs`: all that the record has."""
    lines = []
    if record.failure != "infra" and record.says_more:
        said = "\n".join(part for part in (record.output, record.errors) if part)
        lines += [f"| {line}" for line in said.splitlines()[0 if logs else -_TAIL_LINES :]]
    if record.console is not None and record.failure == "kernel":
        lines.append(f"console: {record.console}")
    return lines + [f"brought back: {path}" for path in record.brought]


def _subtest(found: Sequence[tuple[TestRecord, SubTest]], paint: str, logs: bool) -> str:
    record, subtest = found[0]
    name = _painted(f"{subtest.name} on {shorten([each.target for each, _ in found])}", paint)
    first, *rest = of_subtest(record, subtest, logs=logs).splitlines()
    return "\n".join([f"{name}  {first}", *(f"  {line}" for line in rest)])


def of_subtest(record: TestRecord, subtest: SubTest, *, logs: bool = False) -> str:
    """What a red sub-test says: how it ended and why, what it printed last, and the command that runs it alone."""
    lines = [f"{subtest.ending}{f': {subtest.message}' if subtest.message else ''}"]
    said = subtest.output.splitlines()[0 if logs else -_OUTPUT_LINES :]
    if [line.strip() for line in said] != [subtest.message]:
        lines += [f"| {line}" for line in said]
    return "\n".join([*lines, f"reproduce: {again(record, subtest)}"])


def again(record: TestRecord, subtest: SubTest) -> str:
    """The command that runs the sub-test alone, where the format has a way to; else that of the whole command."""
    words = alone(record.format, record.command, subtest.name)
    return record.reproduce.replace(shlex.join(record.command), shlex.join(words))


def _painted(text: str, paint: str) -> str:
    return f"{BOLD}{paint}{text}{RESET}" if paint else text


def _passed(records: Sequence[TestRecord], width: int) -> list[str]:
    """What the green ones rest on, and why sub-tests were skipped."""
    rests: dict[str, list[str]] = {}
    skips: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.ok:
            rests.setdefault(record.reason, []).append(record.target)
        for each in leaves(record.subtests):
            if each.ending == "skipped":
                skips.setdefault((each.name, each.message or "no reason given"), []).append(record.target)
    rows = [["passed", shorten(targets), reason] for reason, targets in rests.items()]
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (name, why), targets in skips.items():
        by_reason.setdefault((shorten(targets), why), []).append(name)
    rows += [["skipped", targets, f"{_some(names)}: {why}"] for (targets, why), names in by_reason.items()]
    return [prose(rows, width, style="plain")] if rows else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
