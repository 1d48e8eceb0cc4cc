"""A kernel's BTF as lines of text, by name: what a profile keeps of it.

A named type is one line, in which other named types stand by kind and name, and unnamed ones as a whole. So two kernels in which a type is the same have
the same line of it, and a pack of profiles has that line once. `kmatrix.predict.types` reads them.

    T = v | *T | cT | oT | rT                      void, pointer, volatile, const, restrict
      | gTAG;T | [N]T | (T,T…)                     type tag, array, function (what it returns, then its arguments; `.` for more)
      | sNAME; uNAME; eNAME; ENAME; tNAME; iNAME; fNAME; wNAME; xNAME;   struct, union, enum, enum64, typedef, int, float, declared struct or union
      | SN{NAME:BIT[:WIDTH]T,…} | UN{…}            struct and union of N bytes with members
      | NN[-]{NAME=VALUE,…} | MN[-]{…}             enum (of values of 32 bits, as libbpf reads them: signed) and enum64, `-` where marked as signed
      | IN,ENCODING,BIT,WIDTH | FN | W             int, float, a declaration alone

An enum without a name that nothing holds is called `a` and its first enumerator. A name of which a kernel has several types is followed by ~1, ~2… for all but the first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kmatrix.objects.btf import (
    AFTER,
    ARRAY,
    CONST,
    DECL_TAG,
    ENUM,
    ENUM64,
    FLOAT,
    FUNC,
    FUNC_PROTO,
    FWD,
    INT,
    MAGIC,
    MEMBER,
    PTR,
    RESTRICT,
    STRUCT,
    TYPE_TAG,
    TYPEDEF,
    UNION,
    VAR,
    VOLATILE,
)

LETTER: Mapping[int, str] = {INT: "i", STRUCT: "s", UNION: "u", ENUM: "e", TYPEDEF: "t", FLOAT: "f", ENUM64: "E"}
"""Kind of a named type → how it is referred to; a declaration is `w` of a struct and `x` of a union."""
_BEFORE = {PTR: "*", VOLATILE: "c", CONST: "o", RESTRICT: "r"}


@dataclass
class Lines:
    """What one BTF has."""

    types: dict[str, list[str]] = field(default_factory=dict)
    """Letter (as the line would refer to it) and name → the types of that name, in the BTF's order."""
    functions: dict[str, str] = field(default_factory=dict)
    """Name → number of arguments, `v` where nothing is returned, `k` where it is marked as a kernel function for programs."""
    variables: set[str] = field(default_factory=set)


class Encoder:
    """Of vmlinux; `split` then reads a module's, whose numbers and strings go on where vmlinux's end."""

    def __init__(self, data: bytes, base: Encoder | None = None) -> None:
        """Raises ValueError for what is not whole, little-endian BTF."""
        self._base = base
        self.count: int
        self.string_end: int
        self._first = base.count if base is not None else 1
        self._offset = base.string_end if base is not None else 0
        try:
            magic, _, _, header, at, size, strings_at, strings_size = struct.unpack_from("<HBBIIIII", data)
            if magic != MAGIC:
                raise ValueError("not BTF")
            if header + max(at + size, strings_at + strings_size) > len(data):
                raise ValueError("BTF is cut short")
            self._strings = data[header + strings_at : header + strings_at + strings_size]
            self._heads: list[tuple[int, int, int, int]] = []
            self._data = data
            at, end = header + at, header + at + size
            unpack = struct.Struct("<III").unpack_from
            while at < end:
                name, info, ref = unpack(data, at)
                kind = info >> 24 & 31
                if kind > ENUM64:
                    raise ValueError(f"BTF has a kind of type that kmatrix does not know ({kind})")
                self._heads.append((name, info, ref, at + 12))
                at += 12 + AFTER.get(kind, 0) + MEMBER.get(kind, 0) * (info & 0xFFFF)
        except struct.error as error:
            raise ValueError(f"BTF is cut short ({error})") from None
        self.count = self._first + len(self._heads)
        self.string_end = self._offset + len(self._strings)
        self._numbers: dict[int, str] = {}
        """Number of a named type → how it is referred to."""
        self._seen: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._within: set[int] = set()
        """Types without a name that others hold."""
        for number, (name, info, _, _) in enumerate(self._heads, self._first):
            kind = info >> 24 & 31
            if name and (kind in LETTER or kind == FWD):
                key = self._key(number)
                before = self._seen.get(key, base._seen.get(key, 0) if base is not None else 0)
                self._seen[key] = before + 1
                self._numbers[number] = f"{key}~{before};" if before else f"{key};"

    def _head(self, number: int) -> tuple[int, int, int, int]:
        return self._heads[number - self._first]

    def _key(self, number: int) -> str:
        name, info, _, _ = self._head(number)
        kind = info >> 24 & 31
        letter = ("x" if info >> 31 else "w") if kind == FWD else LETTER[kind]
        return letter + self.text(name)

    def text(self, offset: int) -> str:
        """A string."""
        if offset < self._offset:
            return self._base.text(offset) if self._base is not None else ""
        at = offset - self._offset
        return self._strings[at : self._strings.index(b"\0", at)].decode("ascii", "replace")

    def refer(self, number: int) -> str:
        """How a type is referred to: by name, or as a whole where it has none."""
        if number == 0:
            return "v"
        if number < self._first:
            return self._base.refer(number) if self._base is not None else "v"
        found = self._numbers.get(number)
        if found is None:
            self._within.add(number)
            return self.whole(number)
        return found

    def whole(self, number: int) -> str:
        """A type's line."""
        found = self._texts.get(number)
        if found is None:
            found = self._texts[number] = self._whole(number)
        return found

    def _whole(self, number: int) -> str:
        name, info, ref, at = self._head(number)
        kind, count, data = info >> 24 & 31, info & 0xFFFF, self._data
        if kind in _BEFORE:
            return _BEFORE[kind] + self.refer(ref)
        if kind in (STRUCT, UNION):
            parts = []
            for index in range(count):
                member, type_, offset = struct.unpack_from("<III", data, at + 12 * index)
                width = offset >> 24 if info >> 31 else 0
                place = f"{offset & 0xFFFFFF}:{width}" if width else str(offset & 0xFFFFFF if info >> 31 else offset)
                parts.append(f"{self.text(member)}:{place}{self.refer(type_)},")
            return f"{'S' if kind == STRUCT else 'U'}{ref}{{{''.join(parts)}}}"
        if kind == ARRAY:
            element, _, length = struct.unpack_from("<III", data, at)
            return f"[{length}]{self.refer(element)}"
        if kind in (ENUM, ENUM64):
            return self._enum(kind, info, ref, at)
        if kind == TYPEDEF:
            return self.refer(ref)
        if kind == FUNC_PROTO:
            arguments = [struct.unpack_from("<II", data, at + 8 * index) for index in range(count)]
            texts = [self.refer(type_) if type_ or index < count - 1 else "." for index, (_, type_) in enumerate(arguments)]
            return f"({','.join([self.refer(ref), *texts])})"
        if kind == TYPE_TAG:
            return f"g{self.text(name)};{self.refer(ref)}"
        if kind == INT:
            (word,) = struct.unpack_from("<I", data, at)
            return f"I{ref},{word >> 24 & 15},{word >> 16 & 255},{word & 255}"
        if kind == FLOAT:
            return f"F{ref}"
        return "W" if kind == FWD else "v"

    def _enum(self, kind: int, info: int, size: int, at: int) -> str:
        parts, signed = [], info >> 31
        for index in range(info & 0xFFFF):
            if kind == ENUM:
                name, value = struct.unpack_from("<Ii", self._data, at + 8 * index)
            else:
                name, low, high = struct.unpack_from("<III", self._data, at + 12 * index)
                value = low | high << 32
                value -= 1 << 64 if signed and value >> 63 else 0
            parts.append(f"{self.text(name)}={value},")
        return f"{'N' if kind == ENUM else 'M'}{size}{'-' if signed else ''}{{{''.join(parts)}}}"

    def lines(self) -> Lines:
        """Everything."""
        found = Lines()
        tagged = set(self._tagged())
        for number, (name, info, ref, _) in enumerate(self._heads, self._first):
            kind = info >> 24 & 31
            if number in self._numbers:
                found.types.setdefault(self._key(number), []).append(self.whole(number))
            elif kind == FUNC:
                proto = self._proto(ref)
                found.functions[self.text(name)] = proto + ("k" if number in tagged else "")
            elif kind == VAR:
                found.variables.add(self.text(name))
        for number, (name, info, _, at) in enumerate(self._heads, self._first):
            if not name and info >> 24 & 31 in (ENUM, ENUM64) and info & 0xFFFF and number not in self._within:
                (first,) = struct.unpack_from("<I", self._data, at)
                found.types.setdefault(f"a{self.text(first)}", []).append(self.whole(number))
        return found

    def _tagged(self) -> Iterator[int]:
        """The functions that are marked as kernel functions (`bpf_kfunc`, pahole 1.26)."""
        for name, info, ref, _ in self._heads:
            if info >> 24 & 31 == DECL_TAG and self.text(name) == "bpf_kfunc":
                yield ref

    def _proto(self, number: int) -> str:
        if number < self._first:
            return self._base._proto(number) if self._base is not None else "0"
        _, info, returned, _ = self._head(number)
        return f"{info & 0xFFFF}{'v' if returned == 0 else ''}"
