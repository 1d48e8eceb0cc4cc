"""The lines of C source of an object's instructions, by .BTF.ext (Documentation/bpf/btf.rst, struct bpf_line_info)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.objects.btf import Btf, Relocation
from kmatrix.objects.lines import Line, lines

if TYPE_CHECKING:
    from elftools.common import exceptions as elf_exceptions
    from elftools.elf import elffile
    from elftools.elf import relocation as elf_relocation
    from elftools.elf import sections as elf_sections

    from kmatrix.objects import code as codes
    from kmatrix.objects import reach
else:  # most runs ask for the lines of no object
    codes, reach = later("kmatrix.objects.code"), later("kmatrix.objects.reach")
    elf_exceptions = later("elftools.common.exceptions")
    elffile = later("elftools.elf.elffile")
    elf_relocation = later("elftools.elf.relocation")
    elf_sections = later("elftools.elf.sections")

_INSN = 8
"""Bytes of an instruction."""
_R_BPF_64_64 = 1
"""The relocation of a two-word load: the address of a map, of data, or of a function."""
_SHF_EXECINSTR = 0x4
_UNNAMED = Path("object.o")
"""What stands for the path of an object that is at hand by its bytes alone."""
_AT = re.compile(r"^(?:from \d+ to )?(\d+): ", re.M)


@dataclass(frozen=True)
class _Reference:
    """One relocation of the object's code."""

    section: str
    insn: int
    kind: int
    name: str
    """Of the symbol."""
    code: bool
    """Whether the symbol is in a section of code."""
    external: bool


class SourceLines:
    """The table of one object. An object without one has no lines."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @cached_property
    def _table(self) -> tuple[list[Line], Mapping[str, tuple[str, int, int]]]:
        """The lines, and each function by name: section, first instruction, number of instructions. Read where it is first asked for."""
        try:
            elf = elffile.ELFFile(BytesIO(self._data))
            sections = list(elf.iter_sections())
            parts = {section.name: section for section in sections}
            functions = {}
            for symbols in sections:
                for symbol in symbols.iter_symbols() if isinstance(symbols, elf_sections.SymbolTableSection) else ():
                    if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int):
                        home = sections[symbol["st_shndx"]].name
                        functions[symbol.name] = (home, symbol["st_value"] // _INSN, symbol["st_size"] // _INSN)
            found = lines(Btf(parts[".BTF"].data()), parts[".BTF.ext"].data())
            return [line for each in found.values() for line in each], functions
        except (elf_exceptions.ELFError, KeyError, ValueError, IndexError, struct.error):
            return [], {}

    def first(self, program: str) -> str | None:
        """The line at which a program begins."""
        lines, functions = self._table
        home = functions.get(program)
        return next((str(line) for line in lines if home and (line.section, line.insn) == home[:2]), None)

    def naming(self, program: str, log: str, word: str) -> str | None:
        """The line of `program` with `word` in it that is nearest to the last instruction of its `log`; None where there is none."""
        lines, functions = self._table
        home, found = functions.get(program), _AT.findall(log)
        if home is None or not found:
            return None
        section, start, count = home
        at = start + int(found[-1])
        own = [line for line in lines if line.section == section and start <= line.insn < start + count]
        having = [line for line in own if re.search(rf"\b{re.escape(word)}\b", line.text)]
        return str(min(having, key=lambda line: abs(line.insn - at))) if having else None

    def holding(self, program: str, wanted: Callable[[bytes], bool]) -> str | None:
        """The line of the first instruction (8 bytes) of `program`, else of the functions that all programs share, that is `wanted`."""
        lines, functions = self._table
        home = functions.get(program)
        if home is None:
            return None
        section, start, count = home
        for name, first, number in ((section, start, count), (".text", 0, None)):
            code = self._code(name)
            end = len(code) // _INSN if number is None else first + number
            for at in range(first, end):
                if wanted(code[at * _INSN : (at + 1) * _INSN]):
                    before = [line for line in lines if line.section == name and line.insn <= at]
                    return str(max(before, key=lambda line: line.insn)) if before else None
        return None

    def calls(self, program: str) -> bool:
        """Whether `program` calls a function of the object."""
        _, functions = self._table
        section, start, count = functions.get(program, ("", 0, 0))
        code = self._code(section)[start * _INSN : (start + count) * _INSN]
        return any(code[at] == codes.CALL and code[at + 1] >> 4 == codes.PSEUDO_CALL for at in range(0, len(code), _INSN))

    def context_reads(self, program: str) -> list[tuple[int, int, str | None]]:
        """The reads of `program` from its context at a constant place: the first byte, the byte after the last, and the line of each."""
        try:
            code = codes.Code(_UNNAMED, self._data)
        except InputError:
            return []
        function = code.programs.get(program)
        reads = reach.context_reads(code, function, reach.Known()) if function is not None else {}
        found = [(at, at + size, code.line(function, index)) for index, (at, size) in sorted(reads.items()) if function is not None]
        return [(first, end, str(line) if line is not None else None) for first, end, line in found]

    def _code(self, section: str) -> bytes:
        found = elffile.ELFFile(BytesIO(self._data)).get_section_by_name(section)
        return bytes(found.data()) if found is not None else b""

    def callback(self, program: str) -> str | None:
        """The first line of `program` that takes the address of a function; None where none does."""
        return self._address(program, lambda each: each.code)

    def variable(self, program: str) -> str | None:
        """The first line of `program` that takes the address of an external variable, such as one of the kernel; None where none does."""
        return self._address(program, lambda each: each.external)

    def _address(self, program: str, wanted: Callable[[_Reference], bool]) -> str | None:
        """The first line of `program` that takes an address which is `wanted`."""
        lines, functions = self._table
        home = functions.get(program)
        if home is None:
            return None
        section, start, count = home
        for each in self._references:
            if each.kind == _R_BPF_64_64 and each.section == section and start <= each.insn < start + count and wanted(each):
                before = [line for line in lines if line.section == section and line.insn <= each.insn]
                return str(max(before, key=lambda line: line.insn)) if before else None
        return None

    @cached_property
    def _references(self) -> list[_Reference]:
        """What the object's instructions refer to by ELF's own relocations."""
        found: list[_Reference] = []
        try:
            elf = elffile.ELFFile(BytesIO(self._data))
            sections = list(elf.iter_sections())
            for each in sections:
                if not isinstance(each, elf_relocation.RelocationSection):
                    continue
                symbols = sections[each["sh_link"]]
                if not isinstance(symbols, elf_sections.SymbolTableSection):
                    continue
                home, names = sections[each["sh_info"]].name, list(symbols.iter_symbols())
                for relocation in each.iter_relocations():
                    symbol = names[relocation["r_info_sym"]]
                    index = symbol["st_shndx"]
                    code = isinstance(index, int) and bool(sections[index]["sh_flags"] & _SHF_EXECINSTR)
                    at, kind = relocation["r_offset"] // _INSN, relocation["r_info_type"]
                    found.append(_Reference(home, at, kind, symbol.name, code, index == "SHN_UNDEF"))
        except (elf_exceptions.ELFError, AttributeError, ValueError, IndexError):
            return []
        return found

    def relocated(self, program: str, log: str) -> Relocation | None:
        """The CO-RE relocation of the instruction that the verifier stopped at, the last of its `log`; None where that has none."""
        _, functions = self._table
        home, found = functions.get(program), _AT.findall(log)
        if home is None or not found or int(found[-1]) >= home[2]:
            return None
        section, start, _ = home
        elf = elffile.ELFFile(BytesIO(self._data))
        parts = {each.name: each for each in elf.iter_sections()}
        every = Btf(parts[".BTF"].data()).relocations(parts[".BTF.ext"].data())
        return next((each for each in every if (each.section, each.at) == (section, (start + int(found[-1])) * _INSN)), None)

    def uses(self, symbol: str, program: str | None = None) -> str | None:
        """The first line that refers to a symbol, such as a map or an external function; None where none does.

        With `program`, that program's own first such line, if it has one.
        """
        lines, functions = self._table
        home, start, count = functions.get(program or "", ("", 0, 0))
        using = [each for each in self._references if each.name == symbol]
        own = [each for each in using if each.section == home and start <= each.insn < start + count]
        for each in (*own, *using):
            before = [line for line in lines if line.section == each.section and line.insn <= each.insn]
            if before:
                return str(max(before, key=lambda line: line.insn))
        return None

    def inner_map(self, name: str) -> dict[str, int]:
        """What the object says of the map inside the map of maps `name` (type, map_flags, key_size…); {} where it says nothing."""
        try:
            section = elffile.ELFFile(BytesIO(self._data)).get_section_by_name(".BTF")
            return Btf(section.data()).inner_numbers(name) if section is not None else {}
        except (elf_exceptions.ELFError, ValueError, IndexError):
            return {}

    def structure(self, size: int, first: int, left: Sequence[int]) -> tuple[list[int], str] | None:
        """The structure of `size` bytes in the object's BTF that was left unwritten: which bytes, and its name.

        Its padding has the byte `first`, and is among the bytes `left` unwritten; or all are, and there is one structure of that size. None
        where no structure is that, or several are.
        """
        try:
            section = elffile.ELFFile(BytesIO(self._data)).get_section_by_name(".BTF")
            btf = Btf(section.data() if section is not None else b"")
        except (elf_exceptions.ELFError, ValueError):
            return None
        found = {
            name: list(left) if len(left) == size else padding
            for name, padding in btf.paddings(size)
            if name and (len(left) == size or (first in padding and set(padding) <= set(left)))
        }
        return next((padding, name) for name, padding in found.items()) if len(found) == 1 else None

    def stopped_at(self, program: str, log: str, text: str | None) -> str | None:
        """The line at which the verifier stopped in `program`: the last instruction of its `log`, `text` being the last line quoted there.

        A program's instructions are numbered from 0; those of its subprograms come after them, where only `text` tells. None where neither
        says which line it is.
        """
        lines, functions = self._table
        home, found = functions.get(program), _AT.findall(log)
        if home is None:
            return None
        section, start, count = home
        if text is None and found and int(found[-1]) < count:
            at = start + int(found[-1])
            before = [line for line in lines if line.section == section and start <= line.insn <= at]
            return str(before[-1]) if before else None
        alike = [line for line in lines if line.text == text]
        own = [line for line in alike if line.section == section and start <= line.insn < start + count]
        if found and int(found[-1]) < count and own:
            own = [line for line in own if line.insn <= start + int(found[-1])][-1:] or own
        numbers = {(line.file, line.number) for line in own or alike}
        return str((own or alike)[0]) if text and len(numbers) == 1 else None
