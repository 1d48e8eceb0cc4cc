"""One cell: try the variants, trigger, watch, tear down; the facts of all that, as the kernel has them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from . import confine, contents, contract, costs, effort, kernel, limit, loader, observe, simulate, sinks, trigger
from .cell_facts import Again, AttemptReport, CellFacts, EffortReport, Inventory, TriggerReport
from .child import Child
from .events import Sorter
from .library import DEFAULT
from .own_loader import OwnLoader
from .triggers import kind as trigger_kind

Facts = CellFacts
Request = Mapping[str, Any]
Probed = Callable[[], Mapping[str, Any]]


def inventory() -> Inventory:
    """What is there, by the kernel's own account, also where another one is simulated."""
    return simulate.outside(observe.inventory)  # type: ignore[no-any-return]


def settled(before: Inventory) -> Inventory:
    """The same, once what was loaded is gone."""
    return simulate.outside(lambda: observe.settled(before))  # type: ignore[no-any-return]


GRACE = 0.05
"""Seconds that are waited for stray events where none is expected, or no more."""


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Account the time spent inside to `stage`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 4)


def run(request: Request, probed: Probed) -> Facts:
    """The facts of one collector on this kernel (docs/record.md has their form).

    `probed` is asked only for a refusal.
    """
    clock = Clock()
    with clock("inventory"):
        before = inventory()
    facts: Facts = {
        "release": kernel.release(),
        "attempts": [],
        "running": None,
        "refusal": None,
        "kernel": {"before": before, "during": before, "after": before},
        "known": {},
        "trigger": None,
        "events": [],
        "counts": {},
        "unmatched": 0,
        "unmatched_samples": [],
        "lost": 0,
        "sinks": {},
        "test_runs": {},
        "taint": {"before": (tainted := observe.taint()), "after": tainted},
        "timings": clock.seconds,
    }
    with clock("trigger"):
        child, facts["trigger"] = _child(request)
    running = _own(request, before, facts, clock, probed) if request.get("loader") else _ours(request, facts, clock, probed)
    try:
        with clock("inventory"):
            # Maps of a failed attempt are freed a little later: of a refusal, nothing may be left.
            facts["kernel"]["during"] = settled(before) if running is None else inventory()
        if running is not None and facts["running"] is not None:
            _watch(request, child, running, facts, clock)
            simulate.outside(lambda: observe.note_runs(facts["attempts"][-1]["programs"].values()))
            if isinstance(running, OwnLoader):
                running.note_attached()
    finally:
        with clock("teardown"):
            if running is not None:
                running.stop()
            facts["kernel"]["after"] = settled(before)
            facts["taint"]["after"] = observe.taint()
    if child is not None and facts["running"] is None:
        _pull(request, child, facts, clock)  # nothing runs, and the guest has to work as before
    pulled = facts["trigger"]
    if child is not None and pulled is not None:
        if facts["running"] is None:
            pulled["after_refusal"] = True
        elif not pulled["ok"]:
            with clock("trigger"):
                pulled["after"] = _again(request)
    if isinstance(running, loader.Running) and request.get("measured"):
        with clock("effort"):
            facts["effort"] = _effort(request, running, facts["attempts"][-1])
    return facts


def _effort(request: Request, running: loader.Running, attempt: AttemptReport) -> dict[str, EffortReport]:
    """What the verifier does for the programs that ran, of those that are to be measured. Nothing runs any more."""
    loaded = [name for name, report in attempt["programs"].items() if report["loaded"]]
    seconds = float(request.get("load_timeout", limit.SECONDS))
    wanted = [name for name in loaded if name in request["measured"]]
    # With the privileges that it had: of a program without some, the verifier looks at more.
    found = confine.confined(lambda: effort.measure(running.contract, wanted, seconds, among=loaded))
    return cast(dict[str, EffortReport], found)


def _ours(request: Request, facts: Facts, clock: Clock, probed: Probed) -> loader.Running | None:
    """The first variant that our own loader gets to run; below the collector's `min_kernel` it tries none, as its agent should not."""
    floor = request.get("min_kernel")
    if floor and kernel.version() < (int(floor[0]), int(floor[1])):
        least = ".".join(map(str, floor))
        facts["refusal"] = (
            f"{request['collector']} needs kernel {least} or newer; this is kernel {kernel.release()}, nothing was tried"
        )
        return None
    objects = {key: base64.b64decode(data) for key, data in request["objects"].items()}
    for variant in request["variants"]:
        data = objects[variant["object"]]
        library = request.get("library") or DEFAULT
        terms = contract.Contract(
            variant.get("contract"), data, variant["name"], lambda: probed()["features"], library, variant.get("core_btf")
        )
        attempt = loader.Attempt(variant, data, clock, terms, float(request.get("load_timeout", limit.SECONDS)))
        facts["attempts"].append(cast(AttemptReport, attempt.report))
        if (running := confine.confined(attempt.run)) is not None:
            facts["running"] = variant["name"]
            return running
    facts["refusal"] = refusal(request, facts["attempts"], probed)
    return None


def _own(request: Request, before: Inventory, facts: Facts, clock: Clock, probed: Probed) -> OwnLoader | None:
    """The collector's own loader, as long as it runs: also where it runs none of the variants, and has to be stopped."""
    refuted = {name for name, found in _found(request, probed).items() if found is False}
    own = OwnLoader(request, before, refuted, facts)
    with clock("load"):
        own.start()
    if facts["refusal"] is None or own.alive:
        return own
    own.stop()
    return None


def _child(request: Request) -> tuple[Child | trigger.Several | None, TriggerReport | None]:
    """The child that will pull the trigger, made ready before anything is loaded; or why there can be none."""
    spec = request.get("trigger")
    if not spec:
        return None, None
    try:
        for path, data in (request.get("files") or {}).items():
            trigger_kind.place(path, base64.b64decode(data))
        return trigger.ready(spec, _patience(request)), None
    except (OSError, ValueError) as error:
        return None, {"ok": False, "exit": None, "error": str(error)}


def _again(request: Request) -> Again:
    """How the trigger ends now that nothing is loaded: whether it failed because of what was."""
    child, failed = _child(request)
    if child is None:
        return {"ok": False, "error": failed["error"] if failed else None}
    outcome = trigger.pull(child, _patience(request))
    return {"ok": outcome.ok, "error": outcome.error}


def _patience(request: Request) -> float:
    """Seconds that the trigger may take."""
    spec = request["trigger"]
    return float(spec.get("timeout", max(float(request.get("timeout", 5.0)), 10.0) + trigger_kind.lasts(spec)))


def _draining(request: Request, running: loader.Running | OwnLoader) -> Callable[[], None] | None:
    """What takes in the buffer's records while a trigger makes many: else the buffer would be full, as an agent's is not. None for one."""
    stream, spec = running.stream, request["trigger"]
    if stream is None or (int(spec.get("count") or 1) == 1 and not spec.get("compose")):
        return None
    return lambda: stream.poll(0)


def _pull(
    request: Request, child: Child | trigger.Several, facts: Facts, clock: Clock, meanwhile: Callable[[], None] | None = None
) -> None:
    with clock("trigger"):
        outcome = trigger.pull(child, _patience(request), meanwhile)
    facts["known"] = outcome.known
    facts["trigger"] = cast(TriggerReport, {"ok": outcome.ok, "exit": outcome.exit, "error": outcome.error, **outcome.extra})


DOUBT = 0.5
"""Seconds that are waited for more where every record that came ends too early to tell what it is."""


def _watch(
    request: Request, child: Child | trigger.Several | None, running: loader.Running | OwnLoader, facts: Facts, clock: Clock
) -> None:
    """Pull the trigger and take in what comes, while the variant runs."""
    wanted = sinks.wanted(request, facts["running"] or "")
    # Opened before there is anything to read. What is known is the trigger's to fill in.
    trace = sinks.TracePipe(wanted[sinks.TRACE], facts["known"]) if sinks.TRACE in wanted else None
    try:
        if child is not None:
            _pull(request, child, facts, clock, _draining(request, running))
        attempt = facts["attempts"][-1]
        if request.get("test_runs"):
            with clock("test_run"):
                facts["test_runs"] = contents.test_runs(request["test_runs"], attempt["programs"])
        places: list[sinks.Sink] = []
        if running.stream is not None:
            sorter = Sorter(wanted.get(sinks.BUFFER, ()), facts["known"], running.stream.transport)
            places.append(sinks.Buffer(running.stream, running.raw, sorter))
        if trace is not None:
            trace.sorter.known = facts["known"]
            places.append(trace)
        for name in wanted:
            if name.startswith((sinks.MAPS, sinks.ITERATORS)):
                places.append(sinks.standing(name, wanted[name], facts["known"], attempt))
        if places:
            with clock("events"):
                _collect(places, float(request.get("timeout", 5.0)), facts)
        for variant in request["variants"]:
            if variant["name"] == facts["running"] and variant.get("drops"):
                facts["dropped"] = sinks.counted(variant["drops"], cast(Mapping[str, Any], attempt))
        if request.get("stress"):
            facts["costs"] = costs.of(cast(Mapping[str, Any], attempt))
    finally:
        if trace is not None:
            trace.close()


def _collect(places: list[sinks.Sink], timeout: float, facts: Facts) -> None:
    """Look at the sinks until it is known of every event what became of it, or the time is up."""
    asked = any(place.sorter.specs for place in places)
    expecting = asked and (facts["trigger"] is None or bool(facts["trigger"]["ok"]))
    start = time.monotonic()
    deadline = start + (timeout if expecting else GRACE)
    enough = False
    while True:
        # Already there, most likely: the trigger has ended. So look first, and wait only for what is missing.
        for place in places:
            place.look(0)
        if not enough and asked and all(place.sorter.settled for place in places):
            enough = True
            satisfied = all(place.sorter.satisfied and not place.sorter.limited for place in places)
            deadline = time.monotonic() + (0.0 if satisfied else GRACE)
        elif not enough and asked and all(place.sorter.doubtful for place in places):
            deadline = min(deadline, start + DOUBT)
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if len(places) == 1 and isinstance(places[0], sinks.Buffer):
            places[0].look(min(left, 0.1))
        else:
            time.sleep(min(left, 0.05))
    facts.update(cast(CellFacts, sinks.account(places)))


def _found(request: Request, probed: Probed) -> Mapping[str, bool | None]:
    """What this kernel has: the features that are always probed, and those that the host had probed for this collector."""
    return {**probed()["features"], **(request.get("found") or {})}


def refusal(request: Request, attempts: list[AttemptReport], probed: Probed) -> str:
    """Why nothing runs: each variant's failure in the kernel's words, and the features it needs that the probe did not find."""
    found = _found(request, probed)
    parts = []
    for variant, report in zip(request["variants"], attempts, strict=True):
        lacking = [name for name in variant.get("needs") or () if found.get(name) is False]
        words = report["error"]["text"] if report["error"] else ""
        missing = f" (the kernel lacks {', '.join(lacking)})" if lacking else ""
        parts.append(f"{variant['name']}: cannot {report['stage']}{missing}: {words}")
    return f"{request['collector']} runs in no variant on kernel {kernel.release()}: " + "; ".join(parts)
