"""What can go wrong in a cell, and the facts that it is read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kmatrix.guest.cell_facts import AttemptReport, CellFacts

Failure = Literal[
    "worse",
    "better",
    "table",
    "load",
    "attach",
    "silent",
    "lost",
    "costly",
    "wrong-data",
    "budget",
    "leftover",
    "kernel",
    "infra",
]
"""What went wrong; a different person fixes each (design.md)."""

FAILURES: Mapping[Failure, str] = {
    "kernel": "the kernel panicked, oopsed, warned or locked up",
    "table": "the guest's probe disagrees with the features declared in kernels.toml",
    "load": "a program or map of the expected variant did not load, or is not what the manifest declares",
    "attach": "a program of the expected variant did not attach",
    "better": "the collector does more than promised here",
    "worse": "the collector does less than promised here",
    "silent": "loaded and attached, but no event arrived, or a program never ran",
    "lost": "some of the events that a trigger made many times arrived, and some did not",
    "costly": "under stress, the maps take more memory or a program more time than promised",
    "wrong-data": "an event arrived with a wrong value",
    "budget": "a program is closer to the verifier's limits than the manifest's budget allows",
    "leftover": "something of the collector stayed behind",
    "infra": "the machine room failed; says nothing about the collector",
}

Facts = CellFacts
"""What the guest reported of one cell."""


@dataclass(frozen=True)
class Problem:
    """One thing that was found wrong."""

    failure: Failure
    text: str


def attempt_of(facts: Facts, variant: str | None) -> AttemptReport | None:
    """The guest's report on its try of `variant`; None if it did not try it."""
    return next((attempt for attempt in facts["attempts"] if attempt["variant"] == variant), None)
