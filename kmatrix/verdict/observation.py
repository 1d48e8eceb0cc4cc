"""observed(): what a collector did on a target, by the kernel's account, with everything that was found wrong on the way."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmatrix.matrix.parameters import feature, leaves
from kmatrix.verdict.budget import judge_budget
from kmatrix.verdict.events import judge_events
from kmatrix.verdict.expectation import needs_of
from kmatrix.verdict.failure import Facts, Problem, attempt_of
from kmatrix.verdict.words import last_words

if TYPE_CHECKING:
    from kmatrix.guest.cell_facts import AttemptReport, Entry, ProgramReport
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.types import Behaviour
    from kmatrix.manifest.variant import Variant
    from kmatrix.matrix.features import Step
    from kmatrix.matrix.kernel import Target

_MAP_TRANSPORT: Mapping[str, str] = {"ringbuf": "ringbuf", "perf_event_array": "perf"}


@dataclass(frozen=True)
class Observation:
    """What happened in a cell, by the kernel's account; `behaviour` is None where it is none of the four."""

    behaviour: Behaviour | None
    variant: str | None
    degradations: frozenset[str]
    problems: tuple[Problem, ...] = ()


def observed(collector: Collector, target: Target, facts: Facts) -> Observation:
    """The behaviour that the facts show, with everything that was found wrong on the way, gravest first."""
    running = facts["running"]
    strays = _strays(facts)
    unexplained = _unexplained(collector, target, facts)
    if running is None:
        if not facts.get("refusal"):
            own = facts.get("loader")
            why = (own["failure"] if own else None) or "nothing runs and nothing was said about why"
            return Observation(None, None, frozenset(), (Problem("worse", why), *strays))
        problems = [*unexplained, *_trigger_problems(facts), *_loader_problems(facts)]
        return Observation("refusal", None, frozenset(), (*problems, *strays))
    variant = collector.variant(running)
    attempt = attempt_of(facts, running)
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
        trouble, missing_fields = judge_events(collector, target, facts)
        trouble += _never_ran(collector, variant, target, attempt, facts)
    problems += trouble
    degradations |= missing_fields
    behaviour: Behaviour | None = None
    if not problems:
        behaviour = "partial" if variant.behaviour == "full" and degradations else variant.behaviour
    left = [problem for problem in _loader_problems(facts) if problem.failure == "leftover"]
    over = judge_budget(collector, target.kernel.version, facts)  # what it does is as promised all the same
    return Observation(behaviour, running, frozenset(degradations), (*problems, *over, *left, *strays))


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
            lacking = [name for name in needs_of(collector, variant, target) if name not in target.features]
            error = attempt["error"]["errno"] if attempt["error"] else None
            explained = _explains(leaves(lacking, collector.defined), _stopped_at(attempt), error) or _no_right(target, error)
            if attempt["stage"] == "open" or (lacking and not explained):
                problems.append(
                    _not_for_lack(variant.name, lacking, attempt["stage"], failure_of(attempt, optional_programs(collector)))
                )
            continue
        for program in collector.programs_of(variant, target.arch):
            report, lacking = attempt["programs"].get(program.name), [n for n in program.needs if n not in target.features]
            if report is None or program.required or not lacking or not report["error"]:
                continue
            failed: Step = "attach" if report["loaded"] else "program"
            if not _explains(leaves(lacking, collector.defined), failed) and not _no_right(target, report.get("errno")):
                words = f"{report['error']}: {last_words(report.get('log') or '')}".removesuffix(": ")
                problems.append(_not_for_lack(f"{variant.name}: program {program.name}", lacking, failed, words))
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


def _no_right(target: Target, error: int | None) -> bool:
    """Whether it is for want of a right, on a target whose circumstances leave a loader few: then it does not matter at which step."""
    return target.kernel.privileges.caps is not None and error in (errno.EPERM, errno.EACCES)


def _stopped_at(attempt: AttemptReport) -> Step | None:
    """Where a failed attempt was stopped, by libbpf's words or cilium/ebpf's; None where nothing was asked of the kernel."""
    text = attempt["error"]["text"] if attempt["error"] else ""
    if attempt["stage"] == "load" and re.search(r"kernel BTF|vmlinux BTF|load kernel spec: ", text):
        return "btf"
    if attempt["stage"] == "load" and re.search(r"\bmap '[^']*': |global data|^map [\w.]+: ", text):
        return "map"
    steps: Mapping[str, Step] = {"load": "program", "attach": "attach"}
    return steps.get(attempt["stage"] or "")


def optional_programs(collector: Collector) -> set[str]:
    """The names of the programs that may be missing."""
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


def _not_in_kernel(collector: Collector, variant: Variant, target: Target, attempt: AttemptReport, facts: Facts) -> list[Problem]:
    """Required programs and declared maps of the running variant that the kernel does not have."""
    in_kernel = {program["id"] for program in facts["kernel"]["during"]["programs"]}
    problems = []
    for program in collector.programs_of(variant, target.arch):
        report = attempt["programs"].get(program.name)
        if not program.required or (report is not None and report.get("off")):  # another form of it runs, as the contract says
            continue
        if report is None or report["id"] not in in_kernel:
            problems.append(Problem("load", f"{variant.name}: program {program.name} is not in the kernel"))
        elif program.attach and not report["attached"]:
            why = f": {report['error']}" if report.get("error") else ""
            problems.append(Problem("attach", f"{variant.name}: program {program.name} is not attached to {program.hook}{why}"))
    map_types = {entry["id"]: entry["type"] for entry in facts["kernel"]["during"]["maps"]}
    for wanted in collector.maps_of(variant):
        mine = attempt["maps"].get(wanted.name)
        found = map_types.get(mine["id"]) if mine and mine["id"] is not None else None
        if found is None or wanted.type not in (None, found):
            declared = f", declared as {wanted.type}" if wanted.type else ""
            problems.append(Problem("load", f"{variant.name}: map {wanted.name} is {found or 'not in the kernel'}{declared}"))
    return problems


def _missing_programs(collector: Collector, variant: Variant, attempt: AttemptReport) -> set[str]:
    optional = [p for p in collector.programs if not p.required and (not p.variants or variant.name in p.variants)]
    reports = {p.name: (attempt["programs"].get(p.name), p.attach) for p in optional}
    return {f"program:{name}" for name, (report, attach) in reports.items() if not _is_there(report, attached=attach)}


def _is_there(report: ProgramReport | None, *, attached: bool) -> bool:
    """Whether a program is as it should be; one that its collector switched off is not missing."""
    return report is not None and bool(report.get("off") or (report["attached"] if attached else report["loaded"]))


def _transport(variant: Variant, attempt: AttemptReport, facts: Facts) -> str | None:
    """How the running variant's events travel, by the type that the kernel gives its buffer."""
    buffer = variant.buffer or variant.transport  # a loader's own buffer need not be known by name
    if buffer is None:
        return None
    report = attempt["maps"].get(buffer)
    kind = next((entry["type"] for entry in facts["kernel"]["during"]["maps"] if report and entry["id"] == report["id"]), None)
    return None if kind is None else _MAP_TRANSPORT.get(kind, kind)


def _strays(facts: Facts) -> list[Problem]:
    """What stands in the kernel afterwards and did not before, and programs that run beside the running variant."""
    before, during, after = facts["kernel"]["before"], facts["kernel"]["during"], facts["kernel"]["after"]
    attempt = attempt_of(facts, facts["running"])
    own = {report["id"] for report in attempt["programs"].values()} if attempt else set()
    problems = [
        Problem("leftover", f"beside {facts['running'] or 'a refusal'}, program {_named(program)} is loaded")
        for program in _new(before["programs"], during["programs"])
        if program["id"] not in own
    ]
    named = [("program", _named(entry)) for entry in _new(before["programs"], after["programs"])]
    named += [("map", _named(entry)) for entry in _new(before["maps"], after["maps"])]
    named += [("link", _named(entry)) for entry in _new(before["links"], after["links"])]
    named += [("pinned object", pin) for pin in after.get("pins", ()) if pin not in before.get("pins", ())]
    named += [("tracefs kprobe", probe) for probe in after.get("kprobe_events", ()) if probe not in before.get("kprobe_events", ())]
    return problems + [Problem("leftover", f"{what} {name} is still there afterwards") for what, name in named]


def _new(before: Sequence[Entry], now: Sequence[Entry]) -> list[Entry]:
    known = {entry["id"] for entry in before}
    return [entry for entry in now if entry["id"] not in known]


def _named(entry: Entry) -> str:
    return f"{entry.get('name') or '(no name)'} ({entry.get('type', '?')}, id {entry['id']})"


def _trigger_problems(facts: Facts) -> list[Problem]:
    """A trigger that fails while the collector runs and not without it, or after it refused: the collector breaks what it watches."""
    trigger = facts.get("trigger")
    if not trigger or trigger["ok"]:
        return []
    said = trigger.get("error") or f"exit status {trigger.get('exit')}"
    if trigger.get("after_refusal"):
        when = f"after the refusal the trigger fails ({said})"
    elif (again := trigger.get("after")) and again["ok"]:
        when = f"the trigger fails while the collector runs ({said}), and not without it"
    else:
        return []
    return [Problem("worse", f"the guest does not work as before: {when}")]


def _never_ran(collector: Collector, variant: Variant, target: Target, attempt: AttemptReport, facts: Facts) -> list[Problem]:
    """Programs that are attached, should run when the trigger is pulled, and never did, where the kernel counts runs (from 5.1 on)."""
    trigger = facts.get("trigger")
    if not trigger or not trigger["ok"]:
        return []
    return [
        Problem("silent", f"{variant.name}: program {program.name} is attached to {program.hook} and never ran")
        for program in collector.programs_of(variant, target.arch)
        if program.attach and program.fires
        for report in (attempt["programs"].get(program.name),)
        if report is not None and report["attached"] and report.get("runs") == 0
    ]


def failure_of(attempt: AttemptReport, optional: Collection[str] = ()) -> str:
    """Why an attempt came to nothing: the first program that failed and was not `optional`, and the kernel's last words on it, else the loader's error."""
    for name, report in attempt["programs"].items():
        if report.get("error") and name not in optional:
            words = last_words(report.get("log") or "")
            return f"program {name}: {report['error']}" + (f": {words}" if words else "")
    error = attempt["error"]
    return (error["text"] if error else "") or f"failed to {attempt['stage']}"
