"""What a kernel's BTF says of its structures and enumerators (Documentation/bpf/btf.rst has the format)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from elftools.elf.elffile import ELFFile

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
TYPE_TAG, ENUM64 = 18, 19
_ALIASES = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
_MORE = {INT: 4, ARRAY: 12, 14: 4, 17: 4}
"""Bytes after a type's own twelve (14 and 17 are variables and tags of declarations)."""
_EACH = {STRUCT: 12, UNION: 12, ENUM: 8, 13: 8, 15: 12, ENUM64: 12}
"""The same for each of its members (13 and 15 are prototypes' parameters and sections' variables)."""


@dataclass(frozen=True)
class Member:
    """A member of a structure or union."""

    offset: int
    """Bytes from the start of the structure that it was looked up in."""
    kind: int
    """Of its type, with aliases and qualifiers looked through."""
    bitfield: bool


class Btf:
    """The types of one kernel."""

    def __init__(self, data: bytes) -> None:
        length, types, types_length, strings, strings_length = struct.unpack_from("<IIIII", data, 4)
        self._data = data[length + types : length + types + types_length]
        self._strings = data[length + strings : length + strings + strings_length]
        self._at = [0]  # a type's number → where it is in _data; 0 is void
        self._composites: dict[tuple[int, str], int] = {}
        self.enumerators: set[str] = set()
        """The names that enums give to numbers."""
        at = 0
        while at < len(self._data):
            name, info, _ = struct.unpack_from("<III", self._data, at)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            if kind in (STRUCT, UNION) and name:
                self._composites.setdefault((kind, self._text(name)), at)
            each = _EACH.get(kind, 0)
            if kind in (ENUM, ENUM64):
                self.enumerators |= {
                    self._text(struct.unpack_from("<I", self._data, at + 12 + each * index)[0]) for index in range(members)
                }
            self._at.append(at)
            at += 12 + _MORE.get(kind, 0) + each * members

    def has(self, tag: str, name: str) -> bool:
        """Whether the kernel has a `struct` or `union` of that name, with its members."""
        return (_kind(tag), name) in self._composites

    def member(self, tag: str, name: str, member: str) -> Member | None:
        """A member by its name, also of a nameless structure inside; None where there is none."""
        at = self._composites.get((_kind(tag), name))
        return None if at is None else next((found for each, found in self._members(at, 0) if each == member), None)

    def _members(self, at: int, base: int) -> Iterator[tuple[str, Member]]:
        _, info, _ = struct.unpack_from("<III", self._data, at)
        for index in range(info & 0xFFFF):
            name, kind, offset = struct.unpack_from("<III", self._data, at + 12 + 12 * index)
            bits = offset >> 24 if info >> 31 else 0
            bit = base * 8 + (offset & 0xFFFFFF if info >> 31 else offset)
            there, number = self._plain(kind)
            if not name and number in (STRUCT, UNION):
                yield from self._members(there, bit // 8)
            else:
                yield self._text(name), Member(bit // 8, number, bool(bits))

    def _plain(self, number: int) -> tuple[int, int]:
        """Where a type is and its kind, aliases and qualifiers looked through; kind 0 is void."""
        while number:
            at = self._at[number]
            _, info, number = struct.unpack_from("<III", self._data, at)
            if (kind := info >> 24 & 0x1F) not in _ALIASES:
                return at, kind
        return 0, 0

    def _text(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()


def _kind(tag: str) -> int:
    return {"struct": STRUCT, "union": UNION}[tag]


def core_relocations(data: bytes) -> dict[str, int]:
    """How many CO-RE relocations each program section of an object has."""
    sections = {section.name: section for section in ELFFile(BytesIO(data)).iter_sections()}
    btf, ext = (sections[name].data() for name in (".BTF", ".BTF.ext"))
    names = struct.unpack_from("<I", btf, 4)[0] + struct.unpack_from("<I", btf, 16)[0]
    length = struct.unpack_from("<I", ext, 4)[0]
    at, size = struct.unpack_from("<II", ext, 24) if length >= 32 else (0, 0)
    at += length
    end = at + size
    found: dict[str, int] = {}
    if size:
        each = struct.unpack_from("<I", ext, at)[0]
        at += 4
        while at < end:
            name, count = struct.unpack_from("<II", ext, at)
            text = btf[names + name : btf.index(b"\0", names + name)].decode()
            found[text] = found.get(text, 0) + count
            at += 8 + each * count
    return found
