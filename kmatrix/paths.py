"""Where kmatrix keeps its things: the shipped data files, and the user's cache; and how a file gets there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def data(name: str) -> Path:
    """The shipped file or folder `name` ("kernels.toml", "images"): at the top of a checkout, beside the package once installed."""
    checkout = _PACKAGE.parent / name
    return checkout if checkout.exists() and (_PACKAGE.parent / "pyproject.toml").exists() else _PACKAGE / "_data" / name


def cache_dir(kind: str) -> Path:
    """The cache folder for `kind` ("kernels", "images", "snapshots", "packages", "downloads"), made if it is not there.

    `$KMATRIX_CACHE` if set, else the user's cache directory (`$XDG_CACHE_HOME/kmatrix`).
    """
    root = Path(os.environ.get("KMATRIX_CACHE") or platformdirs.user_cache_dir("kmatrix"))
    path = root / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def scratch_console(what: str) -> Iterator[Path]:
    """A console log for a VM that leaves no record; this process's own (two at once must not read each other's), removed afterwards."""
    path = cache_dir("consoles") / f"{what}-{os.getpid()}.log"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Have `content` in the file at `path`, the whole of it or what was there before, whenever the process is killed. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
