"""shape(): the fields of a record, by the types of the objects, or by their sources. What is a guess says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kmatrix.guest.events import Layout
from kmatrix.objects.btf import DATASEC, STRUCT, VAR
from kmatrix.objects.code import Code
from kmatrix.objects.layout import Leaf, struct_record
from kmatrix.propose.sends import Sent

_LIKE_AN_EVENT = re.compile(r"(^|_)(event|events|evt|ev|record|sample|msg|message)(_t)?($|_)|_data(_t)?$|^data(_t)?$")
_WRITABLE = re.compile(r"[us](8|16|32|64)|be(16|32|64)|(char|bytes)\[\d*\]")
"""The types of fields that a manifest has words for: no bit fields."""


@dataclass(frozen=True)
class Shape:
    """What a record consists of."""

    name: str
    """The C struct's name."""
    size: int
    leaves: tuple[Leaf, ...]
    why: str
    """How it was found, as a clause."""
    guessed: bool
    in_objects: bool = True
    """Whether all objects have the struct in their BTF: then a manifest need not list its fields."""

    @property
    def packed(self) -> bool:
        """Whether the fields follow each other without gaps where C would leave some."""
        return not self._fits(packed=False) and self._fits(packed=True)

    @property
    def needs_offsets(self) -> bool:
        """Whether a list of fields says where they are only with offsets."""
        return not self._fits(packed=False) and not self._fits(packed=True)

    def _fits(self, *, packed: bool) -> bool:
        layout = Layout.of([{"name": leaf.path, "type": leaf.type} for leaf in self.leaves], packed=packed)
        return layout.padded == self.size and [at for _, _, at in layout.fields] == [leaf.offset for leaf in self.leaves]


def writable(kind: str) -> bool:
    """Whether a manifest has a word for a field's type."""
    return _WRITABLE.fullmatch(kind) is not None


def shape(sent: Sent, codes: Sequence[Code], in_sources: Sequence[Shape] = ()) -> Shape | None:
    """The struct that a record is; None where nothing says it. `in_sources` are the structs that the sources have."""
    for name, why, guessed in _candidates(sent, codes):
        found = [_struct(code, name, why, guessed) for code in codes]
        there = [each for each in found if each is not None and (sent.size is None or each.size == sent.size)]
        if there and all(each.leaves == there[0].leaves for each in there):
            return replace(there[0], in_objects=len(there) == len(codes))
    return _of_sources(sent, in_sources)


def _of_sources(sent: Sent, shapes: Sequence[Shape]) -> Shape | None:
    fitting = [each for each in shapes if each.size == sent.size and all(writable(leaf.type) for leaf in each.leaves)]
    if named := [each for each in fitting if each.name == sent.type]:
        return replace(named[0], guessed=False)
    by_name = [each for each in fitting if _LIKE_AN_EVENT.search(each.name)]
    return (by_name or fitting)[0] if len(by_name) == 1 or len(fitting) == 1 else None


def _candidates(sent: Sent, codes: Sequence[Code]) -> Iterator[tuple[str, str, bool]]:
    """Names of structs, how each was come by, and whether it is a guess; the likeliest first."""
    sized = [_sized(code, sent.size) for code in codes]
    if sent.type is not None and any(sent.type in each for each in sized):
        yield sent.type, f"the line of source that sends it says sizeof({sent.type})", False
    held = [name for code, names in zip(codes, sized, strict=True) for name in names if name in _held(code)]
    held = [name for name in dict.fromkeys(held) if sent.size is not None or _LIKE_AN_EVENT.search(name)]
    size = "of that size" if sent.size is not None else "so named"
    if len(held) == 1:
        yield held[0], f"it is the only struct {size} that a map or variable holds", True
    elif named := [name for name in held if _LIKE_AN_EVENT.search(name)]:
        yield named[0], f"it is {size} and named so, and a map or variable holds it", True
    if sent.size is None:
        return
    asked = {relocation.root for code in codes for relocation in code.relocations.values()}
    others = [name for names in sized for name in names if _LIKE_AN_EVENT.search(name) and name not in asked]
    if len(others := [*dict.fromkeys(others)]) == 1:
        yield others[0], "it is the only struct of that size with such a name", True


def _sized(code: Code, size: int | None) -> list[str]:
    """The structs of that size; of any, where none is known."""
    btf = code.btf
    types = btf.types if btf is not None else []
    return [
        each.name for each in types if each.kind == STRUCT and each.name and "___" not in each.name and size in (None, each.ref)
    ]


def _held(code: Code) -> set[str]:
    """The structs that maps have as values, and global variables as types."""
    btf = code.btf
    if btf is None:
        return set()
    numbers = [definition.value for definition in code.info.definitions.values() if definition.value is not None]
    variables = [v for each in btf.types if each.kind == DATASEC and each.name != ".maps" for _, v, _ in each.members]
    numbers += [btf.types[v].ref for v in variables if btf.types[v].kind == VAR]
    return {btf.types[btf.bare(number)].name for number in numbers}


def _struct(code: Code, name: str, why: str, guessed: bool) -> Shape | None:
    record = struct_record(code.btf, name) if code.btf is not None else None
    return None if record is None else Shape(name, record.size, tuple(record.leaves()), why, guessed)


def by_name(leaves: Sequence[Leaf]) -> Mapping[str, Leaf]:
    """The fields by the last part of their names, of which the first of a kind counts: `pid` of `task.pid`."""
    found: dict[str, Leaf] = {}
    for leaf in leaves:
        found.setdefault(leaf.path.rpartition(".")[2], leaf)
    return found
