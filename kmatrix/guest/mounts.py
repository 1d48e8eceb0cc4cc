"""mount(2), and mounts that nobody else sees."""

from __future__ import annotations

import ctypes
import os

from . import bpf
from .namespaces import unshare

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18


def mount(what: str, where: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError, which names the place."""
    result = bpf.libc.mount(what.encode(), where.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None)
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {kind or what} on {where}: {os.strerror(code)}")


def hide() -> None:
    """Go to a mount namespace of one's own, from which no mount gets out."""
    unshare(["mnt"])
    mount("none", "/", "", MS_REC | MS_PRIVATE)
