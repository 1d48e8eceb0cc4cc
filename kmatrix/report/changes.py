"""The cells of a run against those of another, such as main's: what changed. Pure.

One rule says what is worse: what the other run showed to work is not shown to work now, or a new cell is red.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kmatrix.manifest.types import BEHAVIOURS
from kmatrix.report import causes, reds
from kmatrix.runs.baseline import steady
from kmatrix.runs.cell_records import Record

Kind = Literal["new red", "new warning", "verdict changed", "diagnosis changed", "gone cell", "new cell", "now green"]
KINDS: tuple[Kind, ...] = ("new red", "new warning", "verdict changed", "diagnosis changed", "gone cell", "new cell", "now green")
"""In the order in which a reader wants them. `verdict changed`: as green or red as before, with another behaviour or class.
`diagnosis changed`: red with the same verdict, for another cause."""


@dataclass(frozen=True)
class Change:
    """A cell that is not as it was."""

    kind: Kind
    before: Record | None
    """None for a new cell."""
    after: Record | None
    """None for one that is gone."""
    worse: bool

    @property
    def record(self) -> Record:
        """The newer of the two."""
        found = self.after or self.before
        assert found is not None, "a change has two sides, and one of them is there"
        return found


@dataclass(frozen=True)
class Changes:
    """A run against another."""

    changes: Sequence[Change]
    compared: int
    """How many cells both runs have."""
    not_known: Sequence[str] = ()
    """The cells where the machines failed in one of the runs: nothing is known of these."""
    not_compared: Sequence[str] = ()
    """The targets of the other run of which this one has no cell."""
    changed_kernels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By target: the release that the other run was on, and this one's."""
    kmatrix: tuple[str, str] = ("", "")
    """The versions that made the two."""

    @property
    def worse(self) -> bool:
        """Whether something is worse."""
        return any(change.worse for change in self.changes)


Cell = tuple[str, str]


def compare(before: Iterable[Record], now: Iterable[Record]) -> Changes:
    """What changed from `before` to `now`. Targets that were not run now are left out: a run of some kernels is no loss of the others."""
    was, is_ = ({(record.collector, record.target): record for record in records} for records in (before, now))
    run = {target for _, target in is_}
    unknown = {cell for cell in (*was, *is_) if any(_infra(side.get(cell)) for side in (was, is_))}
    cells = [cell for cell in dict.fromkeys([*was, *is_]) if cell[1] in run and cell not in unknown]
    changes = [change for cell in cells if (change := _change(was.get(cell), is_.get(cell))) is not None]
    return Changes(
        changes=sorted(changes, key=lambda change: (not change.worse, KINDS.index(change.kind))),
        compared=sum(cell in was and cell in is_ for cell in cells),
        not_known=sorted(
            {record.cell for side in (was, is_) for cell, record in side.items() if cell in unknown and cell[1] in run}
        ),
        not_compared=list(dict.fromkeys(target for _, target in was if target not in run)),
        changed_kernels=_kernels(was, is_),
        kmatrix=(_version(was.values()), _version(is_.values())),
    )


def _change(before: Record | None, after: Record | None) -> Change | None:
    if before is None or after is None:
        if after is not None:
            return Change("new cell", None, after, worse=after.red)
        return Change("gone cell", before, None, worse=before is not None and before.ok)
    if after.warning and not before.red:
        return None if before.warning and _verdict(before) == _verdict(after) else Change("new warning", before, after, worse=False)
    if before.ok != after.ok:
        return Change("now green" if after.ok else "new red", before, after, worse=not after.ok)
    if _verdict(before) != _verdict(after):
        return Change("verdict changed", before, after, worse=not after.warning and _rank(after) < _rank(before))
    if not after.ok and diagnosis(before) != diagnosis(after):
        return Change("diagnosis changed", before, after, worse=False)
    return None


def _verdict(record: Record) -> tuple[str | None, ...]:
    return record.expected, record.observed, record.failure


_RANKS: Sequence[str | None] = (None, *BEHAVIOURS, "skipped", "passed")
"""From worst to best; a sub-test's two stand by themselves."""


def _rank(record: Record) -> int:
    """How much of the collector runs; less than a refusal is where nothing could be seen."""
    return _RANKS.index(record.observed)


def diagnosis(record: Record) -> tuple[str, ...]:
    """Why a cell is red, without what differs from boot to boot: its causes; where none is known, its reason."""
    found = sorted({steady(causes.one_line(cause)) for cause in causes.relevant(record)})
    return tuple(found) or (steady(reds.kind(record)[-1]),)


def _infra(record: Record | None) -> bool:
    return record is not None and record.failure == "infra"


def _kernels(was: Mapping[Cell, Record], is_: Mapping[Cell, Record]) -> dict[str, tuple[str, str]]:
    then, now = ({record.target: record.versions.get("release", "") for record in side.values()} for side in (was, is_))
    return {target: (then[target], now[target]) for target in now if then.get(target) and now[target] not in ("", then[target])}


def _version(records: Iterable[Record]) -> str:
    return ", ".join(sorted({record.versions["kmatrix"] for record in records if record.versions.get("kmatrix")}))
