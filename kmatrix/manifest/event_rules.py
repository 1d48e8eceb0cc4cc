"""What must be true of an [[event]], by where it comes from. Each rule raises ValueError with what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kmatrix.host.nearest import did_you_mean
from kmatrix.manifest.event import KNOWN, LINE_TYPES, Event, EventField
from kmatrix.manifest.sink import LINE_FIELDS, TEXT_SINKS
from kmatrix.manifest.types import check_pattern


def unique(kind: str, names: Iterable[str]) -> set[str]:
    """The names, if no two are the same."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name!r} is there twice")
        seen.add(name)
    return seen


def refer(what: str, names: Iterable[str], known: set[str]) -> None:
    """Each of `names` must be one of `known`."""
    for name in names:
        if name not in known:
            raise ValueError(f"{what} names {name!r}, which is not there{did_you_mean(name, known)}")


def check_event(event: Event, *, own_loader: bool, programs: set[str]) -> None:
    """The rules for one event, which has what it is `like` in it already."""
    names = unique(f"event {event.name!r}: field", [f.name for f in event.fields])
    kind = event.sink.kind
    if kind in TEXT_SINKS:
        _check_text(event, programs)
    elif kind == "map":
        _check_map(event, own_loader=own_loader)
    elif own_loader:
        _check_lines(event, names)
    else:
        _check_struct(event, names)
    for f in event.fields:
        if isinstance(f.equals, str) and f.equals.startswith("known.") and not KNOWN.fullmatch(f.equals):
            raise ValueError(f"event {event.name!r}: field {f.name!r}: {f.equals!r} is not known.NAME")
    if not event.match and event.contains is None and not any(f.checked for f in event.fields):
        raise ValueError(f"event {event.name!r} asserts nothing: any event would do; add match, or check a field")


def _refuse(event: Event, why: str, *keys: str) -> None:
    for key in keys:
        if getattr(event, key):
            raise ValueError(f"event {event.name!r}: {key} is {why}")


def _check_struct(event: Event, names: set[str]) -> None:
    """A record out of a buffer: a struct by its name, or by its fields."""
    what = f"event {event.name!r}"
    for f in event.fields:
        if f.key is not None or f.type in LINE_TYPES:
            raise ValueError(f"{what}: field {f.name!r}: key, int and str are for lines that a [loader] prints; there is none")
        if event.struct is not None and f.offset is not None:
            raise ValueError(f"{what}: field {f.name!r}: with struct, the object says where a field is; leave offset out")
        if event.struct is None and f.type is None:
            raise ValueError(
                f'{what}: field {f.name!r} has no type: write one, or name the C struct on the event (struct = "…") and have all'
                " types from the object"
            )
    if event.regex is not None:
        raise ValueError(f"{what}: regex is for lines that a [loader] prints; there is none")
    _refuse(event, 'for lines, of "iter:PROGRAM" and "trace_pipe"', "contains")
    if event.struct is not None:
        _refuse(event, "what struct says already", "packed", "size")
        return
    if not event.fields:
        raise ValueError(f"{what} has no fields: name its C struct (struct), list them in the order of the C struct, or use like")
    refer(f"{what}: match", event.match, names)


def _check_lines(event: Event, names: set[str]) -> None:
    """A line that a [loader] prints."""
    what = f"event {event.name!r}"
    if not event.fields:
        raise ValueError(f"{what} has no fields: list what of the lines that the [loader] prints is looked at, or use like")
    refer(f"{what}: match", event.match, names)
    for f in event.fields:
        if f.type not in LINE_TYPES:
            raise ValueError(f"{what}: field {f.name!r}: in what a [loader] prints, a field is of type int or str, not {f.type}")
    if event.packed:
        raise ValueError(f"{what}: packed is for structs; a [loader] prints lines")
    _refuse(event, "for structs; a [loader] prints lines", "struct", "size", "min_size")
    _refuse(event, 'for lines of "iter:PROGRAM" and "trace_pipe"; match a field of the loader\'s line instead', "contains")
    if event.regex is not None:
        check_pattern(event.regex)
        groups = re.compile(event.regex).groupindex
        refer(f"{what}: regex: group", groups, names)
        refer(f"{what}: field (it is no group of regex)", names, set(groups))


def _check_text(event: Event, programs: set[str]) -> None:
    """A line of an iterator's text, or of trace_pipe."""
    what, sink = f"event {event.name!r}", event.sink
    _refuse(event, f"for structs; from = {event.source!r} gives lines", "struct", "size", "min_size", "packed")
    if sink.kind == "iter":
        refer(f"{what}: from", (sink.name,), programs)
    known = set(LINE_FIELDS[sink.kind])
    if event.regex is not None:
        check_pattern(event.regex)
        known |= set(re.compile(event.regex).groupindex)
    for f in event.fields:
        if f.type is not None and f.type not in LINE_TYPES:
            raise ValueError(f"{what}: field {f.name!r}: a part of a line is of type int or str, not {f.type}")
        if f.key is not None or f.offset is not None:
            raise ValueError(
                f"{what}: field {f.name!r}: key and offset are not for lines of text; take it out of the line by regex"
            )
    refer(f"{what}: field (a line has these, and the groups of regex)", (f.name for f in event.fields), known)
    refer(f"{what}: match", event.match, known)


_MAP_FIELD = re.compile(r"(key|value)([.\[].*)?|cpu")


def _check_map(event: Event, *, own_loader: bool) -> None:
    """An entry of a map."""
    what = f"event {event.name!r}"
    if own_loader:
        raise ValueError(f"{what}: what is in a map is read with the types of the object; a [loader] brings none")
    _refuse(event, f"not for the contents of a map, whose object says what they are (from = {event.source!r})",
            "struct", "size", "min_size", "packed", "regex", "contains")  # fmt: skip
    for name in (*event.match, *(f.name for f in event.fields)):
        if not _MAP_FIELD.fullmatch(name):
            raise ValueError(f"{what}: {name!r}: of an entry there are key and value, and their members: key.pid, value.count[2]")
    for f in event.fields:
        if f.key is not None or f.offset is not None or f.type in LINE_TYPES:
            raise ValueError(f"{what}: field {f.name!r}: key, offset, int and str are not for the contents of a map")


def text_type(event: Event, f: EventField) -> str:
    """The type of a field of a line: a number where it is one by nature or is said to be."""
    return f.type or LINE_FIELDS.get(event.sink.kind, {}).get(f.name, "str")
