"""What the sources beside the objects say: their structs, and the lines of a Makefile that compile them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kmatrix.matrix.arch import ARCHES, INFO
from kmatrix.objects.layout import ELEMENTS, Leaf
from kmatrix.propose.shape import Shape

_BIG_ENDIAN = {"__be16": "be16", "__be32": "be32", "__be64": "be64"}


def structs(sources: Sequence[Path]) -> list[Shape]:
    """The structs that the project's own sources and headers define, each once by name."""
    # Here, and not above: libclang takes a while, and is asked only where there are sources.
    from kmatrix.lint.source import Unit, header_folders

    found: dict[str, Shape] = {}
    for path in sources:
        unit = Unit(path, "x86_64", includes=header_folders(path.resolve()))
        for cursor in unit.unit.cursor.get_children():
            where = cursor.location.file
            if cursor.kind.name != "STRUCT_DECL" or not cursor.is_definition() or where is None or unit.is_foreign(str(where.name)):
                continue
            size = int(cursor.type.get_size())
            if size > 0 and cursor.spelling.isidentifier():
                leaves = tuple(_leaves(cursor.type, 0, ""))
                why = f"it is the struct of that size in {Path(str(where.name)).name}"
                found.setdefault(cursor.spelling, Shape(cursor.spelling, size, leaves, why, guessed=True, in_objects=False))
    return [*found.values()]


def _leaves(type_: Any, at: int, path: str) -> Iterator[Leaf]:
    """The fields of a type, as kmatrix.objects.layout has them of BTF."""
    plain = type_.get_canonical()
    kind, size = plain.kind.name, int(plain.get_size())
    if kind == "RECORD":
        for member in plain.get_fields():
            name = ".".join(filter(None, (path, member.spelling if member.spelling.isidentifier() else "")))
            bit = int(member.get_field_offsetof())
            if member.is_bitfield():
                yield Leaf(name, f"ubits[{bit % 8}:{member.get_bitfield_width()}]", at + bit // 8, 1)
            else:
                yield from _leaves(member.type, at + bit // 8, name)
    elif kind in ("CONSTANTARRAY", "INCOMPLETEARRAY"):
        element = plain.element_type.get_canonical()
        count = int(plain.element_count) if kind == "CONSTANTARRAY" else 0
        if int(element.get_size()) == 1:
            text = "char" if element.kind.name in ("CHAR_S", "CHAR_U") else "bytes"
            yield Leaf(path, f"{text}[{count or ''}]", at, count)
        elif count <= ELEMENTS:
            for index in range(count):
                yield from _leaves(element, at + index * int(element.get_size()), f"{path}[{index}]")
        else:
            yield Leaf(path, f"bytes[{size}]", at, size)
    elif size in (1, 2, 4, 8):
        signed = kind in ("CHAR_S", "SCHAR", "SHORT", "INT", "LONG", "LONGLONG")
        order = _BIG_ENDIAN.get(type_.spelling.removeprefix("const "))
        yield Leaf(path, order or f"{'s' if signed else 'u'}{8 * size}", at, size)
    else:
        yield Leaf(path, f"bytes[{size}]", at, size)


def makefile_lines(sources: Sequence[Path]) -> str:
    """The lines of a Makefile that compile the sources for both arches, under bpf2go's names in build/."""
    names = " ".join(path.name.removesuffix(".bpf.c") for path in sources)
    suffixes = [INFO[arch].bpf2go for arch in ARCHES]
    lines = [f"NAMES := {names}", "bpf: " + " ".join(f"$(NAMES:%=build/%_{suffix}_bpfel.o)" for suffix in suffixes)]
    for suffix in suffixes:
        lines += [
            f"build/%_{suffix}_bpfel.o: %.bpf.c",
            "\t@mkdir -p $(@D)",
            "\tclang -target bpf -mcpu=v1 -g -O2 -Wall -idirafter /usr/include/$(shell uname -m)-linux-gnu"
            f" -D__TARGET_ARCH_{suffix} -c $< -o $@",
        ]
    return "\n".join(lines)
