"""What a compiled object needs of a kernel, read off its code: helpers, maps, program and attach types, kernel functions, types, hooks, instructions.

A need is written as a feature is (`helper:bpf_loop`, `map:ringbuf`, `btf:task_struct.__state`). It is optional where a test that
the loader or the verifier decides guards the code: `bpf_core_field_exists()` and its kin, a Kconfig variable, the kernel's version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kmatrix.guest import bpf
from kmatrix.guest.flow import back_edge
from kmatrix.guest.table_insns import FORMS, MAX_INSNS_OLD, Form, insn_since
from kmatrix.host.version import Version
from kmatrix.matrix import history
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES
from kmatrix.objects import sections
from kmatrix.objects.btf import ENUM_EXISTS, ENUM_VALUE, TYPE_ID_LOCAL, TYPE_ID_TARGET, Relocation
from kmatrix.objects.code import CALL, LD_IMM64, PSEUDO_CALL, Code, Function, Insn, encode
from kmatrix.objects.lines import Line
from kmatrix.objects.reach import EXISTENCE, KCONFIG, Known, reachable

OLDEST: Version = (4, 14)
"""The oldest release that kmatrix knows: what all its kernels have is no need."""
REWRITTEN = frozenset(range(112, 116))
"""bpf_probe_read_kernel, _user and their _str: libbpf and cilium/ebpf put bpf_probe_read in their place on kernels before 5.5."""
_TAIL_CALL = 12
VERSION = "LINUX_KERNEL_VERSION"
JUDGED_LATE = ("signed_shift_32", "move_sign_extended", "signed_division", "load_acquire")
"""Kinds of instructions that an older kernel refuses only where it gets to them."""
_SET_BY_LIBBPF = (TYPE_ID_LOCAL, TYPE_ID_TARGET)
"""Relocations of a type's number, which is whatever it is."""


@dataclass(frozen=True)
class Need:
    """One thing that a program needs of the kernel."""

    name: str
    """As a feature is written."""
    optional: bool = False
    """Whether the program can do without: code that tests for something guards every use."""
    guards: tuple[str, ...] = ()
    """The tests that must each come out so for the code to be reached; none of an optional one: its tests are alternatives."""
    line: Line | None = None
    """The first use in the source."""
    function: str = ""


@dataclass(frozen=True)
class Guard:
    """A test that is decided before the program runs, and one way that it may come out."""

    what: str
    holds: bool

    def __str__(self) -> str:
        return self.what if self.holds else f"not {self.what}"


def needs(code: Code) -> dict[str, tuple[Need, ...]]:
    """What each program of an object needs, by the program's name; what it always needs comes first.

    All maps of the object are among them, and BTF where any program has a CO-RE relocation: a loader makes ready the whole object.
    """
    whole = list(_whole(code))
    return {
        name: tuple(sorted(_of(code, program, whole), key=lambda need: (need.optional, need.name)))
        for name, program in code.programs.items()
    }


def _whole(code: Code) -> Iterator[Need]:
    """What the object asks for before a program is loaded."""
    for name, numbers in (code.btf.map_numbers() if code.btf is not None else {}).items():
        if 0 < numbers.get("type", 0) < len(bpf.MAP_TYPES):
            yield Need(f"map:{bpf.MAP_TYPES[numbers['type']]}", function=name)
    first = next(iter(code.relocations.values()), None)
    if first is not None:
        lines = code.lines.get(first.section, [])
        yield Need("btf", line=next((line for line in reversed(lines) if line.at <= first.at), None))


TYPED = ("fentry", "fexit", "fmod_ret", "tp_btf", "lsm", "lsm_cgroup", "iter", "struct_ops", "freplace")
"""Sections of programs whose arguments the verifier knows by the kernel's BTF."""


def _of(code: Code, program: Function, whole: list[Need]) -> list[Need]:
    found: dict[str, Need] = {}

    def note(need: Need) -> None:
        before = found.get(need.name)
        if before is None or (before.optional and not need.optional):
            found[need.name] = need

    for need in (*whole, *_hook_needs(program.section)):
        note(need)
    for name, function, index in asked_unseen(code, program):
        note(Need(name, line=code.line(function, index) if index is not None else None, function=function.name))
    everywhere = reachable(code, program, Known())
    guards = _guards(code, everywhere)
    ways = {guard: reachable(code, program, _assuming([guard])) for guard in guards}
    extremes = [reachable(code, program, _assuming([g for g in guards if g.holds is holds])) for holds in (False, True) if guards]
    for function, indices in everywhere.items():
        for index in sorted(indices):
            closed = [Guard(g.what, not g.holds) for g, reached in ways.items() if index not in reached.get(function, ())]
            away = bool(closed) or any(index not in reached.get(function, ()) for reached in extremes)
            for name in _asked_where_reached(code, function, index):
                note(Need(name, away, tuple(map(str, closed)), code.line(function, index), function.name))
    return list(found.values())


def oldest(needed: Iterable[Need], arch: Arch) -> tuple[Version, Need | None]:
    """The first release that has all that is always needed, and the need that sets it; `OLDEST` and None where none does."""
    dated = [(since, need) for need in needed if not need.optional and (since := history.first(need.name, arch)) is not None]
    since, need = max(dated, key=lambda each: each[0], default=(OLDEST, None))
    return (since, need) if since > OLDEST else (OLDEST, None)


def asked_unseen(code: Code, program: Function) -> Iterator[tuple[str, Function, int | None]]:
    """What a program asks for whether its code is reached or not: the feature, the function, and the instruction (None: it is the whole program's)."""
    functions = linked(code, program)
    if sum(len(function.insns) for function in functions) > MAX_INSNS_OLD:
        yield "insns_1m", program, None
    if len(functions) > 1 and any(
        insn.code == CALL and insn.src == 0 and insn.imm == _TAIL_CALL for function in functions for insn in function.insns
    ):
        yield "insn:tail_call_in_function", program, None
    for function in functions:
        for index in range(len(function.insns)):
            for name in _asked_first(code, function, index):
                yield name, function, index
        loop = back_edge(encode(function.insns))
        if loop is not None:
            yield "bounded_loops", function, loop[0]


def linked(code: Code, program: Function) -> list[Function]:
    """The program and all that it refers to: what a loader puts together, whether it is reached or not."""
    found: dict[Function, None] = {}
    waiting = [program]
    while waiting:
        function = waiting.pop()
        if function not in found:
            found[function] = None
            waiting += [callee for index in range(len(function.insns)) if (callee := code.callee(function, index)) is not None]
    return list(found)


def _guards(code: Code, everywhere: Mapping[Function, frozenset[int]]) -> list[Guard]:
    """The tests in the code that can be reached, each with both ways that it may come out."""
    found: dict[str, None] = {}
    for function, indices in everywhere.items():
        for index in sorted(indices):
            relocation = code.relocations.get((function.section, function.at(index)))
            reference = code.references.get((function.section, function.at(index)))
            if relocation is not None and relocation.kind in EXISTENCE:
                found[asked(relocation)] = None
            elif reference is not None and reference.name == VERSION:
                found |= dict.fromkeys(_thresholds(everywhere))
            elif (
                reference is not None
                and reference.kind == "extern"
                and function.insns[index].code == LD_IMM64
                and (reference.weak or reference.name.startswith(KCONFIG))
            ):
                found[reference.name] = None
    return [Guard(what, holds) for what in found for holds in (False, True)]


def _thresholds(everywhere: Mapping[Function, frozenset[int]]) -> Iterator[str]:
    """The releases that the code compares the kernel's version with: KERNEL_VERSION(5, 11, 0), or one less where the compiler writes >= as >."""
    compared = {
        insn.imm + more
        for function, indices in everywhere.items()
        for index in indices
        for insn in (function.insns[index],)
        if insn.code & 0x07 in (0x05, 0x06) and insn.code & 0x08 == 0
        for more in (0, 1)
    }
    for value in sorted(compared):
        if value & 0xFF == 0 and 3 << 16 <= value < 100 << 16:
            yield f"kernel >= {value >> 16}.{value >> 8 & 0xFF}"


def _assuming(assumed: list[Guard]) -> Known:
    answers = {guard.what: guard.holds for guard in assumed}

    def kconfig(name: str) -> int | None:
        if name == VERSION:
            return _version(answers)
        return int(answers[name]) if name in answers else None

    return Known(exists=lambda relocation: answers.get(asked(relocation)), kconfig=kconfig, symbol=answers.get)


def _version(answers: Mapping[str, bool]) -> int | None:
    """A version for which the assumptions hold, as LINUX_KERNEL_VERSION has it; None where there are none."""
    said = {
        tuple(map(int, what.removeprefix("kernel >= ").split("."))): holds
        for what, holds in answers.items()
        if what.startswith("kernel ")
    }
    at_least, below = [v for v, holds in said.items() if holds], [v for v, holds in said.items() if not holds]
    if at_least:
        major, minor = max(at_least)
        return major << 16 | minor << 8
    if below:
        major, minor = min(below)
        return (major << 16 | minor << 8) - 1
    return None


def asked(relocation: Relocation) -> str:
    """What a relocation asks for, as a feature: `btf:task_struct.__state`, `btf:enum bpf_func_id/BPF_FUNC_loop`, `btf:struct bpf_iter`."""
    root = relocation.root.split("___")[0]
    if relocation.kind in (ENUM_EXISTS, ENUM_VALUE):
        return f"btf:enum {root}/{relocation.path[0][1].split('___')[0]}"
    fields = ".".join(member.split("___")[0] for _, member in relocation.path)
    return f"btf:{root}.{fields}" if fields else f"btf:{relocation.tag} {root}"


def _asked_first(code: Code, function: Function, index: int) -> Iterator[str]:
    """What an instruction asks for before dead code is cut off: kinds of instructions, calls, addresses (bpf_check in kernel/bpf/verifier.c)."""
    insn, reference = function.insns[index], code.references.get((function.section, function.at(index)))
    if insn.code == CALL and insn.src == PSEUDO_CALL and (reference is None or reference.kind == "function"):
        yield "bpf2bpf"
    elif insn.code == LD_IMM64 and reference is not None:
        if reference.kind == "function":
            yield "insn:callback"
        elif reference.kind == "data" or reference.name.startswith(KCONFIG):
            yield "global_data"
    kind = instruction(insn)
    if kind is not None and kind not in JUDGED_LATE:
        yield f"insn:{kind}"


def _asked_where_reached(code: Code, function: Function, index: int) -> Iterator[str]:
    """What an instruction asks for only where the verifier gets to it."""
    insn, where = function.insns[index], (function.section, function.at(index))
    reference, relocation = code.references.get(where), code.relocations.get(where)
    if insn.code == CALL and reference is not None and reference.kind == "extern":
        yield f"kfunc:{reference.name.split('___')[0]}"
    elif insn.code == CALL and insn.src == 0:
        found = history.helper(insn.imm)
        if found is not None and insn.imm not in REWRITTEN:
            yield f"helper:{found[0]}"
    elif reference is not None and reference.kind == "extern" and not reference.weak and not reference.name.startswith(KCONFIG):
        yield f"symbol:{reference.name.split('___')[0]}"
    if relocation is not None and relocation.kind not in (*EXISTENCE, *_SET_BY_LIBBPF):
        yield asked(relocation)
    kind = instruction(insn)
    if kind in JUDGED_LATE:
        yield f"insn:{kind}"


def instruction(insn: Insn) -> str | None:
    """The kind of an instruction that not all kernels have; None for the others."""
    fitting = [name for name, form in FORMS.items() if insn.code in form.codes and _fits(insn, form)]
    return max(fitting, key=insn_since, default=None)  # of an atomic load, that it is one


def _fits(insn: Insn, form: Form) -> bool:
    if not form.field:
        return True
    value: int = getattr(insn, form.field)
    return value in form.values if form.values else value != 0


def _hook_needs(section: str) -> Iterator[Need]:
    """What the section's name says: types, and the hook itself."""
    read = sections.read(section)
    if read.kind in TYPED:
        yield Need("btf")
    if read.program is not None:
        yield Need(f"prog:{read.program}")
    if read.attach is not None:
        yield Need(f"attach:{read.attach}")
    target = read.target
    if not target:
        return
    if read.kind in ("kprobe", "kretprobe"):
        yield Need(f"symbol:{target.split('+')[0]}")
    elif read.kind in ("tracepoint", "tp"):
        yield Need(f"tracepoint:{target}")
    elif read.kind in ("fentry", "fexit", "fmod_ret"):
        yield Need(f"btf:func/{target}")
    elif read.kind in ("lsm", "lsm_cgroup"):
        yield Need(f"btf:func/bpf_lsm_{target}")
    elif read.kind == "tp_btf":
        yield Need(f"btf:typedef btf_trace_{target}")
    elif read.kind == "iter":
        yield Need(f"btf:func/bpf_iter_{target}")


_NAMED: Mapping[str, str] = {
    "map:ringbuf": "ringbuf",
    "map:perf_event_array": "perf_buffer",
    "map:task_storage": "task_storage",
    "helper:bpf_get_current_cgroup_id": "cgroup_id_helper",
    "helper:bpf_get_current_task_btf": "current_task_btf",
    "prog:raw_tracepoint": "raw_tracepoint",
    "prog:lsm": "lsm",
    "attach:trace_fentry": "fentry",
    "attach:trace_fexit": "fentry",
    "attach:modify_return": "fentry",
    "attach:trace_kprobe_multi": "kprobe_multi",
    "insn:large_program": "insns_1m",
}
_HOOKED: Mapping[str, str] = {
    **dict.fromkeys(("kprobe", "kretprobe", "ksyscall", "kretsyscall"), "kprobes"),
    **dict.fromkeys(("uprobe", "uretprobe", "usdt"), "uprobes"),
    **dict.fromkeys(("tc", "classifier", "action"), "tc_clsact"),
}
"""The kind of a section → the feature that attaching it takes."""


def feature_of(need: Need) -> str:
    """The need by kmatrix' own name where it has one (`ringbuf` of `map:ringbuf`), else as it is."""
    return _NAMED.get(need.name, need.name)


def hook_features(section: str) -> Iterator[str]:
    """The features by kmatrix' own names that attaching a program in `section` takes."""
    read = sections.read(section)
    if read.kind in _HOOKED:
        yield _HOOKED[read.kind]
    if read.target.startswith("syscalls/") and read.program == "tracepoint":
        yield "syscall_tracepoints"


_READS = (4, 45, *REWRITTEN)
"""bpf_probe_read and its kin. Under lockdown libbpf puts the old form in place of each new one, also of those that read a process' memory: it finds out
by bpf_probe_read_kernel whether the kernel has them."""


def often_taken(code: Code, program: Function) -> Iterator[str]:
    """The features, by kmatrix' own names, that a program takes and every kernel has, but under some circumstances."""
    if any(
        insn.code == CALL and insn.src == 0 and insn.imm in _READS for function in linked(code, program) for insn in function.insns
    ):
        yield "probe_read"
    read = sections.read(program.section)
    if read.program == "tracepoint" and read.target and not read.target.startswith("syscalls/"):  # which hook_features() has
        yield "tracepoints"


def named_features(section: str, found: Iterable[Need], *, optional: bool = False) -> frozenset[str]:
    """The features by kmatrix' own names that a program in `section` always needs: what a manifest's `needs` would list.

    With `optional`, those that it can do without are among them.
    """
    names = {feature_of(need) for need in found if optional or not need.optional}
    return frozenset(name for name in (*names, *hook_features(section)) if name in FEATURES)


def visible(feature: str) -> bool:
    """Whether an object that needs the feature shows it; of others, such as `cgroup_v2`, an object does not tell."""
    kind, _, parameter = feature.partition(":")
    return kind in _KINDS if parameter else feature in _VISIBLE


_KINDS = ("helper", "map", "prog", "attach", "kfunc", "insn", "tracepoint")
_VISIBLE = frozenset({*_NAMED.values(), *_HOOKED.values(), "btf", "global_data", "bpf2bpf", "bounded_loops", "syscall_tracepoints"})
