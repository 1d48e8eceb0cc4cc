"""verdict(): whether what a collector did is what was promised, and if not, the class of the failure and its reason in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmatrix.manifest.types import BEHAVIOURS
from kmatrix.verdict.failure import attempt_of
from kmatrix.verdict.observation import Observation, failure_of, optional_programs

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.matrix.kernel import Target
    from kmatrix.verdict.expectation import Expectation
    from kmatrix.verdict.failure import Facts, Failure, Problem


@dataclass(frozen=True)
class Verdict:
    """Whether the cell is as promised; if not, the class of failure and the reason in a sentence."""

    ok: bool
    failure: Failure | None
    reason: str


_ASIDE: tuple[Failure, ...] = ("budget", "leftover")
"""Classes of problems that say nothing of the behaviour: they count where the behaviour is as promised."""


def table_mismatches(collector: Collector, target: Target, probe: Mapping[str, bool | None]) -> list[str]:
    """The features that matter to the collector of which the guest says otherwise than kernels.toml, as sentences."""
    return feature_mismatches(target, probe, collector.relevant_features(target.arch))


def feature_mismatches(target: Target, probe: Mapping[str, bool | None], names: Iterable[str]) -> list[str]:
    """Of `names`, the features that the probe found otherwise than declared (None = the guest cannot tell: no mismatch)."""
    return [
        f"{name} is declared {'present' if name in target.features else 'absent'}, the guest finds it {'present' if probe[name] else 'absent'}"
        for name in sorted(names)
        if probe.get(name) is not None and target.has(name) is not None and probe[name] != (name in target.features)
    ]


def verdict(
    collector: Collector,
    target: Target,
    expectation: Expectation,
    observation: Observation,
    facts: Facts,
    *,
    probe: Mapping[str, bool | None],
    splat: str | None = None,
) -> Verdict:
    """Whether `observation` is what `expectation` promised; if not, the gravest class and its reason.

    `splat` is the console's account of a panic, oops, warning or lockup during the cell; `probe` the guest's features.
    """
    if splat is not None:
        return Verdict(False, "kernel", splat)
    mismatches = table_mismatches(collector, target, probe)
    if mismatches:
        return Verdict(False, "table", "; ".join(mismatches))
    if observation.variant != expectation.variant:
        return _other_variant(collector, expectation, observation, facts)
    if observation.problems and observation.problems[0].failure not in _ASIDE:
        first = observation.problems[0]
        return Verdict(False, first.failure, _and_more(first.text, observation.problems))
    drift = _degradation_drift(expectation, observation)
    if drift is not None:
        return drift
    if expectation.behaviour == "refusal" and not _informs(facts["refusal"] or "", expectation, collector, target):
        wanted = repr(expectation.message) if expectation.message is not None else " or ".join(sorted(expectation.missing))
        return Verdict(False, "worse", f"the refusal does not name what is missing ({wanted}): {facts['refusal']}")
    if observation.problems:
        first = observation.problems[0]
        return Verdict(False, first.failure, _and_more(first.text, observation.problems))
    if observation.behaviour != expectation.behaviour:
        return _rank_verdict(expectation, observation)
    return Verdict(True, None, _account(collector, expectation, facts))


def _account(collector: Collector, expectation: Expectation, facts: Facts) -> str:
    """Why a cell as promised is what it is, for the reader of a green cell; and how little was seen, where that is so."""
    degraded = f"; without {', '.join(sorted(expectation.degradations))}" if expectation.degradations else ""
    attempt = attempt_of(facts, facts["running"])
    ran = (
        attempt is None
        or collector.events
        or collector.test_runs
        or any(report.get("runs") for report in attempt["programs"].values())
    )
    return f"{expectation.why}{degraded}" + ("" if ran else "; loaded and attached, but nothing shows that it ran")


def _other_variant(collector: Collector, expectation: Expectation, observation: Observation, facts: Facts) -> Verdict:
    """Another variant runs than the expected one (or none, or one where none should)."""
    order = [variant.name for variant in collector.variants]
    if expectation.variant is None or (
        observation.variant is not None and order.index(observation.variant) < order.index(expectation.variant)
    ):
        found = f"{observation.variant} runs ({observation.behaviour or 'with problems'})"
        return Verdict(False, "better", f"expected {_describe(expectation)}, but {found}: correct the needs, or the table")
    attempt = attempt_of(facts, expectation.variant)
    instead = f"; {observation.variant} runs instead" if observation.variant else "; nothing runs"
    if attempt is None or attempt["stage"] is None:
        return Verdict(False, "worse", f"expected {_describe(expectation)}, but it was not tried{instead}")
    failure: Failure = "attach" if attempt["stage"] == "attach" else "load"
    return Verdict(False, failure, f"{expectation.variant}: {failure_of(attempt, optional_programs(collector))}{instead}")


def _degradation_drift(expectation: Expectation, observation: Observation) -> Verdict | None:
    """More degradations than declared are worse, fewer are better."""
    more = sorted(observation.degradations - expectation.degradations)
    if more:
        return Verdict(False, "worse", f"expected {_describe(expectation)}, but {', '.join(more)} is missing too")
    fewer = sorted(expectation.degradations - observation.degradations)
    if fewer and observation.behaviour is not None:
        return Verdict(
            False, "better", f"expected {_describe(expectation)}, but {', '.join(fewer)} is there: correct its needs, or the table"
        )
    return None


def _rank_verdict(expectation: Expectation, observation: Observation) -> Verdict:
    rank = {behaviour: place for place, behaviour in enumerate(BEHAVIOURS)}
    assert observation.behaviour is not None, "without a behaviour there is a problem, which was judged before"
    failure: Failure = "better" if rank[observation.behaviour] > rank[expectation.behaviour] else "worse"
    return Verdict(False, failure, f"expected {_describe(expectation)}, observed {observation.behaviour} ({observation.variant})")


def _describe(expectation: Expectation) -> str:
    variant = f" ({expectation.variant})" if expectation.variant else ""
    without = f" without {', '.join(sorted(expectation.degradations))}" if expectation.degradations else ""
    return f"{expectation.behaviour}{variant}{without}"


_NO_RIGHT = r"(?i)not permitted|permission denied|\bE(PERM|ACCES)\b|\bCAP_\w|privilege"


def _informs(message: str, expectation: Expectation, collector: Collector, target: Target) -> bool:
    """Whether a refusal's message names one of the missing features, as a word (a variant called core-ringbuf does not name ringbuf) or as
    the collector's own loader names it; or, where circumstances leave few rights, that one is missing; or says what the [[expect]] wants to be said."""
    if expectation.message is not None:
        return re.search(expectation.message, message) is not None
    own = collector.loader.names if collector.loader is not None else {}
    words = [word for name in expectation.missing for word in (name, name.partition(":")[2]) if word]
    named = [rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in words]
    patterns = named + [own[name] for name in expectation.missing if name in own]
    if target.kernel.privileges.caps is not None:  # what is missing is a right: that may be said instead
        patterns.append(_NO_RIGHT)
    return not patterns or any(re.search(pattern, message) for pattern in patterns)


_SHOWN = 5
"""Problems of one cell that its reason has; the facts have them all."""


def _and_more(text: str, problems: Sequence[Problem]) -> str:
    """The gravest problem, and on a line each what else was found."""
    others = list(dict.fromkeys(problem.text for problem in problems if problem.text != text))
    more = [f"and {len(others) - _SHOWN} more"] if len(others) > _SHOWN else []
    return "\n".join([text, *(f"also: {other}" for other in others[:_SHOWN]), *more])
