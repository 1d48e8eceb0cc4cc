"""One failed cell, explained: what was promised, what happened, the verifier's own words, where to look, how to replay it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kmatrix.report import causes
from kmatrix.report.grid import LOG_LINES
from kmatrix.report.names import machine, shorten, target_key
from kmatrix.report.reds import MOVES
from kmatrix.runs.cell_records import Record, path_of
from kmatrix.verdict.diagnosis import UNCLASSIFIED
from kmatrix.verdict.failure import FAILURES

CONSOLE_LINES = 25


def explain(record: Record, directory: Path, others: Sequence[Record] = (), *, logs: bool = False) -> str:
    """The account of a failed cell, for a terminal; `others` are those that fail alike.

    With `logs`, the verifier's logs are shown also where the cause is known.
    """
    lines = [*_lines(record, directory, logs=logs)]
    if others:
        lines.append(alike(others))
    return "\n".join(lines)


def alike(others: Sequence[Record]) -> str:
    """The line that names the cells that fail as the one before it does."""
    on = shorten(sorted((other.target for other in others), key=target_key))
    return f"  alike     {len(others)} more cell{'s' if len(others) != 1 else ''}: {on}"


def _lines(record: Record, directory: Path, *, logs: bool) -> Iterator[str]:
    meaning = FAILURES.get(record.failure or "", "")  # type: ignore[call-overload]
    yield f"{record.cell}: {record.failure} ({meaning})"
    yield from (f"  {line}" for line in record.reason.splitlines())
    if record.warning:
        yield f"  warning   {record.kernel}: {MOVES}"
    for cause in causes.relevant(record):
        yield from (f"  {line}" for line in causes.lines(cause))
    yield f"  expected  {record.expected}: {record.expectation.get('why', '')}"
    yield f"  observed  {record.observed or 'none of the four behaviours'}"
    if record.simulated is not None:
        yield f"  simulated {simulation(record.simulated)}"
    if record.machine is not None:
        yield f"  a real machine: {machine(record.machine)}"
    yield from (f"  {line}" for line in words(record, directory, logs=logs))
    if loader := record.versions.get("loader"):
        yield f"  loader    {loader}"
    yield f"  record    {path_of(directory, record.collector, record.target)}"
    if record.console is not None:
        yield f"  console   {directory / record.console}"
    yield f"  reproduce {record.reproduce}"
    yield f"  look in   {look_in(record)}"


def simulation(account: Mapping[str, Any]) -> str:
    """What a simulated kernel is, of a record's account of it."""
    as_of = f" as of {account['as_of']}" if account["as_of"] else ""
    return f"{account['base']}{as_of}; hidden: {', '.join(account['hidden'])}"


def look_in(record: Record) -> str:
    """The command that opens a shell where the cell ran. It works where `reproduce` does: where pytest was called."""
    if record.machine is not None:
        address = str(record.machine["ssh"]).removeprefix("ssh://")
        return f"ssh ssh://{address}"
    words = shlex.split(record.reproduce)
    manifest, sign, _ = words[1].partition("::") if len(words) > 1 else ("", "", "")
    collector = str(Path(manifest).parent) if sign else record.collector
    file = next((word.partition("=")[2] for word in words if word.startswith(("--kernels-file=", "--kmatrix-kernels-file="))), None)
    more = ["--kernels-file", file] if file else []
    return shlex.join(["kmatrix", "shell", record.kernel, "--arch", record.arch, "--collector", collector, *more])


def words(record: Record, directory: Path, *, logs: bool = True) -> Iterator[str]:
    """What loader, verifier and kernel said, line by line; without `logs`, the verifier's logs only where no cause is known."""
    if record.facts is not None:
        known = {(cause["variant"], name) for cause in record.causes if cause["kind"] != UNCLASSIFIED for name in cause["programs"]}
        yield from _attempts(record.facts, set() if logs else known)
        yield from _trigger(record.facts)
    if record.failure == "kernel" and record.console is not None:
        yield from _console(directory / record.console)


def _attempts(facts: Mapping[str, Any], known: Collection[tuple[str, str]]) -> Iterator[str]:
    """Each variant's try. Of the programs that are `known`, by variant and name, the log is not shown: how long it is, and where it is."""
    for attempt in facts["attempts"]:
        error = (attempt.get("error") or {}).get("text")
        yield f"variant   {attempt['variant']}: " + (f"failed to {attempt['stage']}: {error}" if attempt["stage"] else "runs")
        for name, program in attempt["programs"].items():
            if program.get("error"):
                yield f"  program {name}: {program['error']}"
            if program.get("log") and program.get("error"):
                lines = program["log"].splitlines()
                if (attempt["variant"], name) in known:
                    yield f"    its log of {len(lines)} lines is in the record, and shown with -vv"
                    continue
                if len(lines) > LOG_LINES:
                    yield f"    … {len(lines) - LOG_LINES} lines before these are in the record"
                yield from (f"    {line}" for line in lines[-LOG_LINES:])
        if attempt["stage"] and not any(p.get("log") for p in attempt["programs"].values()):
            yield from (f"    {line.rstrip()}" for line in attempt.get("log", [])[-LOG_LINES:])


TRIGGER_LINES = 10
"""Lines of a command trigger's standard error that are shown."""


def _trigger(facts: Mapping[str, Any]) -> Iterator[str]:
    """How a command trigger ended and what it said: where no event came, it may not have done what it should."""
    trigger = facts.get("trigger") or {}
    lines = str(trigger.get("stderr") or "").splitlines()
    if lines:
        yield f"trigger   exit status {trigger.get('exit')}; the end of its standard error:"
        yield from (f"    {line}" for line in lines[-TRIGGER_LINES:])


def _console(path: Path) -> Iterator[str]:
    if path.exists():
        yield "the console's last lines:"
        yield from (f"  {line}" for line in path.read_text(errors="replace").splitlines()[-CONSOLE_LINES:])
