"""Triggers on waiting: for time to pass, for the CPU, for a futex."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import time
from collections.abc import Mapping
from contextlib import suppress

from .. import bpf
from ..child import Known
from ..namespaces import own_pid
from .deed import Deed, checked, kind
from .kind import Kind, Spec, name_thread

_NR_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), -1)
_FUTEX_WAIT_PRIVATE = 128
WAIT, LEAST = 40_000_000, 20_000_000
"""Nanoseconds that are waited, and that events must say at least: the clock of a sleep starts some time before the CPU is left."""
_WAIT = struct.pack("=qq", 0, WAIT)
"""The same, as a struct timespec."""


def _off_cpu(_spec: Spec) -> Deed:
    """Sleep."""

    def do() -> Known:
        start = time.monotonic_ns()
        # Not time.sleep(), which sleeps until a moment: less, where others have had the CPU before it comes to that.
        checked(bpf.libc.nanosleep(_WAIT, None), "nanosleep")
        return {"most_ns": time.monotonic_ns() - start}

    return Deed({"least_ns": LEAST}, do)


def _run_queue(_spec: Spec) -> Deed:
    """Be woken while a process of a higher scheduling class has the only CPU that both may use."""
    cpu, who = max(os.sched_getaffinity(0)), own_pid()
    told, tell = os.pipe()
    woken, wake = os.pipe()
    heard, word = os.pipe()
    if os.fork() == 0:
        try:
            os.close(word)
            name_thread("kmatrix-waker")
            os.sched_setaffinity(0, {cpu})
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
            os.write(tell, b"%d" % own_pid())
            while os.read(heard, 1):
                while not _asleep(who):  # else nobody would be woken
                    time.sleep(0.002)
                os.write(wake, b"\n")
                end = time.monotonic_ns() + WAIT
                while time.monotonic_ns() < end:
                    pass
        except OSError as error:
            with suppress(OSError):
                os.write(tell, f"-{error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(heard)
    os.sched_setaffinity(0, {cpu})
    said = os.read(told, 256).decode()
    if not said.isdigit():
        raise OSError(errno.EPERM, f"no process may be in the real-time class here: {said[1:]}")

    def do() -> Known:
        start = time.monotonic_ns()
        os.write(word, b"\n")
        os.read(woken, 1)
        return {"most_ns": time.monotonic_ns() - start}

    return Deed({"least_ns": LEAST, "waker": int(said), "waker_comm": "kmatrix-waker", "cpu": cpu}, do)


def _asleep(pid: int) -> bool:
    """Whether a process waits for something."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"


def _futex(_spec: Spec) -> Deed:
    """Wait for a futex that nobody wakes."""
    word = ctypes.c_uint32(0x6B6D)
    timeout = ctypes.create_string_buffer(_WAIT)
    address = ctypes.addressof(word)

    def do() -> Known:
        start = time.monotonic_ns()
        checked_timeout(address, word.value, timeout)
        return {"most_ns": time.monotonic_ns() - start}

    known = {"address": address, "op": _FUTEX_WAIT_PRIVATE, "value": word.value, "ret": -errno.ETIMEDOUT, "least_ns": LEAST}
    return Deed(known, do)


def checked_timeout(address: int, value: int, timeout: ctypes.Array[ctypes.c_char]) -> None:
    """futex(2) that ends with ETIMEDOUT. Raises OSError where it does not."""
    try:
        checked(bpf.syscall(_NR_FUTEX, address, _FUTEX_WAIT_PRIVATE, value, timeout, None, 0), "futex")
    except OSError as error:
        if error.errno != errno.ETIMEDOUT:
            raise
        return
    raise OSError(errno.EINVAL, "futex(FUTEX_WAIT) was woken, by nobody")


_BOUNDS = {
    "least_ns": "how long an event must say that it waits at least, in ns: 20 ms, of 40",
    "most_ns": "how long at most, in ns, as it saw itself",
}

KINDS: Mapping[str, Kind] = {
    "off_cpu": kind("off_cpu", _off_cpu, _BOUNDS),
    "run_queue": kind(
        "run_queue",
        _run_queue,
        {**_BOUNDS, "waker": "the process that wakes it, and has the CPU", "waker_comm": "its name", "cpu": "the CPU"},
    ),
    "futex": kind(
        "futex",
        _futex,
        {
            **_BOUNDS,
            "address": "of the futex",
            "op": "128: FUTEX_WAIT | FUTEX_PRIVATE_FLAG",
            "value": "that the futex has, and is to have",
            "ret": "-110: minus ETIMEDOUT",
        },
    ),
}
