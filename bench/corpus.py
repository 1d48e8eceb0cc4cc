"""The corpus of `make fidelity`: small raw requests to bpf(2), one for each thing that came and for each limit, generated from numbers.

Nothing here knows since when anything is there: what an answer should be is asked of the real kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kmatrix.guest import bpf

LAST_MAP_TYPE, LAST_PROG_TYPE, LAST_HELPER, LAST_COMMAND, LAST_ATTACH_TYPE = 33, 32, 211, 36, 48

EXPECTED_ATTACH = {9: 2, 18: 10, 25: 21, 30: 36}
"""Where a program type is loaded for an attach type, one that it always had (include/uapi/linux/bpf.h)."""


@dataclass(frozen=True)
class Item:
    """One question, and the class that it counts in."""

    kind: str
    name: str
    question: dict[str, Any]


def corpus() -> list[Item]:
    """Every item, but for helpers, whose program types are looked for on the base kernel first (`helper_calls`)."""
    return [
        *_maps(),
        *_map_flags(),
        *_programs(),
        *_program_limits(),
        *_instructions(),
        *_attach_types(),
        *_commands(),
        *_btf(),
        *_files(),
    ]


# -- maps --------------------------------------------------------------------------------------------------------------------

_SIZES = {  # map type → (key, value, entries, flags); else 4, 8, 4, 0
    3: (4, 4, 4, 0), 4: (4, 4, 4, 0), 7: (4, 80, 4, 0), 8: (4, 4, 4, 0), 11: (8, 8, 4, 1), 12: (4, 4, 4, 0), 13: (4, 4, 4, 0),
    14: (4, 4, 4, 0), 15: (4, 4, 4, 0), 16: (4, 4, 4, 0), 17: (4, 4, 4, 0), 18: (4, 4, 4, 0), 19: (16, 8, 0, 0), 20: (4, 8, 4, 0),
    21: (16, 8, 0, 0), 22: (0, 4, 4, 0), 23: (0, 4, 4, 0), 24: (4, 4, 0, 1), 25: (4, 4, 4, 0), 26: (4, 8, 1, 0), 27: (0, 0, 65536, 0),
    28: (4, 4, 0, 1), 29: (4, 4, 0, 1), 30: (0, 8, 4, 0), 31: (0, 0, 65536, 0), 32: (4, 4, 0, 1), 33: (0, 0, 4, 1 << 10),
}  # fmt: skip


def _map(kind: int, *, flags: int = 0, tail: bytes = b"", at: int = 28) -> dict[str, Any]:
    key, value, entries, own = _SIZES.get(kind, (4, 8, 4, 0))
    attr = struct.pack("=IIIIIII", kind, key, value, entries, own | flags, 0, 0)
    return {"command": 0, "attr": (attr.ljust(at, b"\0") + tail).hex(), "inner": kind in (12, 13), "fd": True}


def _maps() -> Iterator[Item]:
    for kind in range(LAST_MAP_TYPE + 1):
        name = bpf.name_of(bpf.MAP_TYPES, kind)
        yield Item("map type", name, _map(kind))
    yield Item("map type", "hash, with a name", _map(1, tail=b"kmatrix\0"))
    yield Item("map type", "array, with a name", _map(2, tail=b"kmatrix\0"))
    for at in (44, 48, 60, 64, 72, 80, 120, 144):
        yield Item("attribute size", f"hash, a nonzero byte at {at}", _map(1, tail=b"\1", at=at))
    for at in (44, 64, 72, 120, 152):
        yield Item("attribute size", f"hash, zeros up to {at}", _map(1, tail=bytes(1), at=at))


def _map_flags() -> Iterator[Item]:
    for kind in (1, 2, 7, 9, 11, 14, 22):
        for bit in range(15):
            yield Item("map flag", f"{bpf.name_of(bpf.MAP_TYPES, kind)}, flag {1 << bit:#x}", _map(kind, flags=1 << bit))


# -- programs ----------------------------------------------------------------------------------------------------------------

RETURN_1 = bpf.insn(0xB7, imm=1) + bpf.EXIT


def _program(kind: int, insns: bytes = RETURN_1, **more: Any) -> dict[str, Any]:
    return {"command": 5, "program": {"type": kind, "insns": insns.hex(), "expected": EXPECTED_ATTACH.get(kind, 0), **more}}


def _programs() -> Iterator[Item]:
    for kind in range(LAST_PROG_TYPE + 1):
        yield Item("program type", bpf.name_of(bpf.PROG_TYPES, kind), _program(kind))
    yield Item("program type", "kprobe, version 0", _program(2, version=False))


def _program_limits() -> Iterator[Item]:
    for kind in (1, 5, 6):
        name = bpf.name_of(bpf.PROG_TYPES, kind)
        yield Item("name", f"{name}, with a name", _program(kind, name="kmatrix"))
        for bit in range(8):
            yield Item("program flag", f"{name}, flag {1 << bit:#x}", _program(kind, flags=1 << bit))
        for count in (1, 4095, 4096, 4097, 10000):
            code = {"insns": bpf.MOV_R0_0.hex(), "times": count - 1, "end": bpf.EXIT.hex()}
            if count == 1:
                code = {"insns": bpf.EXIT.hex()}
            yield Item("size", f"{name}, {count} instructions", {"command": 5, "program": {"type": kind, **code}})
    yield Item("size", "socket_filter, no instruction", _program(1, b""))
    for at in (72, 76, 80, 88, 92, 96, 104, 108, 112, 116, 120, 128, 140, 144, 150):
        question = _program(1, tail=(bytes(at - 72) + b"\1").hex())
        yield Item("attribute size", f"socket_filter, a nonzero byte at {at}", question)
    for kind, values in ((9, (0, 1, 2, 12, 13, 34)), (18, (8, 9, 10, 11, 14, 15, 19, 20, 29, 32)), (8, (0, 1, 2)), (25, (21, 22, 23)), (6, (0, 33, 35, 37)), (2, (0, 42)), (1, (5,))):  # fmt: skip
        for value in values:
            name = f"{bpf.name_of(bpf.PROG_TYPES, kind)}, attach type {value}"
            yield Item("expected attach type", name, _program(kind, expected=value))


def _instructions() -> Iterator[Item]:
    """Instructions and the ways to refer to something, each in a program that is right where they exist."""
    for kind in (1, 5):
        name = bpf.name_of(bpf.PROG_TYPES, kind)

        def item(what: str, insns: bytes, kind: int = kind, name: str = name, **more: Any) -> Item:
            return Item("instruction", f"{name}: {what}", _program(kind, insns, **more))

        for source in range(1, 8):
            load = bpf.insn(0x18, dst=1, src=source) + bpf.insn(0)
            yield item(f"two-word load of kind {source}", load + RETURN_1, array=source in (1, 2))
        yield item("call of a BPF function", bpf.insn(0x85, src=1, imm=2) + RETURN_1 + RETURN_1)
        yield item("call of a kernel function", bpf.insn(0x85, src=2, imm=1) + RETURN_1)
        yield item("address of a BPF function", bpf.insn(0x18, dst=1, src=4, imm=3) + bpf.insn(0) + RETURN_1 + RETURN_1)
        zero = bpf.MOV_R0_0
        for code in range(0x16, 0xE0, 0x10):
            yield item(f"32-bit jump {code:#x}", zero + bpf.insn(code, imm=5, off=0) + bpf.EXIT)
        yield item("loop of four", zero + bpf.insn(0x07, imm=1) + bpf.insn(0xA5, imm=4, off=-2) + bpf.EXIT)
        yield item("loop without end", zero + bpf.insn(0x05, off=-1) + bpf.EXIT)
        back = bpf.insn(0x05, off=2) + zero + bpf.EXIT + bpf.insn(0x05, off=-3)
        yield item("jump back that is no loop", back)
        yield item("instruction that is not reached", RETURN_1 + RETURN_1)
        yield item(
            "unknown helper in a branch not taken",
            bpf.insn(0xB7, dst=1) + bpf.insn(0x15, dst=1, imm=0, off=1) + bpf.call(130) + RETURN_1,
        )
        yield item(
            "unknown helper in a branch taken",
            bpf.insn(0xB7, dst=1) + bpf.insn(0x15, dst=1, imm=1, off=1) + bpf.call(130) + RETURN_1,
        )
        stack = bpf.insn(0x7A, dst=10, off=-8) + bpf.insn(0xB7, dst=1, imm=1)
        for imm, what in ((0, "add"), (1, "fetching add"), (0x40, "or"), (0x50, "and"), (0xA0, "xor"), (0xE1, "exchange"), (0xF1, "compare and exchange")):  # fmt: skip
            swap = bpf.MOV_R0_0 if imm == 0xF1 else b""
            yield item(f"atomic {what}", stack + swap + bpf.insn(0xDB, dst=10, src=1, off=-8, imm=imm) + RETURN_1)
        yield item("sign-extending load", stack + bpf.insn(0x81, dst=1, src=10, off=-8) + RETURN_1)
        yield item("unconditional byte swap", bpf.insn(0xB7, dst=1) + bpf.insn(0xD7, dst=1, imm=32) + RETURN_1)
        yield item("32-bit goto", bpf.insn(0x06, imm=0) + RETURN_1)


def helper_calls(kind: int) -> list[Item]:
    """A call of every helper, with nothing in its arguments, from one program type."""
    name = bpf.name_of(bpf.PROG_TYPES, kind)
    return [
        Item("helper", f"{number} from {name}", _program(kind, bpf.call(number) + RETURN_1)) for number in range(1, LAST_HELPER + 1)
    ]


# -- the rest ----------------------------------------------------------------------------------------------------------------


def _attach_types() -> Iterator[Item]:
    for kind in range(LAST_ATTACH_TYPE + 1):
        attr = struct.pack("=iiII", -1, -1, kind, 0).hex()
        yield Item("attach type", f"PROG_ATTACH {kind}", {"command": 8, "attr": attr})
        yield Item("attach type", f"LINK_CREATE {kind}", {"command": 28, "attr": attr})


def _commands() -> Iterator[Item]:
    for command in range(LAST_COMMAND + 4):
        if command == 33:  # ITER_CREATE and the others of no effect; ENABLE_STATS (32) gives an fd
            pass
        yield Item("command", f"{command}, zeros", {"command": command, "attr": bytes(16).hex(), "fd": command in (0, 5, 18, 32)})
        yield Item("command", f"{command}, fds that are none", {"command": command, "attr": (b"\xff" * 4 + bytes(44)).hex()})


def _btf_object(types: bytes, strings: bytes) -> dict[str, Any]:
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return {"command": 18, "btf": (header + types + strings).hex(), "fd": True}


def _btf() -> Iterator[Item]:
    strings = b"\0x\0y\0.data\0"
    integer = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)

    def kind(number: int, *, name: int = 0, vlen: int = 0, kflag: int = 0, size: int = 0, more: bytes = b"") -> bytes:
        return struct.pack("=III", name, kflag << 31 | number << 24 | vlen, size) + more

    proto = kind(13)
    samples = {
        "int": integer,
        "pointer": integer + kind(2, size=1),
        "array": integer + kind(3, more=struct.pack("=III", 1, 1, 4)),
        "struct": integer + kind(4, name=3, vlen=1, size=4, more=struct.pack("=III", 1, 1, 0)),
        "struct with a bit field": integer + kind(4, name=3, vlen=1, kflag=1, size=4, more=struct.pack("=III", 1, 1, 4 << 24)),
        "enum": kind(6, name=3, vlen=1, size=4, more=struct.pack("=Ii", 1, 1)),
        "forward": kind(7, name=1),
        "typedef": integer + kind(8, name=1, size=1),
        "const": integer + kind(10, size=1),
        "function prototype": proto,
        "function": proto + kind(12, name=1, size=1),
        "global function": proto + kind(12, name=1, vlen=1, size=1),
        "variable": integer + kind(14, name=1, size=1, more=struct.pack("=I", 0)),
        "data section": integer + kind(14, name=1, size=1, more=struct.pack("=I", 1)) + kind(15, name=5, vlen=1, size=4, more=struct.pack("=III", 2, 0, 4)),
        "float": kind(16, name=1, size=4),
        "declaration tag": integer + kind(8, name=1, size=1) + kind(17, name=3, size=2, more=struct.pack("=i", -1)),
        "type tag": integer + kind(18, name=1, size=1),
        "64-bit enum": kind(19, name=3, vlen=1, size=8, more=struct.pack("=III", 1, 1, 0)),
    }  # fmt: skip
    for name, types in samples.items():
        yield Item("BTF", name, _btf_object(types, strings))


def _files() -> Iterator[Item]:
    for path in (
        "/sys/kernel/btf/vmlinux", "/sys/bus/event_source/devices/kprobe/type", "/sys/bus/event_source/devices/uprobe/type",
        "/sys/kernel/tracing/kprobe_events", "/sys/kernel/tracing/events/syscalls/sys_enter_openat/id",
    ):  # fmt: skip
        yield Item("file", path, {"path": path})
