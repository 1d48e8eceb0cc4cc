"""[budget]: how close to the verifier's limits a program may come, which a cell is held to before a kernel refuses the program."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BeforeValidator, model_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.event_rules import refer
from kmatrix.manifest.libraries import Library

MOST_INSNS = 1_000_000
"""Instructions that the verifier looks at, at most, on any kernel (c04c0d2b968a, Linux 5.2)."""
MOST_STACK = 512
"""Bytes of stack that a program and the functions it calls may take together, on any kernel (MAX_BPF_STACK, include/linux/filter.h)."""


@dataclass(frozen=True)
class Allowance:
    """How much of something is allowed: a share of the kernel's limit, or a number."""

    written: str
    """As the manifest has it."""
    percent: float | None
    """Of the limit, above 0 and below 100; None where it is a number."""
    number: int = 0

    def most(self, limit: int) -> int:
        """The most that is allowed where the kernel's limit is `limit`."""
        # Rounded first: 2.01 * 1000000 / 100 is less than 20100 in binary.
        return self.number if self.percent is None else int(round(self.percent * limit / 100, 6))


def share(text: str) -> Allowance:
    """What a share of the limit, such as `80%`, allows. Raises ValueError with what is wrong with it."""
    if not re.fullmatch(r"\d+(\.\d+)?%", text):
        raise ValueError(f"{text!r} is no budget")
    percent = float(text.rstrip("%"))
    if percent == 0:
        raise ValueError(f"{text!r} allows nothing")
    if percent >= 100:
        raise ValueError(f"no program comes above {text!r} of the verifier's limit")
    return Allowance(text, percent)


def _allowance(value: object, example: str, unit: str, limit: int) -> object:
    """What a manifest says, read. Raises ValueError with what to write instead."""
    write = f'write a share of the limit, such as "{example}", or a number of {unit} from 1 to {limit - 1}'
    if isinstance(value, Allowance):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"{value} allows nothing: {write}")
        if value >= limit:
            raise ValueError(f"no program comes above {value}, as the verifier's limit is {limit}: {write}")
        return Allowance(str(value), None, value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no budget: {write}")
    try:
        return share(value)
    except ValueError as error:
        raise ValueError(f"{error}: {write}") from None


Insns = Annotated[Allowance | None, BeforeValidator(lambda value: _allowance(value, "80%", "instructions", MOST_INSNS))]
Stack = Annotated[Allowance | None, BeforeValidator(lambda value: _allowance(value, "90%", "bytes", MOST_STACK))]


class Limits(Strict):
    """What a program may take. None is no budget."""

    insns: Insns = None
    """Instructions that the verifier looks at, on all paths together."""
    stack: Stack = None
    """Bytes of stack of the program and of the functions that it calls."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError('it allows nothing and forbids nothing: write insns, such as "80%", or stack, such as "90%"')
        return self


class Budget(Limits):
    """What each program may take, and what single ones may."""

    programs: dict[str, Limits] = {}
    """What single ones may, in place of what all may."""

    def of(self, program: str) -> Limits:
        """What a program may take: its own limits, and where it has none those of all."""
        own = self.programs.get(program)
        if own is None:
            return self
        return Limits.model_construct(
            insns=self.insns if own.insns is None else own.insns, stack=self.stack if own.stack is None else own.stack
        )

    def measured(self, programs: Iterable[str]) -> list[str]:
        """Those of the programs that have a limit, each once."""
        return [name for name in dict.fromkeys(programs) if self.of(name).insns is not None or self.of(name).stack is not None]


def check_budget(budget: Budget | None, programs: set[str], *, own_loader: bool, library: Library) -> None:
    """Raise ValueError where the budget is not of this collector's programs, or they cannot be measured."""
    if budget is None:
        return
    if own_loader:
        raise ValueError(
            "[budget] is measured where kmatrix loads the objects, and [loader] loads by itself: "
            "remove [budget], and measure the objects with kmatrix atlas"
        )
    if library != "libbpf":
        raise ValueError(
            f"[budget] is measured where libbpf loads the objects, and collector.loader is {library!r}: "
            "remove one of the two, or measure the objects with kmatrix atlas"
        )
    if not programs:
        raise ValueError("[budget] says what programs may take, but there is no [[program]]: write one, or remove [budget]")
    refer("budget: programs", budget.programs, programs)
