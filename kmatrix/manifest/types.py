"""The small types that the parts of a manifest share, and the checks on them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo

from kmatrix.matrix.arch import Arch
from kmatrix.matrix.parameters import check

Behaviour = Literal["full", "partial", "fallback", "refusal"]
BEHAVIOURS: tuple[Behaviour, ...] = ("refusal", "fallback", "partial", "full")
"""From worst to best."""

Transport = Literal["ringbuf", "perf"]

Arches = Annotated[tuple[Arch, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Literals = int | str


def check_features(needs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """`needs` if all of them are features; raises ValueError with the nearest name otherwise."""
    for name in needs:
        check(name, (info.context or {}).get("defined", {}))
    return needs


def check_pattern(text: str) -> None:
    """Raise ValueError if `text` is not a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
