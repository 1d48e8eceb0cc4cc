"""The types of one kernel out of a pack, read when they are asked for; and what was looked at on the way, by which kernels are told apart."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from kmatrix.predict.pack import Pack, ordered

_NAME = re.compile(r"[^;~]*")
_PLACE = re.compile(r"([^:,}]*):(\d+)(?::(\d+))?")
_ENUMERATOR = re.compile(r"(\w+)=(-?\d+),")
_COMPOSITE = re.compile(r"([SU])(\d+)\{")
_ENUM = re.compile(r"([NM])(\d+)(-?)\{")
_NUMBER = re.compile(r"\d+")
ENUMS = "NM"
COMPOSITES = "SU"


class Node(NamedTuple):
    """A type, of a line as kmatrix.predict.encode writes it. `kind` is the letter or sign that the line has."""

    kind: str
    name: str = ""
    size: int = 0
    """Bytes; of an array its elements; of a reference which of the types of that name."""
    inner: Node | None = None
    """What a pointer, qualifier, array or typedef is of; what a function returns."""
    members: tuple[tuple[str, int, int, Node], ...] = ()
    """Of a struct or union: name, bit, width of a bit field (0: none), type. Of a function: its arguments' types."""
    values: tuple[tuple[str, int], ...] = ()
    """Of an enum."""
    encoding: int = 0
    """Of an int as BTF has it; of an enum 1 where it is signed."""
    bit: int = 0
    """Of an int: where it begins in its storage (BTF before bit fields were the struct's own)."""


VOID = Node("v")


class NoSize(Exception):
    """A type that has no size, such as a function."""


@lru_cache(maxsize=1 << 16)
def parse(text: str) -> Node:
    """A whole line. Raises ValueError for what is none."""
    node, end = _read(text, 0)
    if end != len(text):
        raise ValueError(f"{text[:60]!r} is no type")
    return node


def _read(text: str, at: int) -> tuple[Node, int]:
    sign = text[at]
    if sign in "suetifEwx":
        found = _NAME.match(text, at + 1)
        assert found is not None
        end, index = found.end(), 0
        if text[end] == "~":
            end2 = text.index(";", end)
            index, end = int(text[end + 1 : end2]), end2
        return Node(sign, found[0], index), end + 1
    if sign in "*cor":
        inner, end = _read(text, at + 1)
        return Node(sign, inner=inner), end
    if sign in COMPOSITES:
        return _composite(text, at)
    if sign in ENUMS:
        head = _ENUM.match(text, at)
        assert head is not None
        end = text.index("}", at)
        values = tuple((name, int(value)) for name, value in _ENUMERATOR.findall(text, head.end(), end))
        return Node(sign, size=int(head[2]), values=values, encoding=1 if head[3] else 0), end + 1
    if sign == "[":
        close = text.index("]", at)
        inner, end = _read(text, close + 1)
        return Node(sign, size=int(text[at + 1 : close]), inner=inner), end
    if sign == "(":
        parts, at = [], at + 1
        while True:
            if text[at] == ".":
                node, at = Node("."), at + 1
            else:
                node, at = _read(text, at)
            parts.append(node)
            at += 1
            if text[at - 1] == ")":
                return Node("(", inner=parts[0], members=tuple(("", 0, 0, part) for part in parts[1:])), at
    if sign == "g":
        end = text.index(";", at)
        inner, after = _read(text, end + 1)
        return Node(sign, text[at + 1 : end], inner=inner), after
    if sign == "I":
        size, encoding, bit, width = text[at + 1 :].split(",")
        return Node(sign, size=int(size), encoding=int(encoding), bit=int(bit), values=(("", int(width)),)), len(text)
    if sign == "F":
        return Node(sign, size=int(text[at + 1 :])), len(text)
    if sign in "vW":
        return Node(sign), at + 1
    raise ValueError(f"{text[at : at + 60]!r} is no type")


def _composite(text: str, at: int) -> tuple[Node, int]:
    head = _COMPOSITE.match(text, at)
    if head is None:
        raise ValueError(f"{text[at : at + 60]!r} is no type")
    at, members = head.end(), []
    while text[at] != "}":
        place = _PLACE.match(text, at)
        assert place is not None
        inner, at = _read(text, place.end())
        members.append((place[1], int(place[2]), int(place[3] or 0), inner))
        at += 1
    return Node(head[1], size=int(head[2]), members=tuple(members)), at + 1


class View:
    """The types of one profile of a pack. `same` is the mask of the profiles that have had the same answer to each question so far."""

    def __init__(self, pack: Pack, number: int, same: int) -> None:
        self._pack, self._bit, self.same = pack, 1 << number, same

    def texts(self, table: str, name: str) -> list[str]:
        """The values of a name; of a type's, in their order."""
        found: list[str] = []
        for mask, value in self._pack.get(table, name):
            if mask & self._bit:
                found.append(value)
                self.same &= mask
            else:
                self.same &= ~mask
        return found

    def named(self, letter: str, name: str) -> list[tuple[str, Node]]:
        """The types of that name: the module (empty for vmlinux), and the type with its name."""
        found = []
        for text in ordered(self.texts("types", letter + name)):
            module, bar, rest = text.partition("|")
            node = parse(rest if bar else text)
            found.append((module if bar else "", Node("t", name, inner=node) if letter == "t" else node._replace(name=name)))
        return found

    def follow(self, node: Node) -> Node:
        """What a reference refers to; the node itself where it is none."""
        if node.kind not in "suetifEwx" or node.inner is not None:
            return node
        every = self.named(node.kind, node.name)
        return every[node.size][1] if node.size < len(every) else VOID

    def bare(self, node: Node) -> Node:
        """The type without typedefs and qualifiers."""
        while True:
            node = self.follow(node)
            if node.inner is None or node.kind not in "corgt":
                return node
            node = node.inner

    def size(self, node: Node) -> int:
        """Bytes of a type. Raises NoSize."""
        node = self.bare(node)
        if node.kind == "*":
            return 8
        if node.kind == "[" and node.inner is not None:
            return node.size * self.size(node.inner)
        if node.kind in "SUNMIF":
            return node.size
        raise NoSize
