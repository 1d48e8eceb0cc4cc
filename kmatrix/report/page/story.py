"""The story of a collector's cell, in order: what was promised and why, what happened, the causes, what was tried, logs, times, commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from kmatrix.host.version import series
from kmatrix.manifest.budget import MOST_STACK
from kmatrix.report import causes, reds
from kmatrix.report.explain import look_in, simulation
from kmatrix.report.names import machine
from kmatrix.report.page.model import Commands, Finding, Log, Pairs, Part, Say, Step, Table, Tone
from kmatrix.report.page.shared import bars, chapters, file_text, versions, wrong_tone
from kmatrix.runs.cell_records import Record, path_of
from kmatrix.verdict.effort import effort_of
from kmatrix.verdict.failure import FAILURES

Attempt = Mapping[str, Any]
"""An entry of a record's `facts.attempts` (docs/record.md)."""


def story(record: Record, directory: Path) -> list[Step]:
    """The chapters that the cell has something to say in."""
    return chapters(
        ("Expected", _expected(record)),
        ("Observed", _observed(record)),
        (_diagnosis_title(record), _diagnosis(record)),
        ("What was tried", _tried(record)),
        ("Logs", _logs(record, directory)),
        ("Time", bars(record.timings)),
        ("Reproduce", _commands(record)),
        ("Ran on", _ran_on(record, directory)),
    )


def _diagnosis_title(record: Record) -> str:
    if not record.ok:
        return "Diagnosis"
    return "Why nothing runs here" if record.observed == "refusal" else "Why no earlier variant runs here"


def failure_of(record: Record) -> str:
    """The class of what went wrong, with its meaning."""
    meaning = FAILURES.get(record.failure or "", "")  # type: ignore[call-overload]
    return f"{record.failure}: {meaning}" if meaning else str(record.failure)


def programs(attempt: Attempt) -> Iterator[tuple[str, str, str, str]]:
    """For each program of a try: its name, what became of it, where it is attached, and how."""
    for name, program in attempt.get("programs", {}).items():
        yield name, _state(program), str(program.get("hook") or program.get("section") or ""), str(program.get("via") or "")


def _state(program: Mapping[str, Any]) -> str:
    if program.get("off"):
        return "left out"
    if program.get("error"):
        return "does not attach" if program.get("loaded") else "does not load"
    if not program.get("loaded"):
        return "not loaded"
    runs = program.get("runs")
    ran = "" if runs is None else f", ran {runs}×" if runs else ", never ran"
    return ("attached" if program.get("attached") else "loaded") + ran


def _expected(record: Record) -> Iterator[Part]:
    known = record.expectation
    yield Say(str(known.get("why") or ""), record.expected, cast(Tone, record.expected))
    pairs = [
        ("variant", str(known.get("variant") or "")),
        ("missing here", ", ".join(sorted(known.get("missing") or ()))),
        ("may be without", ", ".join(sorted(known.get("degradations") or ()))),
        ("simulated", simulation(record.simulated) if record.simulated else ""),
        ("real machine", machine(record.machine) if record.machine else ""),
    ]
    if said := [(name, text) for name, text in pairs if text]:
        yield Pairs(said)


def _observed(record: Record) -> Iterator[Part]:
    if record.observed is not None:
        yield Say("as promised" if record.ok else "", record.observed, cast(Tone, record.observed))
    else:
        yield Say("none of the four behaviours")
    if not record.ok:
        tone = wrong_tone(record)
        yield Say(FAILURES.get(record.failure or "", ""), record.failure or "", tone)  # type: ignore[call-overload]
        yield Say(record.reason)
        if record.warning:
            yield Say(f"{record.kernel}: {reds.MOVES}.", "warning", tone)
    if record.retried:
        yield Pairs([("tried again after", record.retried)])


def _tried(record: Record) -> Iterator[Part]:
    """Variant by variant; then the events, and the loader's message where nothing runs."""
    facts: Mapping[str, Any] = record.facts or {}
    if facts.get("refusal"):
        yield Pairs([("the loader's message", str(facts["refusal"]))])
    for attempt in facts.get("attempts", ()):
        yield from _attempt(attempt, promised=record.ok)
    if facts.get("counts"):
        yield _events(facts)
    if facts.get("effort"):
        yield _efforts(facts)


def _attempt(attempt: Attempt, *, promised: bool) -> Iterator[Part]:
    """A variant's try: its programs, and the maps that could not be made; what failed is marked, unless it was to fail."""
    error = (attempt.get("error") or {}).get("text")
    how = f"fails to {attempt['stage']}" if attempt["stage"] else "runs"
    found = [*programs(attempt)]
    bad = [number for number, (_, state, *_) in enumerate(found) if not promised and state.startswith("does not")]
    yield Table(f"Variant {attempt['variant']} {how}", ("program", "state", "hook", "by"), found, bad)
    failed = [
        (f"{kind[:-1]} {name}", str(each["error"]))
        for kind in ("maps", "programs")
        for name, each in attempt.get(kind, {}).items()
        if each.get("error")
    ]
    if error and all(str(error) != text for _, text in failed):
        failed.append(("said", str(error)))
    if failed:
        yield Pairs(failed)


def _events(facts: Mapping[str, Any]) -> Table:
    by = {event["event"]: str(event.get("transport") or "") for event in facts.get("events", ())}
    fields = {event["event"]: _fields(event.get("fields") or {}) for event in reversed(facts.get("events", ()))}
    rows = [(name, str(count), by.get(name, ""), fields.get(name, "")) for name, count in facts["counts"].items()]
    rest = [f"{facts[key]} {what}" for key, what in (("unmatched", "other"), ("lost", "lost")) if facts.get(key)]
    title = f"Events ({', '.join(rest)})" if rest else "Events"
    return Table(title, ("event", "count", "out of", "the first"), rows, [n for n, row in enumerate(rows) if row[1] == "0"])


def _efforts(facts: Mapping[str, Any]) -> Table:
    """What the verifier did for the programs that were measured: those with a budget, or with --atlas all."""
    version, rows = series(str(facts.get("release"))) or (0, 0), []
    for name, report in facts["effort"].items():
        effort = effort_of(report, {}, version)
        if effort is None:
            rows.append((name, "not measured", "", "", ""))
            continue
        stack = str(sum(effort.stack)) if effort.stack else ""
        stack_share = f"{sum(effort.stack) / MOST_STACK:.2%}" if effort.stack else ""
        rows.append((name, f"{effort.insns:,}", f"{effort.share:.2%}", stack, stack_share))
    return Table("What the verifier did", ("program", "instructions", "of the limit", "stack", "of the limit"), rows)


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _diagnosis(record: Record) -> Iterator[Part]:
    for cause in record.causes if record.ok else causes.relevant(record):
        yield Finding(
            kind=cause["kind"],
            headline=cause["headline"],
            of=f"{causes.names(cause)}, variant {cause['variant']}",
            places=causes.places([cause]),
            said=_said(cause),
            fix="" if record.ok else cause["fix"],
            see=cause["see"],
            promised=record.ok,
        )


def _logs(record: Record, directory: Path) -> Iterator[Part]:
    facts: Mapping[str, Any] = record.facts or {}
    for attempt in facts.get("attempts", ()):
        for name, program in attempt.get("programs", {}).items():
            if program.get("log"):
                note = "does not load" if program.get("error") else "loads"
                yield Log(f"Verifier: {name}", program["log"], f"{attempt['variant']}, {note}", _last_words(record, attempt, name))
        if attempt.get("log"):
            yield Log("Loader", "\n".join(line.rstrip() for line in attempt["log"]), attempt["variant"])
    for whose, said in (("Trigger", facts.get("trigger")), ("Own loader", facts.get("loader"))):
        for stream in ("stdout", "stderr"):
            if text := (said or {}).get(stream):
                yield Log(f"{whose}: {stream}", str(text))
    if record.console is not None and (text := file_text(directory / record.console)):
        yield Log("Console", text, "the VM's, since the restore")


def _last_words(record: Record, attempt: Attempt, program: str) -> str:
    """What the verifier said in the end of a program that it did not take."""
    return next(
        (_said(each) for each in record.causes if each["variant"] == attempt["variant"] and program in each["programs"]), ""
    )


def _said(cause: Mapping[str, Any]) -> str:
    return (str(cause.get("said") or "").splitlines() or [""])[-1]


def _commands(record: Record) -> Iterator[Part]:
    if record.reproduce:
        yield Commands([("run this cell again", record.reproduce), ("open a shell where it ran", look_in(record))])


def _ran_on(record: Record, directory: Path) -> Iterator[Part]:
    pairs = [
        ("begun", record.started),
        *versions(record.versions),
        *((f"sha256 of {name}", digest) for name, digest in record.inputs.items()),
        ("record", str(path_of(directory, record.collector, record.target))),
    ]
    yield Pairs([(name, text) for name, text in pairs if text])
