"""The table of `kmatrix run`: programs down, targets across; under it the kernel's own words for what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.manifest.contract_file import beside
from kmatrix.report import causes
from kmatrix.report.contract import paragraphs
from kmatrix.report.grid import LOG_LINES, Column
from kmatrix.report.names import machine
from kmatrix.report.reds import counted, heading
from kmatrix.report.table import GREEN, RED, RESET, YELLOW, across, missing
from kmatrix.runs.object_run import GOOD, NOT_JUDGED, Outcome, State, state
from kmatrix.verdict.words import last_words
from kmatrix.vm.loaders import TITLES


def render(
    outcomes: Sequence[Outcome],
    unavailable: Mapping[str, str],
    *,
    colour: bool,
    width: int,
    logs: bool = False,
    why: bool = True,
) -> str:
    """Table (in `width` columns), failures by cause (with `logs`, each with its whole log; without `why`, none), and what could not be had."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.programs)) or ["(object)"]
    sections = {name: program.get("section") for outcome in outcomes for name, program in outcome.programs.items()}
    labels = [Column("program", names), Column("section", [sections.get(name) or "" for name in names])]
    simulated = [outcome.target for outcome in outcomes if outcome.simulated is not None]
    cells = {outcome.target: [_cell(outcome, name, colour) for name in names] for outcome in outcomes}
    parts = [across(labels, cells, simulated, width, [outcome.target for outcome in outcomes if outcome.machine])]
    parts += [*_failures(outcomes, logs=logs, colour=colour), *paragraphs(outcomes)] if why else []
    parts += _only_loaded(outcomes)
    parts += [f"~ {outcome.target} is simulated: {outcome.simulated}" for outcome in outcomes if outcome.simulated]
    parts += [f"@ {outcome.target} is a real machine: {machine(outcome.machine)}" for outcome in outcomes if outcome.machine]
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def render_many(
    objects: Mapping[str, Sequence[Outcome]],
    unavailable: Mapping[str, str],
    *,
    colour: bool,
    width: int,
    logs: bool = False,
    why: bool = True,
) -> str:
    """One table of many objects: an object a row, in each cell how many of its programs are good; then each cause once, with what fails of it."""
    labels = _labels(objects)
    targets = list(dict.fromkeys(outcome.target for outcomes in objects.values() for outcome in outcomes))
    by_target = {path: {outcome.target: outcome for outcome in outcomes} for path, outcomes in objects.items()}
    simulations = {outcome.target: outcome.simulated for each in objects.values() for outcome in each if outcome.simulated}
    machines = {outcome.target: outcome.machine for each in objects.values() for outcome in each if outcome.machine}
    cells = {target: [_score(found.get(target), colour) for found in by_target.values()] for target in targets}
    parts = [across([Column("object", [labels[path] for path in by_target])], cells, simulations, width, machines)]
    parts += _many_failures(objects, labels, logs=logs, colour=colour) if why else []
    for path, outcomes in objects.items() if why else ():
        if said := [*paragraphs(outcomes, file=beside(Path(path)).name)]:
            parts.append("\n".join([f"{labels[path]}:", *(f"  {line}" for each in said for line in each.splitlines())]))
    parts += [f"~ {target} is simulated: {account}" for target, account in simulations.items()]
    parts += [f"@ {target} is a real machine: {machine(account)}" for target, account in machines.items()]
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def closing(objects: Mapping[str, Sequence[Outcome]]) -> str | None:
    """The whole run in one line; None of one object on one target, which the table tells."""
    tried = {path: outcomes for path, outcomes in objects.items() if outcomes}
    targets = list(dict.fromkeys(outcome.target for outcomes in tried.values() for outcome in outcomes))
    if len(tried) < 2 and len(targets) < 2:
        return None
    failed = {path: [o for o in outcomes if not o.good and not o.warns] for path, outcomes in tried.items()}
    bad = sum(map(bool, failed.values()))
    by_target = Counter(outcome.target for outcomes in failed.values() for outcome in outcomes)
    warned = sum(any(outcome.warns for outcome in outcomes) for outcomes in tried.values())
    of_machines = sum(outcome.infra for outcomes in tried.values() for outcome in outcomes)
    on = f"on {len(targets)} target{'' if len(targets) == 1 else 's'}"
    where = ", ".join(f"{target}: {by_target[target]}" for target in targets if by_target[target])
    machines = f"; {of_machines} of these by the machine room's fault" if of_machines else ""
    if len(tried) == 1:
        name = _labels(tried)[next(iter(tried))]
        what = f"{name} {on}: good on {len(targets) - len(by_target)}" if bad else f"{name} {on}: good on all"
        what += f", not on {', '.join(target for target in targets if by_target[target])}" if bad else ""
        return f"{what}{machines}{counted(warned)}"
    good = len(tried) - bad
    all_good = f"{good} {'is' if good == 1 else 'are'} good on all"
    parts = [all_good, *([f"{bad} {'is' if bad == 1 else 'are'} not ({where})"] if bad else [])]
    return f"{len(tried)} objects {on}: {', '.join(parts)}{machines}{counted(warned)}"


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
    cross, red = ("!", YELLOW) if outcome.warns else ("✗", RED)
    if outcome.error:
        text, paint = f"{cross} error", red
    elif not judged:
        text = next((word for each, word in _NONE_JUDGED.items() if each in states), "off")
        paint = YELLOW
    else:
        text, paint = (f"{good}/{len(judged)}", GREEN) if outcome.good else (f"{cross} {good}/{len(judged)}", red)
        left = states.count("placeholder")
        text += f" +{left} placeholder{'s' if left > 1 else ''}" if left else ""
        text += f" +{states.count('differs')} differ" if "differs" in states else ""
    return f"{paint}{text}{RESET}" if colour else text


_NONE_JUDGED: dict[State, str] = {"placeholder": "placeholders", "differs": "~ differs"}
"""What an object shows of which nothing could be judged."""

_SHOWN = {
    "attached": ("attached", GREEN),
    "loaded": ("loaded", GREEN),
    "placeholder": ("placeholder", YELLOW),
    "differs": ("~ differs", YELLOW),
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
    if outcome.warns and paint == RED:
        text, paint = text.replace("✗", "!"), YELLOW
    return f"{paint}{text}{RESET}" if colour and text else text


@dataclass
class _Cause:
    """One cause on all targets: what fails of it, and what there is to say of it."""

    words: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    """Programs and maps."""
    targets: list[str] = field(default_factory=list)
    where: dict[str, str] = field(default_factory=dict)
    """The line of source, by program."""
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
            *(f"    at {place}" for place in causes.places([{"where": self.where}])),
            *([f"    the kernel said: {self.quote}"] if self.quote else []),
            *(f"    {line}" for line in rest),
        ]

    def good(self, outcomes: Sequence[Outcome]) -> list[str]:
        return [o.target for o in outcomes if o.target not in self.targets and not any(_fails(o, name) for name in self.names)]


def _failures(outcomes: Sequence[Outcome], *, logs: bool, colour: bool) -> Iterator[str]:
    """One paragraph a cause: the programs, maps and targets that fail of it, the remedy, and where they do not. Warnings come last."""
    warned = []
    for cause in _causes(outcomes, logs=logs):
        text = "\n".join([f"{cause.what}: {cause.words[0]}", *cause.lines(cause.good(outcomes))])
        if set(cause.targets) <= _warning([outcomes]):
            warned.append(text)
        else:
            yield text
    yield from _warnings(warned, outcomes, colour=colour)


def _warning(tried: Iterable[Sequence[Outcome]]) -> set[str]:
    """The targets on which what fails warns of what comes."""
    return {outcome.target for outcomes in tried for outcome in outcomes if outcome.warns}


def _warnings(paragraphs: Sequence[str], outcomes: Iterable[Outcome], *, colour: bool) -> Iterator[str]:
    """What fails on kernels that move on alone, and why that is no failure."""
    if not paragraphs:
        return
    named = dict.fromkeys(f"{o.target} ({o.release})" if o.release else o.target for o in outcomes if o.warns)
    head = heading(", ".join(named))
    yield "\n".join(
        [f"{YELLOW}{head}{RESET}" if colour else head, *(f"  {line}" for each in paragraphs for line in each.splitlines())]
    )


def _many_failures(
    objects: Mapping[str, Sequence[Outcome]], labels: Mapping[str, str], *, logs: bool, colour: bool
) -> Iterator[str]:
    """One paragraph a cause: the objects that fail of it, with programs, maps and targets, and the remedy. Warnings come last."""
    warned = []
    by_words: dict[tuple[str, ...], list[tuple[str, _Cause]]] = {}
    for path, outcomes in objects.items():
        for cause in _causes(outcomes, logs=logs):
            by_words.setdefault(cause.words, []).append((path, cause))
    for words, found in by_words.items():
        where = {f"{path} {name}": place for path, cause in found for name, place in cause.where.items()}
        shared = _Cause(words, where=where, quote=next((cause.quote for _, cause in found if cause.quote), ""))
        tried = dict.fromkeys(outcome.target for path, _ in found for outcome in objects[path])
        bad = {o.target for path, cause in found for o in objects[path] if o.target not in cause.good(objects[path])}
        who = [f"    {labels[path]}: {cause.what}" for path, cause in found]
        text = "\n".join([words[0], *who, *shared.lines([target for target in tried if target not in bad])])
        if bad <= _warning(objects.values()):
            warned.append(text)
        else:
            yield text
    yield from _warnings(warned, [outcome for outcomes in objects.values() for outcome in outcomes], colour=colour)


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
            why = outcome.diagnosis
            told = (
                (outcome.error,)
                if why is None
                else (why["headline"], _remedy(why), f"{TITLES[outcome.library]} said: {outcome.error}")
            )
            note("the object", outcome.target, told)
        for name, found in outcome.maps.items():
            if found.get("error"):
                note(f"map {name}", outcome.target, _cause(found, logs=logs))
        for name, program in outcome.programs.items():
            if not program.get("error"):
                continue
            cause = note(name, outcome.target, _cause(program, logs=logs))
            where = (program.get("diagnosis") or {}).get("where")
            if where:
                cause.where.setdefault(name, where)
            quote = last_words(program.get("log") or "") if where is not None and not cause.quote else ""
            if not quote.startswith("BPF map '"):  # libbpf's word that a map is missing, whose cause is told
                cause.quote = cause.quote or quote
    return [*said.values()]


def _only_loaded(outcomes: Sequence[Outcome]) -> list[str]:
    """Why programs are loaded and not attached, though nothing failed: one line a reason."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        for name, program in outcome.programs.items():
            if note := program.get("note"):
                names.setdefault(note, [])
                names[note] += [] if name in names[note] else [name]
    return [f"{', '.join(programs)}: loaded, and attached to nothing: {note}" for note, programs in names.items()]


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
