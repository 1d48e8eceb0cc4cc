"""What was parsed once is not parsed again: a small cache keyed by content.

A run parses kernels.toml, manifests and objects, and each of its workers does too. What comes of it depends on the bytes and on kmatrix's own
code alone, so it is kept by the digest of both. The cache is a convenience: where it cannot be read or written, the bytes are parsed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from kmatrix.host import paths
from kmatrix.host.errors import KmatrixError

T = TypeVar("T")

_DAYS = 30
"""How long an entry is kept that nobody asks for."""
_UNREADABLE = (OSError, pickle.PickleError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError)


def parsed(kind: str, key: Iterable[bytes], make: Callable[[], T]) -> T:
    """What `make` returns: from the cache where it was made of the same `key` by the same code, else made now and kept.

    `key` is all that the result depends on. Raises what `make` raises; an error is not kept. The result has to be fit for pickle, and nothing
    may change it. A pickle can run code: one that another user wrote, or could write to, is not read.
    """
    digest = hashlib.sha256(_code())
    for part in key:
        digest.update(b"%d " % len(part) + part)
    try:
        place = paths.cache_dir("parsed") / f"{kind}-{digest.hexdigest()[:32]}"
    except KmatrixError:
        return make()
    with suppress(*_UNREADABLE), place.open("rb") as file:
        if _is_ours(os.fstat(file.fileno())):
            found: T = pickle.load(file)
            os.utime(file.fileno())
            return found
    made = make()
    with suppress(OSError, KmatrixError):
        paths.write_whole(place, pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
        _sweep(place.parent)
    return made


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user can have written it: a cache may be shared (KMATRIX_CACHE)."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@cache
def _code() -> bytes:
    """What tells this kmatrix, in this Python, from every other: an installed one has new files, an edited one has new times."""
    root = Path(__file__).parents[1]
    told = []
    for folder in ("matrix", "manifest", "objects", "vm", "guest", "guest/triggers", "host"):
        with os.scandir(root / folder) as entries:
            told += [
                (entry.name, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in entries if entry.name.endswith(".py")
            ]
    return f"{root} {sys.implementation.cache_tag} {sorted(told)}".encode()


def _sweep(folder: Path) -> None:
    """Remove what nobody has asked for in a long time."""
    oldest = time.time() - _DAYS * 86400
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
