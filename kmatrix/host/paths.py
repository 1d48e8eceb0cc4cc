"""Where kmatrix keeps its things: the shipped data files, and the user's cache; and how a file gets there."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from kmatrix.host.errors import StoreError

_PACKAGE = Path(__file__).resolve().parents[1]


def data(name: str) -> Path:
    """The shipped file or folder `name` ("kernels.toml", "images"): at the top of a checkout, beside the package once installed."""
    checkout = _PACKAGE.parent / name
    return checkout if checkout.exists() and (_PACKAGE.parent / "pyproject.toml").exists() else _PACKAGE / "_data" / name


def cache_dir(kind: str) -> Path:
    """The cache folder for `kind` ("kernels", "images", "snapshots", "packages", "downloads"), made if it is not there.

    `$KMATRIX_CACHE` if set, else the user's cache directory (`$XDG_CACHE_HOME/kmatrix`). Raises StoreError where it cannot be made.
    """
    root = Path(os.environ.get("KMATRIX_CACHE") or platformdirs.user_cache_dir("kmatrix"))
    path = root / kind
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(error, path) or _unwritable(error, path) from None
    return path


MAKE_ROOM = "free some space (kmatrix kernels gc, kmatrix kernels remove …), or set KMATRIX_CACHE to a folder on another disk"
"""What to do where the cache's disk is full."""


def cache_error(error: OSError, where: Path) -> StoreError | None:
    """The StoreError for a full disk, or for something in the folder `where` of the cache that cannot be written; None for another error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("the disk is full", where=str(where), fix=MAKE_ROOM)
    inside = str(error.filename or "").startswith(str(where))
    if inside and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return _unwritable(error, where)
    return None


def _unwritable(error: OSError, where: Path) -> StoreError:
    return StoreError(
        f"the cache cannot be written: {error.strerror} ({error.filename})",
        where=str(where),
        fix="set KMATRIX_CACHE (or XDG_CACHE_HOME) to a folder of your own",
    )


_consoles = itertools.count()


@contextmanager
def scratch_console(what: str) -> Iterator[Path]:
    """A console log for a VM that leaves no record, removed afterwards. It is this VM's own: two at once must not read each other's."""
    path = cache_dir("consoles") / f"{what}-{os.getpid()}-{next(_consoles)}.log"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Have `content` in the file at `path`, the whole of it or what was there before, whenever the process is killed. Raises OSError.

    With `durable` that holds for a power cut too, and the content is on the disk afterwards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        if durable:
            sync(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before anything else happens. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
