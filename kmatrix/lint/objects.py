"""KM7, and KM5 over compiled objects: what the loader and the verifier of a claimed kernel would say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from kmatrix.guest.flow import back_edge
from kmatrix.guest.table_insns import MAX_INSNS_OLD
from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.lint import facts
from kmatrix.lint.claims import Claim
from kmatrix.lint.facts import Needed
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.objects.btf import ENUM_EXISTS, FIELD_OFFSET, Btf, Relocation
from kmatrix.objects.compiled import ObjectInfo, inspect

_CALL, _EXIT, _MOV = 0x85, 0x95, 0xB7
_SHF_EXECINSTR = 0x4
_BPF_MACHINE = 247
_DATA = (".data", ".bss", ".rodata")


def is_bpf(path: Path) -> bool:
    """Whether a file is an ELF object for BPF: other objects are nobody's business here."""
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little" if head[5:6] == b"\x01" else "big") == _BPF_MACHINE


@dataclass(frozen=True)
class Code:
    """The instructions of one entry function."""

    name: str
    section: str
    insns: bytes

    @property
    def helpers(self) -> set[int]:
        """The helpers that it calls."""
        return {imm for code, src, imm in self._decoded() if code == _CALL and src == 0}

    @property
    def calls_functions(self) -> bool:
        """Whether it calls another BPF function."""
        return any(code == _CALL and src == 1 for code, src, _ in self._decoded())

    @property
    def only_returns(self) -> bool:
        """Whether it is `r0 = constant; exit`."""
        codes = [code for code, _, _ in self._decoded()]
        return codes == [_MOV, _EXIT]

    def _decoded(self) -> Iterator[tuple[int, int, int]]:
        for at in range(0, len(self.insns), 8):
            yield self.insns[at], self.insns[at + 1] >> 4, int.from_bytes(self.insns[at + 4 : at + 8], "little", signed=True)


class Compiled:
    """An object taken apart."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for what is not a whole BPF object."""
        self.info: ObjectInfo = inspect(path)
        self.elf = ELFFile(BytesIO(self.info.data))
        sections = list(self.elf.iter_sections())
        self.data_sections = sorted(_referred_to(self.elf))
        """The .data, .bss and .rodata that its code refers to: libbpf leaves out the others where the kernel has no global data."""
        self.codes: list[Code] = []
        for table in sections:
            if not isinstance(table, SymbolTableSection):
                continue
            for symbol in table.iter_symbols():
                home = symbol["st_shndx"]
                if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(home, int):
                    body = sections[home].data()[symbol["st_value"] : symbol["st_value"] + symbol["st_size"]]
                    self.codes.append(Code(symbol.name, sections[home].name, body))

    @property
    def programs(self) -> list[Code]:
        """The entry functions."""
        return [code for code in self.codes if code.name in self.info.programs]

    @cached_property
    def btf(self) -> Btf | None:
        """Its types."""
        section = self.elf.get_section_by_name(".BTF")
        try:
            return Btf(section.data()) if section is not None else None
        except ValueError as error:
            raise InputError(str(error), where=str(self.info.path), fix="compile it with clang -target bpf -g -O2") from None

    @cached_property
    def relocations(self) -> list[Relocation]:
        """Its CO-RE relocations."""
        ext = self.elf.get_section_by_name(".BTF.ext")
        return list(self.btf.relocations(ext.data())) if self.btf is not None and ext is not None else []


def _referred_to(elf: ELFFile) -> set[str]:
    found: set[str] = set()
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection) or not elf.get_section(section["sh_info"])["sh_flags"] & _SHF_EXECINSTR:
            continue
        symbols = elf.get_section(section["sh_link"])
        for relocation in section.iter_relocations():
            home = symbols.get_symbol(relocation["r_info_sym"])["st_shndx"] if isinstance(symbols, SymbolTableSection) else None
            if isinstance(home, int) and elf.get_section(home).name.startswith(_DATA):
                found.add(elf.get_section(home).name)
    return found


def check(path: Path, claimed: Sequence[Claim]) -> Iterator[tuple[str, str]]:
    """What is wrong with an object: code and message. Raises InputError where it is none."""
    compiled = Compiled(path)
    if compiled.btf is None:
        yield "KM701", "no .BTF: compile with -g, and strip with llvm-strip -g, which keeps it"
    for name, field in sorted({step for r in compiled.relocations if r.kind == FIELD_OFFSET for step in r.path}):
        struct = name.split("___")[0]
        span = facts.CHANGED.get(struct, {}).get(field)
        if struct == "pt_regs" and field in facts.USER_REGISTERS:
            yield (
                "KM702",
                f"it reads pt_regs.{field}, which is user space's name: the kernel's BTF does not have it, and the program is refused",
            )
        elif span is not None and span.until is not None and span.until <= facts.BTF_FLOOR:
            yield "KM702", f"it reads {struct}.{field}, which no kernel with BTF has ({span.note}): the program is refused"
    for code in compiled.programs:
        if code.only_returns:
            yield "KM703", f"{code.name} does nothing but return: see whether a feature test in it is constant"
    yield from _arch(compiled)
    for claim in claimed:
        yield from _claimed(compiled, claim)


def _arch(compiled: Compiled) -> Iterator[tuple[str, str]]:
    named = compiled.info.compiled_for
    read = {
        step[1]
        for r in compiled.relocations
        if r.kind == FIELD_OFFSET
        for step in r.path
        if step[0].split("___")[0] in ("pt_regs", "user_pt_regs")
    }
    only_x86, only_arm64 = read & (facts.X86_REGISTERS - facts.ARM64_REGISTERS), read & {"regs", "pc", "pstate"}
    if named == "arm64" and only_x86:
        yield "KM705", f"named for arm64, and it reads x86_64's {min(only_x86)}: compile it with -D__TARGET_ARCH_arm64"
    elif named == "x86_64" and only_arm64:
        yield "KM705", f"named for x86_64, and it reads arm64's {min(only_arm64)}: compile it with -D__TARGET_ARCH_x86"


def _claimed(compiled: Compiled, claim: Claim) -> Iterator[tuple[str, str]]:
    arches = [compiled.info.compiled_for] if compiled.info.compiled_for else list(claim.variant.arches or ARCHES)
    oldest = versions.text(min(claim.floor(arch) for arch in arches))
    tail = f"{claim} claims kernels from {oldest} on"

    def lacks(needed: Needed, program: str | None = None) -> bool:
        return any(claim.lacks(needed, arch, program) for arch in arches)

    if compiled.data_sections and lacks(Needed((5, 2), "global_data")):
        yield (
            "KM501",
            f"it has {', '.join(compiled.data_sections)}, which take 5.2, and {tail}: no global variables, string constants or bpf_printk there",
        )
    if compiled.relocations and not claim.has_btf:
        first = compiled.relocations[0]
        what = ".".join((first.root, *(field for _, field in first.path)))
        yield (
            "KM502",
            f'it has CO-RE relocations ({what}), and {claim} does not need btf: the loader refuses it there; leave them out, or add "btf"',
        )
    for name, numbers in (compiled.btf.map_numbers() if compiled.btf is not None else {}).items():
        needed = facts.map_needs(numbers.get("type", 0))
        if lacks(needed):
            kind = facts.MAP_NAMES.get(numbers.get("type", 0), "newer")
            yield (
                "KM503" if needed.feature == "ringbuf" else "KM504",
                f"{name} is a {kind} map ({versions.text(needed.since)}), and {tail}",
            )
    tested = {r.path[0][1].split("___")[0] for r in compiled.relocations if r.kind == ENUM_EXISTS and r.path}
    for code in compiled.programs:
        yield from _verified(code, tail, lacks)
        for number in sorted(code.helpers):
            needed = facts.helper_needs(number)
            if needed.feature == "ringbuf" or (tested and needed.since > facts.BTF_FLOOR) or not lacks(needed, code.name):
                continue
            todo = f'add "{needed.feature}" to its needs' if needed.feature else "raise min_kernel"
            yield "KM504", f"{code.name} calls helper {number} ({versions.text(needed.since)}), and {tail}: {todo}"


def _verified(code: Code, tail: str, lacks: Callable[[Needed, str | None], bool]) -> Iterator[tuple[str, str]]:
    if code.calls_functions and lacks(Needed((4, 16), "bpf2bpf"), code.name):
        yield "KM706", f"{code.name} calls another BPF function, which takes 4.16, and {tail}: make it __always_inline"
    if len(code.insns) // 8 > MAX_INSNS_OLD and lacks(Needed((5, 2), "insns_1m"), code.name):
        yield (
            "KM706",
            f"{code.name} has {len(code.insns) // 8} instructions, of which kernels before 5.2 take 4096, and {tail}: make it smaller",
        )
    if back_edge(code.insns) is not None and lacks(Needed((5, 3), "bounded_loops"), code.name):
        yield "KM706", f"{code.name} has a loop, which takes 5.3, and {tail}: unroll it (#pragma unroll)"


def missing(collector: Collector) -> Iterator[tuple[Path, str]]:
    """Variants of which one arch's object is there and the other's is not: the one that is, and what to do."""
    folder = collector.path.parent
    for variant in collector.variants:
        there: dict[Arch, Path] = {}
        for arch in variant.arches:
            found = next((folder / name for name in variant.candidates(arch) if (folder / name).is_file()), None)
            if found is not None:
                there[arch] = found
        lacking = [arch for arch in variant.arches if arch not in there]
        if there and lacking:
            yield (
                next(iter(there.values())),
                f"variant {variant.name!r} has no object for {lacking[0]}: build it, or say arches = {sorted(there)!r} on the variant",
            )
