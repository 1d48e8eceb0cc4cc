"""bpf(2) and its neighbours, by system call: what the kernel itself says of programs, maps and links, and the smallest loads.

Layouts are those of the kernel's include/uapi/linux/bpf.h. Attributes are passed no longer than the fields in use, so that a kernel
older than a field never sees it. Every failed call raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from . import table_types, verifier_log
from .table_types import names

_SYSCALLS = {  # (bpf, perf_event_open, openat)
    "x86_64": (321, 298, 257),
    "aarch64": (280, 241, 56),
}
NR_BPF, NR_PERF_EVENT_OPEN, NR_OPENAT = _SYSCALLS.get(platform.machine(), (-1, -1, -1))

# enum bpf_cmd
MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, PROG_LOAD, OBJ_GET, PROG_TEST_RUN = 0, 1, 2, 3, 5, 7, 10
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 11, 12, 13, 14, 15
PROG_QUERY = 16
RAW_TRACEPOINT_OPEN, BTF_LOAD, TASK_FD_QUERY, BTF_GET_NEXT_ID = 17, 18, 20, 23
LINK_CREATE, LINK_GET_FD_BY_ID, LINK_GET_NEXT_ID, ITER_CREATE, LINK_DETACH = 28, 30, 31, 33, 34

# enum bpf_attach_type: those that kmatrix attaches itself.
SK_SKB_STREAM_PARSER, SK_SKB_STREAM_VERDICT, SK_MSG_VERDICT, FLOW_DISSECTOR = 4, 5, 7, 17
TRACE_ITER, XDP_DEVMAP, XDP_CPUMAP, SK_LOOKUP, SK_SKB_VERDICT, LSM_CGROUP, NETFILTER = 28, 33, 35, 36, 38, 43, 45
TCX_INGRESS, TCX_EGRESS, NETKIT_PRIMARY, NETKIT_PEER = 46, 47, 54, 55

PERF_EVENT_IOC_SET_BPF = 0x40042408

# Names as bpftool writes them, by the kernel's numbers.
PROG_TYPES, MAP_TYPES, LINK_TYPES = names(table_types.PROG_TYPES), names(table_types.MAP_TYPES), names(table_types.LINK_TYPES)
ATTACH_TYPES = names(table_types.ATTACH_TYPES)

_INFO_SIZE = 256

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def syscall(number: int, *args: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call's result; its errno as OSError."""
    passed = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = _syscall(ctypes.c_long(number), *passed)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, error_text(code))
    return result


# Errnos the kernel hands out and its own headers keep from userspace (include/linux/errno.h).
_KERNEL_ONLY = {512: "ERESTARTSYS", 517: "EPROBE_DEFER", 524: "ENOTSUPP (not supported)"}


def error_text(code: int) -> str:
    """The errno in words."""
    return _KERNEL_ONLY.get(code) or os.strerror(code)


def bpf(command: int, attr: bytes) -> int:
    """bpf(2) with these attribute bytes."""
    return syscall(NR_BPF, command, ctypes.create_string_buffer(attr, len(attr)), len(attr))


def write_back(command: int, attr: bytes) -> bytes:
    """bpf(2) of a command that answers in its attributes: those, afterwards."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    syscall(NR_BPF, command, buffer, len(attr))
    return buffer.raw


# -- what is there -----------------------------------------------------------------------------------------------------------


class Prog(NamedTuple):
    """A loaded program. `name` is empty before 4.15."""

    id: int
    name: str
    type: str
    tag: str


class Map(NamedTuple):
    """A map. `name` is empty before 4.15."""

    id: int
    name: str
    type: str


class Link(NamedTuple):
    """An attachment that is a kernel object (from 5.7 on)."""

    id: int
    type: str
    prog_id: int


def name_of(names: tuple[str, ...], number: int) -> str:
    """The name of a type by its number; numbers newer than the table stand for themselves."""
    return names[number] if number < len(names) else f"type {number}"


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _info(fd: int) -> bytes:
    """The bpf_*_info of a program, map or link; zeros where the kernel knows no such field."""
    info = ctypes.create_string_buffer(_INFO_SIZE)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_SIZE, ctypes.addressof(info)))
    return info.raw


def prog_info(fd: int) -> Prog:
    """What the kernel says of the program behind `fd`."""
    raw = _info(fd)
    kind, ident = struct.unpack_from("=II", raw)
    return Prog(ident, _text(raw[64:80]), name_of(PROG_TYPES, kind), raw[8:16].hex())


def prog_sizes(fd: int) -> dict[str, int]:
    """Of the program behind `fd`: `jited` and `xlated`, bytes of machine code (0: it is interpreted) and of BPF as the kernel runs it, and
    `verified`, the instructions that the verifier looked at (from 5.16 on, aba64c7da983; 0 before)."""
    raw = _info(fd)
    jited, xlated = struct.unpack_from("=II", raw, 16)
    return {"jited": jited, "xlated": xlated, "verified": struct.unpack_from("=I", raw, 216)[0]}


def functions(fd: int) -> list[int]:
    """The BTF ids of the functions that a program is made of (from 5.0 on, 838e96904ff3)."""
    records = (ctypes.c_uint32 * 512)()
    info = ctypes.create_string_buffer(_INFO_SIZE)
    struct.pack_into("=IQI", info, 132, 8, ctypes.addressof(records), len(records) // 2)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_SIZE, ctypes.addressof(info)))
    (count,) = struct.unpack_from("=I", info.raw, 144)
    return list(records[1 : 2 * min(count, 256) : 2])


def run_count(ident: int) -> int | None:
    """How often the program has run since it was loaded; None where it is gone. Counted only while kernel.bpf_stats_enabled is 1."""
    times = run_times(ident)
    return times[1] if times is not None else None


def run_times(ident: int) -> list[int] | None:
    """How many nanoseconds the program has run since it was loaded, and how often; None where it is gone. Counted as `run_count`'s is."""
    try:
        fd = bpf(PROG_GET_FD_BY_ID, struct.pack("=III", ident, 0, 0))
    except OSError:
        return None
    try:
        return list(struct.unpack_from("=QQ", _info(fd), 192))
    finally:
        os.close(fd)


def map_info(fd: int) -> Map:
    """What the kernel says of the map behind `fd`."""
    raw = _info(fd)
    kind, ident = struct.unpack_from("=II", raw)
    return Map(ident, _text(raw[24:40]), name_of(MAP_TYPES, kind))


def map_form(fd: int) -> tuple[int, ...]:
    """Type (its number), bytes of keys and values, entries at most and flags of the map behind `fd`."""
    kind, _, *rest = struct.unpack_from("=IIIIII", _info(fd))
    return (kind, *rest)


def map_shape(fd: int) -> tuple[str, int, int]:
    """The type of the map behind `fd`, and the bytes of its keys and values."""
    kind, _, key_size, value_size = struct.unpack_from("=IIII", _info(fd))
    return name_of(MAP_TYPES, kind), key_size, value_size


def link_info(fd: int) -> Link:
    """What the kernel says of the link behind `fd`."""
    kind, ident, prog_id = struct.unpack_from("=III", _info(fd))
    return Link(ident, name_of(LINK_TYPES, kind), prog_id)


def map_flags(fd: int) -> int:
    """The flags that the map was created with."""
    flags: int = struct.unpack_from("=I", _info(fd), 20)[0]
    return flags


def map_lookup(fd: int, key: bytes, size: int) -> bytes:
    """The value of `size` bytes at a key."""
    keys, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    bpf(MAP_LOOKUP_ELEM, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(keys), ctypes.addressof(value), 0))
    return value.raw


def test_run(prog_fd: int, context: bytes) -> int:
    """Run a program once in the kernel with this context (from 5.10 on); what it returned."""
    given = ctypes.create_string_buffer(context, len(context))
    attr = struct.pack("=IIIIQQIIIIQQ", prog_fd, 0, 0, 0, 0, 0, 0, 0, len(context), 0, ctypes.addressof(given), 0)
    returned: int = struct.unpack_from("=I", write_back(PROG_TEST_RUN, attr), 4)[0]
    return returned


def link_create(prog_fd: int, target: int, attach_type: int, more: bytes = b"") -> int:
    """Attach a program by a link (from 5.7 on); its fd. `target` is an fd or an interface's index; `more`, what follows the flags."""
    return bpf(LINK_CREATE, struct.pack("=IIII", prog_fd, target, attach_type, 0) + more)


def iter_create(link_fd: int) -> int:
    """A file that runs the iterator behind the link when it is read (from 5.8 on); its fd."""
    return bpf(ITER_CREATE, struct.pack("=II", link_fd, 0))


def ids(next_id: int) -> Iterator[int]:
    """Every id, in order; none where the kernel does not know the command (links before 5.8)."""
    ident = 0
    while True:
        try:
            (_, ident) = struct.unpack_from("=II", write_back(next_id, struct.pack("=III", ident, 0, 0)))
        except OSError:
            return
        yield ident


def _fds(next_id: int, fd_by_id: int) -> Iterator[int]:
    for ident in ids(next_id):
        try:
            fd = bpf(fd_by_id, struct.pack("=III", ident, 0, 0))
        except OSError:  # gone between the two calls
            continue
        try:
            yield fd
        finally:
            os.close(fd)


def progs() -> list[Prog]:
    """Every program in the kernel."""
    return [prog_info(fd) for fd in _fds(PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID)]


def maps() -> list[Map]:
    """Every map in the kernel."""
    return [map_info(fd) for fd in _fds(MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID)]


def links() -> list[Link]:
    """Every link in the kernel (enumerable from 5.8 on)."""
    return [link_info(fd) for fd in _fds(LINK_GET_NEXT_ID, LINK_GET_FD_BY_ID)]


def link_fds() -> Iterator[int]:
    """Every link in the kernel as an fd, which is closed when the next is asked for."""
    return _fds(LINK_GET_NEXT_ID, LINK_GET_FD_BY_ID)


def task_fd_query(pid: int, fd: int) -> tuple[int, str] | None:
    """The program at a perf event or raw tracepoint of a process, by id, and the name of where that is (a tracepoint, a function).

    None where there is none, or the kernel does not tell (before 4.18).
    """
    name = ctypes.create_string_buffer(256)
    attr = struct.pack("=IIIIQIIQQ", pid, fd, 0, len(name), ctypes.addressof(name), 0, 0, 0, 0)
    try:
        answer = write_back(TASK_FD_QUERY, attr)
    except OSError:
        return None
    ident: int = struct.unpack_from("=I", answer, 24)[0]
    return ident, name.value.decode("utf-8", "replace")


def programs_on_cgroup(cgroup_fd: int, attach_type: int) -> list[int] | None:
    """The ids of the programs attached to a cgroup itself; None where the kernel does not tell (before 4.15, 468e2f64d220)."""
    ids = (ctypes.c_uint32 * 64)()  # BPF_CGROUP_MAX_PROGS
    try:
        answer = write_back(PROG_QUERY, struct.pack("=IIIIQI", cgroup_fd, attach_type, 0, 0, ctypes.addressof(ids), len(ids)))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise
    (count,) = struct.unpack_from("=I", answer, 24)
    return list(ids[:count])


# -- the smallest loads ------------------------------------------------------------------------------------------------------


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One instruction."""
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


MOV_R0_0 = insn(0xB7)
EXIT = insn(0x95)
RETURN_0 = MOV_R0_0 + EXIT


def call(helper: int) -> bytes:
    """A call of a helper."""
    return insn(0x85, imm=helper)


def prog_load(
    kind: int,
    insns: bytes,
    *,
    name: str = "",
    expected_attach_type: int = 0,
    attach_btf_id: int = 0,
    flags: int = 0,
    kern_version: int = 0,
    btf_fd: int = 0,
    functions: bytes = b"",
) -> int:
    """Load a GPL program of type number `kind`; its fd. `functions` are its struct bpf_func_info, whose types are in the BTF of `btf_fd`.
    The text of an OSError ends with the verifier's own words, if it had any.

    `functions` are its struct bpf_func_info, whose types are in the BTF of `btf_fd`.
    """
    code = ctypes.create_string_buffer(insns, len(insns))
    license_ = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(1 << 16)
    info = ctypes.create_string_buffer(functions, len(functions) or 1)

    def attempt(log_level: int) -> int:
        attr = struct.pack(
            "=IIQQIIQII16sIIIIQIIQIII",
            kind, len(insns) // 8, ctypes.addressof(code), ctypes.addressof(license_),
            log_level, len(log) if log_level else 0, ctypes.addressof(log) if log_level else 0,
            kern_version, flags, name.encode(), 0, expected_attach_type,
            btf_fd, 8 if functions else 0, ctypes.addressof(info) if functions else 0, len(functions) // 8, 0, 0, 0, attach_btf_id, 0,
        )  # fmt: skip
        length = 112 if attach_btf_id or functions else 72 if expected_attach_type else 64 if name else 48
        return bpf(PROG_LOAD, attr[:length])

    try:
        return attempt(0)
    except OSError as refused:
        try:
            return attempt(1)
        except OSError as error:
            words = verifier_log.lines(_text(log.raw))
            if words:
                raise OSError(error.errno, f"{error.strerror}: {words[-1]}") from None
            raise refused from None


def map_create(kind: int, key: int, value: int, entries: int, *, flags: int = 0) -> int:
    """Create a map of type number `kind`; its fd. Sizes in bytes."""
    return bpf(MAP_CREATE, struct.pack("=IIIII", kind, key, value, entries, flags))


def hook_is_taken(tracefs_id: int) -> bool | None:
    """Whether a program is attached to a trace event (its `id` file), by trying to attach another; None where that tells nothing.

    Before 4.15 there is room for one, and the second is EEXIST (e87c6bc3852b); later there is room for many.
    """
    kind = PROG_TYPES.index("tracepoint")
    program = event = -1
    try:
        program = prog_load(kind, RETURN_0)
        event = perf_event_open(2, tracefs_id)  # PERF_TYPE_TRACEPOINT
        fcntl.ioctl(event, PERF_EVENT_IOC_SET_BPF, program)
    except OSError as error:
        return True if error.errno == errno.EEXIST else None
    finally:
        close(event, program)
    return False


def raw_tracepoint_open(prog_fd: int, name: bytes | None = None) -> int:
    """Attach a raw tracepoint (by name), or an fentry, LSM… program (no name); the attachment's fd."""
    buffer = ctypes.create_string_buffer(name) if name is not None else None
    return bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QII", ctypes.addressof(buffer) if buffer is not None else 0, prog_fd, 0))


def perf_event_open(kind: int, config: int, *, sample_type: int = 0, pid: int = -1, cpu: int = 0) -> int:
    """perf_event_open(2) of the first published form of its attributes; the fd."""
    attr = struct.pack("=IIQQQQQ", kind, 64, config, 1, sample_type, 0, 0).ljust(64, b"\0")
    return syscall(NR_PERF_EVENT_OPEN, ctypes.create_string_buffer(attr, 64), pid, cpu, -1, 8)  # 8 = PERF_FLAG_FD_CLOEXEC


def cpu_clock_open(cpu: int, hertz: int) -> int:
    """A software clock on one CPU that samples `hertz` times a second, by perf_event_open(2); the fd.

    It needs no counter of the CPU's, which a VM often has not.
    """
    by_frequency = 1 << 10  # the bit `freq` of struct perf_event_attr
    attr = struct.pack("=IIQQQQQ", 1, 64, 0, hertz, 0, 0, by_frequency).ljust(
        64, b"\0"
    )  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK
    return syscall(NR_PERF_EVENT_OPEN, ctypes.create_string_buffer(attr, 64), -1, cpu, -1, 8)  # 8 = PERF_FLAG_FD_CLOEXEC


def close(*fds: int) -> None:
    """Close what is open of these."""
    for fd in fds:
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)
