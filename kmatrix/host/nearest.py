"""Nearest names, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of `known` that look like `word`, best first."""
    return difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean A or B?`, or nothing where no known name is near."""
    near = nearest(word, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""
