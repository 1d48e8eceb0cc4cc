"""How close the programs come to the verifier's limits, against the manifest's [budget]. Pure functions over facts."""

from __future__ import annotations

from collections.abc import Iterator

from kmatrix.host.version import Version
from kmatrix.manifest.budget import MOST_STACK, Allowance
from kmatrix.manifest.collector import Collector
from kmatrix.verdict.effort import effort_of
from kmatrix.verdict.failure import Facts, Problem


def judge_budget(collector: Collector, version: Version, facts: Facts) -> Iterator[Problem]:
    """The programs that are above their budget on a kernel of that version, and those that could not be measured."""
    if collector.budget is None:
        return
    for name, report in facts.get("effort", {}).items():
        limits, effort = collector.budget.of(name), effort_of(report, {}, version)
        if limits.insns is None and limits.stack is None:  # measured for the atlas alone
            continue
        if effort is None or not effort.insns:
            why = report["error"] or "the kernel does not say how many instructions it looked at"
            yield Problem("budget", f"program {name} cannot be held to its budget, as it loads here but cannot be measured: {why}")
            continue
        if limits.insns is not None and effort.insns > limits.insns.most(effort.limit):
            yield Problem(
                "budget",
                f"program {name}: the verifier looks at {effort.insns:,} of at most {effort.limit:,} instructions "
                f"({effort.share:.2%}), {_more_than('insns', limits.insns, effort.limit)}",
            )
        taken = sum(effort.stack)
        if limits.stack is not None and taken > limits.stack.most(MOST_STACK):
            parts = f" ({'+'.join(map(str, effort.stack))}, with the functions that it calls)" if len(effort.stack) > 1 else ""
            yield Problem(
                "budget",
                f"program {name}: it takes {taken} of at most {MOST_STACK} bytes of stack{parts} "
                f"({taken / MOST_STACK:.2%}), {_more_than('stack', limits.stack, MOST_STACK)}",
            )


def _more_than(key: str, allowed: Allowance, limit: int) -> str:
    if allowed.percent is None:
        return f"more than its budget of {allowed.number:,} ({key} = {allowed.written})"
    return f'more than its budget of {allowed.most(limit):,} ({key} = "{allowed.written}")'
