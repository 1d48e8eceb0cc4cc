"""Cgroups: where they are, what the kernel calls one, and one of one's own: of version 2, or where only version 1 is mounted, of its memory controller's."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from contextlib import suppress

from . import bpf

AT_FDCWD = -100


def cgroup_root() -> str | None:
    """Where cgroup v2 is mounted."""
    with open("/proc/self/mounts") as mounts:
        return next((line.split()[1] for line in mounts if line.split()[2] == "cgroup2"), None)


def memory_hierarchy() -> str | None:
    """Where version 1's hierarchy with the memory controller is mounted."""
    with open("/proc/self/mounts") as mounts:
        fields = [line.split() for line in mounts]
    return next((line[1] for line in fields if line[2] == "cgroup" and "memory" in line[3].split(",")), None)


def memory_files(path: str | None) -> tuple[str, str]:
    """What the cgroup at this path takes of memory, and its limit: two files, in bytes. Raises OSError where it has none."""
    for current, most in (("memory.current", "memory.max"), ("memory.usage_in_bytes", "memory.limit_in_bytes")):  # v2, v1
        if path is not None and os.path.exists(f"{path}/{most}"):
            return f"{path}/{current}", f"{path}/{most}"
    raise OSError(errno.ENOENT, "no cgroup has memory limits here")


def enable_memory_controller() -> None:
    """Let the cgroups below the root have memory limits. Raises OSError where no mounted hierarchy has the controller."""
    root = cgroup_root()
    if root is None:
        if memory_hierarchy() is None:
            raise OSError(errno.ENOENT, "no cgroup hierarchy with the memory controller is mounted")
        return
    with open(f"{root}/cgroup.controllers") as controllers:
        if "memory" not in controllers.read().split():
            raise OSError(errno.ENOENT, "cgroup v2 has no memory controller here: CONFIG_MEMCG is off, or cgroup v1 has it")
    with open(f"{root}/cgroup.subtree_control", "wb", buffering=0) as control:
        control.write(b"+memory")


def cgroup_id(path: str) -> int | None:
    """The kernel's id of a cgroup, which is what bpf_get_current_cgroup_id() returns; None where it cannot be had.

    It is the file handle of the directory: kernfs' 64-bit node id from 5.5 on, inode number and generation as two 32-bit halves
    before. So it equals the inode number only from 5.5 on (and on 64-bit machines).
    """
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 8, 0), 16)
    mount_id = ctypes.c_int()
    if bpf.libc.name_to_handle_at(AT_FDCWD, path.encode(), handle, ctypes.byref(mount_id), 0) != 0:
        return None
    size, _, ident = struct.unpack("=IiQ", handle.raw)
    return ident if size == 8 else None


class Cgroup:
    """A cgroup of its own below the root, removed at the end with whatever still runs in it. Only one of version 2 has an `id`.

    `depth` is its level: a child of the root has 1.
    """

    _count = 0

    def __init__(self, depth: int = 1) -> None:
        Cgroup._count += 1
        unified = cgroup_root()
        root = unified or memory_hierarchy()
        self.path: str | None = None
        self.id: int | None = None
        self.parent_id: int | None = None
        self._levels: list[str] = []
        if root is not None:
            path = f"{root}/kmatrix-{Cgroup._count}"
            with suppress(OSError):
                self._make(path, depth)
                self.path = self._levels[-1]
                if unified is not None:
                    self.id, self.parent_id = cgroup_id(self.path), cgroup_id(os.path.dirname(self.path))

    def _make(self, path: str, depth: int) -> None:
        """Make the levels, each with the memory controller where the one above has it to give."""
        for level in range(1, depth + 1):
            if level > 1:
                with suppress(OSError), open(f"{path}/cgroup.subtree_control", "wb", buffering=0) as control:
                    control.write(b"+memory")
                path = f"{path}/level-{level}"
            os.mkdir(path)
            self._levels.append(path)

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the cgroup, and kill what still runs in it."""
        self.kill()
        deadline = time.monotonic() + 1
        while self._levels:
            try:
                os.rmdir(self._levels[-1])
                self._levels.pop()
                continue
            except OSError as error:  # busy until the last member is reaped
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    return
            self.kill()
            time.sleep(0.005)

    def join(self) -> None:
        """Move the calling process into the cgroup."""
        if self.path is not None:
            with open(f"{self.path}/cgroup.procs", "wb", buffering=0) as procs:
                procs.write(b"0")

    def kill(self) -> None:
        """Kill what runs in the cgroup."""
        if self.path is None:
            return
        with suppress(OSError), open(f"{self.path}/cgroup.procs") as procs:
            for pid in procs:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
