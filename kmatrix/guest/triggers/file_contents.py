"""Triggers on what is in files: reading, writing, and mapping it into memory."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping

from .. import bpf
from ..child import Known
from .deed import Deed, kind
from .kind import Kind, Spec
from .names import FACTS, PLACE, a_file, facts, make_folder, path_of

CONTENT = b"what kmatrix wrote into this file, or read from it\n"
LENGTH = 8192
_libc_mmap = bpf.libc.mmap
_libc_mmap.restype = ctypes.c_void_p
_FAILED = ctypes.c_void_p(-1).value


def _written(spec: Spec) -> Deed:
    path = path_of(spec, "written")
    a_file(path, b"")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    known = {**facts(path), "fd": fd, "bytes": len(CONTENT), "offset": 0, "content": CONTENT.decode()}
    return Deed(known, lambda: {"ret": os.write(fd, CONTENT)}, lambda: os.lseek(fd, 0, os.SEEK_SET))


def _read(spec: Spec) -> Deed:
    path = path_of(spec, "read")
    a_file(path, CONTENT)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    known = {**facts(path), "fd": fd, "bytes": len(CONTENT), "offset": 0, "content": CONTENT.decode()}

    def do() -> Known:
        content = os.read(fd, 4096)
        if content != CONTENT:
            raise OSError(f"read({path}) gives other bytes than are in the file")
        return {"ret": len(content)}

    return Deed(known, do, lambda: os.lseek(fd, 0, os.SEEK_SET))


def _mmap(spec: Spec) -> Deed:
    path = path_of(spec, "mapped")
    a_file(path, bytes(LENGTH))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    known = {**facts(path), "fd": fd, "length": LENGTH, "prot": mmap.PROT_READ, "flags": mmap.MAP_PRIVATE, "offset": 0}

    def do() -> Known:
        address = _libc_mmap(None, ctypes.c_size_t(LENGTH), mmap.PROT_READ, mmap.MAP_PRIVATE, fd, ctypes.c_long(0))
        if address in (None, _FAILED):
            code = ctypes.get_errno()
            raise OSError(code, f"mmap({path}): {os.strerror(code)}")
        return {"address": address}

    return Deed(known, do)


_IO = {
    "fd": "the file descriptor",
    "bytes": "how many bytes",
    "offset": "where in the file: 0",
    "content": "the bytes, as text",
    "ret": "what the system call returns: as many",
}

KINDS: Mapping[str, Kind] = {
    "write": kind("write", _written, {**FACTS, **_IO}, options=PLACE, before=make_folder),
    "read": kind("read", _read, {**FACTS, **_IO}, options=PLACE, before=make_folder),
    "mmap": kind(
        "mmap",
        _mmap,
        {
            **FACTS,
            "fd": "the file descriptor",
            "length": "8192",
            "prot": "1: PROT_READ",
            "flags": "2: MAP_PRIVATE",
            "offset": "0",
            "address": "where it is mapped",
        },
        options=PLACE,
        before=make_folder,
    ),
}
