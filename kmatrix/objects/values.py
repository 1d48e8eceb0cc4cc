"""Values as a TOML file or the command line has them → bytes, as an object's BTF says that they lie in memory."""

from __future__ import annotations

import struct
import tomllib
from collections.abc import Iterator, Mapping, Sequence

from kmatrix.host.nearest import did_you_mean
from kmatrix.objects.btf import ARRAY, ENUM, ENUM64, FLOAT, INT, PTR, STRUCT, UNION, Btf, Type

Write = tuple[int, bytes]
"""Bytes, and where they go: counted from the start of the variable."""

HEX = "hex:"
"""A string that begins so is bytes as they are."""
_SIGNED, _CHAR, _BOOL = 1, 2, 4


class ValueMismatch(ValueError):
    """A value that its type does not take. The text says what the type takes."""


class Text(str):
    """A value of the command line: text, which its type decides how to read."""

    __slots__ = ()


def size_of(btf: Btf, number: int) -> int:
    """The size of a type in bytes."""
    type_ = btf.types[btf.bare(number)]
    if type_.kind == ARRAY:
        _, element, count = type_.members[0]
        return size_of(btf, element) * count
    return 8 if type_.kind == PTR else type_.ref


def encode(btf: Btf, number: int, value: object) -> bytes:
    """The whole of a value; what it does not say is zero. Raises ValueMismatch."""
    whole = bytearray(size_of(btf, number))
    for offset, data in writes(btf, number, value):
        whole[offset : offset + len(data)] = data
    return bytes(whole)


def writes(btf: Btf, number: int, value: object) -> list[Write]:
    """What is written for a value of the type `number`; members and elements that it does not name are left as they are.

    Raises ValueMismatch where the type does not take the value.
    """
    return list(_writes(btf, btf.bare(number), value, 0))


def describe(btf: Btf, number: int) -> str:
    """The type in C's words, such as `char[16]` or `struct filter`."""
    named = btf.types[number]
    type_ = btf.types[btf.bare(number)]
    if type_.kind == ARRAY:
        _, element, count = type_.members[0]
        return f"{describe(btf, element)}[{count}]"
    if type_.kind == PTR:
        return "a pointer"
    tag = {STRUCT: "struct ", UNION: "union ", ENUM: "enum ", ENUM64: "enum "}.get(type_.kind, "")
    if named.kind == 8 and named.name:  # a typedef
        return named.name
    return f"{tag}{type_.name}" if type_.name else f"{tag}without a name".strip()


def _writes(btf: Btf, number: int, value: object, at: int) -> Iterator[Write]:
    type_, what = btf.types[number], describe(btf, number)
    if isinstance(value, Text):
        value = _read(btf, type_, value)
    if isinstance(value, str) and value.startswith(HEX):
        yield at, _hex(value, size_of(btf, number), what)
    elif type_.kind == ARRAY:
        yield from _array(btf, type_, value, at, what)
    elif type_.kind in (STRUCT, UNION):
        yield from _members(btf, number, value, at, what)
    elif type_.kind == INT:
        yield at, _int(type_, value, what)
    elif type_.kind in (ENUM, ENUM64):
        yield at, _enum(type_, value, what)
    elif type_.kind == PTR and isinstance(value, int) and not isinstance(value, bool):  # an address in the kernel, say
        yield at, _number(Type(INT, "", 8), value, what, signed=False)
    elif type_.kind == FLOAT and isinstance(value, int | float):
        yield at, struct.pack("<d" if type_.ref == 8 else "<f", value)
    else:
        raise ValueMismatch(f"{value!r} cannot be written to {what}; its bytes can: {HEX}… ({size_of(btf, number)} bytes)")


def _read(btf: Btf, type_: Type, text: Text) -> object:
    """Text of the command line, read as TOML but where the type is one of characters or names."""
    plain = str(text)
    if type_.kind == ARRAY and _is_char(btf.types[btf.bare(type_.members[0][1])]) and not plain.startswith(("[", '"')):
        return plain
    try:
        return tomllib.loads(f"value = {plain}")["value"]
    except tomllib.TOMLDecodeError:
        return plain


def _hex(text: str, size: int, what: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise ValueMismatch(f"{text!r}: after {HEX} two hexadecimal digits a byte are expected") from None
    if len(data) != size:
        raise ValueMismatch(f"{text!r} is {len(data)} bytes; {what} is {size}")
    return data


def _is_char(type_: Type) -> bool:
    """clang writes `char` as a signed int by that name; a real BTF_INT_CHAR is rare."""
    return type_.kind == INT and type_.ref == 1 and (bool(type_.encoding & _CHAR) or type_.name in ("char", "signed char"))


def _array(btf: Btf, type_: Type, value: object, at: int, what: str) -> Iterator[Write]:
    _, element, count = type_.members[0]
    if isinstance(value, str) and _is_char(btf.types[btf.bare(element)]):
        data = value.encode()
        if len(data) >= count:
            raise ValueMismatch(f"{value!r} takes {len(data) + 1} bytes with its end; {what} has {count}")
        yield at, data.ljust(count, b"\0")
        return
    if not isinstance(value, list | tuple):
        raise ValueMismatch(f"{value!r} is no list; {what} takes one of up to {count} elements")
    if len(value) > count:
        raise ValueMismatch(f"{len(value)} elements are too many; {what} has {count}")
    for index, each in enumerate(value):
        yield from _writes(btf, btf.bare(element), each, at + index * size_of(btf, element))


def _members(btf: Btf, number: int, value: object, at: int, what: str) -> Iterator[Write]:
    if not isinstance(value, Mapping):
        raise ValueMismatch(f"{value!r} is no table; {what} takes one of its members")
    known = dict(_flat(btf, number, 0))
    for name, each in value.items():
        if name not in known:
            raise ValueMismatch(f"{what} has no member {name!r}{did_you_mean(str(name), known)}; it has: {', '.join(known)}")
        offset, member, width = known[name]
        if width:
            raise ValueMismatch(f"{name!r} of {what} is a bit field; write the whole of {what} as bytes: {HEX}…")
        yield from _writes(btf, btf.bare(member), each, at + offset)


def _flat(btf: Btf, number: int, base: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """The members by name, also those of unnamed members: byte, type, and width in bits of a bit field (0 for others)."""
    owner = btf.types[number]
    for index, (name, type_, bit) in enumerate(owner.members):
        if name:
            yield name, (base + bit // 8, type_, owner.widths[index] if owner.widths else 0)
        elif btf.types[btf.bare(type_)].kind in (STRUCT, UNION):
            yield from _flat(btf, btf.bare(type_), base + bit // 8)


def _int(type_: Type, value: object, what: str) -> bytes:
    if type_.encoding & _BOOL:
        if not isinstance(value, bool) and value not in (0, 1):
            raise ValueMismatch(f"{value!r} is neither true nor false; {what} takes one of them")
        return int(bool(value)).to_bytes(type_.ref, "little")
    if isinstance(value, str) and len(value.encode()) == 1 and type_.ref == 1:
        return value.encode()
    if not isinstance(value, int):
        raise ValueMismatch(f"{value!r} is no whole number; {what} takes one")
    return _number(type_, int(value), what, signed=bool(type_.encoding & _SIGNED))


def _number(type_: Type, value: int, what: str, *, signed: bool) -> bytes:
    bits = type_.ref * 8
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not least <= value <= most:
        raise ValueMismatch(f"{value} does not fit into {what}, which is {type_.ref} bytes: {least} to {most}")
    return value.to_bytes(type_.ref, "little", signed=signed)


def _enum(type_: Type, value: object, what: str) -> bytes:
    names = {name: number for (name, _, _), number in zip(type_.members, type_.values, strict=True)}
    if isinstance(value, str):
        if value not in names:
            raise ValueMismatch(f"{what} has no {value!r}{did_you_mean(value, names)}; it has: {', '.join(names)}")
        return (names[value] & (1 << type_.ref * 8) - 1).to_bytes(type_.ref, "little")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueMismatch(f"{value!r} is neither a number nor a name; {what} has: {', '.join(names)}")
    return _number(type_, value, what, signed=value < 0)


def nested(path: str, value: object) -> tuple[str, object]:
    """A dotted path and a value as a variable's name and what is written to it: `a.b` = 1 is {b: 1} to `a`."""
    first, *rest = path.split(".")
    for name in reversed(rest):
        value = {name: value}
    return first, value


def merged(values: Sequence[tuple[str, object]]) -> dict[str, list[object]]:
    """The values by variable, in order."""
    found: dict[str, list[object]] = {}
    for path, value in values:
        name, inner = nested(path, value)
        found.setdefault(name, []).append(inner)
    return found
