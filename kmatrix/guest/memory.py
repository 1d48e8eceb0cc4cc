"""The memory of another process (or thread) of the guest, read and written."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from . import bpf

_NUMBERS = {  # (process_vm_readv, process_vm_writev)
    "x86_64": (310, 311),
    "aarch64": (270, 271),
}
NR_READV, NR_WRITEV = _NUMBERS.get(platform.machine(), (-1, -1))


def _transfer(number: int, pid: int, address: int, buffer: ctypes.Array[ctypes.c_char], size: int) -> bool:
    """process_vm_readv or _writev; False where the kernel is built without them (CROSS_MEMORY_ATTACH)."""
    vectors = ctypes.create_string_buffer(struct.pack("QQQQ", ctypes.addressof(buffer), size, address, size))
    at = ctypes.addressof(vectors)
    try:
        done = bpf.syscall(number, pid, at, 1, at + 16, 1, 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    if done != size:
        raise OSError(errno.EFAULT, "less memory there than expected")
    return True


@contextmanager
def _memory(pid: int, flags: int) -> Iterator[int]:
    fd = os.open(f"/proc/{pid}/mem", flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Memory of another process (or thread); OSError where it is not there."""
    if not size:
        return b""
    buffer = ctypes.create_string_buffer(size)
    if _transfer(NR_READV, pid, address, buffer, size):
        return buffer.raw
    with _memory(pid, os.O_RDONLY) as fd:
        data = os.pread(fd, size, address)
    if len(data) != size:
        raise OSError(errno.EFAULT, "less memory there than expected")
    return data


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write memory of another process (or thread); OSError where it cannot be written."""
    if not data or _transfer(NR_WRITEV, pid, address, ctypes.create_string_buffer(data, len(data)), len(data)):
        return
    with _memory(pid, os.O_RDWR) as fd:
        if os.pwrite(fd, data, address) != len(data):
            raise OSError(errno.EFAULT, "less memory there than expected")
