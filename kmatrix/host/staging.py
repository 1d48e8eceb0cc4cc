"""Folders for things half made: gone when the block ends, and swept by the next one if we were killed in between."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """An empty folder in `root`/tmp, on `root`'s file system; removed afterwards, unless it was renamed away.

    A lock on the folder itself says that its owner lives; the kernel lets go of it however the owner ends.
    """
    area = root / "tmp"
    area.mkdir(parents=True, exist_ok=True)
    sweep(area)
    folder, lock = _claim(area)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(area: Path) -> None:
    """Remove what dead processes left in `area`."""
    for folder in area.iterdir():
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _claim(area: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(dir=area))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Between mkdtemp and flock it looked abandoned: another process may have swept it.
            if folder.exists():
                return folder, lock
            os.close(lock)
