"""Under stress: the memory of the maps and the time of the programs, against what the manifest promises. Pure functions over facts."""

from __future__ import annotations

from collections.abc import Iterator

from kmatrix.manifest.collector import Collector
from kmatrix.verdict.failure import Facts, Problem


def judge_costs(collector: Collector, facts: Facts) -> Iterator[Problem]:
    """What costs more than promised. What the kernel does not tell breaks no promise."""
    stress, costs = collector.stress, facts.get("costs")
    if not collector.stressed or stress is None or costs is None:
        return
    most = stress.memlock_bytes
    taken = sum(size or 0 for size in costs["memlock"].values())
    if most is not None and taken > most:
        largest = max(costs["memlock"], key=lambda name: costs["memlock"][name] or 0)
        yield Problem(
            "costly", f'the maps take {taken} bytes, more than {most} (memlock = "{stress.memlock}"); the largest is {largest}'
        )
    nothing = _each(costs["empty"])
    if stress.run_time is None or not nothing:
        return
    for name, times in costs["run_time"].items():
        each = _each(times)
        if each is not None and each > stress.run_time * nothing:
            yield Problem(
                "costly",
                f"program {name} takes {each:.0f} ns a run, {each / nothing:.1f} times an empty program's {nothing:.0f} ns: "
                f"more than run_time = {stress.run_time:g}",
            )


def _each(times: list[int] | None) -> float | None:
    """Nanoseconds of one run; None where it never ran."""
    return times[0] / times[1] if times is not None and times[1] else None
