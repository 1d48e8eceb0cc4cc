"""The code of a compiled object: its functions, instruction by instruction, with what each instruction refers to.

Format: include/uapi/linux/bpf.h (struct bpf_insn), Documentation/bpf/standardization/instruction-set.rst, and Documentation/bpf/llvm_reloc.rst
for the relocations.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.objects.btf import Btf, Relocation
from kmatrix.objects.compiled import ObjectInfo, inspect
from kmatrix.objects.lines import Line, lines

if TYPE_CHECKING:
    from elftools.elf import elffile
    from elftools.elf import relocation as elf_relocation
    from elftools.elf import sections as elf_sections

    from kmatrix.objects import elf as taken_apart
else:
    elffile = later("elftools.elf.elffile")
    elf_relocation = later("elftools.elf.relocation")
    elf_sections = later("elftools.elf.sections")
    taken_apart = later("kmatrix.objects.elf")

_SHF_EXECINSTR = 0x4
CALL, LD_IMM64, EXIT = 0x85, 0x18, 0x95
PSEUDO_CALL = 1
"""What src_reg says of a call: the immediate is another function of the object."""


class Insn(NamedTuple):
    """One instruction: struct bpf_insn. The second word of a two-word load is an instruction of its own, of code 0."""

    code: int
    dst: int
    src: int
    off: int
    imm: int


@dataclass(frozen=True)
class Reference:
    """What an instruction refers to by a relocation of the ELF file."""

    kind: Literal["map", "data", "function", "extern"]
    name: str
    """A map's or function's name, a data section's name, or the name of something that the kernel has to provide."""
    offset: int = 0
    """Of data: bytes from the start of the section."""
    weak: bool = False
    """Of an extern: whether the object can do without (`__weak`): its address is 0 then."""


@dataclass(frozen=True)
class Function:
    """A function of the object: a program, or one that programs call."""

    name: str
    section: str
    start: int
    """Bytes from the start of its section."""
    insns: tuple[Insn, ...] = field(repr=False)

    def at(self, index: int) -> int:
        """Where an instruction is: bytes from the start of the section."""
        return self.start + 8 * index


class Code:
    """An object taken apart into functions."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """Read the object at `path`, or `data` that was read from there. Raises InputError for what is not a whole BPF object."""
        self.info: ObjectInfo = inspect(path) if data is None else taken_apart.read(path, data)
        elf = elffile.ELFFile(BytesIO(self.info.data))
        self._sections = list(elf.iter_sections())
        table = next((s for s in self._sections if isinstance(s, elf_sections.SymbolTableSection)), None)
        self._symbols = list(table.iter_symbols()) if table is not None else []
        self.functions: dict[tuple[str, int], Function] = {}
        for symbol in self._symbols:
            home = symbol["st_shndx"]
            if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(home, int):
                section, start = self._sections[home], symbol["st_value"]
                insns = decode(section.data()[start : start + symbol["st_size"]])
                self.functions[section.name, start] = Function(symbol.name, section.name, start, insns)
        self.references: dict[tuple[str, int], Reference] = dict(self._references())

    @property
    def programs(self) -> dict[str, Function]:
        """The entry functions by name."""
        return {f.name: f for f in self.functions.values() if f.name in self.info.programs}

    @cached_property
    def btf(self) -> Btf | None:
        """Its types; None where it was compiled without -g. Raises InputError where they are damaged."""
        data = self.section(".BTF")
        try:
            return Btf(data) if data else None
        except ValueError as error:
            raise InputError(str(error), where=str(self.info.path), fix="compile it with clang -target bpf -g -O2") from None

    @cached_property
    def relocations(self) -> Mapping[tuple[str, int], Relocation]:
        """Its CO-RE relocations by the instruction that each changes: section, and bytes from its start."""
        ext = self.section(".BTF.ext")
        return {(r.section, r.at): r for r in self.btf.relocations(ext)} if self.btf is not None and ext else {}

    @cached_property
    def lines(self) -> Mapping[str, list[Line]]:
        """The source lines of each section, in the order of its instructions."""
        ext = self.section(".BTF.ext")
        return lines(self.btf, ext) if self.btf is not None and ext else {}

    def line(self, function: Function, index: int) -> Line | None:
        """The source line that an instruction was compiled from."""
        at, found = function.at(index), None
        for line in self.lines.get(function.section, []):
            if line.at > at:
                break
            found = line
        return found

    def section(self, name: str) -> bytes:
        """What a section holds; nothing where there is none, or where it holds only zeros (.bss)."""
        return next((s.data() for s in self._sections if s.name == name and s["sh_type"] != "SHT_NOBITS"), b"")

    def callee(self, function: Function, index: int) -> Function | None:
        """The function of the object that a call, or a load of a function's address, refers to; None where it is none of the object's."""
        insn = function.insns[index]
        reference = self.references.get((function.section, function.at(index)))
        if reference is not None:
            return self.functions.get((reference.name, reference.offset)) if reference.kind == "function" else None
        if insn.code == CALL and insn.src == PSEUDO_CALL:
            return self.functions.get((function.section, function.at(index + 1 + insn.imm)))
        return None

    def _references(self) -> Iterator[tuple[tuple[str, int], Reference]]:
        for section in self._sections:
            if not isinstance(section, elf_relocation.RelocationSection):
                continue
            changed = self._sections[section["sh_info"]]
            if not changed["sh_flags"] & _SHF_EXECINSTR:
                continue
            code = changed.data()
            for relocation in section.iter_relocations():
                at = relocation["r_offset"]
                found = self._reference(self._symbols[relocation["r_info_sym"]], code, at)
                if found is not None:
                    yield (changed.name, at), found

    def _reference(self, symbol: object, code: bytes, at: int) -> Reference | None:
        home, value, name = symbol["st_shndx"], symbol["st_value"], symbol.name  # type: ignore[index, attr-defined]
        if home == "SHN_UNDEF":
            return Reference("extern", name, weak=symbol["st_info"]["bind"] == "STB_WEAK")  # type: ignore[index]
        if not isinstance(home, int):
            return None
        section = self._sections[home]
        imm = struct.unpack_from("<i", code, at + 4)[0]
        if section["sh_flags"] & _SHF_EXECINSTR:
            # Of a section's symbol, the immediate says where in it: of a call counted in instructions from the next one.
            whole = symbol["st_info"]["type"] == "STT_SECTION"  # type: ignore[index]
            inside = ((imm + 1) * 8 if code[at] == CALL else imm) if whole else 0
            return Reference("function", section.name, value + inside)
        if section.name in (".maps", "maps"):
            return Reference("map", name or self._map_at(home, value + imm))
        return Reference("data", section.name, value + (imm if code[at] == LD_IMM64 else 0))

    def _map_at(self, home: int, value: int) -> str:
        """A map by its place, where the relocation is against its section."""
        return next((s.name for s in self._symbols if s["st_shndx"] == home and s["st_value"] == value and s.name), "")


def decode(code: bytes) -> tuple[Insn, ...]:
    """Instructions out of the bytes of a section."""
    return tuple(Insn(op, regs & 0xF, regs >> 4, off, imm) for op, regs, off, imm in struct.iter_unpack("<BBhi", code))


def encode(insns: Iterable[Insn]) -> bytes:
    """The bytes of instructions."""
    return b"".join(struct.pack("<BBhi", insn.code, insn.src << 4 | insn.dst, insn.off, insn.imm) for insn in insns)
