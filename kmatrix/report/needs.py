"""What objects need, as text and as JSON: the oldest release of each program, what sets it, and everything that is asked of the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmatrix.host.version import Version
from kmatrix.host.version import text as written
from kmatrix.matrix import history
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.objects.code import Code
from kmatrix.objects.needs import OLDEST, Need, needs, oldest
from kmatrix.report import grid


@dataclass(frozen=True)
class ProgramNeeds:
    """A program, and what it needs."""

    name: str
    section: str
    needs: tuple[Need, ...]

    def oldest(self, arch: Arch) -> tuple[Version, Need | None]:
        """The first release that has all that the program always needs, and the need that sets it."""
        return oldest(self.needs, arch)


def read(code: Code) -> list[ProgramNeeds]:
    """The programs of an object with their needs, in the object's order."""
    found = needs(code)
    return [ProgramNeeds(name, section, found[name]) for name, section in code.info.programs.items() if name in found]


def text(name: str, programs: Sequence[ProgramNeeds], *, everything: bool, width: int, arches: Sequence[Arch] = ARCHES) -> str:
    """The account of one object in `width` columns. `everything` lists what each kernel has too, such as the helpers of 4.14."""
    rows = [[each.name, each.section, *(_oldest(each, arch) for arch in arches)] for each in programs]
    parts = [f"{name}: {_whole(programs, arches)}", grid.prose(rows, width, heads=["program", "section", *arches])]
    asked = [_row(need, who, len(programs)) for need, who in _merged(programs, everything)]
    if asked:
        parts.append(grid.prose(asked, width, heads=["needs", "since", "where"], wrap=(0, -1)))
    return "\n\n".join(parts)


def _whole(programs: Sequence[ProgramNeeds], arches: Sequence[Arch]) -> str:
    """The oldest kernels on which the object loads as a whole."""
    floors = {arch: max((each.oldest(arch)[0] for each in programs), default=OLDEST) for arch in arches}
    if len(set(floors.values())) == 1:
        return f"all its programs need Linux {written(next(iter(floors.values())))}"
    return f"all its programs need Linux {' and '.join(f'{written(since)} on {arch}' for arch, since in floors.items())}"


def _oldest(program: ProgramNeeds, arch: Arch) -> str:
    since, need = program.oldest(arch)
    return f"{written(since)}  {need.name}" if need is not None else "any"


def _merged(programs: Sequence[ProgramNeeds], everything: bool) -> Iterable[tuple[Need, list[str]]]:
    """Each need once, with the programs that have it: those always needed first, the newest first of all."""
    found: dict[tuple[str, bool], tuple[Need, list[str]]] = {}
    for program in programs:
        for need in program.needs:
            found.setdefault((need.name, need.optional), (need, []))[1].append(program.name)
    order = sorted(found.values(), key=lambda each: (each[0].optional, *_age(each[0]), each[0].name))
    return [(need, who) for need, who in order if everything or (since := _since(need)) is None or since > OLDEST]


def _since(need: Need) -> Version | None:
    dates = [date for arch in ARCHES if (date := history.first(need.name, arch)) is not None]
    return max(dates, default=None)


def _age(need: Need) -> tuple[int, int]:
    major, minor = _since(need) or (0, 0)
    return -major, -minor


def _row(need: Need, who: Sequence[str], total: int) -> list[str]:
    by = {arch: history.first(need.name, arch) for arch in ARCHES}
    dates = {arch: written(date) for arch, date in by.items() if date is not None}
    since = (
        next(iter(dates.values()), "")
        if len(set(dates.values())) < 2
        else ", ".join(f"{date} {arch}" for arch, date in dates.items())
    )
    where = str(need.line) if need.line is not None else f"map {need.function}" if need.name.startswith("map:") else ""
    whose = "" if len(who) == total else f" ({', '.join(who[:3])}{f' and {len(who) - 3} more' if len(who) > 3 else ''})"
    guard = "" if not need.optional else f" [only if {' and '.join(need.guards)}]" if need.guards else " [guarded]"
    return [f"{need.name}{guard}", since or "-", f"{where}{whose}".strip()]


def as_json(name: str, programs: Sequence[ProgramNeeds]) -> Mapping[str, Any]:
    """The same as data."""
    return {
        "object": name,
        "programs": [
            {
                "name": each.name,
                "section": each.section,
                "oldest": {arch: written(each.oldest(arch)[0]) for arch in ARCHES},
                "needs": [_need_json(need) for need in each.needs],
            }
            for each in programs
        ],
    }


def _need_json(need: Need) -> Mapping[str, Any]:
    since = {arch: written(date) for arch in ARCHES if (date := history.first(need.name, arch)) is not None}
    line = {"file": need.line.file, "line": need.line.number, "text": need.line.text.strip()} if need.line is not None else None
    return {
        "name": need.name,
        "since": since,
        "optional": need.optional,
        "guards": list(need.guards),
        "function": need.function,
        "source": line,
    }
