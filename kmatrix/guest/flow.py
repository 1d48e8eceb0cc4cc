"""Where control goes in a program: what can be reached, and where it jumps back. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

_COMPARE: Mapping[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
    0x50: lambda a, b: a != b,
    0x60: lambda a, b: _signed(a) > _signed(b),
    0x70: lambda a, b: _signed(a) >= _signed(b),
    0xA0: lambda a, b: a < b,
    0xB0: lambda a, b: a <= b,
    0xC0: lambda a, b: _signed(a) < _signed(b),
    0xD0: lambda a, b: _signed(a) <= _signed(b),
}
_MASK = (1 << 64) - 1
Registers = dict[int, int]
"""What is known of the registers: constants only."""


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _decode(insns: bytes) -> list[tuple[int, int, int, int, int]]:
    return [(code, regs & 15, regs >> 4, off, imm) for code, regs, off, imm in struct.iter_unpack("=BBhi", insns)]


def reachable(insns: bytes) -> set[int]:
    """The instructions that can be reached, constants in registers taken into account where they decide a jump."""
    code = _decode(insns)
    states: dict[int, Registers] = {}
    work: list[tuple[int, Registers]] = [(0, {})]
    while work:
        at, known = work.pop()
        if not 0 <= at < len(code):
            continue
        if at in states:
            old = states[at]
            kept = {reg: value for reg, value in old.items() if known.get(reg) == value}
            if len(kept) == len(old):
                continue
            known = kept
        states[at] = known
        work += _after(code, at, dict(known))
    return set(states)


def _after(code: list[tuple[int, int, int, int, int]], at: int, known: Registers) -> list[tuple[int, Registers]]:
    """Where it goes on from an instruction, and what is known there."""
    op, dst, src, off, imm = code[at]
    kind = op & 7
    if op == 0x18:
        known.pop(dst, None)
        if src == 0 and at + 1 < len(code):
            known[dst] = (imm & 0xFFFFFFFF) | (code[at + 1][4] & 0xFFFFFFFF) << 32
        if src == 4:  # the address of a function, which may be called
            return [(at + 2, known), (at + 1 + imm, {})]
        return [(at + 2, known)]
    if kind in (4, 7):  # 32- and 64-bit arithmetic: constants are only moved
        value = known.get(src) if op & 8 else imm & _MASK
        known.pop(dst, None)
        if op & 0xF0 == 0xB0 and value is not None:
            known[dst] = value if kind == 7 else value & 0xFFFFFFFF
        return [(at + 1, known)]
    if op in (0x05, 0x06):
        return [(at + 1 + (off if op == 0x05 else imm), known)]
    if op == 0x95:
        return []
    if op == 0x85:
        for reg in range(6):
            known.pop(reg, None)
        return [(at + 1, known)] + ([(at + 1 + imm, {})] if src == 1 else [])
    if kind in (5, 6):
        left, right = known.get(dst), known.get(src) if op & 8 else imm & _MASK
        if kind == 6:
            left, right = (None if side is None else side & 0xFFFFFFFF for side in (left, right))
        test = _COMPARE.get(op & 0xF0)
        if test is not None and left is not None and right is not None and (kind == 5 or op & 0xF0 < 0x60):
            return [(at + 1 + (off if test(left, right) else 0), known)]
        return [(at + 1, known), (at + 1 + off, dict(known))]
    if kind == 1 or kind == 0:  # loads
        known.pop(dst if kind == 1 else 0, None)
    return [(at + 1, known)]


def back_edge(insns: bytes) -> tuple[int, int] | None:
    """A jump back to an instruction on the way to it (which made check_cfg refuse a program before 5.3), or None."""
    code = _decode(insns)
    seen: dict[int, int] = {}  # 1 while on the way, 2 when done
    starts = [0, *(at + 1 + imm for at, (op, _, src, _, imm) in enumerate(code) if op == 0x85 and src == 1)]
    for start in starts:
        stack = [(start, iter(_successors(code, start)))] if start not in seen else []
        seen.setdefault(start, 1)
        while stack:
            at, ways = stack[-1]
            for way in ways:
                if not 0 <= way < len(code):
                    continue
                if seen.get(way) == 1:
                    return at, way
                if way not in seen:
                    seen[way] = 1
                    stack.append((way, iter(_successors(code, way))))
                    break
            else:
                seen[at] = 2
                stack.pop()
    return None


def _successors(code: list[tuple[int, int, int, int, int]], at: int) -> list[int]:
    if not 0 <= at < len(code):
        return []
    op, _, _, off, imm = code[at]
    if op == 0x18:
        return [at + 2]
    if op == 0x95:
        return []
    if op in (0x05, 0x06):
        return [at + 1 + (off if op == 0x05 else imm)]
    if op & 7 in (5, 6) and op != 0x85:
        return [at + 1, at + 1 + off]
    return [at + 1]
