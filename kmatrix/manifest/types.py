"""The small types that the parts of a manifest share, and the checks on them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from kmatrix.host.nearest import did_you_mean
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES

Behaviour = Literal["full", "partial", "fallback", "refusal"]
BEHAVIOURS: tuple[Behaviour, ...] = ("refusal", "fallback", "partial", "full")
"""From worst to best."""

Transport = Literal["ringbuf", "perf"]

Arches = Annotated[tuple[Arch, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Literals = int | str


def check_features(needs: tuple[str, ...]) -> tuple[str, ...]:
    """`needs` if all of them are features; raises ValueError with the nearest name otherwise."""
    for name in needs:
        if name not in FEATURES:
            raise ValueError(f"unknown feature {name!r}{did_you_mean(name, FEATURES)}; `kmatrix features` lists them")
    return needs


def check_pattern(text: str) -> None:
    """Raise ValueError if `text` is not a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
