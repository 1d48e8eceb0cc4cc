"""KM7, and KM5 over compiled objects: what the loader and the verifier of a claimed kernel would say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kmatrix.guest.flow import back_edge
from kmatrix.guest.table_insns import MAX_INSNS_OLD
from kmatrix.host import version as versions
from kmatrix.lint import facts
from kmatrix.lint.claims import Claim
from kmatrix.lint.facts import Needed
from kmatrix.manifest.collector import Collector
from kmatrix.matrix import history
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.objects.btf import ENUM_EXISTS, FIELD_OFFSET, Relocation
from kmatrix.objects.code import CALL, EXIT, PSEUDO_CALL, Code, Function, encode
from kmatrix.objects.needs import Need, feature_of, named_features, needs, visible

_MOV = 0xB7
_DATA = (".data", ".bss", ".rodata")


class Compiled(Code):
    """An object taken apart, as the rules look at it."""

    @property
    def data_sections(self) -> list[str]:
        """The .data, .bss and .rodata that its code refers to: libbpf leaves out the others where the kernel has no global data."""
        return sorted({found.name for found in self.references.values() if found.kind == "data" and found.name.startswith(_DATA)})

    @property
    def asked(self) -> list[Relocation]:
        """Its CO-RE relocations."""
        return list(self.relocations.values())


def _helpers(function: Function) -> set[int]:
    return {insn.imm for insn in function.insns if insn.code == CALL and insn.src == 0}


def _only_returns(function: Function) -> bool:
    """Whether it is `r0 = constant; exit`."""
    return [insn.code for insn in function.insns] == [_MOV, EXIT]


def check(path: Path, claimed: Sequence[Claim]) -> Iterator[tuple[str, str]]:
    """What is wrong with an object: code and message. Raises InputError where it is none."""
    compiled = Compiled(path)
    if compiled.btf is None:
        yield "KM701", "no .BTF: compile with -g, and strip with llvm-strip -g, which keeps it"
    for name, field in sorted({step for r in compiled.asked if r.kind == FIELD_OFFSET for step in r.path}):
        struct = name.split("___")[0]
        span = facts.CHANGED.get(struct, {}).get(field)
        if struct == "pt_regs" and field in facts.USER_REGISTERS:
            yield (
                "KM702",
                f"it reads pt_regs.{field}, which is user space's name: the kernel's BTF does not have it, and the program is refused",
            )
        elif span is not None and span.until is not None and span.until <= facts.BTF_FLOOR:
            yield "KM702", f"it reads {struct}.{field}, which no kernel with BTF has ({span.note}): the program is refused"
    for code in compiled.programs.values():
        if _only_returns(code):
            yield "KM703", f"{code.name} does nothing but return: see whether a feature test in it is constant"
    yield from _arch(compiled)
    asked_for = needs(compiled) if claimed else {}
    for claim in claimed:
        yield from _claimed(compiled, claim)
        yield from _undeclared(compiled, asked_for, claim)
        yield from _declared(compiled, asked_for, claim)


_TYPES, _USES = ("prog", "attach"), ("kfunc", "insn")
"""Kinds of needs that no other rule looks at: what a section stands for, and what code uses."""


def _undeclared(compiled: Compiled, asked_for: Mapping[str, Sequence[Need]], claim: Claim) -> Iterator[tuple[str, str]]:
    """Types, kernel functions and instructions that a program always asks for, and that some kernel which the variant claims lacks."""
    arches = [compiled.info.compiled_for] if compiled.info.compiled_for else list(claim.variant.arches or ARCHES)
    for program, each in asked_for.items():
        newer: dict[str, tuple[versions.Version, bool, str]] = {}
        for need in each:
            kind = need.name.partition(":")[0]
            if need.optional or kind not in (*_TYPES, *_USES) or {need.name, feature_of(need)} & claim.needs(program):
                continue
            late = [
                (since, arch) for arch in arches if (since := history.first(need.name, arch)) and since > claim.floor(arch, program)
            ]
            if late:
                since, arch = max(late)
                place = f" at {need.line}" if need.line is not None else ""
                oldest = versions.text(claim.floor(arch, program))
                said = (
                    f"{program} asks for {need.name} ({versions.text(since)} on {arch}){place}, and {claim} claims kernels from {oldest} on: "
                    f'add "{feature_of(need)}" to its needs'
                )
                key = "types" if kind in _TYPES else need.name
                named = feature_of(need) != need.name
                newer[key] = max(newer.get(key, ((0, 0), False, "")), (since, named, said))
        yield from (("KM504", said) for _, _, said in newer.values())


def _declared(compiled: Compiled, found: Mapping[str, Sequence[Need]], claim: Claim) -> Iterator[tuple[str, str]]:
    """Needs that the variant declares, and that no program of the object has: kernels are left out for nothing."""
    asked = {need.name for each in found.values() for need in each}
    asked |= {
        name for program, each in found.items() for name in named_features(compiled.info.programs[program], each, optional=True)
    }
    for name in claim.variant.needs:
        if visible(name) and name not in asked:
            yield (
                "KM707",
                f"{claim} declares that it needs {name}, and nothing in the object asks for it: take it out of needs, or say why in a comment",
            )


def _arch(compiled: Compiled) -> Iterator[tuple[str, str]]:
    named = compiled.info.compiled_for
    read = {
        step[1]
        for r in compiled.asked
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
    if compiled.asked and not claim.has_btf:
        first = compiled.asked[0]
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
    tested = {r.path[0][1].split("___")[0] for r in compiled.asked if r.kind == ENUM_EXISTS and r.path}
    for code in compiled.programs.values():
        yield from _verified(code, tail, lacks)
        for number in sorted(_helpers(code)):
            needed = facts.helper_needs(number)
            if needed.feature == "ringbuf" or (tested and needed.since > facts.BTF_FLOOR) or not lacks(needed, code.name):
                continue
            todo = f'add "{needed.feature}" to its needs' if needed.feature else "raise min_kernel"
            yield "KM504", f"{code.name} calls helper {number} ({versions.text(needed.since)}), and {tail}: {todo}"


def _verified(code: Function, tail: str, lacks: Callable[[Needed, str | None], bool]) -> Iterator[tuple[str, str]]:
    if any(insn.code == CALL and insn.src == PSEUDO_CALL for insn in code.insns) and lacks(Needed((4, 16), "bpf2bpf"), code.name):
        yield "KM706", f"{code.name} calls another BPF function, which takes 4.16, and {tail}: make it __always_inline"
    if len(code.insns) > MAX_INSNS_OLD and lacks(Needed((5, 2), "insns_1m"), code.name):
        yield (
            "KM706",
            f"{code.name} has {len(code.insns)} instructions, of which kernels before 5.2 take 4096, and {tail}: make it smaller",
        )
    if back_edge(encode(code.insns)) is not None and lacks(Needed((5, 3), "bounded_loops"), code.name):
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
