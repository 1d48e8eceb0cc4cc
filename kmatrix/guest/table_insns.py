"""Kinds of instructions, the first release of each, and what an older verifier says of them.

`INSNS` has the names that people ask by (`insn:atomic_fetch`). `FORMS` says what such an instruction looks like, for simulated kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .fact import Fact, Version

_JMP32 = frozenset(code | source for code in range(0x10, 0xE0, 0x10) for source in (0x06, 0x0E))
_ATOMIC = frozenset({0xC3, 0xDB})
"""STX of a word or double word in atomic mode."""
_DIVISIONS = frozenset({0x34, 0x37, 0x3C, 0x3F, 0x94, 0x97, 0x9C, 0x9F})
_ACQUIRE, _RELEASE = 0x100, 0x110


@dataclass(frozen=True)
class Form:
    """What the instructions of a kind look like in a program."""

    codes: frozenset[int]
    """The opcodes."""
    words: str
    """What a verifier says that does not know it."""
    field: str = ""
    """`off`, `imm` or `src`, where the opcode alone does not tell; empty where it does."""
    values: frozenset[int] = frozenset()
    """The values of the field; none given means all but 0."""


def _fact(name: str, since: Version, *config: str, arm64: Version | None = None, note: str = "") -> Fact:
    return Fact("insn", name, -1, since, config, {"arm64": arm64} if arm64 else {}, None, note)


INSNS: tuple[Fact, ...] = (
    _fact("call_function", (4, 16), note="cc8b0b92a169: calls between BPF functions"),
    _fact("signed_shift_32", (5, 0), note="2dc6b100f928: a signed shift to the right of 32 bits"),
    _fact("jmp32", (5, 1), note="092ed0968bb6: jumps that compare 32 bits"),
    _fact("map_value", (5, 2), note="d8eca5bbb2be: the address of a map's value, which global variables are"),
    _fact("large_program", (5, 2), note="c04c0d2b968a: more than 4096 instructions"),
    _fact("bounded_loop", (5, 3), note="2589726d12a1: a jump back"),
    _fact("ksym", (5, 10), "DEBUG_INFO_BTF", note="4976b718c355: the address of a kernel variable"),
    _fact(
        "tail_call_in_function",
        (5, 10),
        arm64=(6, 0),
        note="x86_64: e411901c0b77; arm64: d4609a5d8c70: tail calls in a program that also calls BPF functions",
    ),
    _fact("atomic_fetch", (5, 12), arm64=(5, 18), note="5ca419f2864a, arm64: 1902472b4fa9: atomic operations other than addition"),
    _fact("callback", (5, 13), note="69c087ba6225: the address of a BPF function"),
    _fact(
        "call_kfunc", (5, 13), "DEBUG_INFO_BTF", arm64=(5, 18), note="e6ac2450d6de, arm64: b5e975d256db: calls of kernel functions"
    ),
    _fact("map_index", (5, 14), note="387544bfa291: a map by its place in fd_array"),
    _fact("load_sign_extended", (6, 6), note="1f9a1ea821ff"),
    _fact("move_sign_extended", (6, 6), note="8100928c8814"),
    _fact("signed_division", (6, 6), note="ec0e2da95f72"),
    _fact("byte_swap", (6, 6), note="0845c3db7bf5: the unconditional one"),
    _fact("long_jump", (6, 6), note="4cd58e9af8b9: a jump of 32 bits"),
    _fact("may_goto", (6, 9), note="011832b97b31"),
    _fact("address_space_cast", (6, 9), arm64=(6, 10), note="6082b6c328b5, arm64: 339af577ec05"),
    _fact("load_acquire", (6, 15), note="880442305a39: load-acquire and store-release"),
)

FORMS: Mapping[str, Form] = {
    "signed_shift_32": Form(frozenset({0xC4, 0xCC}), "BPF_ARSH not supported for 32 bit ALU"),
    "jmp32": Form(_JMP32, "unknown insn class 6"),
    "atomic_fetch": Form(_ATOMIC, "BPF_XADD uses reserved fields", "imm"),
    "load_sign_extended": Form(frozenset({0x81, 0x89, 0x91}), "BPF_LDX uses reserved fields"),
    "move_sign_extended": Form(frozenset({0xBC, 0xBF}), "BPF_MOV uses reserved fields", "off", frozenset({8, 16, 32})),
    "signed_division": Form(_DIVISIONS, "BPF_ALU uses reserved fields", "off"),
    "byte_swap": Form(frozenset({0xD7}), "unknown opcode"),
    "long_jump": Form(frozenset({0x06}), "unknown opcode"),
    "may_goto": Form(frozenset({0xE5}), "invalid BPF_JMP opcode e0"),
    "address_space_cast": Form(frozenset({0xBF}), "BPF_MOV uses reserved fields", "off", frozenset({1})),
    "load_acquire": Form(_ATOMIC, "BPF_ATOMIC uses invalid atomic opcode", "imm", frozenset({_ACQUIRE, _RELEASE})),
}
"""The kinds that an opcode tells. The others are told by what an instruction stands for (PSEUDO_LOADS, PSEUDO_CALLS) or by the program."""

_BY_NAME = {row.name: row for row in INSNS}

# src_reg of the two-word load: what its immediate stands for.
PSEUDO_LOADS: Mapping[int, Version] = {
    1: (3, 18),  # MAP_FD
    2: _BY_NAME["map_value"].since,
    3: _BY_NAME["ksym"].since,
    4: _BY_NAME["callback"].since,
    5: _BY_NAME["map_index"].since,
    6: _BY_NAME["map_index"].since,
}
# src_reg of a call: what its immediate stands for, a helper (0) apart.
PSEUDO_CALLS: Mapping[int, Version] = {1: _BY_NAME["call_function"].since, 2: _BY_NAME["call_kfunc"].since}

MAX_INSNS_OLD = 4096
"""The longest program before `large_program`."""


def insn_since(name: str) -> Version:
    """The first release with the kind, on any arch."""
    return _BY_NAME[name].since
