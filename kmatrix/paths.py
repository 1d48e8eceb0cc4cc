"""Where kmatrix keeps its things: the shipped data files, and the user's cache."""

from __future__ import annotations

import os
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
