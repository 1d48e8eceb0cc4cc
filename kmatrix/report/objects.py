"""The table of `kmatrix run`: programs down, targets across; under it the kernel's own words for what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from kmatrix.report.explain import LOG_LINES
from kmatrix.report.table import GREEN, RED, RESET, head, missing
from kmatrix.runs.object_run import Outcome
from kmatrix.verdict.behaviour import last_words


def render(outcomes: Sequence[Outcome], unavailable: Mapping[str, str], *, colour: bool) -> str:
    """Table, failures, and what could not be had."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.programs)) or ["(object)"]
    sections = {name: program.get("section") for outcome in outcomes for name, program in outcome.programs.items()}
    heads = [head(outcome.target, simulated=outcome.simulated is not None) for outcome in outcomes]
    rows = [[name, sections.get(name) or "", *(_cell(outcome, name, colour) for outcome in outcomes)] for name in names]
    parts = [tabulate(rows, headers=["program", "section", *heads], tablefmt="rounded_outline", disable_numparse=True)]
    parts += list(_failures(outcomes))
    parts += [f"~ {outcome.target} is simulated: {outcome.simulated}" for outcome in outcomes if outcome.simulated]
    if unavailable:
        parts.append(missing(unavailable))
    return "\n\n".join(parts)


def _cell(outcome: Outcome, name: str, colour: bool) -> str:
    program = outcome.programs.get(name)
    if program is None:
        text, good = "✗ error" if outcome.error else "", False
    elif not program["loaded"]:
        text, good = "✗ load", False
    elif program["attached"] is None:
        text, good = "loaded", True
    else:
        text, good = ("attached", True) if program["attached"] else ("✗ attach", False)
    if not colour or not text:
        return text
    return f"{GREEN if good else RED}{text}{RESET}"


def _failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One paragraph a failure: programs and targets that fail in the same words share it."""
    said: dict[tuple[str, tuple[str, ...]], tuple[list[str], list[str]]] = {}

    def note(name: str, target: str, words: tuple[str, tuple[str, ...]]) -> None:
        names, targets = said.setdefault(words, ([], []))
        names += [] if name in names else [name]
        targets += [] if target in targets else [target]

    for outcome in outcomes:
        if outcome.error is not None:
            note("the object", outcome.target, (outcome.error, ()))
        for name, found in outcome.maps.items():
            if found.get("error"):
                note(f"map {name}", outcome.target, (str(found["error"]), ()))
        for name, program in outcome.programs.items():
            if program.get("error"):
                note(name, outcome.target, _words(program))
    for (error, log), (names, targets) in said.items():
        yield "\n".join([f"{', '.join(names)} on {', '.join(targets)}: {error}", *(f"    {line}" for line in log)])


def _words(program: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Why it failed, in a line, and the log: the verifier's where it spoke."""
    log = [line for line in (program.get("log") or "").splitlines() if line.strip()]
    reason = last_words(program.get("log") or "")
    error = str(program["error"])
    headline = f"{error}: {reason}" if reason and reason not in error else error
    # Where the verifier did not speak, libbpf's lines are the error already.
    return headline, tuple(log[-LOG_LINES:])
