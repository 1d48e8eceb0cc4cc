"""Probes of what a program may hold: helpers, kernel functions, kinds of instructions. Each loads a small program and reads the verifier's words.

A verifier that does not know something says so in words of its own; any other refusal (a wrong argument, for one) means that it does.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from . import bpf, kernel
from .facts import FACTS
from .probing import HARMLESS, INT, Answer, Kernel, load_btf, words_of
from .table_kfuncs import MODULES

Options = Mapping[str, Any]
"""What bpf.prog_load takes beside kind and instructions."""

SLEEPABLE = 1 << 4
TRACING, STRUCT_OPS, LSM = 26, 27, 29
TRACE_FENTRY, LSM_MAC, TRACE_ITER = 24, 27, 28
PROG_ARRAY, TAIL_CALL = 3, 12

_NEVER_HEARD = ("invalid func ",)
_NOT_HERE = ("unknown func ", "program of this type cannot use helper", "cannot call", "helper access to")


def loads(kind: int, insns: bytes, **options: Any) -> Answer:
    """Whether the program loads, and the verifier's last words."""
    try:
        os.close(bpf.prog_load(kind, insns, **options))
    except OSError as error:
        return False, words_of(error)
    return True, "loads"


# -- program types, as somewhere to call from --------------------------------------------------------------------------------

_EXPECTED: Mapping[str, int] = {
    "cgroup_sock": 2, "cgroup_sock_addr": 10, "cgroup_sockopt": 21, "sk_lookup": 36, "netfilter": 45,
}  # fmt: skip
"""The attach type that a program type is loaded with, where it must have one (for addresses: connect, which may call the most)."""


def home(here: Kernel, program: str) -> list[tuple[int, Options]]:
    """How to load a program of a type, the plainest way first. Raises OSError where the kernel has nothing to attach it to."""
    kind = FACTS["prog"][program].number
    if program == "tracing":
        target = {"expected_attach_type": TRACE_FENTRY, "attach_btf_id": here.btf_id(HARMLESS)}
        ways: list[tuple[int, Options]] = [(kind, target)]
        with suppress(OSError):
            ways.append((kind, {"expected_attach_type": TRACE_ITER, "attach_btf_id": here.btf_id("bpf_iter_task")}))
        with suppress(OSError):
            ways.append((kind, {"expected_attach_type": TRACE_ITER, "attach_btf_id": here.btf_id("bpf_iter_tcp")}))
        return ways
    if program == "lsm":
        target = {"expected_attach_type": LSM_MAC, "attach_btf_id": here.btf_id("bpf_lsm_file_open")}
        # Which hooks may sleep changed; this one always could (1e6c62a88215, 5.10).
        sleeping = {
            "expected_attach_type": LSM_MAC,
            "attach_btf_id": here.btf_id("bpf_lsm_bprm_committed_creds"),
            "flags": SLEEPABLE,
        }
        return [(kind, target), (kind, sleeping)]
    if program == "struct_ops":
        struct, index = here.member("tcp_congestion_ops", "ssthresh")
        return [(kind, {"expected_attach_type": index, "attach_btf_id": struct})]
    if program == "syscall":
        return [(kind, {"flags": SLEEPABLE})]
    if program == "kprobe":
        return [(kind, {"kern_version": here.version_code})]
    expected = _EXPECTED.get(program, 0)
    return [(kind, {"expected_attach_type": expected} if expected and kernel.version() >= (4, 17) else {})]


HOMES = (
    "sched_cls", "xdp", "kprobe", "cgroup_skb", "sock_ops", "tracing", "sk_skb", "sk_msg", "cgroup_sock_addr", "lwt_xmit", "lwt_in", "lwt_seg6local",
    "sk_reuseport", "cgroup_sysctl", "cgroup_sockopt", "perf_event", "raw_tracepoint", "lirc_mode2", "lsm", "syscall", "struct_ops",
    "socket_filter", "cgroup_sock", "sk_lookup", "flow_dissector", "netfilter",
)  # fmt: skip
"""Where a helper's own program type is looked for, in this order."""


def _homes(here: Kernel, programs: tuple[str, ...]) -> Iterator[tuple[str, int, Options]]:
    """The ways to load a program of these types in which the smallest one loads."""
    for program in programs:
        if program not in here.homes:
            here.homes[program] = []
            with suppress(OSError):
                here.homes[program] = [way for way in home(here, program) if loads(way[0], bpf.RETURN_0, **way[1])[0]]
        for kind, options in here.homes[program]:
            yield program, kind, options


# -- helpers -----------------------------------------------------------------------------------------------------------------

_ZEROS = b"".join(bpf.insn(0xB7, dst=register) for register in range(2, 6))


def helper(here: Kernel, parameter: str) -> Answer:
    """Load a program that calls the helper, of each program type until one may call it. Of one type, where it is named."""
    name, _, program = parameter.partition("@")
    number = FACTS["helper"][name].number
    code = _ZEROS + bpf.call(number) + bpf.RETURN_0
    said = "no program type can be loaded"
    for where, kind, options in _homes(here, (program,) if program else HOMES):
        there, said = loads(kind, code, **options)
        if there or not any(words in said for words in (*_NEVER_HEARD, *_NOT_HERE)):
            return True, f"{where} programs may call it"
        if any(words in said for words in _NEVER_HEARD):
            return False, said
    return False, f"no {program or 'program'} may call it ({said})"


# -- kernel functions --------------------------------------------------------------------------------------------------------

_KFUNC_HOMES = ("tracing", "sched_cls", "xdp", "lsm", "syscall", "struct_ops", "cgroup_sock_addr", "sock_ops", "kprobe")


def kfunc(here: Kernel, name: str) -> Answer:
    """Load a program that calls the kernel function, of each program type until one may call it."""
    try:
        ident = here.btf_id(name)
    except OSError as error:
        module = MODULES.get(name)
        if module is not None and here.btf is not None and not os.path.isdir(f"/sys/module/{module}"):
            return None, f"it is in module {module}, which is not loaded"
        if module is not None and os.path.exists(f"/sys/kernel/btf/{module}"):
            return None, f"it is in module {module}, whose BTF is not looked into"
        return False, str(error.strerror)
    code = _ZEROS + bpf.insn(0xB7, dst=1) + bpf.insn(0x85, src=2, imm=ident) + bpf.RETURN_0
    said = "no program type can be loaded"
    for where, kind, options in _homes(here, _KFUNC_HOMES):
        there, said = loads(kind, code, **options)
        if there or not any(words in said for words in _NO_KFUNC):
            return True, f"{where} programs may call it"
    return False, f"no program may call it ({said})"


_NO_KFUNC = ("is not allowed", "reserved fields", "does not support calling", "not supported", "kernel btf", "invalid func")

# -- instructions ------------------------------------------------------------------------------------------------------------

SOCKET_FILTER, ARRAY = 1, 2
_STORE = bpf.insn(0x7A, dst=10, off=-8)  # *(u64 *)(r10 - 8) = 0
_INSNS: Mapping[str, bytes] = {
    "call_function": bpf.insn(0x85, src=1, imm=1) + bpf.EXIT + bpf.RETURN_0,
    "signed_shift_32": bpf.MOV_R0_0 + bpf.insn(0xC4, imm=1) + bpf.EXIT,
    "jmp32": bpf.MOV_R0_0 + bpf.insn(0x16, imm=5) + bpf.EXIT,
    "large_program": bpf.MOV_R0_0 * 4096 + bpf.EXIT,
    "bounded_loop": bpf.MOV_R0_0 + bpf.insn(0x07, imm=1) + bpf.insn(0xA5, imm=4, off=-2) + bpf.EXIT,
    "atomic_fetch": _STORE + bpf.insn(0xB7, dst=1, imm=1) + bpf.insn(0xDB, dst=10, src=1, off=-8, imm=1) + bpf.RETURN_0,
    "map_index": bpf.insn(0x18, dst=1, src=5) + bpf.insn(0) + bpf.RETURN_0,
    "load_sign_extended": _STORE + bpf.insn(0x91, src=10, off=-8) + bpf.RETURN_0,
    "move_sign_extended": bpf.insn(0xB7, dst=1, imm=5) + bpf.insn(0xBF, src=1, off=8) + bpf.RETURN_0,
    "signed_division": bpf.insn(0xB7, imm=6) + bpf.insn(0x37, imm=2, off=1) + bpf.RETURN_0,
    "byte_swap": bpf.insn(0xB7, imm=6) + bpf.insn(0xD7, imm=16) + bpf.RETURN_0,
    # Over an instruction that reads what is not there, and that no other way leads to: who takes it for a short jump refuses that.
    "long_jump": bpf.MOV_R0_0 + bpf.insn(0x15, imm=1, off=1) + bpf.insn(0x06, imm=1) + bpf.insn(0xBF, src=9) + bpf.EXIT,
    "may_goto": bpf.MOV_R0_0 + bpf.insn(0xE5, off=1) + bpf.insn(0x05, off=-2) + bpf.EXIT,
    "address_space_cast": bpf.insn(0xB7, dst=1) + bpf.insn(0xBF, dst=1, src=1, off=1, imm=1) + bpf.RETURN_0,
    "load_acquire": _STORE + bpf.insn(0xDB, src=10, off=-8, imm=0x100) + bpf.RETURN_0,
}
_KNOWN_BY: Mapping[str, tuple[str, ...]] = {
    "map_index": ("fd_array",),
    "address_space_cast": ("associated arena",),
    "call_kfunc": ("is not allowed",),
    "ksym": ("isn't KIND_VAR",),
}
"""Words of a verifier that knows the instruction, and misses what goes with it."""


def insn(here: Kernel, name: str) -> Answer:
    """Load a program that has such an instruction."""
    special = _SPECIAL.get(name)
    try:
        there, said = special(here) if special is not None else loads(SOCKET_FILTER, _INSNS[name])
    except OSError as error:  # the map that goes with it
        return False, words_of(error)
    if not there and any(words in said for words in _KNOWN_BY.get(name, ())):
        return True, said
    return there, said


def _map_value(_: Kernel) -> Answer:
    array = bpf.map_create(ARRAY, 4, 32, 1)
    try:
        return loads(SOCKET_FILTER, bpf.insn(0x18, dst=1, src=2, imm=array) + bpf.insn(0) + bpf.RETURN_0)
    finally:
        os.close(array)


def _tail_call(_: Kernel) -> Answer:
    programs = bpf.map_create(PROG_ARRAY, 4, 4, 1)
    try:
        jump = bpf.insn(0x18, dst=2, src=1, imm=programs) + bpf.insn(0) + bpf.insn(0xB7, dst=3) + bpf.call(TAIL_CALL)
        return _two_functions(bpf.insn(0x85, src=1, imm=1) + bpf.EXIT, jump + bpf.RETURN_0)
    finally:
        os.close(programs)


def _callback(_: Kernel) -> Answer:
    return _two_functions(bpf.insn(0x18, dst=2, src=4, imm=3) + bpf.insn(0) + bpf.RETURN_0, bpf.RETURN_0)


def _two_functions(first: bytes, second: bytes) -> Answer:
    """Load a program of two functions with BTF that describes them: `int (int)`, both static."""
    proto = struct.pack("=IIIII", 0, 13 << 24 | 1, 1, 5, 1)
    functions = b"".join(struct.pack("=III", name, 12 << 24, 2) for name in (5, 7))
    try:
        btf = load_btf(INT + proto + functions, b"\0int\0a\0b\0")
    except OSError as error:
        return False, f"no BTF can be loaded: {words_of(error)}"
    try:
        info = struct.pack("=IIII", 0, 3, len(first) // 8, 4)
        return loads(SOCKET_FILTER, first + second, btf_fd=btf, functions=info)
    finally:
        os.close(btf)


def _ksym(_: Kernel) -> Answer:
    """Ask for type 1, which is no variable: which variables are in the BTF is pahole's choice (Debian 11's 5.10 has none)."""
    return loads(17, bpf.insn(0x18, dst=1, src=3, imm=1) + bpf.insn(0) + bpf.RETURN_0)


def _call_kfunc(here: Kernel) -> Answer:
    try:
        ident = here.btf_id(HARMLESS)
    except OSError as error:
        return False, str(error.strerror)
    return loads(3, bpf.insn(0x85, src=2, imm=ident) + bpf.RETURN_0)


_SPECIAL: Mapping[str, Callable[[Kernel], Answer]] = {
    "map_value": _map_value,
    "tail_call_in_function": _tail_call,
    "callback": _callback,
    "ksym": _ksym,
    "call_kfunc": _call_kfunc,
}
