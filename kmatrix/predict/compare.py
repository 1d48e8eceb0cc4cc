"""Two profiles side by side."""

from __future__ import annotations

from collections.abc import Iterator

from kmatrix.guest.facts import FACTS
from kmatrix.matrix import history
from kmatrix.matrix.features import FEATURES
from kmatrix.predict.kernel import Kernel

Row = tuple[str, str, str]
"""What it is, and what the one and the other has of it."""
_COUNTED = {"types": "types by name", "names": "functions", "events": "tracepoints"}


def rows(one: Kernel, other: Kernel) -> list[Row]:
    """What differs."""
    return [*_features(one, other), *_helpers(one, other), *_options(one, other), *_counts(one, other)]


def _features(one: Kernel, other: Kernel) -> Iterator[Row]:
    names = [*FEATURES, *(f"{kind}:{name}" for kind in ("attach", "link", "kfunc", "insn") for name in FACTS[kind])]
    for name in names:
        yield from _differs(name, one.has(name), other.has(name))
    for name in FACTS["map"]:
        yield from _differs(f"map:{name}", one.takes_map(name), other.takes_map(name))
    for name in FACTS["prog"]:
        yield from _differs(f"prog:{name}", one.takes_program(name), other.takes_program(name))


def _differs(name: str, first: bool, second: bool) -> Iterator[Row]:
    if first != second:
        yield name, "yes" if first else "no", "yes" if second else "no"


def _helpers(one: Kernel, other: Kernel) -> Iterator[Row]:
    """By way of loading a program: the helpers that only one of the two lets it call."""
    ours, theirs = one.meta["helpers"], other.meta["helpers"]
    for way in (each for each in ours if each in theirs):
        mine, yours = int(ours[way], 16), int(theirs[way], 16)
        if mine != yours:
            yield f"helpers of {way}", _names(mine & ~yours), _names(yours & ~mine)


def _names(mask: int) -> str:
    numbers = (number for number in range(mask.bit_length()) if mask >> number & 1)
    return ", ".join(found[0] for number in numbers if (found := history.helper(number)) is not None) or "-"


def _options(one: Kernel, other: Kernel) -> Iterator[Row]:
    if one.knows("config") and other.knows("config"):
        for name in sorted({name for kernel in (one, other) for name in kernel.names("config")}):
            if "BPF" in name or "BTF" in name or "FTRACE" in name or "KPROBE" in name or name in ("LSM", "FPROBE", "CGROUPS"):
                first, second = one.option(name), other.option(name)
                if first != second:
                    yield f"config:{name}", first, second


def _counts(one: Kernel, other: Kernel) -> Iterator[Row]:
    for table, title in _COUNTED.items():
        ours, theirs = set(one.names(table)), set(other.names(table))
        yield f"{title} that the other has not", str(len(ours - theirs)), str(len(theirs - ours))
