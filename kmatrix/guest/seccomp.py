"""Filters of system calls (seccomp(2)): classic BPF over struct seccomp_data."""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterable

from . import bpf

_NUMBERS = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
AUDIT_ARCH, NR_SECCOMP = _NUMBERS.get(platform.machine(), (0, -1))
"""What a filter sees this machine's own instruction set as, and the number of seccomp(2)."""

SET_MODE_FILTER = 1
MODE_FILTER = 2
"""What /proc/PID/status says of a thread that is under a filter."""
ALLOW, ERRNO, NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # ld [k], jeq k, jge k, ret k
NR, ARCH, ARG0 = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]


def native(*then: Instruction) -> tuple[Instruction, ...]:
    """A foreign instruction set's calls pass: their numbers mean something else."""
    return (LOAD, 0, 0, ARCH), (EQUAL, 1, 0, AUDIT_ARCH), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, NR), *then


def packed(instructions: Iterable[Instruction]) -> bytes:
    """As the kernel reads them (struct sock_filter)."""
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)


def put(program: bytes, flags: int = 0) -> int:
    """Put this thread, and what it starts, under the filter; what seccomp(2) returns. Raises OSError."""
    code = ctypes.create_string_buffer(program, len(program))
    description = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))  # struct sock_fprog
    return bpf.syscall(NR_SECCOMP, SET_MODE_FILTER, flags, description)
