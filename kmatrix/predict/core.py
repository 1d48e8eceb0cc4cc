"""CO-RE relocations, resolved as libbpf 1.5 does (tools/lib/bpf/relo_core.c, and bpf_core_find_cands of its libbpf.c).

The object's own types are those of its BTF; the kernel's come out of a profile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmatrix.objects.btf import (
    ARRAY,
    ENUM,
    ENUM64,
    ENUM_EXISTS,
    ENUM_VALUE,
    FIELD_EXISTS,
    FIELD_LSHIFT,
    FIELD_OFFSET,
    FIELD_RSHIFT,
    FIELD_SIGNED,
    FIELD_SIZE,
    FLOAT,
    FUNC_PROTO,
    FWD,
    INT,
    PTR,
    STRUCT,
    TYPE_EXISTS,
    TYPE_ID_LOCAL,
    TYPE_ID_TARGET,
    TYPE_MATCHES,
    TYPE_SIZE,
    TYPEDEF,
    UNION,
    VOID,
    Btf,
    Relocation,
    Type,
)
from kmatrix.predict.types import COMPOSITES, ENUMS, Node, NoSize, View

_FIELDS, _ENUMERATORS = range(FIELD_OFFSET, FIELD_RSHIFT + 1), (ENUM_EXISTS, ENUM_VALUE)
_LETTER = {INT: "i", STRUCT: "s", UNION: "u", TYPEDEF: "t", FLOAT: "f"}
_KIND = {
    "I": INT,
    "*": PTR,
    "[": ARRAY,
    "S": STRUCT,
    "U": UNION,
    "N": ENUM,
    "M": ENUM64,
    "(": FUNC_PROTO,
    "F": FLOAT,
    "v": VOID,
    "W": FWD,
    "t": TYPEDEF,
}
_DEPTH = 32


@dataclass(frozen=True)
class Resolved:
    """What libbpf makes of a relocation."""

    value: int | None
    """What it writes into the instruction; None where it poisons it: what is asked for is not there."""
    error: str = ""
    """Why it refuses to load the program for it."""
    size: int = 0
    """Bytes of the field, where the offset of one is asked for; 0 of a bit field."""
    badly_sized: bool = False
    """Whether its size differs from the object's so that a load or store of it is poisoned (a signed number, a structure)."""
    original: int = 0
    """Bytes of the object's own field."""

    @property
    def there(self) -> bool:
        """Whether the kernel has what is asked for."""
        return self.value is not None and not self.error


class _Refused(Exception):
    """libbpf gives up on the program."""


@dataclass
class _Accessor:
    name: str
    index: int
    owner: Node
    """The type that the member is in, or the array's element."""
    field: Node
    width: int = 0


def essential(name: str) -> str:
    """A name without its flavour: what stands before the last `___` (bpf_core_essential_name_len)."""
    at = name.rfind("___")
    while at > 0:
        if name[at - 1] != "_" and at + 3 < len(name) and name[at + 3] != "_":
            return name[:at]
        at = name.rfind("___", 0, at + 2)
    return name


class Core:
    """The relocations of one object."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    # -- the object's side ---------------------------------------------------------------------------------------------------

    def _accessors(self, relocation: Relocation) -> list[tuple[str, int, int, int]]:
        """The way of a field: name (empty of an element), number, the member's type and width of each; the first is the root's."""
        types, steps = self._btf.types, [int(step) for step in relocation.access.split(":")]
        number = self._btf.bare(relocation.type)
        found = [("", steps[0], number, 0)]
        for step in steps[1:]:
            number = self._btf.bare(number)
            each = types[number]
            if each.kind in (STRUCT, UNION):
                if step >= len(each.members):
                    raise _Refused("its BTF is damaged")
                name, type_, _ = each.members[step]
                width = each.widths[step] if each.widths else 0
                if name:
                    found.append((name, step, type_, width))
                number = type_
            elif each.kind == ARRAY:
                number = self._btf.bare(each.members[0][1])
                found.append(("", step, number, 0))
            else:
                raise _Refused("its way goes through what is no structure")
        return found

    def _local_size(self, relocation: Relocation) -> tuple[int, Type]:
        """Bytes of the field whose offset is asked for (of an array, of an element), and its type."""
        accessors = self._accessors(relocation)
        number = self._btf.bare(accessors[-1][2])
        own = self._btf.types[number]
        element = own
        while element.kind == ARRAY:
            number = self._btf.bare(element.members[0][1])
            element = self._btf.types[number]
        return self._btf.size(number), own

    # -- resolving -----------------------------------------------------------------------------------------------------------

    def resolve(self, relocation: Relocation, view: View) -> Resolved:
        """What becomes of the relocation on the kernel of `view`."""
        try:
            return self._resolve(relocation, view)
        except (_Refused, NoSize) as error:
            return Resolved(None, str(error) or "a type on its way has no size")

    def _resolve(self, relocation: Relocation, view: View) -> Resolved:
        asked = self._btf.types[relocation.type]
        if relocation.kind == TYPE_ID_LOCAL:
            return Resolved(relocation.type)
        if not asked.name:
            raise _Refused("it asks for a type without a name")
        found: list[tuple[int, Resolved]] = []
        for candidate in self._candidates(asked, view):
            matched = self._match(relocation, candidate, view)
            if matched is not None:
                found.append(matched)
        if not found:
            there = (
                0 if relocation.kind in (FIELD_EXISTS, TYPE_EXISTS, TYPE_SIZE, TYPE_MATCHES, TYPE_ID_TARGET, ENUM_EXISTS) else None
            )
            return Resolved(there)
        first = found[0]
        if any(bit != first[0] or each.value != first[1].value for bit, each in found):
            raise _Refused(f"the kernel has several types {essential(asked.name)}, which differ there")
        return first[1]

    def _candidates(self, asked: Type, view: View) -> Sequence[Node]:
        name = essential(asked.name)
        letters = "eE" if asked.kind in (ENUM, ENUM64) else "wx" if asked.kind == FWD else _LETTER.get(asked.kind, "")
        every = [each for letter in letters for each in view.named(letter, name)]
        return [node for module, node in every if not module] or [node for _, node in every]

    def _match(self, relocation: Relocation, candidate: Node, view: View) -> tuple[int, Resolved] | None:
        kind = relocation.kind
        if kind in _FIELDS:
            return self._field(relocation, candidate, view)
        if kind in _ENUMERATORS:
            wanted = essential(self._btf.types[self._btf.bare(relocation.type)].members[int(relocation.access)][0])
            value = next((number for name, number in candidate.values if essential(name) == wanted), None)
            return None if value is None else (0, Resolved(1 if kind == ENUM_EXISTS else value))
        fits = (
            self.matches(relocation.type, candidate, view)
            if kind == TYPE_MATCHES
            else self.compatible(relocation.type, candidate, view)
        )
        if not fits:
            return None
        return 0, Resolved(view.size(candidate) if kind == TYPE_SIZE else 1)

    # -- fields --------------------------------------------------------------------------------------------------------------

    def _field(self, relocation: Relocation, candidate: Node, view: View) -> tuple[int, Resolved] | None:
        bit, target = 0, candidate
        last: _Accessor | None = None
        for index, (name, number, type_, _) in enumerate(self._accessors(relocation)):
            if name:
                found = self._member(name, type_, target, view)
                if found is None:
                    return None
                more, last = found
                bit, target = bit + more, last.field
                continue
            if index:
                array = view.bare(target)
                if array.kind != "[" or array.inner is None:
                    return None
                flexible = last is not None and last.name != "" and array.size == 0 and last.index == len(last.owner.members) - 1
                if not flexible and number >= array.size:
                    return None
                target = view.bare(array.inner)
            last = _Accessor("", number, target, target)
            if number:
                bit += number * view.size(target) * 8
        assert last is not None
        return bit, self._value(relocation, bit, last, view)

    def _member(self, name: str, type_: int, owner: Node, view: View) -> tuple[int, _Accessor] | None:
        """Where a member is, through unnamed ones: bits from the owner's start. None where there is none, or one of another kind."""
        owner = view.bare(owner)
        if owner.kind not in COMPOSITES:
            return None
        for index, (own, bit, width, field) in enumerate(owner.members):
            if not own:
                found = self._member(name, type_, field, view)
                if found is not None:
                    return bit + found[0], found[1]
            elif own == name:
                return (bit, _Accessor(name, index, owner, field, width)) if self._alike(type_, field, view) else None
        return None

    def _alike(self, number: int, node: Node, view: View) -> bool:
        """bpf_core_fields_are_compat."""
        while True:
            own, other = self._btf.types[self._btf.bare(number)], view.bare(node)
            kind = _KIND.get(other.kind)
            if own.kind in (STRUCT, UNION) and kind in (STRUCT, UNION):
                return True
            if not _same_kind(own.kind, kind):
                return False
            if own.kind in (PTR, FLOAT):
                return True
            if own.kind in (ENUM, ENUM64, FWD):
                names = essential(own.name), essential(other.name)
                return not all(names) or names[0] == names[1]
            if own.kind == INT:
                return (own.bits or (0, 0))[0] == 0 and other.bit == 0
            if own.kind != ARRAY or other.inner is None:
                return False
            number, node = own.members[0][1], other.inner

    def _value(self, relocation: Relocation, bit: int, last: _Accessor, view: View) -> Resolved:
        """bpf_core_calc_field_relo of the kernel's side."""
        kind = relocation.kind
        if kind == FIELD_EXISTS:
            return Resolved(1)
        bare = view.bare(last.field)
        if not last.name:
            if kind == FIELD_SIZE:
                return Resolved(view.size(last.field))
            if kind != FIELD_OFFSET:
                raise _Refused("it asks for what an element of an array does not have")
            return self._sized(relocation, bit // 8, bare, view)
        if last.width:
            size, start = bare.size, 0
            while True:
                start = bit // 8 // size * size
                if bit + last.width - start * 8 <= size * 8:
                    break
                if size >= 8:
                    raise _Refused("a bit field that one load cannot read")
                size *= 2
            bits = last.width
        else:
            size = view.size(last.field)
            start, bits = bit // 8, size * 8
        if kind == FIELD_OFFSET:
            return Resolved(start) if last.width else self._sized(relocation, start, bare, view)
        signed = int((bare.kind in ENUMS or bare.kind == "I") and bool(bare.encoding & 1))
        values = {FIELD_SIZE: size, FIELD_SIGNED: signed, FIELD_LSHIFT: 64 - (bit + bits - start * 8), FIELD_RSHIFT: 64 - bits}
        return Resolved(values[kind] & ((1 << 64) - 1))

    def _sized(self, relocation: Relocation, offset: int, bare: Node, view: View) -> Resolved:
        """The offset of a field, with whether a load of the object's size may be made one of the kernel's."""
        element = bare
        while element.kind == "[" and element.inner is not None:
            element = view.bare(element.inner)
        size, (own_size, own) = view.size(element), self._local_size(relocation)
        pointers = own.kind == PTR and bare.kind == "*"
        numbers = own.kind == INT and bare.kind == "I" and not own.signed and bare.encoding != 1
        accessors = self._accessors(relocation)
        bad = size != own_size and not pointers and not numbers and accessors[-1][3] == 0
        return Resolved(offset, size=size, badly_sized=bad, original=own_size)

    # -- types as a whole ----------------------------------------------------------------------------------------------------

    def compatible(self, number: int, node: Node, view: View, depth: int = _DEPTH) -> bool:
        """bpf_core_types_are_compat: the same kind of type under the same name, whatever is in it."""
        own, other = self._btf.types[self._btf.bare(number)], view.bare(node)
        kind = _KIND.get(other.kind)
        if depth <= 0 or not _same_kind(own.kind, kind):
            return False
        if own.kind in (VOID, STRUCT, UNION, ENUM, ENUM64, FWD):
            return True
        if own.kind == INT:
            return (own.bits or (0, 0))[0] == 0 and other.bit == 0
        if own.kind == PTR and other.inner is not None:
            return self.compatible(own.ref, other.inner, view, depth - 1)
        if own.kind == ARRAY and other.inner is not None:
            return self.compatible(own.members[0][1], other.inner, view, depth - 1)
        return own.kind == FUNC_PROTO and self._functions(
            own, other, lambda mine, theirs: self.compatible(mine, theirs, view, depth - 1)
        )

    def _functions(self, own: Type, other: Node, fits: Callable[[int, Node], bool]) -> bool:
        """Whether what two functions take and return fits."""
        arguments = own.members
        if len(arguments) != len(other.members) or other.inner is None:
            return False
        pairs = [
            *zip((type_ for _, type_, _ in arguments), (node for _, _, _, node in other.members), strict=True),
            (own.ref, other.inner),
        ]
        return all(fits(number, node) for number, node in pairs)

    def matches(self, number: int, node: Node, view: View, behind: bool = False, depth: int = _DEPTH) -> bool:
        """bpf_core_types_match: every member that the object's type has, the kernel's has too, of a type that matches."""
        own, other = self._btf.types[self._btf.bare(number)], view.bare(node)
        kind = _KIND.get(other.kind)
        name = other.name if other.kind in "SUNMIFW" else ""
        if depth <= 0 or essential(own.name) != essential(name):
            return False
        if own.kind in (ENUM, ENUM64):
            there = {essential(each) for each, _ in other.values}
            return kind in (ENUM, ENUM64) and own.ref == other.size and all(essential(each) in there for each, _, _ in own.members)
        if own.kind in (STRUCT, UNION):
            if behind or own.kind != kind:
                return own.kind == kind if behind and kind != FWD else behind and kind == FWD
            return all(
                any(
                    essential(field) == essential(theirs) and self.matches(type_, each, view, False, depth - 1)
                    for theirs, _, _, each in other.members
                )
                for field, type_, _ in own.members
            )
        if own.kind == FWD:
            return kind == FWD or (behind and kind in (STRUCT, UNION))
        if own.kind != kind:
            return False
        if own.kind == INT:
            return own.ref == other.size and own.signed == bool(other.encoding & 1)
        if own.kind == PTR and other.inner is not None:
            return self.matches(own.ref, other.inner, view, True, depth - 1)
        if own.kind == ARRAY and other.inner is not None:
            return own.members[0][2] == other.size and self.matches(own.members[0][1], other.inner, view, behind, depth - 1)
        if own.kind == FUNC_PROTO:
            return self._functions(own, other, lambda mine, theirs: self.matches(mine, theirs, view, behind, depth - 1))
        return own.kind == VOID


def _same_kind(own: int, other: int | None) -> bool:
    """btf_kind_core_compat: all enums are one kind."""
    return own == other or (own in (ENUM, ENUM64) and other in (ENUM, ENUM64))
