"""What a map holds, what an iterator prints, and what a program answers to a test run: asked of the kernel, by ids.

By ids, so that it makes no difference who loaded them, kmatrix or a loader of the collector's own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import bpf

MAP_LOOKUP_ELEM, MAP_GET_NEXT_KEY, PROG_TEST_RUN = 1, 4, 10
PER_CPU = ("percpu_hash", "percpu_array", "lru_percpu_hash", "percpu_cgroup_storage")
ENTRIES = 4096
"""Entries that are read of a map at most."""
OUTPUT_LIMIT = 1 << 20
"""Bytes that are read of an iterator's text at most."""
READS = 10_000
"""How often an iterator is read at most: it may rest and answer EAGAIN."""


class Truncated(Exception):
    """There is more than is read."""


def _fd(command: int, ident: int) -> int:
    return bpf.bpf(command, struct.pack("=III", ident, 0, 0))


def map_entries(ident: int) -> Iterator[bytes]:
    """The entries of a map by its id, each as its key and its value, one after the other.

    Of a map that has a value for each CPU, there is one for each CPU that is online, followed by that CPU's number (u32). Raises OSError
    where the kernel does not let the map be read, Truncated after ENTRIES of them.
    """
    fd = _fd(bpf.MAP_GET_FD_BY_ID, ident)
    try:
        kind, key_size, value_size = bpf.map_shape(fd)
        per_cpu = kind in PER_CPU
        step = -(-value_size // 8) * 8 if per_cpu else value_size
        value = ctypes.create_string_buffer(step * (len(cpu_list("possible")) if per_cpu else 1))
        key, following = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(key_size)
        online = cpu_list("online") if per_cpu else []
        first = True
        for number in range(ENTRIES + 1):
            if not _next_key(fd, None if first else key, following):
                return
            if number == ENTRIES:
                raise Truncated
            first = False
            ctypes.memmove(key, following, key_size)
            if not _lookup(fd, key, value):
                continue
            if not per_cpu:
                yield key.raw + value.raw
            for cpu in online:
                yield key.raw + value.raw[cpu * step : cpu * step + value_size] + struct.pack("=I", cpu)
    finally:
        os.close(fd)


def _next_key(fd: int, key: ctypes.Array[ctypes.c_char] | None, following: ctypes.Array[ctypes.c_char]) -> bool:
    try:
        bpf.bpf(
            MAP_GET_NEXT_KEY,
            struct.pack("=IIQQ", fd, 0, ctypes.addressof(key) if key is not None else 0, ctypes.addressof(following)),
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _lookup(fd: int, key: ctypes.Array[ctypes.c_char], value: ctypes.Array[ctypes.c_char]) -> bool:
    """Whether the entry was still there."""
    try:
        bpf.bpf(MAP_LOOKUP_ELEM, struct.pack("=IIQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def cpu_list(which: str) -> list[int]:
    """The numbers of the CPUs that are `possible` or `online`."""
    with open(f"/sys/devices/system/cpu/{which}") as file:
        spans = [part.split("-") for part in file.read().strip().split(",") if part]
    return [cpu for span in spans for cpu in range(int(span[0]), int(span[-1]) + 1)]


def iterator_lines(ident: int) -> Iterator[bytes]:
    """What the iterator with this program id prints when it is read, line by line. Raises OSError where it cannot be read."""
    program = _fd(bpf.PROG_GET_FD_BY_ID, ident)
    link = text = -1
    try:
        link = bpf.link_create(program, 0, bpf.TRACE_ITER)
        text = bpf.iter_create(link)
        whole = bytearray()
        for _ in range(READS):
            try:
                piece = os.read(text, 1 << 16)
            except BlockingIOError:  # it rests after a million objects that print nothing (MAX_ITER_OBJECTS)
                continue
            whole += piece
            if not piece:
                yield from bytes(whole).splitlines()
                return
            if len(whole) >= OUTPUT_LIMIT:
                yield from bytes(whole).splitlines()[:-1]
                raise Truncated
        raise OSError(errno.EAGAIN, f"it did not come to an end in {READS} reads")
    finally:
        bpf.close(text, link, program)


class Answer(NamedTuple):
    """What a test run came to."""

    retval: int
    """As the kernel has it: an unsigned number of 32 bits."""
    data_out: bytes | None
    ctx_out: bytes | None


ROOM = 1 << 16
"""Bytes that the packet may have afterwards."""


def test_run(ident: int, data: bytes | None, ctx: bytes | None, repeat: int) -> Answer:
    """Run a program once, or `repeat` times, on a packet or a context (BPF_PROG_TEST_RUN, from 4.12 on, 1cf1cae963c2).

    Raises OSError where the kernel cannot run a program of that type so, or not with this input.
    """
    program = _fd(bpf.PROG_GET_FD_BY_ID, ident)
    try:
        out = ctypes.create_string_buffer(ROOM)
        given = ctypes.create_string_buffer(data, len(data)) if data is not None else None
        context = ctypes.create_string_buffer(ctx, len(ctx)) if ctx is not None else None
        # Where there is no packet, the kernel wants to be asked for none (raw tracepoints, programs of system calls).
        changed = ctypes.create_string_buffer(len(ctx)) if ctx is not None and data is not None else None
        attr = struct.pack(
            "=IIIIQQIIIIQQ",
            program, 0, len(data or b""), ROOM if given is not None else 0, _address(given),
            _address(out) if given is not None else 0, repeat, 0, len(ctx or b""), len(ctx or b"") if changed is not None else 0,
            _address(context), _address(changed),
        )  # fmt: skip
        answer = bpf.write_back(PROG_TEST_RUN, attr if ctx is not None else attr[:40])
        retval, _, size = struct.unpack_from("=III", answer, 4)
        ctx_out = changed if changed is not None else context
        return Answer(retval, out.raw[:size] if given is not None else None, ctx_out.raw if ctx_out is not None else None)
    finally:
        os.close(program)


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def test_runs(wanted: list[dict[str, Any]], programs: dict[str, Any]) -> dict[str, Any]:
    """The answers to the test runs that the host asks for, by their names; those of programs that are not loaded are left out."""
    answers: dict[str, Any] = {}
    for each in wanted:
        ident = (programs.get(each["program"]) or {}).get("id")
        if ident is None:
            continue
        data, ctx = (bytes.fromhex(each[name]) if each.get(name) is not None else None for name in ("data", "ctx"))
        answer: dict[str, Any] = {"retval": None, "data_out": None, "ctx_out": None, "error": None}
        try:
            retval, data_out, ctx_out = test_run(ident, data, ctx, int(each.get("repeat") or 0))
            answer |= {
                "retval": retval,
                "data_out": data_out.hex() if data_out is not None else None,
                "ctx_out": ctx_out.hex() if ctx_out is not None else None,
            }
        except OSError as error:
            answer["error"] = error.strerror or str(error)
        answers[each["name"]] = answer
    return answers
