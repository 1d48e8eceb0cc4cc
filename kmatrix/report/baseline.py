"""A run against its baseline, as a person reads it: what is different, each with its cause, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.report.table import GREEN, RED, RESET, YELLOW
from kmatrix.runs.comparison import GROUPS, Comparison, Difference, Group, Side

if TYPE_CHECKING:
    from kmatrix.runs.baseline import Baseline

_MEANING: dict[Group, tuple[str, str]] = {
    "worse": ("it came further when the baseline was saved", "mend the object, or accept it"),
    "better": ("it comes further than when the baseline was saved", "accept it, so that it is kept from now on"),
    "changed": (
        "it fails for another cause, is attached in another way, or is left out by its loader",
        "look whether that is meant, and accept it",
    ),
    "new": ("the baseline does not have it", "accept it, so that it is held from now on"),
    "gone": ("the baseline has it, and the object has not", "accept it, if it was removed on purpose"),
}
"""What a group is, and what to do."""
_PAINT: dict[Group, str] = {"worse": RED, "better": GREEN, "changed": YELLOW, "new": YELLOW, "gone": RED}


def render(comparison: Comparison, path: Path, *, colour: bool) -> str:
    """The differences by group, a cause at a time; then what else is to be known of the comparison."""
    parts = [_headline(comparison, path, colour=colour)]
    for group in GROUPS:
        if found := [each for each in comparison.differences if each.group == group]:
            parts.append("\n".join(_group(group, found, colour=colour)))
    notes = [*_notes(comparison)]
    if comparison.differences:
        notes.append(f"to accept all of this, give the same command with --save {path} instead of --check {path}")
        if comparison.not_compared:
            notes[-1] += ", and without --kernels and --arch: what is not run is dropped from the file"
    return "\n\n".join(parts + (["\n".join(notes)] if notes else []))


def saved(baseline: Baseline, path: Path, before: Baseline | None) -> str:
    """What was written, and what the file had before that it has no longer."""
    lines = [f"{path}: {_many(len(baseline.objects), 'object')} on {_many(len(baseline.targets), 'target')} saved"]
    for what, then, now in (
        ("objects", before.objects if before else (), baseline.objects),
        ("targets", before.targets if before else (), baseline.targets),
    ):
        if dropped := [name for name in then if name not in now]:
            lines.append(f"{what} that it had and has no longer: {', '.join(dropped)}")
    return "\n".join(lines)


def _headline(comparison: Comparison, path: Path, *, colour: bool) -> str:
    compared = f"{_many(comparison.programs, 'program')} on {_many(len(comparison.targets), 'target')}"
    found = len(comparison.differences)
    text = f"{_many(found, 'difference')} from the baseline {path}" if found else f"as the baseline {path} has it: {compared}"
    return f"{RED if found else GREEN}{text}{RESET}" if colour else text


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _group(group: Group, found: Iterable[Difference], *, colour: bool) -> Iterator[str]:
    """The group's line, then each change once, with the objects, programs and targets that have it."""
    meaning, remedy = _MEANING[group]
    title = f"{_PAINT[group]}{group}{RESET}" if colour else group
    changes: dict[tuple[Side | None, Side | None], dict[tuple[str, str], list[str]]] = {}
    for each in found:
        changes.setdefault(_sides(each), {}).setdefault((each.object, each.name), []).append(each.target)
    yield f"{title}: {meaning}. What to do: {remedy}"
    for (before, after), by_program in changes.items():
        yield from (f"  {line}" for line in _change(before, after))
        together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (name, program), targets in by_program.items():
            together.setdefault((name, tuple(targets)), []).append(program)
        yield from (f"    {name}: {', '.join(names)} on {', '.join(targets)}" for (name, targets), names in together.items())


def _sides(difference: Difference) -> tuple[Side | None, Side | None]:
    """What changed of it: how it is attached only where that is the change, since it differs from kernel to kernel."""
    before, after = difference.before, difference.after
    if before is not None and after is not None and before.state == after.state:
        return before, after
    return _without_via(before), _without_via(after)


def _without_via(side: Side | None) -> Side | None:
    return None if side is None else replace(side, via=None)


def _change(before: Side | None, after: Side | None) -> list[str]:
    """From what to what, and why."""
    if before is None or after is None:
        there = after or before
        assert there is not None, "a difference has two sides, and one of them is there"
        return [str(there), *([f"  {there.cause}"] if there.cause else [])]
    if before.state == after.state and before.via == after.via:
        return [str(after), f"  was: {before.cause}", f"  is now: {after.cause}"]
    cause = after.cause or (f"before: {before.cause}" if before.cause else None)
    return [f"{before} → {after}", *([f"  {cause}"] if cause else [])]


def _notes(comparison: Comparison) -> Iterator[str]:
    if comparison.failed:
        yield f"nothing is known of these, where the machines failed: {', '.join(comparison.failed)}"
    if comparison.changed_objects:
        yield f"objects whose content changed since the baseline was saved: {', '.join(comparison.changed_objects)}"
    for target, (then, now) in comparison.changed_kernels.items():
        yield f"{target}: the kernel is {now}; the baseline was saved on {then}"
    if comparison.not_compared:
        yield f"not compared, since not run: {', '.join(comparison.not_compared)}"
    then, now = comparison.kmatrix
    if then != now:
        yield f"the baseline was saved by kmatrix {then}; this is {now}, whose words for a cause may differ"
