"""expected(), observed(), verdict(): what a collector must do on a target, what it did, and whether that is what was promised.

Pure functions over data; no I/O. The facts come from the guest's kernel (kmatrix.guest.observe), never from what a loader says of itself.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kmatrix.manifest.collector import BEHAVIOURS, Behaviour, Collector, Event, EventField, Variant
from kmatrix.matrix.features import Step
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.parameters import feature, leaves
from kmatrix.matrix.selection import Matrix

Failure = Literal["worse", "better", "table", "load", "attach", "silent", "wrong-data", "leftover", "kernel", "infra"]
"""What went wrong; a different person fixes each (design.md)."""

FAILURES: Mapping[Failure, str] = {
    "kernel": "the kernel panicked, oopsed, warned or locked up",
    "table": "the guest's probe disagrees with the features declared in kernels.toml",
    "load": "a program or map of the expected variant did not load",
    "attach": "a program of the expected variant did not attach",
    "better": "the collector does more than promised here",
    "worse": "the collector does less than promised here",
    "silent": "loaded and attached, but no event arrived, or a program never ran",
    "wrong-data": "an event arrived with a wrong value",
    "leftover": "something of the collector stayed behind",
    "infra": "the machine room failed; says nothing about the collector",
}

Facts = Mapping[str, Any]
"""What the guest reported of one cell; docs/record.md has its form."""

_MAP_TRANSPORT: Mapping[str, str] = {"ringbuf": "ringbuf", "perf_event_array": "perf"}


@dataclass(frozen=True)
class Expectation:
    """What must happen in a cell, and why."""

    behaviour: Behaviour
    variant: str | None
    degradations: frozenset[str]
    """What is missing from the variant there: `program:NAME` (an optional hook), `field:EVENT.NAME`."""
    missing: frozenset[str]
    """The undeclared features that ruled the earlier variants out."""
    why: str
    message: str | None = None
    """The regular expression that a refusal's message must hold, where an [[expect]] gives one; else it must name what is missing."""


@dataclass(frozen=True)
class Problem:
    """One thing that was found wrong."""

    failure: Failure
    text: str


@dataclass(frozen=True)
class Observation:
    """What happened in a cell, by the kernel's account; `behaviour` is None where it is none of the four."""

    behaviour: Behaviour | None
    variant: str | None
    degradations: frozenset[str]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether the cell is as promised; if not, the class of failure and the reason in a sentence."""

    ok: bool
    failure: Failure | None
    reason: str


# -- expected ----------------------------------------------------------------------------------------------------------------


def expected(collector: Collector, target: Target, matrix: Matrix) -> Expectation:
    """The behaviour promised for `target`: the first variant whose needs are all declared; none, a refusal.

    An `[[expect]]` entry for the target overrides it. Raises InputError where such an entry's `kernels` names none of the matrix.
    What nothing declares of the target counts as it was found in its guest (`Target.found`), and as absent before that.
    """
    target = target.knowing(collector.defined, target.found)
    derived = _derived(collector, target)
    if found := [name for name in undeclared(collector, target) if name in target.found]:
        words = ", ".join(f"{name} is {'there' if target.found[name] else 'not there'}" for name in found)
        derived = replace(derived, why=f"{derived.why}; not declared, so as found in the guest: {words}")
    for entry in collector.expects:
        where = f"{collector.path}: expect.kernels"
        if target in matrix.targets(entry.kernels, entry.arch, where=where):
            variant = None if entry.behaviour == "refusal" else entry.variant or _variant_for(collector, entry.behaviour, derived)
            why = f"[[expect]]: {entry.reason}"
            return Expectation(entry.behaviour, variant, frozenset(entry.degraded), derived.missing, why, entry.message)
    return derived


def undeclared(collector: Collector, target: Target) -> list[str]:
    """The features that decide anything for the collector on the target, and of which only a probe can say whether it has them."""
    names = sorted(collector.relevant_features(target.arch))
    return [name for name in names if target.kernel.has(name, target.arch) is None]


def _derived(collector: Collector, target: Target) -> Expectation:
    features = target.features
    if collector.min_kernel is not None and target.kernel.version < collector.min_kernel:
        floor = ".".join(map(str, collector.min_kernel))
        return Expectation(
            "refusal", None, frozenset(), frozenset({f"kernel {floor}"}), f"below {floor}, the collector's min_kernel"
        )
    missing: set[str] = set()
    ruled_out: list[str] = []
    for variant in collector.variants:
        if target.arch not in variant.arches:
            ruled_out.append(f"{variant.name} is not for {target.arch}")
            continue
        lacking = [name for name in _needs(collector, variant, target) if name not in features]
        if not lacking:
            degradations = _declared_degradations(collector, variant, target)
            behaviour: Behaviour = "partial" if variant.behaviour == "full" and degradations else variant.behaviour
            why = "; ".join([*ruled_out, f"{variant.name} has all it needs"])
            return Expectation(behaviour, variant.name, degradations, frozenset(missing), why)
        missing.update(lacking)
        ruled_out.append(f"{variant.name} needs {', '.join(lacking)}")
    return Expectation("refusal", None, frozenset(), frozenset(missing), "; ".join(ruled_out))


def _needs(collector: Collector, variant: Variant, target: Target) -> list[str]:
    """The variant's own needs and those of its required programs, in order, each once."""
    required = [program.needs for program in collector.programs_of(variant, target.arch) if program.required]
    return list(dict.fromkeys(name for needs in (variant.needs, *required) for name in needs))


def _declared_degradations(collector: Collector, variant: Variant, target: Target) -> frozenset[str]:
    """The optional programs and degradable fields of the variant whose needs are not declared for the target."""
    programs = {
        f"program:{program.name}"
        for program in collector.programs
        if not program.required
        and (not program.variants or variant.name in program.variants)
        and (target.arch not in program.arches or not target.features.issuperset(program.needs))
    }
    fields = {
        _field(event, f)
        for event in collector.events
        for f in collector.layout(event)
        if f.needs and not target.features.issuperset(f.needs)
    }
    return frozenset(programs | fields)


def _field(event: Event, f: EventField) -> str:
    return f"field:{event.name}.{f.name}"


def _variant_for(collector: Collector, behaviour: Behaviour, derived: Expectation) -> str | None:
    """The variant an override means without naming it: the derived one if it can show that behaviour, else the first that does."""
    if derived.variant is not None and derived.behaviour == behaviour:
        return derived.variant
    return next((v.name for v in collector.variants if v.behaviour == behaviour), derived.variant)


# -- observed ----------------------------------------------------------------------------------------------------------------


def observed(collector: Collector, target: Target, facts: Facts) -> Observation:
    """The behaviour that the facts show, with everything that was found wrong on the way, gravest first."""
    running = facts["running"]
    strays = _strays(facts)
    unexplained = _unexplained(collector, target, facts)
    if running is None:
        if not facts.get("refusal"):
            why = (facts.get("loader") or {}).get("failure") or "nothing runs and nothing was said about why"
            return Observation(None, None, frozenset(), (Problem("worse", why), *strays))
        problems = [*unexplained, *_trigger_problems(facts), *_loader_problems(facts)]
        return Observation("refusal", None, frozenset(), (*problems, *strays))
    variant = collector.variant(running)
    attempt = _attempt(facts, running)
    assert attempt is not None, "the guest reports an attempt for the variant that runs"
    problems = [*_not_in_kernel(collector, variant, target, attempt, facts), *unexplained]
    degradations = _missing_programs(collector, variant, attempt)
    transport = _transport(variant, attempt, facts)
    if variant.transport is not None and transport != variant.transport:
        problems.append(
            Problem(
                "load",
                f"{variant.name}: buffer {variant.buffer} is {transport or 'not in the kernel'}, declared as {variant.transport}",
            )
        )
    problems += [problem for problem in _loader_problems(facts) if problem.failure != "leftover"]
    trouble, missing_fields = _trigger_problems(facts), set[str]()
    if not trouble:
        trouble, missing_fields = _judge_events(collector, target, facts)
        trouble += _never_ran(collector, variant, target, attempt, facts)
    problems += trouble
    degradations |= missing_fields
    behaviour: Behaviour | None = None
    if not problems:
        behaviour = "partial" if variant.behaviour == "full" and degradations else variant.behaviour
    left = [problem for problem in _loader_problems(facts) if problem.failure == "leftover"]
    return Observation(behaviour, running, frozenset(degradations), (*problems, *left, *strays))


_EXHAUSTED = (errno.EPERM, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENOSPC)
"""What the kernel answers to a map or program for want of memory or rights, and never because it does not know it (that is EINVAL)."""


def _unexplained(collector: Collector, target: Target, facts: Facts) -> list[Problem]:
    """Variants and optional programs that lack a feature here, and fail, but not of that: a broken object would pass for a missing feature.

    A loader of the collector's own shows no failures of the kernel's; its message is what has to name the missing feature.
    """
    problems = []
    for attempt in facts["attempts"] if collector.loader is None else ():
        variant = collector.variant(attempt["variant"])
        if attempt["stage"] is not None:
            lacking = [name for name in _needs(collector, variant, target) if name not in target.features]
            if attempt["stage"] == "open" or (
                lacking and not _explains(leaves(lacking, collector.defined), _stopped_at(attempt), attempt["error"]["errno"])
            ):
                problems.append(_not_for_lack(variant.name, lacking, attempt["stage"], failure_of(attempt, _optional(collector))))
            continue
        for program in collector.programs_of(variant, target.arch):
            report, lacking = attempt["programs"].get(program.name, {}), [n for n in program.needs if n not in target.features]
            failed: Step | None = "attach" if report.get("loaded") else "program"
            if (
                not program.required
                and lacking
                and report.get("error")
                and not _explains(leaves(lacking, collector.defined), failed)
            ):
                words = f"{report['error']}: {last_words(report.get('log') or '')}".removesuffix(": ")
                problems.append(_not_for_lack(f"{variant.name}: program {program.name}", lacking, str(failed), words))
    return problems


def _not_for_lack(what: str, lacking: Sequence[str], stage: str, words: str) -> Problem:
    if stage == "open":
        return Problem("load", f"{what}: no kernel can load this object: {words}")
    return Problem(
        "attach" if stage == "attach" else "load", f"{what} lacks {', '.join(lacking)} here, but fails for another reason: {words}"
    )


def _explains(lacking: Sequence[str], step: Step | None, error: int | None = None) -> bool:
    """Whether the absence of one of the features stops a loader at this step."""
    if step in ("map", "program") and error in _EXHAUSTED and "memcg_accounting" not in lacking:
        return False
    return any(step in feature(name).stops for name in lacking)


def _stopped_at(attempt: Mapping[str, Any]) -> Step | None:
    """Where a failed attempt was stopped, by libbpf's words; None where nothing was asked of the kernel."""
    text = str((attempt.get("error") or {}).get("text") or "")
    if attempt["stage"] == "load" and re.search(r"kernel BTF|vmlinux BTF", text):
        return "btf"
    if attempt["stage"] == "load" and re.search(r"\bmap '[^']*': |global data", text):
        return "map"
    steps: Mapping[str, Step] = {"load": "program", "attach": "attach"}
    return steps.get(attempt["stage"])


def _optional(collector: Collector) -> set[str]:
    return {program.name for program in collector.programs if not program.required}


def _loader_problems(facts: Facts) -> list[Problem]:
    """What the collector's own loader did that none should: die while it runs, not stop, or leave processes behind."""
    own = facts.get("loader")
    if not own:
        return []
    name = own["command"][0]
    problems = [Problem("worse", f"{name} {own['died']}")] if own["died"] else []
    if own["killed"]:
        problems.append(Problem("leftover", f"{name} did not end when it was told to stop, and was killed"))
    if own["left"]:
        problems.append(Problem("leftover", f"{name} left running: {', '.join(own['left'])}"))
    return problems


def _attempt(facts: Facts, variant: str | None) -> Mapping[str, Any] | None:
    return next((attempt for attempt in facts["attempts"] if attempt["variant"] == variant), None)


def _not_in_kernel(
    collector: Collector, variant: Variant, target: Target, attempt: Mapping[str, Any], facts: Facts
) -> list[Problem]:
    """Required programs and declared maps of the running variant that the kernel does not have."""
    in_kernel = {program["id"] for program in facts["kernel"]["during"]["programs"]}
    problems = []
    for program in collector.programs_of(variant, target.arch):
        report = attempt["programs"].get(program.name)
        if not program.required:
            continue
        if report is None or report["id"] not in in_kernel:
            problems.append(Problem("load", f"{variant.name}: program {program.name} is not in the kernel"))
        elif program.attach and not report["attached"]:
            why = f": {report['error']}" if report.get("error") else ""
            problems.append(Problem("attach", f"{variant.name}: program {program.name} is not attached to {program.hook}{why}"))
    map_types = {entry["id"]: entry["type"] for entry in facts["kernel"]["during"]["maps"]}
    for wanted in collector.maps_of(variant):
        found = map_types.get(attempt["maps"].get(wanted.name, {}).get("id"))
        if found != wanted.type:
            problems.append(
                Problem("load", f"{variant.name}: map {wanted.name} is {found or 'not in the kernel'}, declared as {wanted.type}")
            )
    return problems


def _missing_programs(collector: Collector, variant: Variant, attempt: Mapping[str, Any]) -> set[str]:
    optional = [p for p in collector.programs if not p.required and (not p.variants or variant.name in p.variants)]
    return {
        f"program:{p.name}" for p in optional if not attempt["programs"].get(p.name, {}).get("attached" if p.attach else "loaded")
    }


def _transport(variant: Variant, attempt: Mapping[str, Any], facts: Facts) -> str | None:
    """How the running variant's events travel, by the type that the kernel gives its buffer."""
    buffer = variant.buffer or variant.transport  # a loader's own buffer need not be known by name
    if buffer is None:
        return None
    ident = attempt["maps"].get(buffer, {}).get("id")
    kind = next((entry["type"] for entry in facts["kernel"]["during"]["maps"] if entry["id"] == ident), None)
    return None if kind is None else _MAP_TRANSPORT.get(kind, kind)


def _strays(facts: Facts) -> list[Problem]:
    """What stands in the kernel afterwards and did not before, and programs that run beside the running variant."""
    before, during, after = (facts["kernel"][moment] for moment in ("before", "during", "after"))
    attempt = _attempt(facts, facts["running"])
    own = {report["id"] for report in attempt["programs"].values()} if attempt else set()
    problems = [
        Problem("leftover", f"beside {facts['running'] or 'a refusal'}, program {_named(program)} is loaded")
        for program in _new(before["programs"], during["programs"])
        if program["id"] not in own
    ]
    for kind in ("programs", "maps", "links"):
        problems += [
            Problem("leftover", f"{kind[:-1]} {_named(entry)} is still there afterwards")
            for entry in _new(before[kind], after[kind])
        ]
    for kind, what in (("pins", "pinned object"), ("kprobe_events", "tracefs kprobe")):
        problems += [
            Problem("leftover", f"{what} {entry} is still there afterwards")
            for entry in after.get(kind, ())
            if entry not in before.get(kind, ())
        ]
    return problems


def _new(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    known = {entry["id"] for entry in before}
    return [entry for entry in now if entry["id"] not in known]


def _named(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('name') or '(no name)'} ({entry.get('type', '?')}, id {entry['id']})"


def _trigger_problems(facts: Facts) -> list[Problem]:
    """A trigger that fails while the collector runs and not without it, or after it refused: the collector breaks what it watches."""
    trigger = facts.get("trigger")
    if not trigger or trigger["ok"]:
        return []
    said = trigger.get("error") or f"exit status {trigger.get('exit')}"
    if trigger.get("after_refusal"):
        when = f"after the refusal the trigger fails ({said})"
    elif (trigger.get("after") or {}).get("ok"):
        when = f"the trigger fails while the collector runs ({said}), and not without it"
    else:
        return []
    return [Problem("worse", f"the guest does not work as before: {when}")]


def _judge_events(collector: Collector, target: Target, facts: Facts) -> tuple[list[Problem], set[str]]:
    """Events that did not come or hold wrong values, and the degradable fields that were absent."""
    problems: list[Problem] = []
    absent: set[str] = set()
    for event in collector.events:
        matched = [entry["fields"] for entry in facts["events"] if entry["event"] == event.name]
        count = facts["counts"].get(event.name, 0)  # of very many, not all are kept
        if count < event.min_count:
            problems.append(Problem("silent", _silence(event, count, facts)))
            continue
        if event.max_count is not None and count > event.max_count:
            problems.append(Problem("wrong-data", f"{count} {event.name} events arrived, at most {event.max_count} should"))
        for f in collector.layout(event):
            promised = target.features.issuperset(f.needs)
            for fields in matched:
                value = fields.get(f.name)
                wrong = _wrong(f, value, facts["known"])
                # The value that says "absent" may also be the right one (uid 0): then it is there, where it is promised.
                if f.degradable and value in (None, f.absent) and not (promised and f.checked and wrong is None):
                    absent.add(_field(event, f))
                elif wrong:
                    problems.append(Problem("wrong-data", f"event {event.name}: {f.name} is {value!r}, {wrong}"))
                    break
    return problems, absent


def _never_ran(collector: Collector, variant: Variant, target: Target, attempt: Mapping[str, Any], facts: Facts) -> list[Problem]:
    """Programs that are attached, should run when the trigger is pulled, and never did, where the kernel counts runs (from 5.1 on)."""
    if not (facts.get("trigger") or {}).get("ok"):
        return []
    return [
        Problem("silent", f"{variant.name}: program {program.name} is attached to {program.hook} and never ran")
        for program in collector.programs_of(variant, target.arch)
        if program.attach and program.fires
        for report in (attempt["programs"].get(program.name, {}),)
        if report.get("attached") and report.get("runs") == 0
    ]


def _silence(event: Event, count: int, facts: Facts) -> str:
    wanted = f"{count} of {event.min_count} {event.name} events" if count else f"no {event.name} event"
    other = facts.get("unmatched", 0)
    match = ", ".join(f"{name} = {_resolve(value, facts['known'])!r}" for name, value in event.match.items())
    seen = f"; {other} other events came, none with {match}" if other and match else ""
    lost = f"; {facts['lost']} lost" if facts.get("lost") else ""
    return f"{wanted} arrived after the trigger{seen}{lost}"


def _resolve(value: int | str | None, known: Mapping[str, Any]) -> Any:
    return known.get(value.removeprefix("known.")) if isinstance(value, str) and value.startswith("known.") else value


def _wrong(f: EventField, value: Any, known: Mapping[str, Any]) -> str | None:
    """What is wrong with the value, or None."""
    wanted = _resolve(f.equals, known)
    if f.equals is not None and (wanted is None or value != wanted):
        return f"should be {wanted!r}" + (f" ({f.equals})" if isinstance(f.equals, str) and f.equals.startswith("known.") else "")
    if f.nonzero and not value:
        return "should not be zero"
    if f.min is not None and not (isinstance(value, int) and value >= f.min):
        return f"should be at least {f.min}"
    if f.max is not None and not (isinstance(value, int) and value <= f.max):
        return f"should be at most {f.max}"
    if f.one_of and value not in [_resolve(choice, known) for choice in f.one_of]:
        return f"should be one of {list(f.one_of)}"
    part = _resolve(f.contains, known)
    if f.contains is not None and not (isinstance(value, str) and str(part) in value):
        return f"should contain {part!r}"
    return None


# -- verdict -----------------------------------------------------------------------------------------------------------------


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
    if observation.problems and observation.problems[0].failure != "leftover":
        first = observation.problems[0]
        return Verdict(False, first.failure, _and_more(first.text, observation.problems))
    drift = _degradation_drift(expectation, observation)
    if drift is not None:
        return drift
    if expectation.behaviour == "refusal" and not _informs(facts["refusal"], expectation, collector):
        wanted = repr(expectation.message) if expectation.message is not None else " or ".join(sorted(expectation.missing))
        return Verdict(False, "worse", f"the refusal does not name what is missing ({wanted}): {facts['refusal']}")
    if observation.problems:
        return Verdict(False, "leftover", _and_more(observation.problems[0].text, observation.problems))
    if observation.behaviour != expectation.behaviour:
        return _rank_verdict(expectation, observation)
    return Verdict(True, None, _account(collector, expectation, facts))


def _account(collector: Collector, expectation: Expectation, facts: Facts) -> str:
    """Why a cell as promised is what it is, for the reader of a green cell; and how little was seen, where that is so."""
    degraded = f"; without {', '.join(sorted(expectation.degradations))}" if expectation.degradations else ""
    attempt = _attempt(facts, facts["running"])
    ran = attempt is None or collector.events or any(report.get("runs") for report in attempt["programs"].values())
    return f"{expectation.why}{degraded}" + ("" if ran else "; loaded and attached, but nothing shows that it ran")


def _other_variant(collector: Collector, expectation: Expectation, observation: Observation, facts: Facts) -> Verdict:
    """Another variant runs than the expected one (or none, or one where none should)."""
    order = [variant.name for variant in collector.variants]
    if expectation.variant is None or (
        observation.variant is not None and order.index(observation.variant) < order.index(expectation.variant)
    ):
        found = f"{observation.variant} runs ({observation.behaviour or 'with problems'})"
        return Verdict(False, "better", f"expected {_describe(expectation)}, but {found}: correct the needs, or the table")
    attempt = _attempt(facts, expectation.variant)
    instead = f"; {observation.variant} runs instead" if observation.variant else "; nothing runs"
    if attempt is None or attempt["stage"] is None:
        return Verdict(False, "worse", f"expected {_describe(expectation)}, but it was not tried{instead}")
    failure: Failure = "attach" if attempt["stage"] == "attach" else "load"
    return Verdict(False, failure, f"{expectation.variant}: {failure_of(attempt, _optional(collector))}{instead}")


def failure_of(attempt: Mapping[str, Any], optional: Collection[str] = ()) -> str:
    """Why an attempt came to nothing: the first program that failed and was not `optional`, and the kernel's last words on it, else the loader's error."""
    for name, report in attempt["programs"].items():
        if report.get("error") and name not in optional:
            words = last_words(report.get("log") or "")
            return f"program {name}: {report['error']}" + (f": {words}" if words else "")
    error = attempt.get("error") or {}
    return str(error.get("text") or f"failed to {attempt['stage']}")


_VERIFIER_CHATTER = ("processed ", "verification time", "stack depth", "-- END", "-- BEGIN", "max_states", "peak_states")


def last_words(log: str) -> str:
    """The line of a verifier log that says why: the last that is not a statistic."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith(_VERIFIER_CHATTER)), "")


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


def _informs(message: str, expectation: Expectation, collector: Collector) -> bool:
    """Whether a refusal's message names one of the missing features, as a word (a variant called core-ringbuf does not name ringbuf) or as
    the collector's own loader names it; or says what the [[expect]] wants to be said."""
    if expectation.message is not None:
        return re.search(expectation.message, message) is not None
    own = collector.loader.names if collector.loader is not None else {}
    words = [word for name in expectation.missing for word in (name, name.partition(":")[2]) if word]
    named = [rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in words]
    patterns = named + [own[name] for name in expectation.missing if name in own]
    return not patterns or any(re.search(pattern, message) for pattern in patterns)


def _and_more(text: str, problems: Sequence[Problem]) -> str:
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"
