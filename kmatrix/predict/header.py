"""A kernel's types as a C header: vmlinux.h, as `bpftool btf dump file /sys/kernel/btf/vmlinux format c` writes it.

A type comes after those that it holds; of what it only points to, a declaration is enough. What several types are called has ___2, ___3… after its name. Layout
is kept: a structure is packed where its members are, and gaps are filled.
"""

from __future__ import annotations

from collections.abc import Iterator

from kmatrix.predict.kernel import Kernel
from kmatrix.predict.pack import ordered
from kmatrix.predict.types import COMPOSITES, Node, NoSize, View, parse

_TAGS = {"s": "struct", "u": "union", "e": "enum", "E": "enum", "w": "struct", "x": "union"}
_OPEN = """\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

#ifndef __ksym
#define __ksym __attribute__((section(".ksyms")))
#endif

#ifndef __weak
#define __weak __attribute__((weak))
#endif

"""
_CLOSE = """
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
"""
_VECTORS = ("__Poly", "__SV", "__Float", "__Int", "__Uint", "__mfp8", "__clang_sv")
_BUILT_IN = {"__builtin_va_list", "_Float16", "__bf16"}
"""Names that the compiler has already."""


def write(kernel: Kernel) -> str:
    """The header of the kernel of a profile. Empty of types where it has no BTF."""
    return _OPEN + "".join(f"{text}\n" for text in Header(kernel).lines()) + _CLOSE


class Header:
    """The types of vmlinux; those of modules are left out, as bpftool does."""

    def __init__(self, kernel: Kernel) -> None:
        self._view = View(kernel.pack, kernel.number, kernel.bit)
        self._types: dict[str, Node] = {}
        for key, values in kernel.pack.lines("types"):
            for index, text in enumerate(ordered(value for mask, value in values if mask & kernel.bit)):
                if "|" not in text:
                    self._types[f"{key}~{index}" if index else key] = parse(text)
        self._tags: dict[str, str] = {}
        """What is written after struct, union and enum, which share their names."""
        taken: dict[str, int] = {}
        for key in self._types:
            if key[0] in "sueE":
                name = key[1:].partition("~")[0]
                taken[name] = taken.get(name, 0) + 1
                self._tags[key] = name if taken[name] == 1 else f"{name}___{taken[name]}"
        self._done: set[str] = set()
        self._declared: set[str] = set()
        self._ordinary: dict[str, int] = {}
        """How often a name that is no tag was given: typedefs and enumerators share theirs."""
        self._typedefs: dict[str, str] = {}
        self._out: list[str] = []
        self._align_of: dict[str, int] = {}

    def lines(self) -> Iterator[str]:
        """The declarations, each after what it needs."""
        for key in self._types:
            if key[0] in "asuetE":
                self._define(key)
                yield from self._out
                self._out.clear()

    def composites(self) -> Iterator[tuple[str, Node]]:
        """Each structure and union that has a name, as C calls it."""
        for key, node in self._types.items():
            if key[0] in "su":
                yield f"{_TAGS[key[0]]} {self._name(key)}", node

    # -- order ---------------------------------------------------------------------------------------------------------------

    def _key(self, node: Node) -> str:
        return f"{node.kind}{node.name}~{node.size}" if node.size else f"{node.kind}{node.name}"

    def _define(self, key: str) -> None:
        """Write a type out, once, and before it what it needs."""
        if key in self._done or key not in self._types:
            return
        self._done.add(key)
        node, kind = self._types[key], key[0]
        if kind == "t":
            self._need(node, whole=node.kind not in "su")
            self._out.append(self._typedef(key, node))
        elif kind in "su":
            for _, _, _, member in node.members:
                self._need(member, whole=True)
            self._out.append(f"{self._body(node, self._name(key), 0)};\n")
        elif kind == "a":
            self._out.append(f"{self._body(node, '', 0)};\n")
        elif kind in "eE" and node.values:
            self._out.append(f"{self._body(node, self._name(key), 0)};\n")

    def _need(self, node: Node, *, whole: bool) -> None:
        """Have a type written before what comes next: as a whole, or declared where that is enough."""
        if node.kind in "suetEwx" and node.name:
            key = self._key(node)
            if node.kind in "wx" or (node.kind in "su" and not whole):
                tag = f"{_TAGS[node.kind]} {self._name(key)}"
                if tag not in self._declared and key not in self._done:
                    self._declared.add(tag)
                    self._out.append(f"{tag};\n")
                return
            self._define(key)
            if node.kind == "t" and whole and key in self._types:
                self._need(self._types[key], whole=True)
        elif node.kind in COMPOSITES:
            for _, _, _, member in node.members:
                self._need(member, whole=True)
        elif node.kind == "(":
            for part in (node.inner, *(member for *_, member in node.members)):
                if part is not None:
                    self._need(part, whole=False)
        elif node.inner is not None:
            self._need(node.inner, whole=whole and node.kind != "*")

    # -- names ---------------------------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        return self._tags.get(key, key[1:].partition("~")[0])

    def _free(self, name: str) -> str:
        self._ordinary[name] = self._ordinary.get(name, 0) + 1
        return name if self._ordinary[name] == 1 else f"{name}___{self._ordinary[name]}"

    def _typedef(self, key: str, node: Node) -> str:
        name = self._typedefs[key] = self._free(key[1:].partition("~")[0])
        if name in _BUILT_IN:
            return ""
        return f"typedef {self._declaration(node, name, 0)};\n"

    # -- C -------------------------------------------------------------------------------------------------------------------

    def _declaration(self, node: Node, name: str, depth: int) -> str:
        """`name` declared as of the type: `int (*name)(void)`."""
        before = ""
        while True:
            if node.kind == "*" and node.inner is not None:
                name, node = f"*{before}{name}", node.inner
                before = ""
                if self._behind(node).kind in "[(":
                    name, node = f"({name})", node if node.kind == "[" else self._behind(node)
            elif node.kind == "[" and node.inner is not None:
                name, node = f"{name}[{node.size}]", node.inner
            elif node.kind == "(":
                arguments = [self._declaration(part, "", depth).strip() if part.kind != "." else "..." for *_, part in node.members]
                name, node = f"{name}({', '.join(arguments) or 'void'})", node.inner or Node("v")
            elif node.kind in "cor" and node.inner is not None:
                word = {"c": "volatile ", "o": "const ", "r": "restrict "}[node.kind]
                before, node = (f"{before}{word}" if word not in before else before), node.inner
                if node.kind == "[" or node.kind in "suetEif" or node.kind in "SUNMv":
                    return self._qualified(before, node, name, depth)
            elif node.kind == "g" and node.inner is not None:
                node = node.inner
            else:
                return self._qualified(before, node, name, depth)

    def _behind(self, node: Node) -> Node:
        """What stands behind qualifiers: of an array or function they are no part of the pointer to it."""
        while node.kind in "corg" and node.inner is not None:
            node = node.inner
        return node

    def _qualified(self, before: str, node: Node, name: str, depth: int) -> str:
        if node.kind == "[":
            return before + self._declaration(node, name, depth)
        base = self._body(node, "", depth) if node.kind in "SUNM" else self._base(node)
        return f"{before.replace('restrict ', '')}{base} {name}"

    def _base(self, node: Node) -> str:
        if node.kind == "v":
            return "void"
        key = self._key(node)
        if node.kind == "t":
            return self._typedefs.get(key, node.name)
        if node.kind in "if":
            return node.name if not node.name.startswith(_VECTORS) else "unsigned char"
        return f"{_TAGS[node.kind]} {self._name(key)}"

    def _body(self, node: Node, name: str, depth: int) -> str:
        """A structure, union or enum with what is in it."""
        tabs = "\t" * depth
        if node.kind in "NM":
            mask = 0 if node.encoding else (1 << 32 if node.kind == "N" else 1 << 64)
            rows = [
                f"{tabs}\t{self._free(each)} = {value % mask if mask else value}{_suffix(value % mask if mask else value)},\n"
                for each, value in node.values
            ]
            small = (
                f" __attribute__((mode({'byte' if node.size == 1 else 'word'})))"
                if node.size in (1, 8) and node.kind == "N"
                else ""
            )
            return f"enum {name + ' ' if name else ''}{{\n{''.join(rows)}{tabs}}}{small}"
        word = "struct" if node.kind == "S" else "union"
        head = f"{word} {name + ' ' if name else ''}{{\n"
        packed = self._packed(node)
        rows, bits = [], 0
        for member, at, width, type_ in node.members:
            align, size = (1 if packed else self._align(type_)) * 8, self._bits(type_)
            if node.kind == "S":
                rows += [f"{tabs}\t{row}\n" for row in _gap(bits, at, align, width, size)]
                bits = at + (width or size)
            rows.append(f"{tabs}\t{self._declaration(type_, member, depth + 1).rstrip()}{f': {width}' if width else ''};\n")
        if node.kind == "S":
            whole = 1 if packed else max((self._align(type_) for *_, type_ in node.members), default=1)
            rows += [f"{tabs}\t{row}\n" for row in _gap(bits, node.size * 8, whole * 8, 0, 0)]
        return f"{head}{''.join(rows)}{tabs}}}{' __attribute__((packed))' if packed else ''}"

    # -- layout --------------------------------------------------------------------------------------------------------------

    def _bits(self, node: Node) -> int:
        try:
            return self._view.size(node) * 8
        except NoSize:
            return 0

    def _align(self, node: Node) -> int:
        """Bytes to which C aligns the type."""
        key = self._key(node) if node.kind in "sut" and node.name else ""
        if key in self._align_of:
            return self._align_of[key]
        bare = self._view.bare(node)
        if bare.kind == "*":
            found = 8
        elif bare.kind == "[" and bare.inner is not None:
            found = self._align(bare.inner)
        elif bare.kind in COMPOSITES:
            found = 1 if self._packed(bare) else max((self._align(type_) for *_, type_ in bare.members), default=1)
        else:
            found = min(bare.size, 16) or 1
        if key:
            self._align_of[key] = found
        return found

    def _packed(self, node: Node) -> bool:
        """Whether a structure is packed: a member stands where C would not put it, or the size is no multiple of the alignment."""
        aligns = [(at, self._align(type_)) for _, at, width, type_ in node.members if not width]
        widest = max((self._align(type_) for *_, type_ in node.members), default=1)
        return node.size % widest != 0 or any(at % (align * 8) for at, align in aligns)


def _suffix(value: int) -> str:
    return "ULL" if value >= 1 << 63 else "LL" if not -(1 << 31) <= value < 1 << 32 else ""


def _gap(bits: int, at: int, align: int, width: int, size: int) -> Iterator[str]:
    """Fields without a name from bit `bits` to where the next member stands, as far as C would not leave that gap by itself."""
    natural = -(-bits // align) * align
    if width:
        natural = bits if size and bits // size == (bits + width - 1) // size else natural
    if natural == at or at <= bits:
        return
    while bits < at:
        step = min(at - bits, 64 - bits % 64)
        if step == 64 or (bits % 64 == 0 and step > 32):
            yield f"long: {step};"
        elif bits % 32 + step <= 32:
            yield f"int: {step};" if bits % 8 + step > 8 else f"char: {step};"
        else:
            step = 32 - bits % 32
            yield f"int: {step};" if bits % 8 + step > 8 else f"char: {step};"
        bits += step
