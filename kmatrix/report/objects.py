"""The table of `kmatrix run`: programs down, targets across; under it the kernel's own words for what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kmatrix.report import causes
from kmatrix.report.contract import paragraphs
from kmatrix.report.explain import LOG_LINES
from kmatrix.report.grid import Column
from kmatrix.report.table import GREEN, RED, RESET, across, missing
from kmatrix.runs.object_run import Outcome
from kmatrix.verdict.observation import last_words


def render(outcomes: Sequence[Outcome], unavailable: Mapping[str, str], *, colour: bool, width: int, logs: bool = False) -> str:
    """Table (in `width` columns), failures by cause (with `logs`, each with its whole log), and what could not be had."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.programs)) or ["(object)"]
    sections = {name: program.get("section") for outcome in outcomes for name, program in outcome.programs.items()}
    labels = [Column("program", names), Column("section", [sections.get(name) or "" for name in names])]
    simulated = [outcome.target for outcome in outcomes if outcome.simulated is not None]
    cells = {outcome.target: [_cell(outcome, name, colour) for name in names] for outcome in outcomes}
    parts = [across(labels, cells, simulated, width)]
    parts += [*_failures(outcomes, logs=logs), *paragraphs(outcomes)]
    parts += [f"~ {outcome.target} is simulated: {outcome.simulated}" for outcome in outcomes if outcome.simulated]
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def render_many(
    objects: Mapping[str, Sequence[Outcome]], unavailable: Mapping[str, str], *, colour: bool, width: int, logs: bool = False
) -> str:
    """One table of many objects: an object a row, in each cell how many of its programs are good; then the failures of each object."""
    labels = _labels(objects)
    targets = list(dict.fromkeys(outcome.target for outcomes in objects.values() for outcome in outcomes))
    by_target = {path: {outcome.target: outcome for outcome in outcomes} for path, outcomes in objects.items()}
    simulations = {outcome.target: outcome.simulated for each in objects.values() for outcome in each if outcome.simulated}
    cells = {target: [_score(found.get(target), colour) for found in by_target.values()] for target in targets}
    parts = [across([Column("object", [labels[path] for path in by_target])], cells, simulations, width)]
    for path, outcomes in objects.items():
        if failures := [*_failures(outcomes, logs=logs), *paragraphs(outcomes, brief=True)]:
            parts.append("\n".join([f"{labels[path]}:", *(f"  {line}" for failure in failures for line in failure.splitlines())]))
    parts += [f"~ {target} is simulated: {account}" for target, account in simulations.items()]
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def _labels(paths: Iterable[str]) -> dict[str, str]:
    """The files' names, or their paths where two have the same name."""
    names: dict[str, list[str]] = {}
    for path in paths:
        names.setdefault(path.rpartition("/")[2], []).append(path)
    return {path: name if len(same) == 1 else path for name, same in names.items() for path in same}


def _score(outcome: Outcome | None, colour: bool) -> str:
    """`12/14`: of the programs, those that load, and attach where their section says where."""
    if outcome is None:
        return ""
    tried = [p for p in outcome.programs.values() if not p.get("off")]
    good = [p for p in tried if p["loaded"] and p["attached"] is not False]
    whole = outcome.good
    text = "✗ error" if outcome.error else f"{'' if whole else '✗ '}{len(good)}/{len(tried)}"
    return f"{GREEN if whole else RED}{text}{RESET}" if colour else text


def _cell(outcome: Outcome, name: str, colour: bool) -> str:
    program = outcome.programs.get(name)
    if program is None:
        text, good = "✗ error" if outcome.error else "", False
    elif program.get("off"):
        text, good = "off", True
    elif not program["loaded"]:
        text, good = "✗ load", False
    elif program["attached"] is None:
        text, good = "loaded", True
    else:
        text, good = ("attached", True) if program["attached"] else ("✗ attach", False)
    if not colour or not text:
        return text
    return f"{GREEN if good else RED}{text}{RESET}"


def _failures(outcomes: Sequence[Outcome], *, logs: bool) -> Iterator[str]:
    """One paragraph a cause: the programs, maps and targets that fail of it, the remedy, and where they do not."""
    said: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    places: dict[tuple[str, ...], dict[str, str]] = {}
    quotes: dict[tuple[str, ...], str] = {}
    """What the kernel said, of the first that said it: kernels word the same thing differently."""

    def note(name: str, target: str, words: tuple[str, ...], where: str | None = None, log: str = "") -> None:
        names, targets = said.setdefault(words, ([], []))
        if where:
            places.setdefault(words, {}).setdefault(name, where)
        if where is not None and (quote := last_words(log)):
            quotes.setdefault(words, quote)
        names += [] if name in names else [name]
        targets += [] if target in targets else [target]

    for outcome in outcomes:
        if outcome.error is not None:
            cause = outcome.diagnosis
            told = (outcome.error,) if cause is None else (cause["headline"], _remedy(cause), f"libbpf said: {outcome.error}")
            note("the object", outcome.target, told)
        for name, found in outcome.maps.items():
            if found.get("error"):
                note(f"map {name}", outcome.target, _cause(found, logs=logs))
        for name, program in outcome.programs.items():
            if program.get("error"):
                note(
                    name,
                    outcome.target,
                    _cause(program, logs=logs),
                    (program.get("diagnosis") or {}).get("where"),
                    program.get("log") or "",
                )
    for words, (names, targets) in said.items():
        headline, *rest = words
        first = f"{', '.join(names)} on {', '.join(targets)}: {headline}"
        good = [o.target for o in outcomes if o.target not in targets and not any(_fails(o, name) for name in names)]
        works = [f"    good on {', '.join(good)}"] if good and rest else []
        where = [f"    at {place}" for place in causes.places([{"where": places.get(words, {})}])]
        where += [f"    the kernel said: {quotes[words]}"] if words in quotes else []
        yield "\n".join([first, *works, *where, *(f"    {line}" for line in rest)])


def _fails(outcome: Outcome, name: str) -> bool:
    found = outcome.maps.get(name.removeprefix("map ")) if name.startswith("map ") else outcome.programs.get(name)
    return outcome.error is not None or found is None or bool(found.get("error"))


def _cause(found: Mapping[str, Any], *, logs: bool) -> tuple[str, ...]:
    """The diagnosis and the remedy. Without a diagnosis the words of libbpf and the kernel, as they are."""
    log = [line for line in (found.get("log") or "").splitlines() if line.strip()]
    diagnosis = found.get("diagnosis")
    if diagnosis is None:
        reason = last_words(found.get("log") or "")
        error = str(found["error"])
        headline = f"unclassified: {error}: {reason}" if reason and reason not in error else f"unclassified: {error}"
        # Where the verifier did not speak, libbpf's lines are the error already.
        return headline, *(log if logs else log[-LOG_LINES:])
    return diagnosis["headline"], _remedy(diagnosis), *(log if logs else ())


def _remedy(diagnosis: Mapping[str, Any]) -> str:
    return f"fix: {diagnosis['fix']}; see {diagnosis['see']}"
