"""What to say of an event that did not come: what came instead, and in what the nearest of it differs. Pure functions over facts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmatrix.manifest.event import Event


def nearest(event: Event, facts: Mapping[str, Any]) -> str | None:
    """In what the nearest of the records that came and are no expected event differs from this one's `match`; None where none was read."""
    wanted = {name: resolve(value, facts["known"]) for name, value in event.match.items()}
    samples = facts.get("unmatched_samples", ()) if event.sink.kind == "buffer" else ()
    decoded = [sample["fields"] for sample in samples if wanted.keys() & sample["fields"].keys()]
    if not decoded or not wanted:
        return None
    best = max(decoded, key=lambda fields: sum(_likeness(fields.get(name), value) for name, value in wanted.items()))
    differs = [
        f"{name}: {best.get(name)!r}, expected {_said(value)}{_meaning(event.match[name])}"
        for name, value in wanted.items()
        if value is None or best.get(name) != value
    ]
    if not differs:  # it is another kind's, which asks for more
        return None
    return f"{'it' if facts.get('unmatched') == 1 else 'the nearest'} differs in {', and in '.join(differs)}"


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
