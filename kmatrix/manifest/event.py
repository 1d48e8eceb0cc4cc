"""[[event]]: what must come out of a collector, field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.sink import Sink, dotted_members, sink_of
from kmatrix.manifest.types import Literals, Names, check_features

_FIELD_TYPE = re.compile(r"[us](8|16|32|64)|be(16|32|64)|(char|bytes)\[([1-9]\d*)?\]|ipv4|ipv6")
LINE_TYPES = ("int", "str")
"""Types of the fields of an event that a loader prints."""
KNOWN = re.compile(r"known\.[a-z_][a-z0-9_]*")


class EventField(Strict):
    """One field of an event, and what must be true of it."""

    name: str
    type: str | None = None
    """None where the object says it."""
    offset: Annotated[int, Field(ge=0)] | None = None
    """Bytes from the start of the record; where not said, behind the field before it."""
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
    def _known_type(cls, value: str | None) -> str | None:
        if value is not None and not _FIELD_TYPE.fullmatch(value) and value not in LINE_TYPES:
            raise ValueError(
                f"unknown type {value!r}; known: u8…u64, s8…s64, be16, be32, be64, char[N], bytes[N], ipv4, ipv6 (and int, str of a [loader])"
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
    source: Annotated[str | None, Field(alias="from")] = None
    """Where it comes out, if not of the variant's buffer: `map:NAME`, `iter:PROGRAM`, `trace_pipe`."""
    variants: Names = ()
    """The variants that it comes out of; none named means all."""
    struct: str | None = None
    """The C struct that it is: fields, types and offsets are the object's."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Bytes of a whole record, where the fields are not all of it."""
    min_size: Annotated[int, Field(ge=1)] | None = None
    """Bytes that a record has at least, where its length varies."""
    contains: Literals | None = None
    """Which lines of an iterator or of trace_pipe are meant: those that hold this."""
    packed: bool = False
    regex: str | None = None
    """The line that a loader prints for it, with a group for each field: `(?P<pid>[0-9]+)`. Without one, the line is a JSON object.
    Of an iterator and of trace_pipe: what takes the line apart."""
    fields: Annotated[tuple[EventField, ...], Field(strict=False, alias="field")] = ()

    _members = field_validator("match", mode="before")(dotted_members)

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: str | None) -> str | None:
        sink_of(value)
        return value

    @model_validator(mode="after")
    def _one_size(self) -> Event:
        if self.size is not None and self.min_size is not None:
            raise ValueError("size and min_size: a record has one size, or at least a size; give one of the two")
        return self

    def known(self) -> Iterator[str]:
        """Every NAME of a `known.NAME` that it asks for."""
        checks = [value for f in self.fields for value in (f.equals, f.contains, *f.one_of)]
        for value in (*self.match.values(), self.contains, *checks):
            if isinstance(value, str) and value.startswith("known."):
                yield value.removeprefix("known.")

    @property
    def sink(self) -> Sink:
        """Where it comes out."""
        return sink_of(self.source)


def whole(event: Event, events: tuple[Event, ...]) -> Event:
    """The event with what it has from the one that it is `like`: fields, struct, size, source."""
    base = next((other for other in events if other.name == event.like and other.like is None), None)
    if base is None:
        return event
    own = event.size is not None or event.min_size is not None
    update = {
        "fields": layout(event, events),
        "struct": event.struct or base.struct,
        "packed": event.packed or base.packed,
        "size": event.size if own else base.size,
        "min_size": event.min_size if own else base.min_size,
        "source": event.source or base.source,
        "regex": event.regex or base.regex,
        "like": None,
    }
    return event.model_copy(update=update)


def layout(event: Event, events: tuple[Event, ...]) -> tuple[EventField, ...]:
    """The event's fields; where it is `like` another, that one's with its own in their places (checks differ, layout does not)."""
    if event.like is None:
        return event.fields
    base = next((layout(other, ()) for other in events if other.name == event.like and other.like is None), ())
    own = {f.name: f for f in event.fields}
    merged = tuple(_placed(own.pop(f.name, f), f) for f in base)
    return merged + tuple(own.values())


def _placed(f: EventField, base: EventField) -> EventField:
    """The field with the type and place that it has in the event that this one is like, where it says none of its own."""
    return f.model_copy(update={"type": f.type or base.type, "offset": base.offset if f.offset is None else f.offset})
