"""What many processes share in the cache. Every store follows this one protocol.

1. `locked`: the process that makes something holds its lock file. The others wait, and show that they do.
2. `staging`: it is made in a folder of its own, in `tmp/` on the same file system.
3. `publish`: it gets its name by a rename, so it is there whole or not at all. What had the name before is retired.
4. `hold` and `share`: who uses a folder has a shared lock on it. Whoever removes one wants the lock for itself (`unused`).
5. `sweep`: what a killed process left in `tmp/` has no lock on it any more. The next process that stages something removes it.

The kernel releases a lock however its owner ends, and in whatever PID namespace, so no process id is ever written down.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from kmatrix.host import paths
from kmatrix.host.progress import Quiet, Reporter

_SLICE = 0.2
"""Seconds between two looks at whether what waits is still wanted: an interrupt reaches the main thread alone."""


class Busy(Exception):
    """Another process has the lock, and kept it for as long as this one was to wait."""


# --- to make something


@contextmanager
def locked(lock: Path, what: str, reporter: Reporter | None = None, *, limit: float | None = None) -> Iterator[None]:
    """The lock file `lock`, for this process alone while the block lasts. Its folder is made if need be.

    If another process has it, the wait is shown as a step of `reporter`, whose `advance` may end it by raising. `limit` is the longest
    wait in seconds, 0 for none. Raises Busy when it is over.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(lock)
    try:
        with suppress(filelock.Timeout):
            held.acquire(timeout=0)
        if not held.is_locked:
            if limit == 0:
                raise Busy(str(lock))
            end = None if limit is None else time.monotonic() + limit
            with (reporter or Quiet()).step(f"{what}: waiting for another kmatrix process") as step:
                while not held.is_locked:
                    step.advance(0)
                    if end is not None and time.monotonic() > end:
                        raise Busy(str(lock))
                    with suppress(filelock.Timeout):
                        held.acquire(timeout=_SLICE, poll_interval=_SLICE / 4)
        yield
    finally:
        held.release()


@contextmanager
def staging(root: Path, label: str = "") -> Iterator[Path]:
    """An empty folder in `root`/tmp whose name begins with `label`. It is removed afterwards, unless it was published.

    The lock on the folder itself says that its owner lives. What dead processes left there is swept first.
    """
    area = root / "tmp"
    area.mkdir(parents=True, exist_ok=True)
    sweep(root)
    folder, lock = _claim(area, label)
    try:
        yield folder
    finally:
        remove_tree(folder)
        os.close(lock)


def publish(root: Path, made: Path, place: Path) -> None:
    """Give the folder `made` its name `place` in the cache `root`. What had the name is retired: who uses it goes on. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    retire(root, place)
    made.rename(place)
    paths.sync(place.parent)


def _claim(area: Path, label: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{label}." if label else None, dir=area))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Between mkdtemp and flock it looked abandoned: another process may have swept it.
            if folder.exists():
                return folder, lock
            os.close(lock)


# --- to use something

_held: dict[Path, int] = {}


def hold(folder: Path) -> bool:
    """Mark `folder` as used now, and by this process until it ends: `kmatrix kernels gc` leaves it alone.

    Returns False if it is gone: it was removed since it was found.
    """
    with suppress(OSError):  # a cache that this user may only read
        os.utime(folder)
    with suppress(OSError):
        if folder in _held and _same(folder, _held[folder]):
            return folder.is_dir()
        handle = share(folder)
        if (former := _held.pop(folder, None)) is not None:  # of a folder of that name that was removed
            os.close(former)
        _held[folder] = handle
    return folder.is_dir()


def share(folder: Path) -> int:
    """A shared lock on `folder`, as a descriptor to close. Raises OSError if the folder is not there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except BaseException:
        os.close(handle)
        raise
    return handle


def idle_days(path: Path) -> float:
    """Days since `path` was last used, or else changed."""
    try:
        return (time.time() - path.stat().st_mtime) / 86400
    except OSError:
        return 0.0


def _same(folder: Path, handle: int) -> bool:
    return os.path.samestat(folder.stat(), os.fstat(handle))


# --- to remove something


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no process uses `folder`. If so, none begins to until the block ends."""
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


def remove_unused(folder: Path) -> bool:
    """Remove `folder` unless a process uses it. Returns whether it was removed."""
    with unused(folder) as free:
        if free:
            remove_tree(folder)
        return free


def retire(root: Path, folder: Path) -> None:
    """Take a folder's name away. Its files go when the last process that uses it has ended, and something is staged or retired again."""
    area = root / "tmp"
    area.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        folder.rename(area / f"retired-{folder.name}-{time.time_ns()}")
    sweep(root)


def sweep(root: Path) -> None:
    """Remove from `root`/tmp what dead processes left there."""
    area = root / "tmp"
    for folder in area.iterdir() if area.is_dir() else ():
        remove_unused(folder)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, if it is there, whatever the modes of the folders in it."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for folder, _, _ in os.walk(path):
            with suppress(OSError):
                Path(folder).chmod(0o700)  # top-down: each before it is read
        shutil.rmtree(path, ignore_errors=True)
