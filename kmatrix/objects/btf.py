"""BTF, as much of it as is asked here: the types of an object or a kernel by name, and the CO-RE relocations of an object.

Format: Documentation/bpf/btf.rst; struct bpf_core_relo in include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

MAGIC = 0xEB9F
VOID, INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE = range(10)
CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(10, 20)
"""Kinds of type."""
MODIFIERS = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
"""What stands before a type."""
_TAGS = {"struct": STRUCT, "union": UNION}
AFTER = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
"""Bytes after a type's header, by kind."""
MEMBER = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}
"""Bytes for each member, by kind."""

FIELD_OFFSET, FIELD_SIZE, FIELD_EXISTS, FIELD_SIGNED, FIELD_LSHIFT, FIELD_RSHIFT = range(6)
TYPE_ID_LOCAL, TYPE_ID_TARGET, TYPE_EXISTS, TYPE_SIZE, ENUM_EXISTS, ENUM_VALUE, TYPE_MATCHES = range(6, 13)
"""Kinds of relocation (enum bpf_core_relo_kind)."""
TYPE_KINDS = (TYPE_ID_LOCAL, TYPE_ID_TARGET, TYPE_EXISTS, TYPE_SIZE, TYPE_MATCHES)
"""Those of a type as a whole."""
_TAG_NAMES = {STRUCT: "struct", UNION: "union", ENUM: "enum", ENUM64: "enum", TYPEDEF: "typedef", INT: "int"}


@dataclass(frozen=True)
class Type:
    """One type."""

    kind: int
    name: str
    ref: int
    """The type it refers to, or its size."""
    members: tuple[tuple[str, int, int], ...] = ()
    """Of a struct or union: name, type and offset in bits of each; of an array: ("", type of the elements, number); of an enum: name, 0
    and value of each; of a function name, type and 0 of each argument; of a section of variables: "", the variable and its offset in bytes."""
    widths: tuple[int, ...] = ()
    """Of a struct or union that has bit fields: the bits of each member, 0 for one that is none."""
    encoding: int = 0
    """Of an int: BTF_INT_SIGNED (1), BTF_INT_CHAR (2), BTF_INT_BOOL (4); of an enum: 1 where its values are signed."""
    values: tuple[int, ...] = ()
    """Of an enum: the number of each member."""
    bits: tuple[int, int] | None = None
    """Of an integer: the bit where it begins in its storage, and its width (BTF before bit fields were the struct's own)."""

    @property
    def signed(self) -> bool:
        """Of an integer or an enum."""
        return bool(self.encoding & 1)


@dataclass(frozen=True)
class Member:
    """A member of a struct or union."""

    bit: int
    """Where it is: bits from the start of the structure that it was looked up in."""
    kind: int
    """Of its type, without typedefs and qualifiers."""
    bitfield: bool

    @property
    def offset(self) -> int:
        """The same in bytes."""
        return self.bit // 8


@dataclass(frozen=True)
class Relocation:
    """One CO-RE relocation."""

    section: str
    """Of the program that has it."""
    kind: int
    root: str
    """The structure that the access begins at."""
    path: tuple[tuple[str, str], ...]
    """Each structure and member on the way; of an enumerator: (enum, enumerator)."""
    at: int = 0
    """The instruction that it changes: bytes from the start of the section."""
    tag: str = ""
    """What the root is: struct, union, enum, typedef, int…; of a relocation of a type, what is asked for."""
    type: int = field(default=0, compare=False)
    """The number of the type in the object's BTF."""
    access: str = field(default="", compare=False)
    """The way from there, in numbers of members, elements or enumerators: `0:3:1`."""


class Btf:
    """A .BTF section, or /sys/kernel/btf/vmlinux."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for what is not (whole, little-endian) BTF."""
        try:
            magic, _, _, header, types_at, types_size, strings_at, strings_size = struct.unpack_from("<HBBIIIII", data)
            if magic != MAGIC:
                raise ValueError("not BTF")
            self._strings = data[header + strings_at : header + strings_at + strings_size]
            self.types: list[Type] = [Type(0, "void", 0)]
            at, end = header + types_at, header + types_at + types_size
            while at < end:
                at = self._type(data, at)
        except (struct.error, IndexError) as error:
            raise ValueError(f"BTF is cut short ({error})") from None

    def text(self, offset: int) -> str:
        """A string of the string section."""
        return self._strings[offset : self._strings.index(b"\0", offset)].decode(errors="replace")

    def _type(self, data: bytes, at: int) -> int:
        name, info, ref = struct.unpack_from("<III", data, at)
        kind, count = int(info >> 24 & 0x1F), int(info & 0xFFFF)
        at += 12
        members: tuple[tuple[str, int, int], ...] = ()
        widths: tuple[int, ...] = ()
        values: tuple[int, ...] = ()
        encoding, bits = 0, None
        if kind in (STRUCT, UNION):
            mask = 0xFFFFFF if info >> 31 else 0xFFFFFFFF  # with bit fields the upper byte is their size
            found = list(struct.iter_unpack("<III", data[at : at + 12 * count]))
            widths = tuple(offset >> 24 for _, _, offset in found) if info >> 31 else ()
            members = tuple((self.text(member), type_, offset & mask) for member, type_, offset in found)
        elif kind == ARRAY:
            element, _, number = struct.unpack_from("<III", data, at)
            members = (("", element, number),)
        elif kind == INT:
            encoding, bits = data[at + 3] & 0xF, (data[at + 2], data[at])
        elif kind in (ENUM, ENUM64):
            encoding, size = int(info >> 31), MEMBER[kind]
            form = "<II" if kind == ENUM else "<III"  # a value of 64 bits is in two halves, the low one first
            low = [
                words[1] | (words[2] << 32 if kind == ENUM64 else 0)
                for words in struct.iter_unpack(form, data[at : at + size * count])
            ]
            top = 1 << (63 if kind == ENUM64 else 31) if encoding else 0
            values = tuple(value - 2 * top if value & top else value for value in low)
            names = [words[0] for words in struct.iter_unpack(form, data[at : at + size * count])]
            members = tuple((self.text(name), 0, value) for name, value in zip(names, values, strict=True))
        elif kind == FUNC_PROTO:
            members = tuple((self.text(each), type_, 0) for each, type_ in struct.iter_unpack("<II", data[at : at + 8 * count]))
        elif kind == DATASEC:
            members = tuple(("", type_, size) for type_, _, size in struct.iter_unpack("<III", data[at : at + 12 * count]))
        self.types.append(Type(kind, self.text(name), ref, members, widths, encoding, values, bits))
        return at + AFTER.get(kind, 0) + MEMBER.get(kind, 0) * count

    def bare(self, number: int) -> int:
        """The number of a type without its typedefs and qualifiers."""
        while self.types[number].kind in MODIFIERS:
            number = self.types[number].ref
        return number

    def size(self, number: int) -> int:
        """Bytes of a type; 0 where it has none (a function, a type that is only declared)."""
        each = self.types[self.bare(number)]
        if each.kind == ARRAY:
            return self.size(each.members[0][1]) * each.members[0][2]
        return 8 if each.kind == PTR else each.ref if each.kind in (INT, STRUCT, UNION, ENUM, ENUM64, FLOAT) else 0

    def structure(self, name: str) -> int | None:
        """The number of the struct, union, or typedef of one, of that name (`event`, `struct event`); None where there is none."""
        for number, each in enumerate(self.types):
            if each.name == name.removeprefix("struct ").removeprefix("union ").strip():
                bare = self.bare(number)
                if self.types[bare].kind in (STRUCT, UNION) and (each.kind in (STRUCT, UNION, TYPEDEF)):
                    return bare
        return None

    def structures(self) -> frozenset[str]:
        """The names of all structs and unions, and of the typedefs of them."""
        return frozenset(
            each.name
            for number, each in enumerate(self.types)
            if each.name and each.kind in (STRUCT, UNION, TYPEDEF) and self.types[self.bare(number)].kind in (STRUCT, UNION)
        )

    def has(self, tag: str, name: str) -> bool:
        """Whether there is a `struct` or `union` of that name, with its members."""
        return any(each.kind == _TAGS[tag] and each.name == name for each in self.types)

    def member(self, tag: str, name: str, member: str) -> Member | None:
        """A member of a `struct` or `union` by its name, also through unnamed ones; None where there is none."""
        for number, each in enumerate(self.types):
            if each.kind == _TAGS[tag] and each.name == name:
                return self._members(number, 0).get(member)
        return None

    def fields(self, name: str) -> dict[str, Member]:
        """Members of the struct or union `name`, through unnamed ones."""
        found: dict[str, Member] = {}
        for number, each in enumerate(self.types):
            if each.kind in (STRUCT, UNION) and each.name == name:
                found |= self._members(number, 0)
        return found

    def paddings(self, size: int) -> Iterator[tuple[str, list[int]]]:
        """Each structure of `size` bytes: its name, and the bytes that are no member's."""
        for each in self.types:
            if each.kind == STRUCT and each.ref == size:
                taken = [
                    (bit // 8, bit // 8 + ((each.widths[i] + 7) // 8 if each.widths and each.widths[i] else self._size(type_)))
                    for i, (_, type_, bit) in enumerate(each.members)
                ]
                yield each.name, [byte for byte in range(size) if not any(start <= byte < end for start, end in taken)]

    def _size(self, number: int) -> int:
        """Bytes of a type."""
        found = self.types[self.bare(number)]
        if found.kind == ARRAY:
            return found.members[0][2] * self._size(found.members[0][1])
        return 8 if found.kind == PTR else found.ref

    def enumerators(self) -> frozenset[str]:
        """The names that enums give to numbers."""
        return frozenset(name for each in self.types if each.kind in (ENUM, ENUM64) for name, _, _ in each.members)

    def _members(self, number: int, base: int) -> dict[str, Member]:
        found: dict[str, Member] = {}
        owner = self.types[number]
        for index, (member, type_, offset) in enumerate(owner.members):
            inner = self.types[self.bare(type_)]
            if member:
                bitfield = bool(owner.widths and owner.widths[index])
                found.setdefault(member, Member(base + offset, inner.kind, bitfield))
            elif inner.kind in (STRUCT, UNION):
                found = self._members(self.bare(type_), base + offset) | found
        return found

    def map_numbers(self) -> dict[str, dict[str, int]]:
        """By map of .maps: what __uint() gave each of its keys (type, max_entries…)."""
        found: dict[str, dict[str, int]] = {}
        section = next((t for t in self.types if t.kind == DATASEC and t.name == ".maps"), None)
        for _, variable, _ in section.members if section else ():
            declared = self.types[variable]
            found[declared.name] = self._numbers(self.types[self.bare(declared.ref)])
        return found

    def inner_numbers(self, map_name: str) -> dict[str, int]:
        """The same of the map inside a map of maps (`__array(values, …)`), with the sizes of its key and value; {} where it has none."""
        section = next((t for t in self.types if t.kind == DATASEC and t.name == ".maps"), None)
        outer = next((self.types[v] for _, v, _ in (section.members if section else ()) if self.types[v].name == map_name), None)
        for name, type_, _ in self.types[self.bare(outer.ref)].members if outer is not None else ():
            array = self.types[self.bare(type_)]
            if name != "values" or array.kind != ARRAY:
                continue
            pointer = self.types[self.bare(array.members[0][1])]
            inner = self.types[self.bare(pointer.ref)] if pointer.kind == PTR else pointer
            if inner.kind == STRUCT:
                sizes = {
                    f"{each}_size": self.size(self.types[self.bare(type_)].ref)
                    for each, type_, _ in inner.members
                    if each in ("key", "value")
                }
                return sizes | self._numbers(inner)
        return {}

    def _numbers(self, shape: Type) -> dict[str, int]:
        """What __uint() gave each key of a map's definition."""
        numbers = {}
        for name, type_, _ in shape.members:
            pointer = self.types[self.bare(type_)]
            array = self.types[pointer.ref] if pointer.kind == PTR else pointer
            if array.kind == ARRAY:
                numbers[name] = array.members[0][2]
        return numbers

    def map_types(self) -> dict[str, dict[str, int]]:
        """By map of .maps: the types of its `key` and `value`, where __type() says them."""
        found: dict[str, dict[str, int]] = {}
        section = next((t for t in self.types if t.kind == DATASEC and t.name == ".maps"), None)
        for _, variable, _ in section.members if section else ():
            declared = self.types[variable]
            pointers = {name: self.types[self.bare(type_)] for name, type_, _ in self.types[self.bare(declared.ref)].members}
            found[declared.name] = {
                name: pointer.ref for name, pointer in pointers.items() if name in ("key", "value") and pointer.kind == PTR
            }
        return found

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """The global variables of a section such as `.bss`: the type and the offset in bytes of each."""
        found = next((t for t in self.types if t.kind == DATASEC and t.name == section), None)
        return {self.types[v].name: (self.types[v].ref, offset) for _, v, offset in (found.members if found else ())}

    def relocations(self, ext: bytes) -> Iterator[Relocation]:
        """The CO-RE relocations of .BTF.ext (struct btf_ext_header: core_relo_off and core_relo_len end it)."""
        if len(ext) < 32:
            return
        header, (at, size) = struct.unpack_from("<I", ext, 4)[0], struct.unpack_from("<II", ext, 24)
        if header < 32 or not size:
            return
        at += header
        end = at + size
        at += 4  # the size of a record
        while at < end:
            section, count = struct.unpack_from("<II", ext, at)
            at += 8
            for _ in range(count):
                insn, type_, access, kind = struct.unpack_from("<IIII", ext, at)
                at += 16
                way = self.text(access)
                yield replace(self._relocation(self.text(section), type_, way, kind, insn), type=type_, access=way)

    def _relocation(self, section: str, number: int, access: str, kind: int, at: int) -> Relocation:
        asked = self.types[number]
        number = self.bare(number)
        if kind in TYPE_KINDS:  # a typedef is asked for by its own name
            return Relocation(section, kind, asked.name, (), at, _TAG_NAMES.get(asked.kind, "type"))
        root, tag = self.types[number].name or asked.name, _TAG_NAMES.get(self.types[number].kind, "type")
        steps = [int(step) for step in access.split(":")]
        path: list[tuple[str, str]] = []
        if self.types[number].kind in (ENUM, ENUM64):
            return Relocation(section, kind, root, ((root, self.types[number].members[steps[0]][0]),), at, tag)
        owner = root
        for step in steps[1:]:
            current = self.types[number]
            if current.kind in (STRUCT, UNION):
                member, type_, _ = current.members[step]
                if member:
                    path.append((current.name or owner, member))
                owner = current.name or owner
                number = self.bare(type_)
            elif current.kind == ARRAY:
                number = self.bare(current.members[0][1])
            else:
                break
        return Relocation(section, kind, root, tuple(path), at, tag)
