"""Which instructions of a program can run, on a kernel of which something is known.

The verifier does not look at code that a known constant makes dead, and so the feature tests of a CO-RE program work: libbpf writes 1 or 0 into
`bpf_core_field_exists()`, the version into LINUX_KERNEL_VERSION, and what only another kernel has is never reached (2589726d12a1 and
51580e798cb6, dead branches in the verifier). This follows the same constants: through registers, the stack, read-only data and Kconfig.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from kmatrix.objects.btf import ENUM_EXISTS, FIELD_EXISTS, TYPE_EXISTS, TYPE_MATCHES, Relocation
from kmatrix.objects.code import CALL, EXIT, LD_IMM64, Code, Function, Insn

EXISTENCE = (FIELD_EXISTS, TYPE_EXISTS, TYPE_MATCHES, ENUM_EXISTS)
"""The relocations that ask whether something is there: libbpf writes 1 or 0."""

KCONFIG = ("CONFIG_", "LINUX_")
"""What the names of Kconfig variables begin with: libbpf makes a map of them."""
_U64, _U32 = (1 << 64) - 1, (1 << 32) - 1
_FRAME = 10


@dataclass(frozen=True)
class Known:
    """What is known of the kernel that a program is looked at for. What is not known may go either way."""

    exists: Callable[[Relocation], bool | None] = lambda _: None
    """Whether what a relocation asks for is there."""
    kconfig: Callable[[str], int | None] = lambda _: None
    """The value of a Kconfig variable, such as LINUX_KERNEL_VERSION."""
    symbol: Callable[[str], bool | None] = lambda _: None
    """Whether the kernel has a function or variable that the object declares `__weak` (bpf_ksym_exists())."""


@dataclass(frozen=True)
class _Place:
    """A pointer: into a section of the object's data, to what the kernel provides, or into the stack (`anywhere`: at no known place of it)."""

    kind: str
    name: str
    offset: int


_Value = int | _Place | None


@dataclass
class _State:
    registers: list[_Value]
    stack: dict[tuple[int, int], _Value] = field(default_factory=dict)
    """(offset, size) → what was stored there."""

    def copy(self) -> _State:
        return _State([*self.registers], dict(self.stack))

    def join(self, other: _State) -> bool:
        """Keep what both agree on; whether anything was lost."""
        lost = False
        for number, value in enumerate(self.registers):
            if value is not None and value != other.registers[number]:
                self.registers[number] = None
                lost = True
        for slot in [slot for slot, value in self.stack.items() if other.stack.get(slot) != value]:
            del self.stack[slot]
            lost = True
        return lost


def reachable(code: Code, program: Function, known: Known) -> dict[Function, frozenset[int]]:
    """The instructions that can be reached, by function: of the program, of what it calls, and of its callbacks."""
    found: dict[Function, frozenset[int]] = {}
    waiting = [program]
    while waiting:
        function = waiting.pop()
        if function in found:
            continue
        found[function] = frozenset(_walk(code, function, known, entry=function is program))
        waiting += [callee for index in found[function] if (callee := code.callee(function, index)) is not None]
    return found


def context_reads(code: Code, program: Function, known: Known) -> dict[int, tuple[int, int]]:
    """By instruction of a program that reads its context at a constant place: the offset and the number of bytes."""
    found = {}
    for index, state in _walk(code, program, known, entry=True).items():
        insn = program.insns[index]
        base = state.registers[insn.src] if insn.code & 0x07 == 0x01 else None
        if isinstance(base, _Place) and base.kind == "context":
            found[index] = base.offset + insn.off, _SIZES[insn.code & 0x18]
    return found


def _walk(code: Code, function: Function, known: Known, *, entry: bool = False) -> dict[int, _State]:
    """The instructions that can be reached, each with what is known before it; of an `entry`, the first argument is the program's context."""
    start = _State([*[None] * _FRAME, _Place("stack", "", 0)])
    if entry:
        start.registers[1] = _Place("context", "", 0)
    states: dict[int, _State] = {0: start} if function.insns else {}
    waiting = [0] if function.insns else []
    while waiting:
        index = waiting.pop()
        state = states[index].copy()
        for following in _step(code, function, index, state, known):
            if not 0 <= following < len(function.insns):
                continue
            if following not in states:
                states[following] = state.copy()
            elif not states[following].join(state):
                continue
            waiting.append(following)
    return states


def _step(code: Code, function: Function, index: int, state: _State, known: Known) -> Iterator[int]:
    """Carry out one instruction on `state`, and say where it goes on."""
    insn = function.insns[index]
    relocation = code.relocations.get((function.section, function.at(index)))
    regs, kind = state.registers, insn.code & 0x07
    if insn.code == LD_IMM64:
        regs[insn.dst] = _loaded(code, function, index, relocation, known)
        yield index + 2
    elif insn.code == EXIT:
        return
    elif insn.code == CALL:
        _forget_stack(state)
        regs[0:6] = [None] * 6
        yield index + 1
    elif kind in (0x05, 0x06):
        yield from _jump(insn, index, state)
    else:
        if kind in (0x04, 0x07):
            regs[insn.dst] = _computed(insn, regs, relocation, known)
        elif kind == 0x01:
            regs[insn.dst] = None if relocation is not None else _read(code, insn, regs[insn.src], state, known)
        elif kind in (0x02, 0x03):
            _store(insn, state)
        elif kind == 0x00:  # the packet loads of old: the result in r0, the other registers lost
            regs[0:6] = [None] * 6
        yield index + 1


def _loaded(code: Code, function: Function, index: int, relocation: Relocation | None, known: Known) -> _Value:
    if relocation is not None:
        return _written(relocation, known)
    insn = function.insns[index]
    reference = code.references.get((function.section, function.at(index)))
    if reference is not None and reference.kind == "extern" and not reference.name.startswith(KCONFIG):
        there = known.symbol(reference.name) if reference.weak else None
        return None if there is None else int(there)
    if reference is not None:
        return _Place(reference.kind, reference.name, reference.offset) if reference.kind in ("data", "extern") else None
    high = function.insns[index + 1].imm if index + 1 < len(function.insns) else 0
    return (insn.imm & _U32 | (high & _U32) << 32) if insn.src == 0 else None


def _written(relocation: Relocation, known: Known) -> int | None:
    """What libbpf writes into the instruction, where it asks whether something exists."""
    answer = known.exists(relocation) if relocation.kind in EXISTENCE else None
    return None if answer is None else int(answer)


def _computed(insn: Insn, regs: list[_Value], relocation: Relocation | None, known: Known) -> _Value:
    """The result of arithmetic."""
    if relocation is not None:
        return _written(relocation, known) if insn.code in (0xB7, 0xB4) else None
    wide, operation = insn.code & 0x07 == 0x07, insn.code & 0xF0
    operand: _Value = regs[insn.src] if insn.code & 0x08 else (insn.imm & _U64)
    before = regs[insn.dst]
    if operation == 0xB0:
        if isinstance(operand, _Place):
            return operand if wide and insn.off == 0 else None
        return None if operand is None or insn.off else operand & (_U64 if wide else _U32)
    if isinstance(before, _Place):
        shift = _signed(operand) if isinstance(operand, int) else 0
        known_shift = wide and isinstance(operand, int) and operation in (0x00, 0x10)
        if known_shift:
            return _Place(before.kind, before.name, before.offset + (shift if operation == 0x00 else -shift))
        return _Place("anywhere", "", 0) if before.kind in ("stack", "anywhere") else None
    if not isinstance(before, int) or not isinstance(operand, int):
        return 0 if operation == 0x50 and operand == 0 else None
    return _arithmetic(operation, before, operand, _U64 if wide else _U32)


def _arithmetic(operation: int, left: int, right: int, mask: int) -> int | None:
    left, right = left & mask, right & mask
    bits = 64 if mask == _U64 else 32
    results: Mapping[int, Callable[[], int]] = {
        0x00: lambda: left + right,
        0x10: lambda: left - right,
        0x20: lambda: left * right,
        0x40: lambda: left | right,
        0x50: lambda: left & right,
        0x60: lambda: left << right % bits,
        0x70: lambda: left >> right % bits,
        0x80: lambda: -left,
        0xA0: lambda: left ^ right,
        0xC0: lambda: _signed(left, bits) >> right % bits,
    }
    return results[operation]() & mask if operation in results else None


def _signed(value: int, bits: int = 64) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}


def _read(code: Code, insn: Insn, base: _Value, state: _State, known: Known) -> _Value:
    size = _SIZES[insn.code & 0x18]
    if not isinstance(base, _Place):
        return None
    at = base.offset + insn.off
    if base.kind == "stack":
        return state.stack.get((at, size))
    if base.kind == "extern":
        return known.kconfig(base.name) if at == 0 else None
    data = code.section(base.name) if base.name.startswith(".rodata") else b""
    return int.from_bytes(data[at : at + size], "little") if 0 <= at <= len(data) - size else None


def _store(insn: Insn, state: _State) -> None:
    base = state.registers[insn.dst]
    if isinstance(base, _Place) and base.kind == "anywhere":
        state.stack.clear()
    if not isinstance(base, _Place) or base.kind != "stack":
        return
    at, size = base.offset + insn.off, _SIZES[insn.code & 0x18]
    for slot in [s for s in state.stack if s[0] < at + size and at < s[0] + s[1]]:
        del state.stack[slot]
    if insn.code & 0xE0 == 0x60:  # a plain store; atomic ones leave what is not known
        value: _Value = state.registers[insn.src] if insn.code & 0x07 == 0x03 else insn.imm & ((1 << 8 * size) - 1)
        if value is not None and (size == 8 or isinstance(value, int)):
            state.stack[at, size] = value & ((1 << 8 * size) - 1) if isinstance(value, int) else value


def _forget_stack(state: _State) -> None:
    """A callee may write to the part of the stack that it is given a pointer to: that part is above the pointer."""
    places = [value for value in state.registers[1:6] if isinstance(value, _Place)]
    given = [place.offset for place in places if place.kind == "stack"]
    if any(place.kind == "anywhere" for place in places):
        state.stack.clear()
    if given:
        for slot in [s for s in state.stack if s[0] + s[1] > min(given)]:
            del state.stack[slot]


def _jump(insn: Insn, index: int, state: _State) -> Iterator[int]:
    operation = insn.code & 0xF0
    if operation == 0x00:
        yield index + 1 + (insn.imm if insn.code == 0x06 else insn.off)
        return
    bits = 64 if insn.code & 0x07 == 0x05 else 32
    left = state.registers[insn.dst]
    right: _Value = state.registers[insn.src] if insn.code & 0x08 else insn.imm & _U64
    taken = _compare(operation, left, right, bits) if isinstance(left, int) and isinstance(right, int) else None
    if taken is not True:
        yield index + 1
    if taken is not False:
        yield index + 1 + insn.off


def _compare(operation: int, left: int, right: int, bits: int) -> bool | None:
    mask = (1 << bits) - 1
    left, right = left & mask, right & mask
    a, b = _signed(left, bits), _signed(right, bits)
    results: Mapping[int, bool] = {
        0x10: left == right, 0x20: left > right, 0x30: left >= right, 0x40: bool(left & right), 0x50: left != right, 0x60: a > b, 0x70: a >= b,
        0xA0: left < right, 0xB0: left <= right, 0xC0: a < b, 0xD0: a <= b,
    }  # fmt: skip
    return results.get(operation)
