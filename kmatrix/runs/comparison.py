"""A run of objects against a baseline: what is worse, better, new, gone, or fails for another reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kmatrix.host.errors import InputError
from kmatrix.runs.baseline import Baseline, Failure, Found, ObjectBaseline, name_of

if TYPE_CHECKING:
    from kmatrix.matrix.kernel import Target
    from kmatrix.runs.object_run import State

Group = Literal["worse", "better", "changed", "new", "gone"]
GROUPS: tuple[Group, ...] = ("worse", "better", "changed", "new", "gone")
"""`changed`: it comes as far as before, and fails for another reason, or is attached in another way; or its loader leaves it out now, or
did before (another form of it runs)."""

_RANK: tuple[State, ...] = ("not loaded", "not attached", "placeholder", "off", "loaded", "attached")


@dataclass(frozen=True)
class Side:
    """What became of a program (a map, an object) on a target, in words."""

    state: str
    via: str | None = None
    """How it is attached."""
    cause: str | None = None
    """Why it came no further, with the class of that."""

    def __str__(self) -> str:
        return f"{self.state} ({self.via})" if self.via else self.state


@dataclass(frozen=True)
class Difference:
    """A program (a map, an object) that is not on a target as the baseline has it."""

    group: Group
    object: str
    name: str
    """The program's name, `map NAME` or `the object`."""
    target: str
    before: Side | None
    """What the baseline has; None where it has nothing of it."""
    after: Side | None


@dataclass(frozen=True)
class Comparison:
    """A run against a baseline."""

    differences: Sequence[Difference]
    programs: int
    """How many were compared, each counted once on each target."""
    targets: Sequence[str]
    """Those compared."""
    not_compared: Sequence[str] = ()
    """The targets of the baseline that were not run."""
    failed: Sequence[str] = ()
    """`OBJECT on TARGET`, where the machines failed: nothing is known of these."""
    changed_objects: Sequence[str] = ()
    """Those whose content is not what it was."""
    changed_kernels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By target: the release that the baseline was saved on, and that of this run."""
    kmatrix: tuple[str, str] = ("", "")
    """The version that saved the baseline, and that of this run."""


def check_objects(baseline: Baseline, path: Path, objects: Iterable[Path]) -> None:
    """Raise InputError where these are not the objects of the baseline at `path`, all of them and no others."""
    named = {name_of(each, path.parent): each for each in objects}
    save = "--save instead of --check makes a new baseline of this run"
    if strange := [str(each) for name, each in named.items() if name not in baseline.objects]:
        raise InputError(
            f"objects that are not in the baseline: {', '.join(strange)}", where=str(path), fix=f"leave them out; {save}"
        )
    if missing := [name for name in baseline.objects if name not in named]:
        fix = f"name these too (the baseline has them as seen from its own folder); {save}"
        raise InputError(f"objects of the baseline that are not in this run: {', '.join(missing)}", where=str(path), fix=fix)


def check_targets(baseline: Baseline, path: Path, targets: Sequence[Target], *, named: bool) -> list[Target]:
    """Those of the selected targets that the baseline at `path` has: not necessarily all of its own.

    Raises InputError where it has none of them, or none of a kernel that was `named` for this run.
    """
    held = [target for target in targets if str(target) in baseline.targets]
    known = {target.kernel.name for target in held}
    fix = f"leave out --kernels and --arch, for the baseline's own targets: {', '.join(baseline.targets)}"
    strange = dict.fromkeys(target.kernel.name for target in targets if target.kernel.name not in known)
    if strange and (named or not held):
        arches = " and ".join(dict.fromkeys(target.arch for target in targets))
        raise InputError(f"the baseline has no {', '.join(strange)} on {arches}", where=str(path), fix=fix)
    return held


def compare(baseline: Baseline, now: Baseline, targets: Sequence[str], failed: Iterable[tuple[str, str]] = ()) -> Comparison:
    """`now`, of a run of the same objects on `targets`, against the baseline. Where the machines `failed` (object, target), nothing is compared."""
    skip = set(failed)
    pairs = [(name, target) for name in baseline.objects for target in targets if (name, target) not in skip]
    found = [each for name, target in pairs for each in _of_object(name, target, baseline.objects[name], now.objects[name])]
    return Comparison(
        differences=sorted(found, key=lambda each: GROUPS.index(each.group)),
        programs=sum(target in by_target for name, target in pairs for by_target in now.objects[name].programs.values()),
        targets=targets,
        not_compared=[target for target in baseline.targets if target not in targets],
        failed=[f"{name} on {target}" for name, target in sorted(skip)],
        changed_objects=[name for name, old in baseline.objects.items() if old.sha256 != now.objects[name].sha256],
        changed_kernels={
            target: (baseline.targets[target].release, kernel.release)
            for target, kernel in now.targets.items()
            if target in baseline.targets and baseline.targets[target].release != kernel.release
        },
        kmatrix=(baseline.kmatrix, now.kmatrix),
    )


def _of_object(name: str, target: str, old: ObjectBaseline, new: ObjectBaseline) -> list[Difference]:
    """The differences of one object on one target."""
    was, is_ = _whole(old, target), _whole(new, target)
    if was != is_ or was is None or was.cause:  # one of the two says nothing of its programs
        group = _group_of(was, is_, better=is_ is not None and is_.cause is None)
        return [Difference(group, name, "the object", target, was, is_)] if group else []
    programs = _programs(name, target, old, new)
    causes = {each.after.cause for each in programs if each.after}
    # Where a program fails for want of the map, it tells the cause.
    found = programs + [each for each in _maps(name, target, old, new) if each.after is None or each.after.cause not in causes]
    return found or _as_a_whole(name, target, old, new)


def _as_a_whole(name: str, target: str, old: ObjectBaseline, new: ObjectBaseline) -> list[Difference]:
    """Whether the programs load together, where each by itself is as before."""
    before, after = (Side("does not load as a whole" if target in each.not_whole else "loads as a whole") for each in (old, new))
    group = _group_of(before, after, better=target not in new.not_whole)
    return [Difference(group, name, "the object", target, before, after)] if group else []


def _whole(side: ObjectBaseline, target: str) -> Side | None:
    """How the object fared as a whole; None where it was not tried."""
    if (failure := side.errors.get(target)) is not None:
        return Side("failed", cause=_cause(failure))
    return Side("tried") if any(target in by_target for by_target in side.programs.values()) else None


def _programs(name: str, target: str, old: ObjectBaseline, new: ObjectBaseline) -> list[Difference]:
    found = []
    for program in dict.fromkeys([*old.programs, *new.programs]):
        was, is_ = old.programs.get(program, {}).get(target), new.programs.get(program, {}).get(target)
        better = was is not None and is_ is not None and _RANK.index(is_.state) > _RANK.index(was.state)
        before, after = _side(was), _side(is_)
        if (group := _group_of(before, after, better=better)) is not None:
            found.append(Difference(group, name, program, target, before, after))
    return found


def _maps(name: str, target: str, old: ObjectBaseline, new: ObjectBaseline) -> list[Difference]:
    """The maps that cannot be made; a baseline has no others."""
    found = []
    for each in dict.fromkeys([*old.maps, *new.maps]):
        was, is_ = old.maps.get(each, {}).get(target), new.maps.get(each, {}).get(target)
        before, after = (Side("cannot be made", cause=_cause(side)) if side else Side("made, or not there") for side in (was, is_))
        if (group := _group_of(before, after, better=is_ is None)) is not None:
            found.append(Difference(group, name, f"map {each}", target, before, after))
    return found


def _group_of(before: Side | None, after: Side | None, *, better: bool) -> Group | None:
    if before == after:
        return None
    if before is None:
        return "new"
    if after is None:
        return "gone"
    if before.state == after.state or "off" in (before.state, after.state):
        return "changed"
    return "better" if better else "worse"


def _side(found: Found | None) -> Side | None:
    if found is None:
        return None
    return Side(found.state, found.via, _cause(found))


def _cause(found: Found | Failure) -> str | None:
    return f"{found.cause} [{found.kind}]" if found.cause else None
