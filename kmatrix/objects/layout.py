"""How a C type lies in memory, by an object's BTF: the fields of a record with dotted names, each with its type and its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kmatrix.objects.btf import ARRAY, ENUM, ENUM64, FLOAT, INT, MODIFIERS, PTR, STRUCT, TYPEDEF, UNION, Btf

ELEMENTS = 16
"""Elements of an array that are listed one by one; of a longer one, those that are asked for."""
_BIG_ENDIAN = {"__be16": "be16", "__be32": "be32", "__be64": "be64"}
"""Typedefs of the kernel's headers (include/uapi/linux/types.h) that say the order of bytes."""
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


@dataclass(frozen=True)
class Leaf:
    """A field that has a value."""

    path: str
    type: str
    """In the manifest's words: `u32`, `char[16]`; of a bit field, `ubits[shift:width]`."""
    offset: int
    """Bytes from the start of the record."""
    size: int
    names: Mapping[str, int] = field(default_factory=dict)
    """Of an enum: what its enumerators stand for."""

    @property
    def place(self) -> str:
        """Where it is and what, in words."""
        return f"{self.type} at byte {self.offset}"


@dataclass(frozen=True)
class Part:
    """One of the parts that a record begins with: the struct itself, or the key and the value of a map's entry."""

    prefix: str
    """What its fields' names begin with; empty for a struct."""
    type: int | Leaf
    """A type of the BTF, or a leaf where the object only says a size."""
    base: int = 0
    """Bytes from the start of the record."""


@dataclass(frozen=True)
class Record:
    """A record, as the object describes it."""

    btf: Btf
    parts: Sequence[Part]
    size: int
    """Bytes of all of it."""

    def leaves(self) -> Iterator[Leaf]:
        """All fields, in the order of the struct; of arrays with more than ELEMENTS elements, none."""
        for part in self.parts:
            if isinstance(part.type, Leaf):
                yield part.type
            else:
                yield from _leaves(self.btf, part.type, 8 * part.base, part.prefix)

    def find(self, path: str) -> Leaf | None:
        """The field of that dotted name (`addr.v4`, `args[3]`), also in long arrays; of a struct, all its bytes. None where there is none."""
        for part in self.parts:
            if part.prefix and path != part.prefix and not path.startswith((f"{part.prefix}.", f"{part.prefix}[")):
                continue
            rest = path.removeprefix(part.prefix) if part.prefix else path
            if isinstance(part.type, Leaf):
                return part.type if not rest else None
            if (found := _find(self.btf, part.type, 8 * part.base, path, rest)) is not None:
                return found
        return None


def struct_record(btf: Btf, name: str) -> Record | None:
    """The struct (or typedef of one) `name` as a record; None where the BTF has none."""
    number = btf.structure(name)
    return None if number is None else Record(btf, [Part("", number)], btf.size(number))


def number_or_bytes(path: str, size: int, offset: int) -> Leaf:
    """What of a map is only known by its size: a number where it can be one."""
    return Leaf(path, f"u{8 * size}" if size in (1, 2, 4, 8) else f"bytes[{size}]", offset, size)


def _find(btf: Btf, number: int, bit: int, path: str, rest: str) -> Leaf | None:
    width = 0
    for index, name in _STEP.findall(rest):
        each = btf.types[btf.bare(number)]
        if index:
            if each.kind != ARRAY or int(index) >= (each.members[0][2] or 1 << 30):
                return None
            number = each.members[0][1]
            bit, width = bit + 8 * btf.size(number) * int(index), 0
            continue
        if each.kind not in (STRUCT, UNION) or (step := _member(btf, btf.bare(number), name)) is None:
            return None
        number, bit, width = step[0], bit + step[1], step[2]
    return _leaf(btf, number, bit, path, width) or Leaf(path, f"bytes[{btf.size(number)}]", bit // 8, btf.size(number))


def _member(btf: Btf, number: int, name: str) -> tuple[int, int, int] | None:
    """A member's type, its offset in bits, and its width where it is a bit field; also through unnamed structs and unions."""
    owner = btf.types[number]
    for index, (member, type_, offset) in enumerate(owner.members):
        if member == name:
            return type_, offset, owner.widths[index] if owner.widths else 0
        if not member and btf.types[btf.bare(type_)].kind in (STRUCT, UNION):
            inner = _member(btf, btf.bare(type_), name)
            if inner is not None:
                return inner[0], offset + inner[1], inner[2]
    return None


def _leaves(btf: Btf, number: int, bit: int, path: str, width: int = 0) -> Iterator[Leaf]:
    leaf = _leaf(btf, number, bit, path, width)
    if leaf is not None:
        yield leaf
        return
    each = btf.types[btf.bare(number)]
    if each.kind in (STRUCT, UNION):
        for index, (member, type_, offset) in enumerate(each.members):
            inner = ".".join(filter(None, (path, member)))
            yield from _leaves(btf, type_, bit + offset, inner, each.widths[index] if each.widths else 0)
    elif each.kind == ARRAY and each.members[0][2] <= ELEMENTS:
        _, type_, count = each.members[0]
        for index in range(count):
            yield from _leaves(btf, type_, bit + 8 * btf.size(type_) * index, f"{path}[{index}]")


def _leaf(btf: Btf, number: int, bit: int, path: str, width: int = 0) -> Leaf | None:
    """The type as a field with a value; None where it consists of others (or is nothing that has a value)."""
    each = btf.types[btf.bare(number)]
    size = btf.size(number)
    names: Mapping[str, int] = {}
    if each.kind == ARRAY:
        return _text(btf, each.members[0][1], each.members[0][2], bit, path)
    if each.kind in (INT, ENUM, ENUM64):
        names = {name: value for name, _, value in each.members}
        sign = "s" if each.signed else "u"
        at, bits = each.bits or (0, 8 * size)
        if width or bits != 8 * size or bit % 8:
            bit, width = bit + at, width or bits
            return Leaf(path, f"{sign}bits[{bit % 8}:{width}]", bit // 8, -(-(bit % 8 + width) // 8), names)
        if size > 8:
            return Leaf(path, f"bytes[{size}]", bit // 8, size)
        return Leaf(path, _BIG_ENDIAN.get(_typedef(btf, number), f"{sign}{8 * size}"), bit // 8, size, names)
    if each.kind == PTR:
        return Leaf(path, "u64", bit // 8, 8)
    return Leaf(path, f"bytes[{size}]", bit // 8, size) if each.kind == FLOAT else None


def _text(btf: Btf, element: int, count: int, bit: int, path: str) -> Leaf | None:
    """An array of bytes: text where its elements are `char`."""
    each = btf.types[btf.bare(element)]
    if each.kind != INT or each.ref != 1:
        return None
    kind = "char" if each.name == "char" else "bytes"
    return Leaf(path, f"{kind}[{count}]" if count else f"{kind}[]", bit // 8, count)


def _typedef(btf: Btf, number: int) -> str:
    """The name of the typedef, of those that the type goes by, that says the order of bytes; "" where none does."""
    while btf.types[number].kind in MODIFIERS:
        if btf.types[number].kind == TYPEDEF and btf.types[number].name in _BIG_ENDIAN:
            return btf.types[number].name
        number = btf.types[number].ref
    return ""
