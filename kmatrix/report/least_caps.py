"""The least capabilities that objects take, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kmatrix.report import grid
from kmatrix.runs.least_caps import Least, Outcome


def words(least: Least | None) -> str:
    """The capabilities as people write them; `none` where none is needed."""
    if least is None:
        return "—"
    return ", ".join(f"CAP_{name.upper()}" for name in least.caps) or "none"


def text(name: str, outcomes: Sequence[Outcome], missing: Mapping[str, str], *, width: int) -> str:
    """An object's table: a row for each target and, where they differ, for each program; under it what each capability is for."""
    rows: list[list[str]] = []
    for outcome in outcomes:
        rows.append([outcome.target, "(all)" if outcome.programs else "", words(outcome.whole), outcome.error or _failing(outcome)])
        if len({each.caps for each in outcome.programs.values()}) > 1:
            rows += [["", program, words(each), ""] for program, each in outcome.programs.items()]
    parts = [grid.prose(rows, width, heads=[name, "program", "least capabilities", "note"], wrap=(2, 3))]
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        for cap, why in (outcome.whole.why if outcome.whole else {}).items():
            reasons.setdefault(f"CAP_{cap.upper()}: {why}", []).append(outcome.target)
    parts += [f"{why}\n    on {', '.join(targets)}" for why, targets in reasons.items()]
    if any(_is_old(outcome) for outcome in outcomes):
        parts.append(
            "Before 5.11 memory for maps and programs counts against RLIMIT_MEMLOCK, which was lifted here. Whoever lifts it in production takes\n"
            "CAP_SYS_RESOURCE for that, unless the service manager does it (LimitMEMLOCK=infinity)."
        )
    parts += [f"{target} was not run: {why}" for target, why in missing.items()]
    return "\n\n".join(parts)


def _failing(outcome: Outcome) -> str:
    return f"left out, failing with all capabilities: {', '.join(outcome.failing)}" if outcome.failing else ""


def _is_old(outcome: Outcome) -> bool:
    return outcome.old and outcome.whole is not None


def plain(outcomes: Sequence[Outcome], missing: Mapping[str, str]) -> dict[str, Any]:
    """The same as JSON has it (docs/circumstances.md)."""
    return {
        "targets": [
            {
                "target": outcome.target,
                "error": outcome.error,
                "infra": outcome.infra,
                "caps": list(outcome.whole.caps) if outcome.whole else None,
                "why": dict(outcome.whole.why) if outcome.whole else {},
                "programs": {name: {"caps": list(each.caps), "why": dict(each.why)} for name, each in outcome.programs.items()},
                "failing": list(outcome.failing),
                "tries": outcome.tries,
            }
            for outcome in outcomes
        ],
        "not_run": dict(missing),
    }
