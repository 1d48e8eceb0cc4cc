"""The least of a kernel's BTF that an object's CO-RE relocations can be resolved against, as `bpftool gen min_core_btf` makes it.

libbpf reads the whole BTF of a kernel before it relocates an object: some 100 000 types, of which the object refers to a handful. Reading them is
the longest part of a load where the CPU is emulated. What libbpf finds is the same with the few that it looks at:

- each type of the name of a relocation's root, of any kind and any flavour (`task_struct`, `task_struct___old`), so that its choice between several
  is the same (bpf_core_find_cands, tools/lib/bpf/libbpf.c);
- what those hold by value, which is what sizes, offsets and the names of members come from (tools/lib/bpf/relo_core.c). Where a pointer points is
  not looked at, so here all point to void.

A relocation that asks for more (a type's number in the kernel, a match of whole types, a type in a module) needs the whole: see `roots`.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kmatrix.objects.btf import (
    AFTER,
    ARRAY,
    DATASEC,
    DECL_TAG,
    ENUM,
    ENUM64,
    ENUM_EXISTS,
    FIELD_RSHIFT,
    FLOAT,
    FUNC,
    FUNC_PROTO,
    FWD,
    INT,
    MAGIC,
    MEMBER,
    MODIFIERS,
    PTR,
    STRUCT,
    TYPE_EXISTS,
    TYPE_ID_LOCAL,
    TYPE_SIZE,
    UNION,
    VAR,
    Btf,
)

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_WHOLE = frozenset({INT, STRUCT, UNION, ENUM, ENUM64, FLOAT})
"""Kinds of type that libbpf compares by their kind alone (bpf_core_types_are_compat)."""
_NO_CANDIDATES = frozenset({FUNC, VAR, DATASEC, DECL_TAG})
"""Kinds that no relocation begins at."""


def essential(name: str) -> str:
    """A type's name without its flavour: `task_struct` of `task_struct___old` (bpf_core_essential_name_len)."""
    for at in range(len(name) - 5, -1, -1):
        if name[at] != "_" and name[at + 1 : at + 4] == "___" and name[at + 4] != "_":
            return name[: at + 1]
    return name


def roots(btf: bytes, ext: bytes) -> tuple[str, ...] | None:
    """The names of the kernel's types that the relocations of .BTF.ext begin at; None where one of them may need all of the kernel's BTF.

    Empty where there are none. `btf` is the object's .BTF.
    """
    try:
        types = Btf(btf)
        found = set()
        for relocation in types.relocations(ext):
            root = types.types[relocation.type]
            if relocation.kind == TYPE_ID_LOCAL:
                continue
            by_value = relocation.kind <= FIELD_RSHIFT or relocation.kind >= ENUM_EXISTS
            as_a_whole = relocation.kind in (TYPE_EXISTS, TYPE_SIZE) and types.types[types.bare(relocation.type)].kind in _WHOLE
            if not root.name or relocation.kind > ENUM_EXISTS + 1 or not (by_value or as_a_whole):
                return None
            found.add(essential(root.name))
    except (ValueError, IndexError, struct.error):
        return None
    return tuple(sorted(found))


@contextmanager
def _as_btf() -> Iterator[None]:
    """What cannot be read as BTF is a ValueError that says so."""
    try:
        yield
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"not (whole) BTF ({error})") from None


class KernelBtf:
    """A kernel's BTF in a file, of which few types are read. Each method raises ValueError for what is not (whole, little-endian) BTF, and to
    open it OSError too."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._data) < _HEADER.size:
            raise ValueError("not BTF")
        magic, _, _, header, types, self._types_size, strings, size = _HEADER.unpack_from(self._data)
        if magic != MAGIC or header + max(types + self._types_size, strings + size) > len(self._data):
            raise ValueError("not (whole) BTF")
        self._types_at, self._strings_at, self._strings_end = header + types, header + strings, header + strings + size

    @_as_btf()
    def index(self) -> bytes:
        """Where each type is, and which types have a name: made once and kept beside the file."""
        places, named = array("I", [0]), array("Q")
        data, at, end = self._data, self._types_at, self._types_at + self._types_size
        after = [AFTER.get(kind, 0) for kind in range(32)]
        each = [MEMBER.get(kind, 0) for kind in range(32)]
        number = 0
        while at < end:
            number += 1
            name, info, _ = _TYPE.unpack_from(data, at)
            kind = info >> 24 & 0x1F
            places.append(at)
            if name and kind not in _NO_CANDIDATES:
                named.append(name << 32 | number)
            at += 12 + after[kind] + each[kind] * (info & 0xFFFF)
        return struct.pack("<II", len(places), len(named)) + places.tobytes() + array("Q", sorted(named)).tobytes()

    @_as_btf()
    def minimal(self, names: Iterable[str], index: bytes) -> bytes | None:
        """BTF with the types of these names, and what they hold by value. None where the kernel itself has no type of one of the names:
        a module may have it."""
        small = _Small(self, index)
        for name in names:
            numbers = list(small.called(name))
            if not numbers:
                return None
            for number in numbers:
                small.add(number)
        return small.data()

    def text(self, offset: int) -> bytes:
        """A string, by its offset in the section of strings, with its end."""
        at = self._strings_at + offset
        return self._data[at : self._data.find(b"\0", at, self._strings_end) + 1]

    def offsets(self, name: str) -> Iterator[int]:
        """Where the name stands in the section of strings, and where those stand that are it with a flavour."""
        for wanted in (b"\0" + name.encode() + b"\0", b"\0" + name.encode() + b"___"):
            at = self._strings_at
            while (at := self._data.find(wanted, at, self._strings_end)) >= 0:
                at += 1
                yield at - self._strings_at

    def type_at(self, at: int) -> tuple[int, int, int, bytes]:
        """The words of the type at a place in the file, and what stands behind them."""
        name, info, ref = _TYPE.unpack_from(self._data, at)
        kind = info >> 24 & 0x1F
        size = AFTER.get(kind, 0) + MEMBER.get(kind, 0) * (info & 0xFFFF)
        return name, info, ref, self._data[at + 12 : at + 12 + size]


class _Small:
    """The few types, numbered anew in the order in which they were met."""

    def __init__(self, whole: KernelBtf, index: bytes) -> None:
        places, named = struct.unpack_from("<II", index)
        view = memoryview(index)
        self._places = view[8 : 8 + 4 * places].cast("I")
        # Not always at a multiple of 8 in the file: copied, as a view of longer words would have to be.
        self._named = array("Q", view[8 + 4 * places : 8 + 4 * places + 8 * named].tobytes())
        self._whole = whole
        self._numbers: dict[int, int] = {0: 0}
        self._types: list[bytes] = []
        self._offsets: dict[int, int] = {0: 0}
        self._strings = bytearray(b"\0")

    def called(self, name: str) -> Iterator[int]:
        """The types of that name, of any flavour."""
        for offset in self._whole.offsets(name):
            text = self._whole.text(offset)[:-1].decode(errors="replace")
            if text != name and essential(text) != name:
                continue
            at = bisect_left(self._named, offset << 32)
            while at < len(self._named) and self._named[at] >> 32 == offset:
                yield self._named[at] & 0xFFFFFFFF
                at += 1

    def add(self, number: int) -> int:
        """Take a type in, and what it holds by value; its new number."""
        if number in self._numbers:
            return self._numbers[number]
        name, info, ref, rest = self._whole.type_at(self._places[number])
        self._numbers[number] = len(self._types) + 1
        at = len(self._types)
        self._types.append(b"")
        kind = info >> 24 & 0x1F
        if kind in (STRUCT, UNION):
            words = [
                word for member, type_, offset in _TYPE.iter_unpack(rest) for word in (self._text(member), self.add(type_), offset)
            ]
            rest = struct.pack(f"<{len(words)}I", *words)
        elif kind == ARRAY:
            element, index, count = _TYPE.unpack(rest)
            rest = _TYPE.pack(self.add(element), self.add(index), count)
        elif kind in (ENUM, ENUM64):
            form = "<II" if kind == ENUM else "<III"
            rest = b"".join(struct.pack(form, self._text(one), *value) for one, *value in struct.iter_unpack(form, rest))
        elif kind in MODIFIERS:
            ref = self.add(ref)
        elif kind == PTR:
            ref = 0
        elif kind == FUNC_PROTO:  # only behind a typedef: nothing is asked of it
            ref, info, rest = 0, kind << 24, b""
        elif kind not in (INT, FLOAT, FWD):
            raise ValueError(f"BTF of a kind that is not known ({kind})")
        self._types[at] = _TYPE.pack(self._text(name), info, ref) + rest
        return self._numbers[number]

    def data(self) -> bytes:
        """The BTF."""
        types = b"".join(self._types)
        strings = bytes(self._strings)
        return _HEADER.pack(MAGIC, 1, 0, _HEADER.size, 0, len(types), len(types), len(strings)) + types + strings

    def _text(self, offset: int) -> int:
        found = self._offsets.get(offset)
        if found is None:
            found = self._offsets[offset] = len(self._strings)
            self._strings += self._whole.text(offset)
        return found
