"""Where the loaders differ: of the same objects, or the same collectors, on the same targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kmatrix.host.later import later
from kmatrix.manifest.libraries import LIBRARIES
from kmatrix.report.causes import one_line
from kmatrix.report.grid import prose
from kmatrix.report.names import shorten, target_key
from kmatrix.report.table import mark
from kmatrix.verdict.words import last_words
from kmatrix.vm.loaders import TITLES

if TYPE_CHECKING:
    from kmatrix.runs import object_run
    from kmatrix.runs.cell_records import Record
    from kmatrix.runs.object_run import Outcome
else:
    object_run = later("kmatrix.runs.object_run")  # the differences of cells need none of it

NONE = "the loaders do not differ"


def headline(objects: Mapping[str, Sequence[Outcome]]) -> str:
    """What loaded: `loaded by cilium/ebpf 0.11.0`."""
    names = dict.fromkeys(outcome.loader or TITLES[outcome.library] for each in objects.values() for outcome in each)
    return f"loaded by {', '.join(names)}"


def render(objects: Mapping[str, Sequence[Outcome]], *, width: int) -> str:
    """A row for each program or map whose loaders come to different ends, with why. By path, the outcomes of all loaders on all targets."""
    rows: dict[tuple[str, ...], list[str]] = {}
    several = len(objects) > 1
    for path, outcomes in objects.items():
        for target in dict.fromkeys(outcome.target for outcome in outcomes):
            by_library = {outcome.library: outcome for outcome in outcomes if outcome.target == target}
            for name in _names(by_library.values()):
                tell = _state_of_map if name.startswith("map ") else _state
                states = [tell(outcome, name) for outcome in by_library.values()]
                if len({each[0] for each in states}) > 1:
                    why = next((said for _, said in states if said), "")
                    row = (*([path.rpartition("/")[2]] if several else []), name, *(each for each, _ in states), why)
                    rows.setdefault(row, []).append(target)
    libraries = list(dict.fromkeys(outcome.library for each in objects.values() for outcome in each))
    heads = [*(["object"] if several else []), "program", *libraries]
    return _table(heads, rows, width)


def of_records(records: Iterable[Record], *, width: int) -> str | None:
    """A row for each collector whose loaders behave differently on a target, with why; None where nothing ran with two loaders."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        name, _, library = record.collector.partition("+")
        if library and library not in LIBRARIES:  # the same collector under stress
            continue
        found.setdefault((name, record.target), {})[library] = record
    pairs = {key: each for key, each in found.items() if len(each) > 1}
    if not pairs:
        return None
    heads: list[str] = ["collector"]
    rows: dict[tuple[str, ...], list[str]] = {}
    for (name, target), each in sorted(pairs.items(), key=lambda pair: (pair[0][0], target_key(pair[0][1]))):
        plain = each.pop("")
        others = [library for library in LIBRARIES if library in each]
        heads = ["collector", "as the manifest says", *others]
        if any(_shown(plain) != _shown(each[library]) for library in others):
            why = next((text for library in others for text in _reasons(plain, each[library]) if text), "")
            rows.setdefault((name, mark(plain), *(mark(each[library]) for library in others), why), []).append(target)
    return _table(heads, rows, width)


def _table(heads: Sequence[str], rows: Mapping[tuple[str, ...], Sequence[str]], width: int) -> str:
    if not rows:
        return NONE
    lines = [[*row[:-1], shorten(targets), row[-1]] for row, targets in rows.items()]
    return "where the loaders differ:\n" + prose(lines, width, heads=[*heads, "on", "why"], wrap=(-2, -1))


def _names(outcomes: Iterable[Outcome]) -> list[str]:
    """The programs that any of them has, in the order of the first; of an object that one does not open, that is said too."""
    outcomes = [*outcomes]
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.programs)) or ["(object)"]
    bad = dict.fromkeys(f"map {name}" for outcome in outcomes for name, found in outcome.maps.items() if found.get("error"))
    return [*names, *bad]


def _state(outcome: Outcome, name: str) -> tuple[str, str]:
    """How far the program came, and why not further."""
    program = outcome.programs.get(name)
    if program is None:
        error = (outcome.diagnosis or {}).get("headline") or outcome.error
        return ("error" if outcome.error else "absent"), error or f"{outcome.loader} finds no such program in the object"
    found = object_run.state(program)
    return found, "" if found in (*object_run.GOOD, *object_run.NOT_JUDGED) else _why(program)


def _state_of_map(outcome: Outcome, name: str) -> tuple[str, str]:
    """Whether a map was made that some loader could not make; libbpf calls those of global variables after the object, `x.rodata`."""
    name = name.removeprefix("map ")
    found = next((outcome.maps[each] for each in outcome.maps if each == name or (name[0] == "." and each.endswith(name))), None)
    if found is None or outcome.error:
        return ("error", outcome.error) if outcome.error else ("absent", "")
    return ("not made", _why(found)) if found.get("error") else ("made" if found.get("id") else "left out", "")


def _why(program: Mapping[str, Any]) -> str:
    if diagnosis := program.get("diagnosis"):
        return str(diagnosis["headline"])
    reason = last_words(program.get("log") or "")
    error = str(program.get("error") or "")
    return f"{error}: {reason}" if reason and reason not in error else error


def _shown(record: Record) -> tuple[object, ...]:
    """What a cell comes to: its behaviour, its class of failure, and the variant that runs."""
    return record.observed, record.failure, (record.facts or {}).get("running")


def _reasons(plain: Record, other: Record) -> Iterator[str]:
    """Why two records differ: causes that only one of them has, the other's first, else the reason of the verdict."""
    said = {id(record): dict.fromkeys(one_line(cause) for cause in record.causes) for record in (plain, other)}
    yield "; ".join(text for text in said[id(other)] if text not in said[id(plain)])
    yield "; ".join(text for text in said[id(plain)] if text not in said[id(other)])
    yield from (record.reason for record in (other, plain) if not record.ok)
