"""Instructions that a kernel does not know: by its verifier's words or by its JIT, and what takes a program with subprograms."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kmatrix.guest.facts import FACTS
from kmatrix.matrix import history
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, holding, release, where


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
    ("BPF_ARSH", Instruction("signed_shift_32", "a signed shift to the right of 32 bits", _V2, frozenset({0xC4, 0xCC}))),
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


def _fetches(insn: bytes) -> bool:
    """Whether an instruction is an atomic operation other than an addition whose old value is not used."""
    return insn[0] in _ATOMIC.codes and any(insn[4:])


def atomic(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """An atomic operation beyond adding, where the kernel has only that; or one that orders memory (imm 0x100 and 0x110)."""
    if (found := _too_old_for(failing, _ATOMIC, _fetches)) is not None:
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
    at = failing.lines.callback(failing.name) if failing.lines is not None else None
    if at is None and (variable := _kernel_variable(failing)) is not None:
        return variable
    return Diagnosis(
        "callback",
        "a reference to a function (a callback, as bpf_loop and bpf_for_each_map_elem take it)",
        "a guard around the call does not help, since the callback stays in the object: put it into a program of its own that old kernels do not load",
        "5.13",
        at or where(failing) or first_line(failing),
    )


def _kernel_variable(failing: Failing) -> Diagnosis | None:
    """The address of a variable of the kernel (`extern … __ksym`), where the kernel knows no such load (4976b718c355)."""
    at, since = (
        failing.lines.variable(failing.name) if failing.lines is not None else None,
        history.first("insn:ksym", failing.arch),
    )
    if at is None or since is None or failing.version >= since:
        return None
    return Diagnosis(
        "instruction",
        "instruction ksym (the address of a kernel variable, extern … __ksym)",
        "declare it as extern const void … __ksym, whose address libbpf reads from /proc/kallsyms, or give such kernels a variant",
        release(since),
        at,
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


def no_jit(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """The verifier took it, the JIT did not, and there is no interpreter (bpf_prog_select_runtime in kernel/bpf/core.c)."""
    if failing.stage != "load" or "processed " not in failing.log:
        return None
    since = history.first(f"insn:{_ATOMIC.name}", failing.arch)
    at = failing.lines.holding(failing.name, _fetches) if failing.lines is not None else None
    if at is not None and since is not None and failing.version < since:
        return Diagnosis(
            "jit",
            f"the kernel's JIT for {failing.arch} does not take the instruction {_ATOMIC.name} ({_ATOMIC.words}), and the kernel has no interpreter",
            _ATOMIC.fix,
            release(since),
            at,
        )
    return Diagnosis(
        "jit",
        f"the kernel's JIT for {failing.arch} does not take an instruction of the program, and the kernel has no interpreter (CONFIG_BPF_JIT_ALWAYS_ON)",
        "avoid atomic operations other than an addition whose old value is not used (all that arm64's JIT takes in 5.15), or give such kernels a variant without them",
        None,
        first_line(failing),
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
