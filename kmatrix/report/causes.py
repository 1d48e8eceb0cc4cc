"""Why cells are red, by cause: of one cell, and of all, each cause once with the cells that have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kmatrix.verdict.diagnosis import UNCLASSIFIED

if TYPE_CHECKING:
    from kmatrix.runs.cell_records import Record

Cause = Mapping[str, Any]
"""An entry of a record's `causes` (docs/record.md)."""
_NOT_BY_CAUSES = ("infra", "leftover", "budget")
"""Failures of a cell whose programs did, or did not, load and attach as promised."""
PLACES = 4
"""Lines of source that are shown of one cause."""


def relevant(record: Record) -> list[Cause]:
    """The causes that a red cell is red for: those of the expected variant and of the one that runs. All, where nothing runs and those have none.

    What failed before a variant that runs failed as promised: it is no cause of a wrong value, or of events that do not come.
    """
    if record.ok or record.failure in _NOT_BY_CAUSES:
        return []
    running = (record.facts or {}).get("running")
    wanted = [cause for cause in record.causes if cause["variant"] in (record.expectation.get("variant"), running)]
    return wanted if wanted or running is not None else list(record.causes)


def classes(record: Record) -> str:
    """The classes of the causes of a red cell, as `helper, map-type`; empty where there is none."""
    return ", ".join(dict.fromkeys(cause["kind"] for cause in relevant(record)))


def headlines(record: Record) -> str:
    """The causes of a red cell in one line."""
    return "; ".join(dict.fromkeys(one_line(cause) for cause in relevant(record)))


def one_line(cause: Cause) -> str:
    """The class and the cause: `helper: helper bpf_loop, since 5.17`."""
    return f"{cause['kind']}: {cause['headline']}"


def names(cause: Cause) -> str:
    """The maps and programs that have the cause, as `map ring, program exec`."""
    said = [f"{kind[:-1]} {name}" for kind in ("maps", "programs") for name in cause[kind]]
    return ", ".join(said) or "the object"


def lines(cause: Cause) -> Iterator[str]:
    """The account of one cause, line by line."""
    yield f"cause     {one_line(cause)}"
    yield f"  of      {names(cause)} (variant {cause['variant']})"
    yield from (f"  at      {place}" for place in places([cause]))
    if cause["said"] and cause["kind"] != UNCLASSIFIED:
        yield f"  said    {cause['said'].splitlines()[-1]}"
    yield f"  fix     {cause['fix']}; see {cause['see']}"


def places(found: Iterable[Cause]) -> list[str]:
    """The lines of source of causes, each once; where they are many, the first of them and how many more there are."""
    said = list(dict.fromkeys(place for cause in found for place in cause["where"].values()))
    return said if len(said) <= PLACES else [*said[:PLACES], f"and {len(said) - PLACES} more places"]


def told_once(records: Sequence[Record]) -> Iterator[str]:
    """Of records in the order of their targets, one paragraph a cause: what it is, the programs and cells that have it, the first target where it is not, the place, the remedy."""
    groups: dict[tuple[str, str, str], list[tuple[Record, Cause]]] = {}
    for record in records:
        for cause in relevant(record):
            groups.setdefault((record.collector, one_line(cause), cause["fix"]), []).append((record, cause))
    for (collector, headline, fix), found in groups.items():
        causes = [cause for _, cause in found]
        who = ", ".join(dict.fromkeys(names(cause) for cause in causes))
        targets = list(dict.fromkeys(record.target for record, _ in found))
        yield f"{headline}"
        yield f"  {collector} on {', '.join(targets)}: {who}"
        if works := _works(records, collector, causes):
            yield f"  works on {works}"
        yield from (f"  at {place}" for place in places(causes))
        yield f"  fix: {fix}; see {causes[0]['see']}"


def _works(records: Sequence[Record], collector: str, found: Sequence[Cause]) -> str | None:
    """The first target on which the same variant was tried, and none of these programs and maps failed."""
    variants = {cause["variant"] for cause in found}
    failing = {(kind, name) for cause in found for kind in ("programs", "maps") for name in cause[kind]}
    for record in (each for each in records if each.collector == collector):
        for attempt in (record.facts or {}).get("attempts", ()):
            if attempt["variant"] in variants and not attempt["stage"] and not _fails(attempt, failing):
                return record.target
    return None


def _fails(attempt: Mapping[str, Any], wanted: Iterable[tuple[str, str]]) -> bool:
    return any((attempt[kind].get(name) or {}).get("error") for kind, name in wanted)
