"""Events as bytes → fields by name, and which of the expected events each is. Pure functions over data."""

from __future__ import annotations

import ipaddress
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MATCHED_CAP = 256
"""Matched events of a kind that are kept for the record, and judged; the others are counted."""
SAMPLES_CAP = 5
"""Unmatched events kept as samples."""

_NUMBERS = {
    "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
    "s8": "b", "s16": "h", "s32": "i", "s64": "q",
    "be16": ">H", "be32": ">I", "be64": ">Q",
}  # fmt: skip
_ARRAY = re.compile(r"(char|bytes)\[(\d*)\]")
_BITS = re.compile(r"([us])bits\[(\d+):(\d+)\]")
"""A bit field: how many bits of its first byte are another's, and its width."""


@cache
def size_and_alignment(kind: str) -> tuple[int, int]:
    """Bytes of a field type, and the alignment C gives it: arrays of char 1, ipv4 (__be32) and ipv6 (struct in6_addr) 4.

    `char[]` and `bytes[]` have size 0: they go on to the end of the record.
    """
    if array := _ARRAY.fullmatch(kind):
        return int(array[2] or 0), 1
    if bits := _BITS.fullmatch(kind):
        return -(-(int(bits[2]) + int(bits[3])) // 8), 1
    if kind in ("ipv4", "ipv6"):
        return (4 if kind == "ipv4" else 16), 4
    size = struct.calcsize(_NUMBERS[kind])
    return size, size


@cache
def _reader(kind: str) -> Callable[[bytes], int | str]:
    """What makes a field's value of its bytes."""
    if kind in ("ipv4", "ipv6"):
        return lambda raw: str(ipaddress.ip_address(raw))
    if kind.startswith("char"):
        return lambda raw: raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    if kind.startswith("bytes"):
        return bytes.hex
    if bits := _BITS.fullmatch(kind):
        signed, skipped, width = bits[1] == "s", int(bits[2]), int(bits[3])

        def bit_field(raw: bytes) -> int:
            value = int.from_bytes(raw, "little") >> skipped & (1 << width) - 1
            return value - (1 << width) if signed and value >> (width - 1) else value

        return bit_field
    code = _NUMBERS[kind]
    number = struct.Struct(code if code.startswith(">") else "<" + code)
    return lambda raw: int(number.unpack(raw)[0])


@dataclass(frozen=True)
class Layout:
    """The C struct of an event: (name, type, offset) of each field."""

    fields: tuple[tuple[str, str, int], ...]
    size: int
    """Bytes up to the end of the last field."""
    padded: int
    """The same, with the padding that C puts at the end of the struct (its sizeof)."""

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]], *, packed: bool = False) -> Layout:
        """The layout of fields in the order of the struct: naturally aligned as C does, or without gaps, or where a field says its `offset`."""
        placed = []
        end = furthest = 0
        widest = 1
        for each in fields:
            size, alignment = size_and_alignment(each["type"])
            start = end if packed else -(-end // alignment) * alignment
            if each.get("offset") is not None:
                start = int(each["offset"])
            placed.append((each["name"], each["type"], start))
            end = start + size
            furthest, widest = max(furthest, end), max(widest, alignment)
        return cls(tuple(placed), furthest, furthest if packed else -(-furthest // widest) * widest)

    def decode(self, raw: bytes) -> dict[str, int | str] | None:
        """The fields; None where the record is shorter than they are."""
        return None if len(raw) < self.size else self.visible(raw)

    def visible(self, raw: bytes, *, cut: bool = False) -> dict[str, int | str]:
        """The fields that lie in the record; with `cut`, also the beginning of an array of bytes that its end cuts off."""
        found: dict[str, int | str] = {}
        for name, kind, at in self.fields:
            size, _ = size_and_alignment(kind)
            piece = raw[at : at + size] if size else raw[at:]
            if len(piece) >= size or (cut and piece and _ARRAY.fullmatch(kind)):
                found[name] = _reader(kind)(piece)
        return found


@dataclass(frozen=True)
class Lines:
    """The form of an event that is a line: a JSON object, or text that a regular expression takes apart."""

    fields: tuple[tuple[str, str, str], ...]
    """(name, type, key) of each field; `key` is dotted."""
    pattern: re.Pattern[str] | None = None
    source: str = "loader"
    """`loader`; `iter` or `trace_pipe` for text, which has the field `line` (of trace_pipe also `pid` and `comm`, who printed it)."""

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]], regex: str | None, source: str = "loader") -> Lines:
        """The form as the host sends it."""
        named = tuple((f["name"], f["type"], f.get("key") or f["name"]) for f in fields)
        return cls(named, re.compile(regex) if regex else None, source)

    def decode(self, raw: bytes) -> dict[str, int | str] | None:
        """The fields that are there; None where the line is none of this event's."""
        text = raw.decode("utf-8", "replace")
        if self.source != "loader":
            return self._text(text)
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

    def _text(self, text: str) -> dict[str, int | str] | None:
        said: dict[str, int | str] = {"line": text}
        if self.source == "trace_pipe":
            whole = PRINTED.match(text)
            if whole is None:
                return None
            said = {"line": whole["line"], "pid": int(whole["pid"]), "comm": whole["comm"].strip()}
        if self.pattern is not None:
            found = self.pattern.search(str(said["line"]))
            if found is None:
                return None
            kinds = {name: kind for name, kind, _ in self.fields}
            said |= {name: _said(kinds.get(name, "str"), value) for name, value in found.groupdict().items() if value is not None}
        return said


PRINTED = re.compile(
    r"(?P<comm>[^\n]{16})-(?P<pid>\d+) +(?:\([ \d-]+\) +)?\[\d+\] [^ ]+ +\d+\.\d+: (?:bpf_trace_printk|0x[0-9a-f]+|\d+): (?P<line>[^\n]*)"
)
"""A line of bpf_printk in trace_pipe (Documentation/trace/ftrace.rst), where a thread's name has 16 columns. Before 5.9 (ac5a72ea5c89) the
kernel writes a number in the place of bpf_trace_printk, and no line end: what is printed next follows in the same line."""


def printed(text: str) -> list[str]:
    """What was read of trace_pipe, as one text for each bpf_printk."""
    starts = [found.start() for found in PRINTED_BEGINS.finditer(text)]
    return [text[start:end].split("\n", 1)[0] for start, end in zip(starts, [*starts[1:], len(text)], strict=False)]


PRINTED_BEGINS = re.compile(PRINTED.pattern.removesuffix(r"(?P<line>[^\n]*)"))


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
    sizes: tuple[int, ...] = ()
    """Bytes of a whole record; those of the layout where not said."""
    min_size: int | None = None
    """Bytes that a record has at least, where its length varies."""
    contains: int | str | None = None
    """What the line must contain."""

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Spec:
        """The spec as the host sends it."""
        if "lines" in request:
            lines = request["lines"]
            layout: Layout | Lines = Lines.of(request["fields"], lines.get("regex"), lines.get("source", "loader"))
        else:
            layout = Layout.of(request["fields"], packed=bool(request.get("packed")))
        return cls(
            request["name"],
            layout,
            request.get("match") or {},
            int(request.get("min_count", 1)),
            request.get("max_count"),
            tuple(request.get("sizes") or ()),
            request.get("min_size"),
            request.get("contains"),
        )

    @property
    def asked(self) -> int:
        """How much there is to match."""
        return len(self.match) + (self.contains is not None)

    def decode(self, raw: bytes) -> dict[str, int | str] | None:
        """The fields of a record; None where it has not all of them."""
        if isinstance(self.layout, Layout) and self.min_size is not None:
            return self.layout.visible(raw, cut=True) if len(raw) >= self.min_size else None
        return self.layout.decode(raw)

    def fits(self, size: int, transport: str) -> bool:
        """Whether a whole record of this event has `size` bytes in that transport."""
        if isinstance(self.layout, Lines):
            return True
        if self.min_size is not None:
            return size >= self.min_size
        return any(size in (whole, in_buffer(whole, transport)) for whole in self.sizes or (self.layout.size, self.layout.padded))

    def agreement(self, fields: Mapping[str, int | str], known: Mapping[str, Any]) -> int:
        """How much of what is to match does; what is not known matches nothing."""
        wanted = {name: resolve(value, known) for name, value in self.match.items()}
        agreed: int = sum(value is not None and fields.get(name) == value for name, value in wanted.items())
        return agreed + int(self.contains is not None and holds(str(fields.get("line", "")), resolve(self.contains, known)))

    def agrees_as_far(self, raw: bytes, known: Mapping[str, Any]) -> bool:
        """Whether a record that ends too early matches in all that is there, which is something."""
        if not isinstance(self.layout, Layout):
            return False
        there = self.layout.visible(raw)
        here = {name: resolve(value, known) for name, value in self.match.items() if name in there}
        return bool(here or not self.match) and all(value is not None and there[name] == value for name, value in here.items())


def in_buffer(size: int, transport: str) -> int:
    """The bytes that a record of `size` bytes has in a buffer.

    A perf buffer's sample is its length (4 bytes) and the record, filled up to a multiple of 8 (perf_prepare_sample() in
    kernel/events/core.c); the length counts the filling.
    """
    return -(-(size + 4) // 8) * 8 - 4 if transport == "perf" else size


def holds(text: str, wanted: Any) -> bool:
    """Whether a line has `wanted` in it; a number, not as a part of another."""
    if wanted is None:
        return False
    if isinstance(wanted, int):
        return re.search(rf"(?<!\d){wanted}(?!\d)", text) is not None
    return str(wanted) in text


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
    records: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """How many records came, by their bytes."""
    missized: dict[str, dict[int, int]] = field(default_factory=dict)
    """By event: how many records came that match it and are of a size that no event describes, by their bytes."""
    cut: dict[str, dict[int, int]] = field(default_factory=dict)
    """The same of records that end before all that is to match: they match as far as they go."""
    _nearest: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    _forms: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.specs = sorted(self.specs, key=lambda spec: -spec.asked)  # what asks for less must not take what is another's
        # Events of the same form are taken apart once.
        forms = list(dict.fromkeys((spec.layout, spec.min_size) for spec in self.specs))
        self._forms = [forms.index((spec.layout, spec.min_size)) for spec in self.specs]

    def add(self, raw: bytes) -> None:
        """Sort one event."""
        self.records += 1
        if any(isinstance(spec.layout, Layout) for spec in self.specs):
            self.sizes[len(raw)] = self.sizes.get(len(raw), 0) + 1
        nearest = (-1, dict[str, Any]())
        wrong: tuple[dict[str, dict[int, int]], str] | None = None
        decoded: dict[int, dict[str, int | str] | None] = {}
        for spec, form in zip(self.specs, self._forms, strict=True):
            if form not in decoded:
                decoded[form] = spec.decode(raw)
            fits, fields = spec.fits(len(raw), self.transport), decoded[form]
            if fields is None:
                if wrong is None and not fits and spec.agrees_as_far(raw, self.known):
                    whole = set(spec.match) <= spec.layout.visible(raw).keys() if isinstance(spec.layout, Layout) else False
                    wrong = (self.missized if whole else self.cut, spec.name)
                nearest = max(nearest, (-1, {"event": None, "fields": {}, "raw": raw.hex()}), key=lambda n: n[0])
                continue
            agreement = spec.agreement(fields, self.known)
            if agreement == spec.asked and fits:
                self.counts[spec.name] = self.counts.get(spec.name, 0) + 1
                if self.counts[spec.name] <= MATCHED_CAP:
                    self.matched.append({"event": spec.name, "fields": fields, "raw": raw.hex(), "transport": self.transport})
                return
            if agreement == spec.asked:
                wrong = wrong or (self.missized, spec.name)
            if agreement > nearest[0]:
                nearest = (agreement, {"event": spec.name, "fields": fields, "raw": raw.hex()})
        if wrong is not None and not any(spec.fits(len(raw), self.transport) for spec in self.specs):
            by_size = wrong[0].setdefault(wrong[1], {})
            by_size[len(raw)] = by_size.get(len(raw), 0) + 1
        self.unmatched += 1
        self._nearest.append((nearest[0], nearest[1] or {"event": None, "fields": {}, "raw": raw.hex()}))
        if len(self._nearest) > SAMPLES_CAP:  # keep the most telling
            self._nearest.remove(min(self._nearest, key=lambda n: n[0]))

    @property
    def satisfied(self) -> bool:
        """Whether every expected event has come often enough."""
        return all(self.counts.get(spec.name, 0) >= spec.min_count for spec in self.specs)

    @property
    def settled(self) -> bool:
        """Whether it is known of every expected event what became of it: it has come often enough, or with another size."""
        return all(self.counts.get(spec.name, 0) >= spec.min_count or spec.name in self.missized for spec in self.specs)

    @property
    def doubtful(self) -> bool:
        """Whether of every event that has not come, records came that end too early to tell."""
        return all(
            self.counts.get(spec.name, 0) >= spec.min_count or spec.name in self.missized or spec.name in self.cut
            for spec in self.specs
        )

    @property
    def limited(self) -> bool:
        """Whether an expected event may also come too often."""
        return any(spec.max_count is not None for spec in self.specs)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The unmatched events nearest to an expected one, nearest first."""
        return [sample for _, sample in sorted(self._nearest, key=lambda n: -n[0])]
