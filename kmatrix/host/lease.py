"""What of the cache is in use: a shared lock on its folder for as long as the process lives, and the time of its last use.

And what one process at a time may do to it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from kmatrix.host.progress import Reporter

_SLICE = 0.2
"""Seconds between two looks at whether what waits is still wanted: an interrupt reaches the main thread alone."""

_held: dict[Path, int] = {}


def hold(folder: Path) -> bool:
    """Mark `folder` as used now, and by this process until it ends: `kmatrix kernels gc` leaves it alone.

    False where it is gone: removed since it was found.
    """
    with suppress(OSError):  # a cache that this user may only read
        os.utime(folder)
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if folder in _held and os.path.sameopenfile(handle, _held[folder]):
            os.close(handle)
        else:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if (former := _held.pop(folder, None)) is not None:  # of a folder of that name that was removed
                os.close(former)
            _held[folder] = handle
    return folder.is_dir()


@contextmanager
def exclusive(lock: Path, what: str, reporter: Reporter) -> Iterator[None]:
    """The lock file `lock`, for this process alone while the block lasts.

    Where another has it, that is shown as a step of `reporter`, which ends the waiting when it is no longer wanted.
    """
    held = filelock.FileLock(lock)
    try:
        with suppress(filelock.Timeout):
            held.acquire(timeout=0)
        if not held.is_locked:
            with reporter.step(f"{what}: waiting for another kmatrix process") as step:
                while not held.is_locked:
                    step.advance(0)
                    with suppress(filelock.Timeout):
                        held.acquire(timeout=_SLICE, poll_interval=_SLICE / 4)
        yield
    finally:
        held.release()


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
