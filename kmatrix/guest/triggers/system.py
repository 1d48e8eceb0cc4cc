"""Triggers on what few processes do: tracing another, mounting, bpf(2), loading a module of the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Mapping
from contextlib import suppress

from .. import bpf
from ..child import Known
from .deed import Deed, Other, checked, kind
from .kind import WORK, Kind, Spec

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_NR_FINIT_MODULE, _NR_DELETE_MODULE = {"x86_64": (313, 176), "aarch64": (273, 106)}.get(platform.machine(), (-1, -1))
_MODULES = {"dummy": b"numdummies=0"}
"""Modules that Debian's kernels have, that nothing needs and nobody loads, and parameters with which they do nothing."""


def _ptrace(_spec: Spec) -> Deed:
    """Trace another process, which is stopped by that, and let it go."""
    other = Other("kmatrix-traced")

    def do() -> None:
        checked(bpf.libc.ptrace(_PTRACE_ATTACH, other.inner, None, None), "ptrace(PTRACE_ATTACH)")
        _, status = os.waitpid(other.inner, 0)
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGSTOP:
            raise ChildProcessError(f"the process that is traced has not stopped, but has status {status:#x}")
        checked(bpf.libc.ptrace(_PTRACE_DETACH, other.inner, None, None), "ptrace(PTRACE_DETACH)")

    return Deed({"target": other.pid, "target_comm": other.comm, "request": _PTRACE_ATTACH}, do, undo=other.kill)


def _folder(spec: Spec) -> None:
    os.makedirs(_path(spec), mode=0o755, exist_ok=True)


def _path(spec: Spec) -> str:
    return f"{WORK}/{spec['kind']}-here"


def _mount_it(path: str) -> None:
    checked(bpf.libc.mount(b"kmatrix-source", path.encode(), b"tmpfs", 0, b"size=64k"), f"mount {path}")


def _umount_it(path: str) -> None:
    checked(bpf.libc.umount2(path.encode(), 0), f"umount {path}")


def _mount(spec: Spec) -> Deed:
    path = _path(spec)
    known = {"path": path, "source": "kmatrix-source", "filesystem": "tmpfs", "flags": 0, "data": "size=64k"}
    return Deed(known, lambda: _mount_it(path), lambda: _umount_it(path), lambda: _umount_it(path))


def _umount(spec: Spec) -> Deed:
    path = _path(spec)
    _mount_it(path)
    return Deed({"path": path, "flags": 0}, lambda: _umount_it(path), lambda: _mount_it(path))


def _bpf(_spec: Spec) -> Deed:
    """Make a map, and let it go again."""
    map_type, key, value, entries = 2, 4, 8, 3
    attr = struct.pack("=IIIII", map_type, key, value, entries, 0)

    def do() -> Known:
        fd = bpf.bpf(bpf.MAP_CREATE, attr)
        os.close(fd)
        return {"ret": fd}

    known = {"cmd": bpf.MAP_CREATE, "map_type": map_type, "key_size": key, "value_size": value, "max_entries": entries}
    return Deed(known | {"size": len(attr)}, do)


def _module(_spec: Spec) -> None:
    """Raises OSError where there is no module that could be loaded."""
    if _module_file() is None:
        raise OSError(errno.ENOENT, f"the guest has no file of the module {' or '.join(_MODULES)} for kernel {os.uname().release}")


def _module_file() -> str | None:
    for name in _MODULES:
        for folder, _, files in os.walk(f"/lib/modules/{os.uname().release}/kernel/drivers/net"):
            if f"{name}.ko" in files:
                return f"{folder}/{name}.ko"
    return None


def _module_load(_spec: Spec) -> Deed:
    """Load a module, which is removed afterwards."""
    path = _module_file() or ""
    name = os.path.basename(path).removesuffix(".ko")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    parameters = ctypes.create_string_buffer(_MODULES[name])

    def remove() -> None:
        bpf.syscall(_NR_DELETE_MODULE, ctypes.create_string_buffer(name.encode()), os.O_NONBLOCK)

    def do() -> None:
        bpf.syscall(_NR_FINIT_MODULE, fd, parameters, 0)

    with suppress(OSError):  # another trigger of this guest may have left it
        remove()
    return Deed({"module": name, "path": path, "parameters": _MODULES[name].decode(), "fd": fd}, do, remove, remove)


KINDS: Mapping[str, Kind] = {
    "ptrace": kind(
        "ptrace",
        _ptrace,
        {"target": "the process that is traced", "target_comm": "its name", "request": "16: PTRACE_ATTACH"},
    ),
    "mount": kind(
        "mount",
        _mount,
        {
            "path": "where it is mounted",
            "source": "what is mounted, by name",
            "filesystem": "tmpfs",
            "flags": "0",
            "data": "the mount's options",
        },
        root=True,
        before=_folder,
    ),
    "umount": kind("umount", _umount, {"path": "where it was mounted", "flags": "0"}, root=True, before=_folder),
    "bpf": kind(
        "bpf",
        _bpf,
        {
            "cmd": "0: BPF_MAP_CREATE",
            "size": "of the attributes that are passed, in bytes",
            "map_type": "2: an array",
            "key_size": "4",
            "value_size": "8",
            "max_entries": "3",
            "ret": "the map's file descriptor",
        },
        root=True,
    ),
    "module_load": kind(
        "module_load",
        _module_load,
        {
            "module": "its name",
            "path": "its file",
            "parameters": "those that it is loaded with",
            "fd": "the file, as finit_module(2) is given it",
        },
        root=True,
        before=_module,
    ),
}
