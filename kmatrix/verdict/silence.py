"""What to say of an event that did not come: what came instead, and in what the nearest of it differs. Pure functions over facts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from kmatrix.manifest.event import Event


def of(event: Event, count: int, facts: Mapping[str, Any]) -> str:
    """Why fewer events of this kind came than promised (`count`), from the guest's facts of the cell."""
    wanted = f"{count} of {event.min_count} {event.name} events" if count else f"no {event.name} event"
    lost = f"; {facts['lost']} lost" if facts.get("lost") else ""
    return f"{wanted} arrived after the trigger{_instead(event, facts)}{lost}"


def _instead(event: Event, facts: Mapping[str, Any]) -> str:
    """What came and is no expected event, and in what the nearest differs from this one's `match`."""
    other = facts.get("unmatched", 0)
    if not other or not event.match:
        return ""
    came = f"; {other} other event{'s' if other != 1 else ''} came"
    decoded = [sample["fields"] for sample in facts.get("unmatched_samples", ()) if sample["fields"]]
    wanted = {name: resolve(value, facts["known"]) for name, value in event.match.items()}
    if not decoded:
        return f"{came}, none with {', '.join(f'{name} = {value!r}' for name, value in wanted.items())}"
    nearest = max(decoded, key=lambda fields: sum(_likeness(fields.get(name), value) for name, value in wanted.items()))
    differs = [
        f"{name}: {nearest.get(name)!r}, expected {_said(value)}{_meaning(event.match[name])}"
        for name, value in wanted.items()
        if value is None or nearest.get(name) != value
    ]
    if not differs:  # it is another kind's, which asks for more
        return came
    return f"{came}; {'it' if other == 1 else 'the nearest'} differs in {', and in '.join(differs)}"


def _likeness(value: object, wanted: object) -> float:
    """From 0 (nothing alike) to 1 (the same). Texts may be alike in part; numbers are the same or are not."""
    if value == wanted:
        return 1.0
    if isinstance(value, str) and isinstance(wanted, str):
        return difflib.SequenceMatcher(None, value, wanted).ratio() * 0.9
    return 0.0


def _said(value: object) -> str:
    return "what the trigger does not know" if value is None else repr(value)


def _meaning(written: int | str) -> str:
    """` (known.pid)`, where the manifest's expectation is what the trigger knows."""
    return f" ({written})" if isinstance(written, str) and written.startswith("known.") else ""


def resolve(value: int | str | None, known: Mapping[str, Any]) -> Any:
    """A literal, or what `known.NAME` stands for (None where the trigger does not know it)."""
    return known.get(value.removeprefix("known.")) if isinstance(value, str) and value.startswith("known.") else value
