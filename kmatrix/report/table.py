"""The table a person reads: collectors down, targets across; under it, why each behaviour is what it is and what failed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kmatrix.matrix.arch import ARCHES
from kmatrix.report import causes, reds
from kmatrix.report.grid import BARE, Column, folded, prose
from kmatrix.report.names import head, machine, shorten, target_key
from kmatrix.runs.machine_room import by_reason

if TYPE_CHECKING:
    from kmatrix.runs.cell_records import Record

RED, GREEN, YELLOW, BOLD, DIM, RESET = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


Skipped = Mapping[tuple[str, str], str]
"""Collector and target → why there was nothing to try."""


def render(
    records: Iterable[Record],
    unavailable: Mapping[str, str],
    *,
    colour: bool,
    width: int,
    skipped: Skipped | None = None,
    brief: bool = False,
) -> str:
    """The whole report of a run: table, explanations, failed cells with class, reason and reproduction, and what could not be had.

    `unavailable` maps a target to why it did not run; `width` is the terminal's, in columns. `brief`: what failed was told in detail already.
    """
    found, skipped = ordered(records), skipped or {}
    parts = []
    if found or skipped:
        parts += [_tables(found, skipped, colour, width), _why(found, skipped, width)]
        simulations = {record.kernel: record.simulated for record in found if record.simulated}
        if simulations:
            parts.append("\n".join(simulated(name, account) for name, account in simulations.items()))
        if machines := {record.kernel: real(record.kernel, record.machine) for record in found if record.machine}:
            parts.append("\n".join(machines.values()))
    if failed := reds.alike(found):
        parts.append("\n".join(_failed(group, colour, brief) for group in failed))
    if warned := reds.warnings(found):
        parts.append("\n".join(_warnings(warned, colour)))
    if told := [*causes.told_once([record for record in found if record.red])]:
        parts.append("\n".join(["why, by cause:", *(f"  {line}" for line in told)]))
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def ordered(records: Iterable[Record]) -> list[Record]:
    """By collector, and for each by target."""
    return sorted(records, key=lambda record: (record.collector, target_key(record.target)))


def _tables(records: Sequence[Record], skipped: Skipped, colour: bool, width: int) -> str:
    """Collectors down, targets across: one table if it fits the terminal, else one an arch, and more where that is too wide."""
    simulated = {record.target for record in records if record.simulated}
    cells = {(record.collector, record.target): _cell(record, colour) for record in records}
    cells |= dict.fromkeys(skipped, f"{DIM}skipped{RESET}" if colour else "skipped")
    names = sorted({name for name, _ in cells})
    targets = sorted({target for _, target in cells}, key=target_key)
    return across(
        [Column("collector", names)],
        {target: [cells.get((name, target), "") for name in names] for target in targets},
        simulated,
        width,
        {record.target for record in records if record.machine},
    )


def across(
    labels: Sequence[Column],
    by_target: Mapping[str, Sequence[str]],
    simulated: Collection[str],
    width: int,
    real: Collection[str] = (),
) -> str:
    """A column a target, after `labels`: its cells by row. The arch stands under the kernel: a column is as wide as its widest line."""
    columns = {
        target: Column(head(target, simulated=target in simulated, real=target in real), cells)
        for target, cells in by_target.items()
    }
    groups = [[column for target, column in columns.items() if target.endswith(f"-{arch}")] for arch in ARCHES]
    return folded(labels, groups, width)


def simulated(kernel: str, account: Mapping[str, Any]) -> str:
    """What a column with a tilde stands for."""
    as_of = f" as of {account['as_of']}" if account["as_of"] else ""
    hidden = "" if account["as_of"] else f" with {', '.join(account['hidden'])} hidden"
    return f"~ {kernel} is simulated: {account['base']}{as_of}{hidden}"


def real(kernel: str, account: Mapping[str, Any]) -> str:
    """What a column with an at sign stands for."""
    before = f"; before, its kernel was {account['changed']}" if account.get("changed") else ""
    return f"@ {kernel} is a real machine: {machine(account)}{before}"


def _cell(record: Record, colour: bool) -> str:
    text = mark(record)
    paint = GREEN if record.ok else YELLOW if record.warning or record.failure == "infra" else RED
    return f"{paint}{text}{RESET}" if colour else text


def mark(record: Record) -> str:
    """`full`, or `✗ full→partial` (expected→observed), or `✗ full→silent` where what was observed is none of the four; `!` for a warning."""
    if record.ok:
        return str(record.observed)
    return f"{'!' if record.warning else '✗'} {record.expected}→{record.failure if record.observed in (None, record.expected) else record.observed}"


def headline(records: Sequence[Record]) -> str:
    """The whole run in one sentence."""
    red, warned = sum(record.red for record in records), sum(record.warning for record in records)
    cells = f"{len(records)} cell{'s' if len(records) != 1 else ''}"
    warns = reds.counted(warned)
    if not red:
        promised = len(records) - warned
        said = f"{'each' if len(records) != 1 else 'and it is'} as promised" if not warned else f"{promised} of them as promised"
        return f"{cells}, {said}{warns}"
    return f"{red} of {cells} {'is' if red == 1 else 'are'} not as promised{warns}"


def _why(records: Sequence[Record], skipped: Skipped, width: int) -> str:
    passed_over: dict[tuple[str, str], list[str]] = {}
    for (name, target), reason in sorted(skipped.items(), key=lambda each: target_key(each[0][1])):
        passed_over.setdefault((name, reason), []).append(target)
    rows = why(records) + [[name, "skipped", shorten(targets), reason] for (name, reason), targets in passed_over.items()]
    return prose(rows, width, style=BARE, wrap=(-2, -1)) if rows else "no cell is as expected"


def why(records: Sequence[Record]) -> list[list[str]]:
    """For each collector and behaviour, the targets that show it and why: what a green cell rests on."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        if record.ok:
            groups.setdefault((record.collector, record.expected, record.reason), []).append(record.target)
    return [[name, behaviour, shorten(targets), reason] for (name, behaviour, reason), targets in groups.items()]


def _failed(group: Sequence[Record], colour: bool, brief: bool) -> str:
    """Cells that fail alike: class, reason, and (unless `brief`) the command that replays the first."""
    name, first = reds.title(group), group[0]
    shown = f"{BOLD}{RED}{name}{RESET}" if colour else name
    if brief:
        return f"{shown}  {reds.summary(first)}"
    reason = first.reason.replace("\n", "\n  ")
    return f"{shown}  {first.failure}: {reason}\n  reproduce: {first.reproduce}"


def _warnings(groups: Sequence[Sequence[Record]], colour: bool) -> Iterator[str]:
    """What is not as promised on kernels that move on, with its cause; why that fails nothing, and what would make it fail."""
    records = [record for group in groups for record in group]
    head = reds.heading(reds.moving(records))
    yield f"{BOLD}{YELLOW}{head}{RESET}" if colour else head
    for group in groups:
        first = group[0]
        yield f"  {reds.title(group)}  {reds.summary(first)}"
        for cause in causes.relevant(first):
            yield from (f"    {line}" for line in causes.lines(cause))
        yield f"    reproduce: {first.reproduce}"
    yield "  an [[expect]] that names the kernel makes it a promise (docs/collector-toml.md)"


def accelerators(records: Iterable[Record]) -> str | None:
    """By what the VMs ran, and why: `x86_64 by kvm (…), arm64 by tcg (…)`, in one line; None where no VM did."""
    said = {record.arch: record.versions["accel"] for record in records if record.versions.get("accel")}
    return ", ".join(f"{arch} by {said[arch]}" for arch in ARCHES if arch in said) or None


def missing(unavailable: Mapping[str, str]) -> str:
    """What a bare run could not have, with the reason; arches of a kernel that lack it for the same reason share a line."""
    lines = [f"  {kernel} ({', '.join(arches)}): {reason}" for kernel, arches, reason in by_reason(unavailable)]
    return "not run (could not be had):\n" + "\n".join(lines)
