"""Events against the manifest: what did not come, what came with a wrong value, and which degradable fields are absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kmatrix.manifest.event import Event, EventField, whole
from kmatrix.verdict import records, silence
from kmatrix.verdict.expectation import field_part
from kmatrix.verdict.failure import Facts, Problem
from kmatrix.verdict.silence import resolve

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.matrix.kernel import Target


def judge_events(collector: Collector, target: Target, facts: Facts) -> tuple[list[Problem], set[str]]:
    """Events that did not come or hold wrong values, and the degradable fields that were absent."""
    problems: list[Problem] = []
    absent: set[str] = set()
    for event in collector.events_of(collector.variant(facts["running"] or "")):
        matched = [entry["fields"] for entry in facts["events"] if entry["event"] == event.name]
        count = facts["counts"].get(event.name, 0)  # of very many, not all are kept
        if (missized := records.wrong_size(collector, event, count, facts)) is not None:
            problems.append(Problem("wrong-data", missized))
            continue
        if count < event.min_count:
            problems.append(Problem("silent", _silence(whole(event, collector.events), count, facts)))
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
                    absent.add(field_part(event, f))
                elif wrong:
                    problems.append(Problem("wrong-data", f"event {event.name}: {f.name} is {value!r}, {wrong}"))
                    break
    return [*problems, *records.judge_test_runs(collector, facts)], absent


def _silence(event: Event, count: int, facts: Facts) -> str:
    """Why fewer events of this kind came than promised: what came instead, and in what the nearest of it differs."""
    wanted = f"{count} of {event.min_count} {event.name} events" if count else f"no {event.name} event"
    match = {name: resolve(value, facts["known"]) for name, value in event.match.items()}
    nearest = silence.nearest(event, facts)
    shown = "" if nearest else records.shown_match(event, match, resolve(event.contains, facts["known"]))
    seen = "".join(f"; {part}" for part in (records.what_came(event, shown, facts), nearest) if part)
    lost = f"; {facts['lost']} lost" if facts.get("lost") else ""
    return f"{wanted} arrived after the trigger{seen}{lost}"


def _wrong(f: EventField, value: Any, known: Mapping[str, Any]) -> str | None:
    """What is wrong with the value, or None."""
    wanted = resolve(f.equals, known)
    if f.equals is not None and (wanted is None or value != wanted):
        return f"should be {wanted!r}" + (f" ({f.equals})" if isinstance(f.equals, str) and f.equals.startswith("known.") else "")
    if f.nonzero and not value:
        return "should not be zero"
    if f.min is not None and not (isinstance(value, int) and value >= f.min):
        return f"should be at least {f.min}"
    if f.max is not None and not (isinstance(value, int) and value <= f.max):
        return f"should be at most {f.max}"
    if f.one_of and value not in [resolve(choice, known) for choice in f.one_of]:
        return f"should be one of {list(f.one_of)}"
    part = resolve(f.contains, known)
    if f.contains is not None and not (isinstance(value, str) and str(part) in value):
        return f"should contain {part!r}"
    return None
