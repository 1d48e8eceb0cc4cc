"""Names that are spelled nearly like one that is not there: what a misspelt or renamed function may be."""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterable

CUTOFF = 0.8
"""Share of characters that two names have in common, in the same order (difflib): `migrate_misplaced_page` and `…_folio` have that much."""
FEWEST = 5
"""Characters that a name has at least: of shorter ones too many are alike."""
MOST = 1000
"""Names that are compared at most. A comparison takes up to 0.3 ms where the CPU is emulated."""
GIVEN = 3


def ends(wanted: str) -> tuple[str, str]:
    """How names begin, or end, that are compared with `wanted` at all: half of it, and no more than 6 characters."""
    length = max(4, min(6, len(wanted) // 2))
    return wanted[:length], wanted[-length:]


def nearly(wanted: str, known: Iterable[str], most: int = GIVEN) -> list[str]:
    """Up to `most` of the names `known` that are spelled nearly like `wanted`, the nearest first; none where it is too short to tell."""
    if len(wanted) < FEWEST:
        return []
    first, last = ends(wanted)
    able = [
        name
        for name in sorted(known)
        if name != wanted
        and (name.startswith(first) or name.endswith(last))
        and 2 * min(len(name), len(wanted)) >= CUTOFF * (len(name) + len(wanted))
    ]
    at = bisect_left(able, wanted)  # those around it in the alphabet begin alike for longest
    return difflib.get_close_matches(wanted, able[max(at - MOST // 2, 0) : at + MOST // 2], n=most, cutoff=CUTOFF)
