"""[[event]]: what must come out of a collector, field by field."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.types import Literals, Names, check_features

_FIELD_TYPE = re.compile(r"[us](8|16|32|64)|be(16|32)|char\[[1-9]\d*\]|bytes\[[1-9]\d*\]|ipv4|ipv6")
LINE_TYPES = ("int", "str")
"""Types of the fields of an event that a loader prints."""
KNOWN = re.compile(r"known\.[a-z_][a-z0-9_]*")


class EventField(Strict):
    """One field of an event, and what must be true of it."""

    name: str
    type: str
    key: str | None = None
    """Where it is in the JSON object that a loader prints, dotted (`process.pid`); its name where not said."""
    equals: Literals | None = None
    nonzero: bool = False
    min: int | None = None
    max: int | None = None
    one_of: Annotated[tuple[Literals, ...], Field(strict=False)] = ()
    contains: str | None = None
    degradable: bool = False
    needs: Names = ()
    """The features without which a degradable field is absent."""
    absent: Literals = 0
    """The value that says "absent"."""

    _features = field_validator("needs")(check_features)

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if not _FIELD_TYPE.fullmatch(value) and value not in LINE_TYPES:
            raise ValueError(
                f"unknown type {value!r}; known: u8…u64, s8…s64, be16, be32, char[N], bytes[N], ipv4, ipv6 (and int, str of a [loader])"
            )
        return value

    @model_validator(mode="after")
    def _needs_degradable(self) -> EventField:
        if self.needs and not self.degradable:
            raise ValueError("a field with needs must be degradable = true (it is absent where they are not met)")
        return self

    @property
    def checked(self) -> bool:
        """Whether anything is asserted of the value."""
        return (
            self.equals is not None
            or self.nonzero
            or self.min is not None
            or self.max is not None
            or bool(self.one_of)
            or self.contains is not None
        )


class Event(Strict):
    """One kind of event that the trigger must make appear."""

    name: str
    match: dict[str, Literals] = {}
    """Which events out of the buffer are meant: fields and the values that they have."""
    min_count: Annotated[int, Field(ge=1)] = 1
    max_count: Annotated[int, Field(ge=1)] | None = None
    like: str | None = None
    """Another event whose layout (its fields) this one shares."""
    packed: bool = False
    regex: str | None = None
    """The line that a loader prints for it, with a group for each field: `(?P<pid>[0-9]+)`. Without one, the line is a JSON object."""
    fields: Annotated[tuple[EventField, ...], Field(strict=False, alias="field")] = ()


def layout(event: Event, events: tuple[Event, ...]) -> tuple[EventField, ...]:
    """The event's fields; where it is `like` another, that one's with its own in their places (checks differ, layout does not)."""
    if event.like is None:
        return event.fields
    base = next((layout(other, ()) for other in events if other.name == event.like and other.like is None), ())
    own = {f.name: f for f in event.fields}
    merged = tuple(own.pop(f.name, f) for f in base)
    return merged + tuple(own.values())
