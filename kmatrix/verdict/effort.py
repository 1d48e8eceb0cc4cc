"""How close a program is to the verifier's limits, read off what the verifier says of its work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmatrix.host.version import Version
from kmatrix.manifest.budget import MOST_INSNS, MOST_STACK, Allowance

_OLD_LIMIT = 131_072
"""Instructions that the verifier looks at, at most, before 5.2 (c04c0d2b968a)."""
_INSNS = re.compile(r"processed (\d+) insns(?: \(limit (\d+)\))?")
_STACK = re.compile(r"stack depth (\d+(?:\+\d+)*)")
_STATES = re.compile(r"total_states (\d+) peak_states (\d+)")
_TIME = re.compile(r"verification time (\d+) usec")


@dataclass(frozen=True)
class Effort:
    """What the verifier did for one program on one target. None where the kernel does not say."""

    insns: int
    """Instructions that it looked at, on all paths together."""
    limit: int
    """How many it would look at before it gives up."""
    stack: tuple[int, ...] = ()
    """Bytes of stack of the program, and of each function that it calls."""
    states: int | None = None
    """States that it kept, in all (from 5.2 on)."""
    peak_states: int | None = None
    """The most that it kept at once."""
    time_ratio: float | None = None
    """How many times as long it took as for a program that does next to nothing (from 5.2 on)."""
    jited: int = 0
    """Bytes of machine code; 0 where the program is interpreted."""
    xlated: int = 0
    """Bytes of BPF as the kernel runs it."""

    @property
    def share(self) -> float:
        """Of the limit of instructions, from 0 to 1."""
        return self.insns / self.limit

    @property
    def stack_share(self) -> float:
        """Of the limit of stack, from 0 to 1: as if all functions called each other, which is the most that it can be."""
        return min(1.0, sum(self.stack) / MOST_STACK)


def effort_of(report: Mapping[str, Any], nothing: Mapping[str, Any], version: Version) -> Effort | None:
    """The effort that the guest's report on a program tells of; None where the program did not load. `nothing` is its report on a program
    that does nothing."""
    if report.get("error"):
        return None
    log = "\n".join(report.get("log", ()))
    insns = _INSNS.search(log)
    counted = int(insns[1]) if insns else int(report.get("verified", 0))
    limit = int(insns[2]) if insns and insns[2] else MOST_INSNS if version >= (5, 2) else _OLD_LIMIT
    states, stack = _STATES.search(log), _STACK.search(log)
    return Effort(
        insns=counted,
        limit=limit,
        stack=tuple(map(int, stack[1].split("+"))) if stack else (),
        states=int(states[1]) if states else None,
        peak_states=int(states[2]) if states else None,
        # A verifier that writes down each instruction spends its time on that.
        time_ratio=None if "visits" in report else _ratio(_time(log), _time("\n".join(nothing.get("log", ())))),
        jited=int(report.get("jited", 0)),
        xlated=int(report.get("xlated", 0)),
    )


def _time(log: str) -> int | None:
    found = _TIME.search(log)
    return int(found[1]) if found else None


def _ratio(time: int | None, least: int | None) -> float | None:
    return None if time is None or not least else round(time / least, 1)


def over(effort: Effort, allowed: Allowance) -> Sequence[str]:
    """What of the effort is above what is allowed of its limit, in words."""
    found = []
    if effort.insns > allowed.most(effort.limit):
        found.append(f"{effort.insns:,} of {effort.limit:,} instructions ({effort.share:.0%})")
    if sum(effort.stack) > allowed.most(MOST_STACK):
        found.append(f"{sum(effort.stack)} of {MOST_STACK} bytes of stack ({effort.stack_share:.0%})")
    return found
