"""The parts of a C source as the rules see them: nodes of the syntax tree with their types and places, functions, maps, accesses."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import POINTER, byref, c_uint
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from clang import cindex

from kmatrix.lint.preprocessor import Place


@cache
def _file_location() -> Any:
    """clang_getFileLocation, which the bindings do not have: of what a macro made, the place of its use or within its arguments."""
    function = cindex.conf.lib.clang_getFileLocation
    numbers = [POINTER(c_uint)] * 3
    function.argtypes = [cindex.SourceLocation, POINTER(cindex.c_object_p), *numbers]
    function.restype = None
    return function


def place_of(location: Any) -> Place:
    """Where the user wrote it."""
    file, line, column, offset = cindex.c_object_p(), c_uint(), c_uint(), c_uint()
    _file_location()(location, byref(file), byref(line), byref(column), byref(offset))
    return Place(real_path(cindex.File(file).name) if file else "", line.value, column.value, offset.value)


@cache
def real_path(name: str) -> str:
    """A file's one path, whatever it was included as."""
    return str(Path(name).resolve())


class Node:
    """A cursor of the syntax tree, with its parent."""

    __slots__ = ("__dict__", "cursor", "kind", "parent")

    def __init__(self, cursor: Any, parent: Node | None = None) -> None:
        self.cursor = cursor
        self.parent = parent
        try:
            self.kind: str = cursor.kind.name
        except ValueError:  # a kind newer than the bindings
            self.kind = "UNKNOWN"

    @cached_property
    def children(self) -> list[Node]:
        """The parts of this one."""
        return [Node(child, self) for child in self.cursor.get_children()]

    @cached_property
    def name(self) -> str:
        """The identifier that it declares or refers to."""
        return str(self.cursor.spelling)

    @cached_property
    def place(self) -> Place:
        """Where it stands; of a member access, the member's name."""
        return place_of(self.cursor.location)

    @cached_property
    def start(self) -> Place:
        """Its first character."""
        return place_of(self.cursor.extent.start)

    @cached_property
    def end(self) -> Place:
        """One past its last character."""
        return place_of(self.cursor.extent.end)

    @cached_property
    def type(self) -> Any:
        """Its type, without the names that stand for it."""
        return self.cursor.type.get_canonical()

    @cached_property
    def key(self) -> int:
        """The same number for each mention of a declaration."""
        declaration = self.cursor.referenced or self.cursor
        return int(declaration.canonical.hash)

    def walk(self) -> Iterator[Node]:
        """This node and all below."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def ancestors(self) -> Iterator[Node]:
        """The nodes above, the nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def bare(self) -> Node:
        """The expression without parentheses, casts and conversions around it."""
        node = self
        while node.kind in ("PAREN_EXPR", "UNEXPOSED_EXPR", "CSTYLE_CAST_EXPR"):
            parts = [child for child in node.children if child.kind != "TYPE_REF"]
            if not parts:
                break
            node = parts[-1]
        return node

    def callee(self) -> str:
        """The name of the function that a call calls."""
        return self.name if self.kind == "CALL_EXPR" else ""

    def arguments(self) -> list[Node]:
        """A call's arguments."""
        return self.children[1:]


def is_unnamed(member: Node) -> bool:
    """Whether a member has no name of its own."""
    return not member.name or "(" in member.name  # `union sock_common::(anonymous at FILE:31:2)`


class Record(NamedTuple):
    """A struct or union that is accessed."""

    name: str
    """Without the flavour's ___suffix; empty for an unnamed one."""
    file: str
    relocated: bool
    """Declared with preserve_access_index."""


class Access(NamedTuple):
    """A member access: `base->a.b` is two of them."""

    record: Record
    field: str


@dataclass(frozen=True)
class Map:
    """A BPF map that a source defines."""

    name: str
    type: int
    max_entries: int | None
    place: Place
    entries_place: Place


@dataclass(frozen=True)
class Macro:
    """A use of a macro."""

    name: str
    file: str
    start: int
    end: int
    place: Place


class Function:
    """A function with its body."""

    def __init__(self, node: Node, section: str) -> None:
        self.node = node
        self.name = node.name
        self.section = section
        """The argument of SEC(), of a program; else empty."""
        self.body = next((child for child in node.children if child.kind == "COMPOUND_STMT"), None)
        self.parameters = [child for child in node.children if child.kind == "PARM_DECL"]

    @cached_property
    def nodes(self) -> list[Node]:
        """Everything in the body."""
        return list(self.body.walk()) if self.body is not None else []

    @cached_property
    def calls(self) -> list[Node]:
        """The calls in the body."""
        return [node for node in self.nodes if node.kind == "CALL_EXPR"]
