"""What a program uses and the kernel does not have: helpers, kernel functions, instructions, types and fields of its BTF."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmatrix.guest.facts import FACTS
from kmatrix.guest.table_kfuncs import MODULES
from kmatrix.matrix import history
from kmatrix.verdict.diagnosis import hooks
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, holding, naming, release, used, where

_MAY_SLEEP = ("bpf_copy_from_user", "bpf_copy_from_user_task", "bpf_ima_inode_hash", "bpf_ima_file_hash")
"""Helpers that only a sleepable program may call (might_sleep in kernel/bpf/helpers.c and kernel/bpf/bpf_lsm.c)."""
_ONLY_SYSCALL = ("bpf_sys_bpf", "bpf_btf_find_by_name_kind", "bpf_sys_close", "bpf_kallsyms_lookup_name")
"""Helpers of programs of type syscall (syscall_prog_func_proto in kernel/bpf/syscall.c)."""


_READS, _WRITES = "read the kernel's memory by an address", "write to a process' memory"
_LOCKED: Mapping[str, str] = {
    **dict.fromkeys(("bpf_probe_read", "bpf_probe_read_str", "bpf_probe_read_kernel", "bpf_probe_read_kernel_str"), _READS),
    "bpf_probe_write_user": _WRITES,
}
"""Helpers that lockdown takes from tracing programs (9d1f8be5cf42, 5.4; 51e1bb9eeaf7, 5.15), which are allowed in each of them otherwise."""
_TRACING = ("kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable", "perf_event", "tracing")


def helper(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A helper that the kernel does not have, or not for this type of program."""
    found = history.helper(int(match["number"]))
    if found is None:
        return None
    name, since = found
    if failing.version < since:
        return Diagnosis(
            "helper",
            f"helper {name}",
            f"call it only where the kernel has it (bpf_core_enum_value_exists), or give kernels before {release(since)} a variant without it",
            release(since),
            where(failing),
        )
    if name in _MAY_SLEEP and not re.match(r"[\w.]+\.s(/|$)", failing.section):
        return _sleeps(failing, name)
    kind = failing.wants.get("type") or "this type"
    if name in _LOCKED and kind in _TRACING:
        return Diagnosis(
            "lockdown",
            f"helper {name}: this kernel is locked down, and lets no program {_LOCKED[name]}",
            "let the agent say that the kernel is locked down (/sys/kernel/security/lockdown), or read by BTF (fentry, tp_btf), which lockdown allows",
            None,
            where(failing),
        )
    only = "; it is for programs of type syscall" if name in _ONLY_SYSCALL else ""
    return Diagnosis(
        "helper-type",
        f"helper {name} is not for programs of type {kind} on this kernel{only}",
        "use another helper, or another kind of program",
        None,
        where(failing),
    )


def _sleeps(failing: Failing, name: str) -> Diagnosis:
    return Diagnosis(
        "sleepable",
        f"helper {name} may sleep, and the program may not",
        "make the program sleepable (fentry.s, lsm.s, uprobe.s), or use a helper that does not sleep",
        None,
        where(failing),
    )


def helper_sleeps(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """The same in newer kernels' words, which name no helper: the last one that was called does."""
    called = re.findall(r"call (bpf_\w+)#\d+|call %?(\w+)#", failing.log)
    name = next((each for pair in reversed(called) for each in pair if each), None)
    return _sleeps(failing, name or "(which one, the log says)")


def sleepable_type(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A sleepable program of a type that may not sleep on this kernel."""
    newer = hooks.too_new(failing)
    if newer is not None and newer.kind == "flag":
        return newer
    return Diagnosis(
        "sleepable",
        f"programs in section {failing.section} may not sleep on this kernel",
        "use the form without .s, and no helper that sleeps",
        None,
        first_line(failing),
    )


def not_sleepable_hook(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A function at which a sleepable program may not be."""
    return Diagnosis(
        "sleepable",
        f"{match['function']} is not a place where a program may sleep",
        "use the form without .s there, or another function",
        None,
        first_line(failing),
    )


def kfunc(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A kernel function that the kernel does not have, or not in what is loaded of it."""
    name = match["function"]
    since, module = history.first(f"kfunc:{name}", failing.arch), MODULES.get(name)
    if failing.version < (5, 13) and since is None:
        since = (5, 13)
        what = f"kernel function {name}: BPF programs call no kernel functions"
        return Diagnosis("kfunc", what, "give such kernels a variant that calls helpers", release(since), used(failing, name))
    if since is not None and failing.version < since:
        return Diagnosis(
            "kfunc",
            f"kernel function {name}",
            f"declare it __weak and call it only where bpf_ksym_exists says so, or give kernels before {release(since)} a variant without it",
            release(since),
            used(failing, name),
        )
    if module is not None:
        return Diagnosis(
            "kfunc",
            f"kernel function {name} is in the module {module}, which is not loaded",
            f"load the module first (modprobe {module}), or declare the function __weak and test it by bpf_ksym_exists",
            None,
            used(failing, name),
        )
    return Diagnosis(
        "kfunc",
        f"kernel function {name} is not in this kernel",
        "declare it __weak, and call it only where bpf_ksym_exists says so",
        None,
        used(failing, name),
    )


def kfunc_type(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A kernel function that is not for this type of program."""
    kind = failing.wants.get("type") or "this type"
    return Diagnosis(
        "kfunc-type",
        f"kernel function {match['function']} is not for programs of type {kind} on this kernel",
        "use another kind of program, or give such kernels a variant without it",
        None,
        where(failing),
    )


@dataclass(frozen=True)
class Instruction:
    """An instruction, or a form of one, by its name in the feature table (`insn:…`)."""

    name: str
    words: str
    """What it is."""
    fix: str
    codes: frozenset[int]
    """Its opcodes, by which its line of source is found."""


_V3, _V2 = "compile with -mcpu=v3", "compile with -mcpu=v2"
_LOOP = "use a bounded loop, or bpf_loop from 5.17 on"
_INLINE = "make the functions __always_inline"
_HELPERS_ONLY = "give such kernels a variant that calls helpers"
_BY_CODE: tuple[Instruction, ...] = (
    Instruction("may_goto", "cond_break", _LOOP, frozenset({0xE5})),
    Instruction("long_jump", "gotol: a jump further than 32,767 instructions", _V3, frozenset({0x06})),
    Instruction("byte_swap", "bswap", _V3, frozenset({0xD7})),
    Instruction("load_sign_extended", "a load that extends the sign", _V3, frozenset({0x81, 0x89, 0x91})),
)
"""What the verifier names by its code."""
_BY_WORDS: tuple[tuple[str, Instruction], ...] = (
    ("insn class 6", Instruction("jmp32", "a comparison of 32 bits", _V2, frozenset(range(0x06, 0x100, 8)))),
    ("BPF_LDX", _BY_CODE[3]),
    ("BPF_CALL", Instruction("call_function", "a call of a function of the program's own", _INLINE, frozenset({0x85}))),
    ("BPF_CALL", Instruction("call_kfunc", "a call of a kernel function", _HELPERS_ONLY, frozenset({0x85}))),
    ("BPF_MOV", Instruction("move_sign_extended", "or another form of mov", _V3, frozenset({0xBC, 0xBF}))),
)
"""What it names by its class: words → instruction, the oldest first."""
_ATOMIC = Instruction(
    "atomic_fetch",
    "an atomic operation whose old value is used",
    "compile with -mcpu=v2, or use the operation without its result",
    frozenset({0xC3, 0xDB}),
)
_ORDERED = Instruction("load_acquire", "an atomic load or store with an order", _V3, frozenset({0xC3, 0xDB}))


def _too_old_for(failing: Failing, instruction: Instruction, wanted: Callable[[bytes], bool] | None = None) -> Diagnosis | None:
    """The instruction as the cause, where the kernel is older than it."""
    since = history.first(f"insn:{instruction.name}", failing.arch)
    if since is None or failing.version >= since:
        return None
    at = holding(failing, wanted or (lambda insn: insn[0] in instruction.codes))
    verifier = FACTS["insn"][instruction.name].since  # the JIT of an arch may have followed later
    told = (
        release(since)
        if failing.version >= verifier or verifier == since
        else f"{release(verifier)} ({release(since)} on {failing.arch})"
    )
    return Diagnosis("instruction", f"instruction {instruction.name} ({instruction.words})", instruction.fix, told, at)


def _unknown(failing: Failing, how: str, at: str | None) -> Diagnosis:
    return Diagnosis(
        "instruction",
        f"an instruction that this kernel does not know ({how})",
        "compile for an older instruction set (-mcpu=v2, or -mcpu=v3)",
        None,
        at or first_line(failing),
    )


def atomic(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """An atomic operation beyond adding, where the kernel has only that; or one that orders memory (imm 0x100 and 0x110)."""
    if (found := _too_old_for(failing, _ATOMIC, lambda insn: insn[0] in _ATOMIC.codes and any(insn[4:]))) is not None:
        return found
    ordered = match["code"] is not None and int(match["code"], 16) in (0x100, 0x110)
    return _too_old_for(failing, _ORDERED) if ordered else None


def opcode(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """An instruction that the verifier does not know, by its code."""
    code = int(match["code"], 16)
    known = (each for each in _BY_CODE if code in each.codes)
    found = next((cause for each in known if (cause := _too_old_for(failing, each)) is not None), None)
    return found or _unknown(failing, f"code 0x{code:02x}", holding(failing, lambda insn: insn[0] == code))


def reserved(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """`… uses reserved fields`: a form of an instruction that is newer than the kernel."""
    known = (each for words, each in _BY_WORDS if words in match[0])
    found = next((cause for each in known if (cause := _too_old_for(failing, each)) is not None), None)
    return found or _unknown(failing, match[0], where(failing))


def back_edge(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A jump back: none before 5.3 (2589726d12a1), and later none that leads round without an end."""
    if failing.version >= (5, 3):
        what, since = "a loop of which the verifier sees no end", None
    else:
        what, since = "a bounded loop", "5.3"
    return Diagnosis(
        "loop", what, "unroll it (#pragma unroll), or bound it by a constant", since, where(failing) or first_line(failing)
    )


def callback(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A reference to a function, where the kernel knows none."""
    if failing.version >= (5, 13):
        return None
    return Diagnosis(
        "callback",
        "a reference to a function (a callback, as bpf_loop and bpf_for_each_map_elem take it)",
        "a guard around the call does not help, since the callback stays in the object: put it into a program of its own that old kernels do not load",
        "5.13",
        (failing.lines.callback(failing.name) if failing.lines is not None else None) or where(failing) or first_line(failing),
    )


def wide_load(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A two-word load of a kind that the kernel does not know: a global variable (5.2), or a function (5.13)."""
    if failing.version < (5, 2):
        return Diagnosis(
            "global-data",
            "global variables (.data, .rodata, .bss)",
            "keep values in a map on such kernels, or let the loader replace constants",
            "5.2",
            where(failing) or first_line(failing),
        )
    return callback(failing, match)


def relocation(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A CO-RE relocation that came to nothing: whether the kernel has the type, and what it has instead."""
    kind, name, member = match["kind"], match["type"].split("___")[0], match["member"] or match["enumerator"]
    known = failing.btf.get("type") or {}
    at = naming(failing, (member or name).rpartition(".")[2]) or where(failing)
    if known and not known["there"]:
        alike = f"; the nearest is {', '.join(known['alike'])}" if known["alike"] else ""
        return Diagnosis(
            "btf-type",
            f"CO-RE: btf:{kind} {name} is not in this kernel{alike}",
            f"guard the access with bpf_core_type_exists, and read the type of newer kernels by a flavour ({kind} {(known['alike'] or [name])[0]}___new)",
            None,
            at,
        )
    if kind in ("enum", "enum64"):
        return Diagnosis(
            "btf-enum",
            f"CO-RE: btf:enum {name} has no {member.split('___')[0] if member else 'such value'} on this kernel",
            "guard it with bpf_core_enum_value_exists",
            None,
            at,
        )
    field_ = f".{member}" if member else ""
    members = known.get("members") or []
    same = [each for each in members if each.strip("_") == (member or "").rpartition(".")[2]]
    renamed = f"; the nearest is {', '.join(same or members)}" if members else ""
    return Diagnosis(
        "btf-field",
        f"CO-RE: btf:{name}{field_} is not in this kernel, or of another kind{renamed}",
        "guard the access with bpf_core_field_exists, and read what other kernels have by a flavour of the type",
        None,
        at,
    )


def argument(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A function of the kernel, or a tracepoint, that has fewer arguments than the program reads.

    Some releases count the argument in the message from 0, others (5.10) from 1. The offset into the context, which follows, does not lie.
    """
    function = match["function"]
    offset = re.search(r"invalid bpf_context access off=(\d+)", failing.log[failing.log.find(match[0]) :])
    number = (int(offset[1]) // 8 if offset else int(match["index"])) + 1
    count = (failing.btf.get("function") or {}).get("arguments")
    has = f"has {count} argument{'' if count == 1 else 's'}" if count is not None else "has fewer arguments"
    name = f"tracepoint {function}" if failing.section.startswith("tp_btf") else f"btf:func/{function}"
    beyond = " (or its return value, which comes after the last)" if failing.section.startswith("fexit") else ""
    return Diagnosis(
        "btf-function",
        f"{name} {has} on this kernel, and the program reads argument {number}{beyond}",
        "load another program for kernels whose function has another signature",
        None,
        where(failing),
    )


def no_btf_function(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """The function, tracepoint, hook or iterator that a program is for is not in the kernel's BTF."""
    name = match["function"]
    if (newer := hooks.too_new(failing)) is not None:  # an iterator's name is that of no function where there are no iterators
        return newer
    if hooks.is_placeholder(name):
        return hooks.placeholder(failing, name)
    section, at = failing.section, first_line(failing)
    if section.startswith("tp_btf"):
        return Diagnosis(
            "tracepoint",
            f"tracepoint {name} is not in this kernel",
            "attach to another tracepoint on such kernels, or make the program optional",
            None,
            at,
        )
    alike = (failing.btf.get("function") or {}).get("alike") or []
    nearest = f"; the nearest is {', '.join(alike)}" if alike else ""
    what = "LSM hook" if section.startswith("lsm") else "iterator" if section.startswith("iter") else "btf:func/"
    return Diagnosis(
        "symbol",
        f"{what}{'' if what.endswith('/') else ' '}{name} is not in this kernel{nearest}",
        "attach to another function on such kernels, or make the program optional",
        None,
        at,
    )


def no_kernel_btf(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A kernel without BTF, which CO-RE and trampolines need."""
    return Diagnosis(
        "btf",
        "this kernel has no BTF of its own (CONFIG_DEBUG_INFO_BTF, 5.2 on)",
        "give it a variant without CO-RE, or bring a BTF file",
        None,
        first_line(failing),
    )


def no_jit(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """The verifier took it, the JIT did not, and there is no interpreter (bpf_prog_select_runtime in kernel/bpf/core.c)."""
    if failing.stage != "load" or "processed " not in failing.log:
        return None
    return Diagnosis(
        "jit",
        f"the kernel's JIT for {failing.arch} does not take an instruction of the program, and the kernel has no interpreter (CONFIG_BPF_JIT_ALWAYS_ON)",
        "avoid atomic operations other than an addition whose old value is not used (all that arm64's JIT takes in 5.15), or give such kernels a variant without them",
        None,
        first_line(failing),
    )


def global_pointer(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A global function with a pointer to a structure: e5069b9c23b3 (5.13)."""
    at = failing.lines.first(match["function"]) if failing.lines is not None else None
    return Diagnosis(
        "global-function",
        f"global function {match['function']}() with a pointer argument",
        "make the function static, or __always_inline",
        "5.13",
        at or where(failing),
    )


def interpreted(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """What only the JIT takes, where it is off (net.core.bpf_jit_enable)."""
    what = {"callbacks": "callbacks", "JIT": "calls of kernel functions", "tail_calls": "tail calls in a program with subprograms"}
    return Diagnosis(
        "jit",
        f"the JIT is off, and the interpreter takes no {what[match[0].split()[0]]}",
        "set net.core.bpf_jit_enable to 1, or give such hosts a program without them",
        None,
        where(failing) or first_line(failing),
    )


def tail_call(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """Tail calls beside subprograms: e411901c0b77 (x86_64), d4609a5d8c70 (arm64)."""
    if "non-JITed" in match[0] and failing.version >= ((5, 10) if failing.arch == "x86_64" else (6, 0)):
        return interpreted(failing, match)
    return Diagnosis(
        "tail-call",
        f"a tail call in a program with subprograms, on {failing.arch}",
        "make the functions __always_inline, or make the tail call from the program itself, without subprograms",
        "5.10" if failing.arch == "x86_64" else "6.0",
        where(failing) or first_line(failing),
    )
