"""The kernel's own types, by name, out of the BTF that libbpf has parsed (Documentation/bpf/btf.rst has its layout)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from ctypes import string_at

from . import libbpf

STRUCT, UNION, ENUM, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, TYPE_TAG, ENUM64 = 4, 5, 6, 8, 9, 10, 11, 12, 18, 19
KINDS = {"struct": (STRUCT,), "union": (UNION,), "enum": (ENUM, ENUM64), "typedef": (TYPEDEF,)}
_ANY = (STRUCT, UNION, ENUM, ENUM64, TYPEDEF)
_SEEN_THROUGH = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)


class Types:
    """A parsed BTF object, which somebody else frees."""

    def __init__(self, btf: int) -> None:
        self._btf = btf

    def find(self, name: str, *kinds: int) -> int | None:
        """The id of the first type of that name, of one of the kinds in their order."""
        for kind in kinds:
            ident: int = libbpf.btf_find_by_name_kind(self._btf, name.encode(), kind)
            if ident > 0:
                return ident
        return None

    def has(self, kind: str, path: Sequence[str]) -> tuple[bool, str]:
        """Whether there is a type, or a field or value inside it; and in words. `kind` is struct, union, enum, typedef or empty for any."""
        ident = self.find(path[0], *KINDS.get(kind, _ANY))
        if ident is None:
            return False, f"the BTF has no {kind or 'type'} {path[0]}"
        at = path[0]
        for name in path[1:]:
            inner = self._part(self._plain(ident), name)
            if inner is None:
                return False, f"{at} has no {name}"
            ident, at = inner, f"{at}.{name}"
        return True, f"{at} is there"

    def member(self, name: str, member: str) -> tuple[int, int] | None:
        """The id of a struct, and the place of one of its members in it."""
        ident = self.find(name, STRUCT)
        if ident is None:
            return None
        names = [each for each, _ in self._members(ident)]
        return (ident, names.index(member)) if member in names else None

    def size(self, ident: int) -> int:
        """The size of a struct, in bytes."""
        return self._head(ident)[2]

    def arguments(self, function: str) -> int | None:
        """How many arguments a function takes; None where there is none of that name."""
        ident = self.find(function, FUNC)
        return None if ident is None else self._head(self._head(ident)[2])[1] & 0xFFFF

    def _head(self, ident: int) -> tuple[int, int, int]:
        """name_off, info, and size or type."""
        at = libbpf.btf_type_by_id(self._btf, ident)
        name, info, size = struct.unpack("=III", string_at(at, 12))
        return name, info, size

    def _kind(self, ident: int) -> int:
        return self._head(ident)[1] >> 24 & 31

    def _plain(self, ident: int) -> int:
        """The type behind typedefs and qualifiers."""
        while ident and self._kind(ident) in _SEEN_THROUGH:
            ident = self._head(ident)[2]
        return ident

    def _text(self, offset: int) -> str:
        found: bytes | None = libbpf.btf_name_by_offset(self._btf, offset)
        return (found or b"").decode("utf-8", "replace")

    def _members(self, ident: int) -> Iterator[tuple[str, int]]:
        """The names of a struct's members, or of an enum's values, with their types (0 for a value)."""
        kind, count = self._kind(ident), self._head(ident)[1] & 0xFFFF
        if kind not in (STRUCT, UNION, ENUM, ENUM64):
            return
        each = 8 if kind == ENUM else 12
        data = string_at(libbpf.btf_type_by_id(self._btf, ident) + 12, each * count)
        for at in range(0, each * count, each):
            name, inner = struct.unpack_from("=II", data, at)
            yield self._text(name), inner if kind in (STRUCT, UNION) else 0

    def _part(self, ident: int, wanted: str) -> int | None:
        """The type of a member, also of one in a struct without a name; 0 of an enum's value; None where there is none."""
        for name, inner in self._members(ident) if ident else ():
            if name == wanted:
                return inner
            if not name and inner and (found := self._part(self._plain(inner), wanted)) is not None:
                return found
        return None
