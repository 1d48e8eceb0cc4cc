"""The table of `kmatrix run`: programs down, targets across; under it the kernel's own words for what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from kmatrix.report.explain import LOG_LINES
from kmatrix.report.table import GREEN, RED, RESET, YELLOW, head, missing
from kmatrix.runs.object_run import GOOD, NOT_JUDGED, Outcome, state
from kmatrix.verdict.observation import last_words


def render(
    outcomes: Sequence[Outcome], unavailable: Mapping[str, str], *, colour: bool, logs: bool = False, causes: bool = True
) -> str:
    """Table, failures by cause (with `logs`, each with its whole log; without `causes`, none), and what could not be had."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.programs)) or ["(object)"]
    sections = {name: program.get("section") for outcome in outcomes for name, program in outcome.programs.items()}
    heads = [head(outcome.target, simulated=outcome.simulated is not None) for outcome in outcomes]
    rows = [[name, sections.get(name) or "", *(_cell(outcome, name, colour) for outcome in outcomes)] for name in names]
    parts = [tabulate(rows, headers=["program", "section", *heads], tablefmt="rounded_outline", disable_numparse=True)]
    parts += list(_failures(outcomes, logs=logs)) if causes else []
    parts += [f"~ {outcome.target} is simulated: {outcome.simulated}" for outcome in outcomes if outcome.simulated]
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def render_many(
    objects: Mapping[str, Sequence[Outcome]],
    unavailable: Mapping[str, str],
    *,
    colour: bool,
    logs: bool = False,
    causes: bool = True,
) -> str:
    """One table of many objects: an object a row, in each cell how many of its programs are good; then each cause once, with what fails of it."""
    labels = _labels(objects)
    targets = list(dict.fromkeys(outcome.target for outcomes in objects.values() for outcome in outcomes))
    by_target = {path: {outcome.target: outcome for outcome in outcomes} for path, outcomes in objects.items()}
    simulations = {outcome.target: outcome.simulated for each in objects.values() for outcome in each if outcome.simulated}
    heads = [head(target, simulated=target in simulations) for target in targets]
    rows = [[labels[path], *(_score(found.get(target), colour) for target in targets)] for path, found in by_target.items()]
    parts = [tabulate(rows, headers=["object", *heads], tablefmt="rounded_outline", disable_numparse=True)]
    parts += _many_failures(objects, labels, logs=logs) if causes else []
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
    """`12/14`: of the programs that could be judged, those that load, and attach where their section says where."""
    if outcome is None:
        return ""
    states = [state(program) for program in outcome.programs.values()]
    judged = [each for each in states if each not in NOT_JUDGED]
    good = sum(each in GOOD for each in judged)
    if outcome.error:
        text, paint = "✗ error", RED
    elif not judged:
        text, paint = "placeholders" if "placeholder" in states else "off", YELLOW
    else:
        text, paint = (f"{good}/{len(judged)}", GREEN) if outcome.good else (f"✗ {good}/{len(judged)}", RED)
        left = states.count("placeholder")
        text += f" +{left} placeholder{'s' if left > 1 else ''}" if left else ""
    return f"{paint}{text}{RESET}" if colour else text


_SHOWN = {
    "attached": ("attached", GREEN),
    "loaded": ("loaded", GREEN),
    "placeholder": ("placeholder", YELLOW),
    "off": ("off", GREEN),
    "not attached": ("✗ attach", RED),
    "not loaded": ("✗ load", RED),
}
"""A program's state as its cell shows it."""


def _cell(outcome: Outcome, name: str, colour: bool) -> str:
    program = outcome.programs.get(name)
    if program is None:
        text, paint = "✗ error" if outcome.error else "", RED
    else:
        text, paint = _SHOWN[state(program)]
    return f"{paint}{text}{RESET}" if colour and text else text


@dataclass
class _Cause:
    """One cause on all targets: what fails of it, and what there is to say of it."""

    words: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    """Programs and maps."""
    targets: list[str] = field(default_factory=list)
    where: str = ""
    quote: str = ""
    """What the kernel said, of the first that said it: kernels word the same thing differently."""

    @property
    def what(self) -> str:
        return f"{', '.join(self.names)} on {', '.join(self.targets)}"

    def lines(self, good: Sequence[str]) -> list[str]:
        """All but the headline; `good` are the targets on which nothing of it fails."""
        rest = self.words[1:]
        return [
            *([f"    good on {', '.join(good)}"] if good and rest else []),
            *([f"    at {self.where}"] if self.where else []),
            *([f"    the kernel said: {self.quote}"] if self.quote else []),
            *(f"    {line}" for line in rest),
        ]

    def good(self, outcomes: Sequence[Outcome]) -> list[str]:
        return [o.target for o in outcomes if o.target not in self.targets and not any(_fails(o, name) for name in self.names)]


def _failures(outcomes: Sequence[Outcome], *, logs: bool) -> Iterator[str]:
    """One paragraph a cause: the programs, maps and targets that fail of it, the remedy, and where they do not."""
    for cause in _causes(outcomes, logs=logs):
        yield "\n".join([f"{cause.what}: {cause.words[0]}", *cause.lines(cause.good(outcomes))])


def _many_failures(objects: Mapping[str, Sequence[Outcome]], labels: Mapping[str, str], *, logs: bool) -> Iterator[str]:
    """One paragraph a cause: the objects that fail of it, with programs, maps and targets, and the remedy."""
    by_words: dict[tuple[str, ...], list[tuple[str, _Cause]]] = {}
    for path, outcomes in objects.items():
        for cause in _causes(outcomes, logs=logs):
            by_words.setdefault(cause.words, []).append((path, cause))
    for words, found in by_words.items():
        shared = _Cause(
            words,
            where=found[0][1].where if len(found) == 1 else "",
            quote=next((cause.quote for _, cause in found if cause.quote), ""),
        )
        tried = dict.fromkeys(outcome.target for path, _ in found for outcome in objects[path])
        bad = {o.target for path, cause in found for o in objects[path] if o.target not in cause.good(objects[path])}
        who = [
            f"    {labels[path]}: {cause.what}" + (f", at {cause.where}" if cause.where and len(found) > 1 else "")
            for path, cause in found
        ]
        yield "\n".join([words[0], *who, *shared.lines([target for target in tried if target not in bad])])


def _causes(outcomes: Sequence[Outcome], *, logs: bool) -> list[_Cause]:
    """The failures of one object, by their words."""
    said: dict[tuple[str, ...], _Cause] = {}

    def note(name: str, target: str, words: tuple[str, ...]) -> _Cause:
        cause = said.setdefault(words, _Cause(words))
        cause.names += [] if name in cause.names else [name]
        cause.targets += [] if target in cause.targets else [target]
        return cause

    for outcome in outcomes:
        if outcome.error is not None:
            note("the object", outcome.target, (outcome.error,))
        for name, found in outcome.maps.items():
            if found.get("error"):
                note(f"map {name}", outcome.target, _cause(found, logs=logs))
        for name, program in outcome.programs.items():
            if not program.get("error"):
                continue
            cause = note(name, outcome.target, _cause(program, logs=logs))
            where = (program.get("diagnosis") or {}).get("where") or ""
            if len(where) > len(cause.where):  # newer kernels add the file and the line
                cause.where = where
            if where and not cause.quote:
                cause.quote = last_words(program.get("log") or "")
    return [*said.values()]


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
        headline = f"{error}: {reason}" if reason and reason not in error else error
        # Where the verifier did not speak, libbpf's lines are the error already.
        return headline, *(log if logs else log[-LOG_LINES:])
    return diagnosis["headline"], f"fix: {diagnosis['fix']}", *(log if logs else ())
