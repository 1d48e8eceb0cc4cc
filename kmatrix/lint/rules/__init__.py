"""Every rule of `kmatrix lint` as data: its code, what it is for, the kernel's evidence, a wrong and a right example.

Codes are stable: a rule that goes away leaves a gap, and no code is used twice. `kmatrix lint --explain KM201` prints an entry, docs/lint.md lists them all, and
the tests lint every example: the wrong one must give its code, the right one nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kmatrix.lint.rules.compatibility import COMPATIBILITY
from kmatrix.lint.rules.generated import GENERATED
from kmatrix.lint.rules.rule import Rule
from kmatrix.lint.rules.sources import SOURCES

__all__ = ["GROUPS", "RULES", "Rule", "matching"]

GROUPS: Mapping[str, str] = {
    "KM0": "the lint itself",
    "KM1": "headers and structure",
    "KM2": "reading kernel memory",
    "KM3": "features and compatibility",
    "KM4": "architectures",
    "KM5": "what a variant claims",
    "KM6": "generate.go",
    "KM7": "compiled objects",
}

RULES: Mapping[str, Rule] = {rule.code: rule for rule in (*SOURCES, *COMPATIBILITY, *GENERATED)}


def matching(patterns: Iterable[str]) -> frozenset[str]:
    """The codes that begin with one of `patterns` (KM2, KM201) or have it as their name (direct-access)."""
    wanted = tuple(pattern.strip() for pattern in patterns)
    return frozenset(code for code, rule in RULES.items() if any(code.startswith(w.upper()) or rule.name == w for w in wanted if w))
