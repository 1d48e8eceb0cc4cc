"""A compiled object as it is asked about: its programs, what each asks of a kernel and where, worked out once for all profiles."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from kmatrix.guest import bpf
from kmatrix.guest import sections as loader_sections
from kmatrix.host.errors import InputError
from kmatrix.objects import sections
from kmatrix.objects.btf import DATASEC, VAR, Relocation
from kmatrix.objects.code import CALL, Code, Function
from kmatrix.objects.lines import Line
from kmatrix.objects.needs import JUDGED_LATE, TYPED, asked_unseen, instruction, linked
from kmatrix.objects.reach import EXISTENCE, KCONFIG, Known, context_reads, reachable
from kmatrix.objects.source_lines import SourceLines
from kmatrix.predict.core import Core


@dataclass(frozen=True)
class Demand:
    """Something that code which is reached asks of the kernel."""

    kind: Literal["helper", "relocation", "kfunc", "insn", "map"]
    name: str
    number: int = 0
    """Of a helper."""
    relocation: Relocation | None = None
    at: int = 0
    """The instruction, counted from the start of its function."""
    function: Function | None = None


@dataclass
class Program:
    """A program of the object."""

    name: str
    section: str
    entry: Function
    type: str | None
    attach_type: int
    attach: str | None
    kind: str
    """Of the section: `fentry` of `fentry.s/do_exit`."""
    target: str
    sleepable: bool
    frags: bool
    functions: tuple[Function, ...]
    """It and all that it refers to."""
    statics: tuple[str, ...]
    """What the verifier asks for before it knows what is reached, as features are written."""
    relocations: tuple[Relocation, ...]
    maps: frozenset[str]
    """Those that it refers to, reached or not."""
    reached: dict[tuple[object, ...], tuple[Demand, ...]] = field(default_factory=dict)
    reads: dict[tuple[object, ...], tuple[tuple[int, int, int], ...]] = field(default_factory=dict)

    @property
    def typed(self) -> bool:
        """Whether it is aimed by the kernel's BTF."""
        return self.kind in TYPED


class Subject:
    """The object."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for what is not a whole BPF object, or has no BTF where it needs it."""
        self.path = path
        self.code = Code(path)
        if not self.code.info.programs:
            raise InputError(
                "the object has no BPF program", where=str(path), fix="put SEC(…) on a function, and do not strip symbols"
            )
        self.core = Core(self.code.btf) if self.code.btf is not None else None
        self.lines = SourceLines(self.code.info.data)
        programs = self.code.programs
        self.programs = [self._program(name, programs[name]) for name in self.code.info.programs if name in programs]

    def _program(self, name: str, entry: Function) -> Program:
        section = entry.section
        read = sections.read(section)
        kind, number, attach = read.program, 0, read.attach
        if attach is not None:
            number = bpf.ATTACH_TYPES.index(attach)
        if not loader_sections.taken(section) and (meant := loader_sections.meant(section)) is not None:
            kind, number = bpf.PROG_TYPES[meant[0]], meant[1] or 0
            attach = bpf.ATTACH_TYPES[number] if number else None
        functions = tuple(linked(self.code, entry))
        relocations, maps = [], set()
        for function in functions:
            for index in range(len(function.insns)):
                where = (function.section, function.at(index))
                if (relocation := self.code.relocations.get(where)) is not None:
                    relocations.append(relocation)
                reference = self.code.references.get(where)
                if reference is not None and reference.kind == "map":
                    maps.add(reference.name)
        return Program(
            name, section, entry, kind, number, attach, read.kind, read.target, read.sleepable, read.frags, functions,
            tuple(dict.fromkeys(name for name, _, _ in asked_unseen(self.code, entry))), tuple(dict.fromkeys(relocations)), frozenset(maps),
        )  # fmt: skip

    # -- externs -------------------------------------------------------------------------------------------------------------

    @cached_property
    def externs(self) -> Mapping[str, tuple[str, bool]]:
        """What the kernel has to provide, by name: `kconfig`, `function`, `variable` (typed) or `address`, and whether the object can do without."""
        found: dict[str, tuple[str, bool]] = {}
        calls = {
            (function.section, function.at(index))
            for function in self.code.functions.values()
            for index, insn in enumerate(function.insns)
            if insn.code == CALL
        }
        for where, reference in self.code.references.items():
            if reference.kind == "extern":
                kind = (
                    "kconfig"
                    if reference.name.startswith(KCONFIG)
                    else "function"
                    if where in calls
                    else self._extern(reference.name)
                )
                found[reference.name] = (kind, reference.weak)
        return found

    def _extern(self, name: str) -> str:
        """Of something in .ksyms whose address is taken: a function, a variable with a type, or an address alone (`const void`)."""
        types = self.code.btf.types if self.code.btf is not None else []
        section = next((each for each in types if each.kind == DATASEC and each.name == ".ksyms"), None)
        for _, number, _ in section.members if section is not None else ():
            if types[number].name == name:
                if types[number].kind != VAR:
                    return "function"
                assert self.code.btf is not None
                return "address" if self.code.btf.bare(types[number].ref) == 0 else "variable"
        return "address"

    @cached_property
    def reads_configuration(self) -> bool:
        """Whether libbpf looks for the kernel's configuration, which it does where the object has an option of it, be it weak."""
        return any(kind == "kconfig" and name.startswith("CONFIG_") for name, (kind, _) in self.externs.items())

    @cached_property
    def map_shapes(self) -> Mapping[str, Mapping[str, int]]:
        """By map of .maps: type, max_entries, key_size, value_size and map_flags, as far as the object says them."""
        btf = self.code.btf
        found: dict[str, dict[str, int]] = {
            name: dict(numbers) for name, numbers in (btf.map_numbers() if btf is not None else {}).items()
        }
        for name, definition in self.code.info.definitions.items():
            shape = found.setdefault(name, {})
            shape["key_size"], shape["value_size"] = definition.key_size, definition.value_size
            if definition.type in (
                "prog_array",
                "array_of_maps",
                "hash_of_maps",
            ):  # libbpf sets it, where `values` says what is in it
                shape["value_size"] = shape["value_size"] or 4
        if self.code.info.legacy_maps:
            for name, (section, at) in self.code.info.symbols.items():
                if section == "maps" and len(self.code.info.legacy_maps) >= at + 20:
                    kind, key, value, entries, flags = struct.unpack_from("<IIIII", self.code.info.legacy_maps, at)
                    found[name] = {"type": kind, "key_size": key, "value_size": value, "max_entries": entries, "map_flags": flags}
        return found

    # -- what is reached -----------------------------------------------------------------------------------------------------

    def demands(self, program: Program, answers: tuple[object, ...], known: Known) -> tuple[Demand, ...]:
        """What the code asks for that a kernel reaches which gives these `answers`, in the order of the code."""
        found = program.reached.get(answers)
        if found is None:
            found = program.reached[answers] = tuple(self._demands(program, known))
        return found

    def context(self, program: Program, answers: tuple[object, ...], known: Known) -> tuple[tuple[int, int, int], ...]:
        """What it reads of its context: instruction, offset and bytes."""
        found = program.reads.get(answers)
        if found is None:
            reads = context_reads(self.code, program.entry, known)
            found = program.reads[answers] = tuple((index, *place) for index, place in sorted(reads.items()))
        return found

    def _demands(self, program: Program, known: Known) -> Iterator[Demand]:
        for function, indices in reachable(self.code, program.entry, known).items():
            for index in sorted(indices):
                insn, where = function.insns[index], (function.section, function.at(index))
                reference, relocation = self.code.references.get(where), self.code.relocations.get(where)
                if relocation is not None and relocation.kind not in EXISTENCE:
                    yield Demand("relocation", relocation.root, relocation=relocation, at=index, function=function)
                if reference is not None and reference.kind == "map":
                    yield Demand("map", reference.name, at=index, function=function)
                if insn.code == CALL and reference is not None and reference.kind == "extern":
                    yield Demand("kfunc", reference.name, at=index, function=function)
                elif insn.code == CALL and insn.src == 0 and reference is None:
                    yield Demand("helper", "", insn.imm, at=index, function=function)
                kind = instruction(insn)
                if kind in JUDGED_LATE:
                    yield Demand("insn", f"insn:{kind}", at=index, function=function)

    def line(self, function: Function | None, index: int) -> Line | None:
        """The line of source of an instruction."""
        return self.code.line(function, index) if function is not None else None
