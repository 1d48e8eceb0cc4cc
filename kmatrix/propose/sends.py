"""sends(): what the programs of an object send to user space, and by which buffer, read off their calls of helpers.

The size of a record is the constant that is in the register of the call, where the instructions before it say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kmatrix.manifest.types import Transport
from kmatrix.objects.code import CALL, LD_IMM64, Code, Function
from kmatrix.objects.maps import TRANSPORTS
from kmatrix.objects.reach import Known, reachable


class _Call(NamedTuple):
    transport: Transport
    map: int
    size: int


_HELPERS: Mapping[int, _Call] = {
    25: _Call("perf", 2, 5),  # bpf_perf_event_output(ctx, map, flags, data, size)
    111: _Call("perf", 2, 5),  # bpf_skb_output
    121: _Call("perf", 2, 5),  # bpf_xdp_output
    130: _Call("ringbuf", 1, 3),  # bpf_ringbuf_output(map, data, size, flags)
    131: _Call("ringbuf", 1, 2),  # bpf_ringbuf_reserve(map, size, flags)
    209: _Call("ringbuf", 1, 2),  # bpf_ringbuf_reserve_dynptr
}
"""By the helper's number (include/uapi/linux/bpf.h): the registers of its map and its size."""
_MOVES = (0xBF, 0xBC)
_CONSTANTS = (0xB7, 0xB4)
_WRITES = (0x01, 0x04, 0x07)
"""Classes of instructions that write to their destination register: loads, and arithmetic of 32 and 64 bits."""
_SIZEOF = re.compile(r"sizeof\s*\(\s*(?:struct\s+)?(\w+)\s*\)")


@dataclass(frozen=True)
class Sent:
    """One kind of record that programs send."""

    transport: Transport
    buffer: str
    size: int | None
    """Bytes; None where it is only known when the program runs."""
    programs: tuple[str, ...]
    type: str | None = None
    """The C type that the line of source names, by sizeof()."""


def sends(code: Code) -> list[Sent]:
    """The kinds of record, in the order of the programs."""
    buffers = {name: definition.type for name, definition in code.info.definitions.items()}
    found: dict[tuple[Transport, str, int | None], tuple[list[str], str | None]] = {}
    for name, program in code.programs.items():
        for function, indices in reachable(code, program, Known()).items():
            for transport, buffer, size, type_ in _calls(code, function, indices, buffers):
                programs, named = found.setdefault((transport, buffer, size), ([], type_))
                found[transport, buffer, size] = ([*dict.fromkeys((*programs, name))], named or type_)
    return [Sent(transport, buffer, size, tuple(p), type_) for (transport, buffer, size), (p, type_) in found.items()]


def _calls(
    code: Code, function: Function, indices: frozenset[int], buffers: Mapping[str, str]
) -> Iterator[tuple[Transport, str, int | None, str | None]]:
    for index in sorted(indices):
        insn = function.insns[index]
        if insn.code != CALL or insn.src != 0 or insn.imm not in _HELPERS:
            continue
        call = _HELPERS[insn.imm]
        wanted = TRANSPORTS[call.transport]
        buffer, size = _given(code, function, index, call.map), _given(code, function, index, call.size)
        if not isinstance(buffer, str):  # a function that is given the map: it is clear where there is but one
            fitting = [name for name, kind in buffers.items() if kind == wanted]
            buffer = fitting[0] if len(fitting) == 1 else None
        if buffer is not None and buffers.get(buffer) == wanted:
            line = code.line(function, index)
            named = _SIZEOF.search(line.text) if line is not None else None
            yield call.transport, buffer, size if isinstance(size, int) and size > 0 else None, named[1] if named else None


def _given(code: Code, function: Function, call: int, register: int) -> int | str | None:
    """The constant or the map that a register holds at a call, as the instructions right before it say; None where they do not."""
    for index in range(call - 1, -1, -1):
        insn = function.insns[index]
        if insn.code == CALL and register <= 5:
            return None
        if insn.dst != register:
            continue
        if insn.code == LD_IMM64:
            reference = code.references.get((function.section, function.at(index)))
            return insn.imm if reference is None else reference.name if reference.kind == "map" else None
        if insn.code in _CONSTANTS:
            return insn.imm
        if insn.code in _MOVES:
            register = insn.src
        elif insn.code & 0x07 in _WRITES:
            return None
    return None
