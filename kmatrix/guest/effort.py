"""How hard the verifier works at each program of an object: it is loaded once more, alone, with the verifier's own account of it.

A loader asks for no log, and then the kernel tells nothing of this. From 5.2 on it counts without writing the log (BPF_LOG_STATS,
06ee7115b0d1); before, the whole log is written, and its last line has the number of instructions.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

from . import bpf, libbpf
from .contract import Contract
from .library import CannotSet, Refused, Report
from .opened import Object, verifier_log

_STATS, _BRIEF, _EVERYTHING = 4, 1, 2
"""What the verifier is asked to write: its counts, what leads to a refusal, or each instruction that it looks at."""
_TAIL = 6
"""Lines at the end of the log, which have the counts."""
MOST_LINES = 20
"""Lines of source that are told of: those that the verifier looks at most often."""
_INSN = re.compile(r"(?:from \d+ to )?\d+: \(")
_SOURCE = re.compile(r"; (.+)")
_TIME = re.compile(r"verification time (\d+) usec")
_ROUNDS = 10
_LONG = 500_000
"""Microseconds of a load beside which those that fill caches do not show."""


def timed(contract: Contract, names: Sequence[str], seconds: float) -> dict[str, Report]:
    """As `measure`, of several loads of each program the one in which the verifier was quickest.

    The first one fills caches, which takes many times as long as a small program; beside a large one that is nothing. Where the kernel does
    not say how long the verifier took, or the program does not load, one is enough.
    """
    found: dict[str, Report] = {}
    for name in names:
        for _ in range(_ROUNDS):
            report = measure(contract, [name], seconds)[name]
            took = _microseconds(report)
            if name not in found or (took is not None and took < (_microseconds(found[name]) or 0)):
                found[name] = report
            if took is None or took > _LONG:
                break
    return found


def _microseconds(report: Report) -> int | None:
    found = _TIME.search("\n".join(report.get("log", ())))
    return int(found[1]) if found is not None else None


def measure(
    contract: Contract, names: Sequence[str], seconds: float, *, lines: bool = False, among: Sequence[str] = ()
) -> dict[str, Report]:
    """Of each program: `error` (None where it loads), its sizes in bytes, and the end of the verifier's log.

    With `lines` also `visits`: the lines of source that the verifier looked at most, each with how many instructions of it. The verifier has
    `seconds` for each program. A program that does not load alone, as one that calls others through a map that the object fills, is loaded
    together with those of `among`.
    """
    found = {name: _measure(contract, name, seconds, lines=lines) for name in names}
    for name, report in found.items() if len(among) > 1 else ():
        if report["error"] is not None:
            found[name] = _measure(contract, name, seconds, lines=lines, among=among)
    return found


def _measure(contract: Contract, name: str, seconds: float, *, lines: bool, among: Sequence[str] = ()) -> Report:
    report: Report = {"error": None}
    for level in (_STATS | _EVERYTHING, _EVERYTHING) if lines else (_STATS, _BRIEF):
        try:
            with ExitStack() as resources:
                opened = contract.open()
                resources.callback(opened.close)
                if not isinstance(opened, Object):
                    return report | {"error": "only libbpf asks the verifier for its account"}
                opened.choose(among or [name])
                contract.apply(opened, among or [name], resources)
                libbpf.program_set_log_level(opened.programs[name], level)
                opened.load(seconds)
                log = verifier_log()
                report |= bpf.prog_sizes(opened.fd(name)) | {"log": log.rstrip("\n").split("\n")[-_TAIL:]}
                return report | ({"visits": visits(log)} if lines else {})
        except CannotSet as error:
            return report | {"error": error.text}
        except Refused as error:
            if level & _STATS and error.errno == errno.EINVAL:
                continue  # before 5.2 there is no such level
            if contract.give_up_core_btf():
                return _measure(contract, name, seconds, lines=lines, among=among)
            return report | {"error": error.text}
    return report


def visits(log: str) -> list[tuple[str, int]]:
    """The lines of source that a whole log has the most instructions of, and how many. Above the instructions of a line the log has it."""
    found: Counter[str] = Counter()
    source = ""
    for line in log.splitlines():
        if (said := _SOURCE.match(line)) is not None:
            source = said[1].strip()
        elif source and _INSN.match(line):
            found[source] += 1
    return found.most_common(MOST_LINES)
