"""A finding, the edit that mends it, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass

from kmatrix.lint.preprocessor import Place
from kmatrix.lint.rules import RULES, Rule


@dataclass(frozen=True)
class Edit:
    """Bytes `start` to `end` of a file, and what takes their place."""

    file: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Finding:
    """One place where a rule is broken."""

    code: str
    place: Place
    message: str
    """What is wrong here and what to do, in one sentence."""
    edits: tuple[Edit, ...] = ()
    """What `--fix` does; empty where only a person can tell."""

    @property
    def rule(self) -> Rule:
        """The rule."""
        return RULES[self.code]

    @property
    def key(self) -> tuple[str, str, int, int]:
        """The same for findings that say the same of the same place."""
        return (self.place.file, self.code, self.place.line, self.place.column)
