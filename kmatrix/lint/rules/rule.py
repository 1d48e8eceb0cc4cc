"""What a rule of `kmatrix lint` is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]
Language = Literal["c", "go"]


@dataclass(frozen=True)
class Rule:
    """One thing that a collector must do, or must not."""

    code: str
    name: str
    summary: str
    why: str
    evidence: str
    """What shows it: a kernel it was seen on, a test or cell of this repository, or the document that says so."""
    wrong: str
    right: str
    level: Level = "error"
    """`error` does not work on some kernel or arch that is claimed; `warning` works, and says less or other than its author thinks."""
    fixable: bool = False
    """Whether `--fix` can mend (some of) its findings."""
    language: Language = "c"
    needs: tuple[str, ...] = ("btf", "ringbuf")
    """What the variant of the examples claims: its `needs` in collector.toml."""
