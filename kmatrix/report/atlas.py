"""The verifier's atlas as text: how close each program is to the verifier's limits on every kernel, and what has grown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kmatrix.manifest.budget import Allowance
from kmatrix.report import grid
from kmatrix.report.grid import Column
from kmatrix.report.names import shorten, target_key
from kmatrix.report.table import across
from kmatrix.runs.atlas import Page
from kmatrix.verdict.effort import Effort, over

NOTHING = "-"
"""Where the program does not load."""
_SHOWN = 5
"""Lines of source that are shown of a program."""


def render(pages: Sequence[Page], simulated: frozenset[str], *, width: int, lines: bool) -> str:
    """Every object: the table of instructions, a line about each program where it is heaviest, and with `lines` its lines of source."""
    by_object: dict[str, list[Page]] = {}
    for page in pages:
        by_object.setdefault(page.object, []).append(page)
    return "\n\n".join(_object(name, each, simulated, width, lines=lines) for name, each in by_object.items())


def _object(name: str, pages: Sequence[Page], simulated: frozenset[str], width: int, *, lines: bool) -> str:
    pages = sorted(pages, key=lambda page: target_key(page.target))
    programs = list(dict.fromkeys(program for page in pages for program in (*page.efforts, *page.errors)))
    columns = {page.target: [_cell(page, program) for program in programs] for page in pages}
    parts = [
        f"{Path(name).name}: instructions that the verifier looks at",
        across([Column("program", programs)], columns, simulated, width),
    ]
    heaviest = [(program, found) for program in programs if (found := _heaviest(program, pages)) is not None]
    if heaviest:
        heads = ["heaviest", "on", "of the limit", "states", "stack", "BPF", "machine code", "time"]
        parts.append(grid.prose([_row(program, *found) for program, found in heaviest], width, heads=heads, wrap=(1,)))
    parts += _why_not(programs, pages)
    if lines:
        parts += [text for program in programs if (text := _lines(program, pages))]
    parts += [f"{page.target}: {page.infra}" for page in pages if page.infra is not None]
    return "\n\n".join(parts)


def _cell(page: Page, program: str) -> str:
    effort = page.efforts.get(program)
    return f"{effort.insns:,}" if effort is not None else NOTHING


def _heaviest(program: str, pages: Sequence[Page]) -> tuple[str, Effort] | None:
    found = [(page.target, page.efforts[program]) for page in pages if program in page.efforts]
    return max(found, key=lambda each: (each[1].share, each[1].stack_share), default=None)


def _row(program: str, target: str, effort: Effort) -> list[str]:
    states = (
        f"{effort.states:,} (peak {effort.peak_states:,})" if effort.states is not None and effort.peak_states is not None else ""
    )
    return [
        program,
        target,
        f"{effort.share:.2%}",
        states,
        "+".join(map(str, effort.stack)),
        f"{effort.xlated:,} B",
        f"{effort.jited:,} B" if effort.jited else "interpreted",
        f"{effort.time_ratio:g}x" if effort.time_ratio is not None else "",
    ]


def _why_not(programs: Sequence[str], pages: Sequence[Page]) -> list[str]:
    """Where programs do not load: the first of what libbpf says, told once for all that it says it of."""
    said: dict[str, dict[str, list[str]]] = {}
    for program in programs:
        for page in pages:
            if program in page.errors:
                error = page.errors[program].removeprefix(f"prog '{program}': ").partition("; ")[0]
                said.setdefault(error.replace(f"'{program}'", "that name"), {}).setdefault(program, []).append(page.target)
    if not said:
        return []
    rows = []
    for error, where in said.items():
        alike: dict[str, list[str]] = {}
        for program, targets in where.items():
            alike.setdefault(shorten(targets), []).append(program)
        rows += [f"  {targets}: {', '.join(names)}: {error}" for targets, names in alike.items()]
    return ["\n".join(["not loaded, and so not in the table (kmatrix run says why, and what to do):", *rows])]


def _lines(program: str, pages: Sequence[Page]) -> str:
    """The lines of source that the verifier looks at most, where the program is heaviest."""
    found = _heaviest(program, pages)
    visits = next((page.visits.get(program, ()) for page in pages if found is not None and page.target == found[0]), ())
    if found is None or not visits:
        return ""
    rows = "\n".join(f"  {count:>9,}  {text}" for text, count in visits[:_SHOWN])
    return f"{program} on {found[0]}: the lines with the most instructions looked at\n{rows}"


def growth(pages: Sequence[Page], kept: Mapping[tuple[str, str, str], int]) -> list[str]:
    """What the verifier has to do more, or less, than in the atlas that was kept: a line for each change that is the same on all its targets."""
    changes: dict[tuple[str, str, int, int], list[str]] = {}
    for page in pages:
        for program, effort in page.efforts.items():
            name = Path(page.object).name
            before = kept.get((name, page.target, program))
            if before is not None and before != effort.insns:
                changes.setdefault((name, program, before, effort.insns), []).append(page.target)
    return [
        f"{name} {program} on {shorten(targets)}: {before:,} -> {now:,} instructions ({(now - before) / before:+.0%})"
        for (name, program, before, now), targets in changes.items()
        if before
    ]


def over_budget(pages: Sequence[Page], allowed: Allowance) -> list[str]:
    """The programs of which something is above what is allowed of its limit, each with where."""
    return [
        f"{Path(page.object).name} {program} on {page.target}: {' and '.join(found)}"
        for page in pages
        for program, effort in page.efforts.items()
        if (found := over(effort, allowed))
    ]
