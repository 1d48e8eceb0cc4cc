"""Events as bytes → fields by name, and which of the expected events each is. Pure functions over data."""

from __future__ import annotations

import ipaddress
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MATCHED_CAP = 256
"""Matched events of a kind that are kept for the record, and judged; the others are counted."""
SAMPLES_CAP = 5
"""Unmatched events kept as samples."""

_NUMBERS = {
    "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "s8": "b", "s16": "h", "s32": "i", "s64": "q",
    "be16": ">H", "be32": ">I",
}  # fmt: skip
_ARRAY = re.compile(r"(char|bytes)\[(\d+)\]")


def size_and_alignment(kind: str) -> tuple[int, int]:
    """Bytes of a field type, and the alignment C gives it: arrays of char 1, ipv4 (__be32) and ipv6 (struct in6_addr) 4."""
    if array := _ARRAY.fullmatch(kind):
        return int(array[2]), 1
    if kind in ("ipv4", "ipv6"):
        return (4 if kind == "ipv4" else 16), 4
    size = struct.calcsize(_NUMBERS[kind])
    return size, size


def _value(kind: str, raw: bytes) -> int | str:
    if kind in ("ipv4", "ipv6"):
        return str(ipaddress.ip_address(raw))
    if kind.startswith("char"):
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    if kind.startswith("bytes"):
        return raw.hex()
    code = _NUMBERS[kind]
    number: int = struct.unpack(code if code.startswith(">") else "<" + code, raw)[0]
    return number


@dataclass(frozen=True)
class Layout:
    """The C struct of an event: (name, type, offset) of each field."""

    fields: tuple[tuple[str, str, int], ...]
    size: int

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]], *, packed: bool = False) -> Layout:
        """The layout of fields in the order of the struct: naturally aligned as C does, or without gaps."""
        placed = []
        end = 0
        for each in fields:
            size, alignment = size_and_alignment(each["type"])
            start = end if packed else -(-end // alignment) * alignment
            placed.append((each["name"], each["type"], start))
            end = start + size
        return cls(tuple(placed), end)

    def decode(self, raw: bytes) -> dict[str, int | str] | None:
        """The fields; None where the event is shorter than the struct (perf buffers pad, so longer is fine)."""
        if len(raw) < self.size:
            return None
        return {name: _value(kind, raw[at : at + size_and_alignment(kind)[0]]) for name, kind, at in self.fields}


@dataclass(frozen=True)
class Lines:
    """The form of an event that a collector's own loader prints: a JSON object, or a line that a regular expression takes apart."""

    fields: tuple[tuple[str, str, str], ...]
    """(name, type, key) of each field; `key` is dotted."""
    pattern: re.Pattern[str] | None = None

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]], regex: str | None) -> Lines:
        """The form as the host sends it."""
        named = tuple((f["name"], f["type"], f.get("key") or f["name"]) for f in fields)
        return cls(named, re.compile(regex) if regex else None)

    def decode(self, raw: bytes) -> dict[str, int | str] | None:
        """The fields that are there; None where the line is none of this event's."""
        text = raw.decode("utf-8", "replace")
        if self.pattern is not None:
            found = self.pattern.search(text)
            values = {name: found[name] for name, _, _ in self.fields} if found else {}
        else:
            try:
                whole = json.loads(text)
            except (ValueError, RecursionError):
                return None
            values = {name: _dig(whole, key) for name, _, key in self.fields}
        fields = {name: _said(kind, values[name]) for name, kind, _ in self.fields if values.get(name) is not None}
        return fields or None


def _dig(value: Any, key: str) -> Any:
    """What is in an object of objects at a dotted key; None where there is nothing."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _said(kind: str, value: Any) -> int | str:
    """A value as its type: numbers may be printed as text (0x too), and what is none stays as it was printed."""
    if kind == "int":
        if isinstance(value, float) and not value.is_integer():
            return str(value)
        try:
            return int(value, 0) if isinstance(value, str) and value.strip()[:2].lower() in ("0x", "0b", "0o") else int(value)
        except (ValueError, TypeError, OverflowError):
            pass
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Spec:
    """One expected event."""

    name: str
    layout: Layout | Lines
    match: Mapping[str, int | str]
    min_count: int
    max_count: int | None = None

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Spec:
        """The spec as the host sends it."""
        if "lines" in request:
            layout: Layout | Lines = Lines.of(request["fields"], request["lines"].get("regex"))
        else:
            layout = Layout.of(request["fields"], packed=bool(request.get("packed")))
        return cls(request["name"], layout, request.get("match") or {}, int(request.get("min_count", 1)), request.get("max_count"))

    def agreement(self, fields: Mapping[str, int | str], known: Mapping[str, Any]) -> int:
        """How many of the fields to match do; what is not known matches nothing."""
        wanted = {name: resolve(value, known) for name, value in self.match.items()}
        return sum(value is not None and fields.get(name) == value for name, value in wanted.items())


def resolve(value: int | str, known: Mapping[str, Any]) -> Any:
    """A literal, or what `known.NAME` stands for (None where it is not known)."""
    if isinstance(value, str) and value.startswith("known."):
        return known.get(value.removeprefix("known."))
    return value


@dataclass
class Sorter:
    """Sorts raw events into the expected ones, as they come."""

    specs: Sequence[Spec]
    known: Mapping[str, Any]
    transport: str
    matched: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    unmatched: int = 0
    _nearest: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.specs = sorted(self.specs, key=lambda spec: -len(spec.match))  # what asks for less must not take what is another's

    def add(self, raw: bytes) -> None:
        """Sort one event."""
        nearest = (-1, dict[str, Any]())
        for spec in self.specs:
            fields = spec.layout.decode(raw)
            if fields is None:
                nearest = max(nearest, (-1, {"event": None, "fields": {}, "raw": raw.hex()}), key=lambda n: n[0])
                continue
            agreement = spec.agreement(fields, self.known)
            if agreement == len(spec.match):
                self.counts[spec.name] = self.counts.get(spec.name, 0) + 1
                if self.counts[spec.name] <= MATCHED_CAP:
                    self.matched.append({"event": spec.name, "fields": fields, "raw": raw.hex(), "transport": self.transport})
                return
            if agreement > nearest[0]:
                nearest = (agreement, {"event": spec.name, "fields": fields, "raw": raw.hex()})
        self.unmatched += 1
        self._nearest.append((nearest[0], nearest[1] or {"event": None, "fields": {}, "raw": raw.hex()}))
        if len(self._nearest) > SAMPLES_CAP:  # keep the most telling
            self._nearest.remove(min(self._nearest, key=lambda n: n[0]))

    @property
    def satisfied(self) -> bool:
        """Whether every expected event has come often enough."""
        return all(self.counts.get(spec.name, 0) >= spec.min_count for spec in self.specs)

    @property
    def limited(self) -> bool:
        """Whether an expected event may also come too often."""
        return any(spec.max_count is not None for spec in self.specs)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The unmatched events nearest to an expected one, nearest first."""
        return [sample for _, sample in sorted(self._nearest, key=lambda n: -n[0])]
