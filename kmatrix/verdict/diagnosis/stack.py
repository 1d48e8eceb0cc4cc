"""Stack that nothing wrote and a helper is given: which bytes, of which structure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, where

_STORE = re.compile(r"\*\(u(8|16|32|64) \*\)\(r10 ([+-]\d+)\) = ")


def unwritten(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """`invalid indirect read from stack off -16+1 size 16`: byte 1 of 16 is the first that nothing wrote.

    The log shows the stores, so it shows which other bytes nothing wrote. Stores by another pointer than the frame's are not seen: then only
    the first byte is sure.
    """
    base, first, size = int(match["base"]), int(match["first"]), int(match["size"])
    if size <= 0:
        return None
    left = _never_written(failing.log, base, size) if "r10" in failing.log and not failing.cut else []
    bytes_, name = (left, None) if first in left else ([], None)
    if bytes_ and failing.lines is not None:
        bytes_, name = failing.lines.structure(size, first, left) or (left, None)
    whose = f" of struct {name}" if name else ""
    if len(bytes_) == size:
        which = f"all {size} bytes{whose}"
    elif name or _runs(bytes_) == 1:
        which = f"{_ranges(bytes_)}{whose or f' of {size}'}"
    elif bytes_:  # helpers write too: what no store writes is not all unwritten
        which = f"{_ranges(_run(bytes_, first))} of {size}, and perhaps more"
    else:
        which = f"byte {first} of {size}, and perhaps those after it"
    return Diagnosis(
        "stack",
        f"uninitialised stack given to a helper ({which})",
        "clear the whole structure with memset or __builtin_memset, or give its padding a name and a value",
        None,
        where(failing),
    )


def _never_written(log: str, base: int, size: int) -> list[int]:
    """The bytes of [base, base + size) of the frame that no store of the log writes, counted from base."""
    left = set(range(size))
    for bits, offset in _STORE.findall(log):
        start = int(offset) - base
        left -= set(range(start, start + int(bits) // 8))
    return sorted(left)


def _runs(numbers: Sequence[int]) -> int:
    """How many runs of neighbours there are."""
    return sum(number - 1 not in numbers for number in numbers)


def _run(numbers: Sequence[int], first: int) -> list[int]:
    """The neighbours from `first` on."""
    found = [first]
    while found[-1] + 1 in numbers:
        found.append(found[-1] + 1)
    return found


def _ranges(numbers: Iterable[int]) -> str:
    """`bytes 1 to 3`, `byte 7`, `bytes 1 to 3 and 9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
    plural = len(runs) > 1 or runs[0][0] != runs[0][1]
    return f"byte{'s' if plural else ''} {' and '.join(words)}"
