"""What of the cache is in use: a shared lock on its folder for as long as the process lives, and the time of its last use."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Mark `folder` as used now, and by this process until it ends: `kmatrix kernels gc` leaves it alone."""
    with suppress(OSError):  # a cache that this user may only read
        os.utime(folder)
    if folder not in _held:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_SH)
            _held[folder] = handle


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no process uses `folder`; where so, none begins to until the block ends."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def idle_days(path: Path) -> float:
    """Days since `path` was last used, or else changed."""
    try:
        return (time.time() - path.stat().st_mtime) / 86400
    except OSError:
        return 0.0
