"""Reads kernels.toml (the user's on top of the shipped one) and reads and writes kernels.lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.host.parsed import parsed
from kmatrix.host.toml import nearest_above, parse_toml, read_file, read_toml
from kmatrix.matrix import lockfile
from kmatrix.matrix.lockfile import Lock
from kmatrix.matrix.parameters import Definitions
from kmatrix.matrix.selection import Matrix

KERNELS_FILE = "kernels.toml"
LOCK_FILE = "kernels.lock"
TRIED_FILE = "tried.toml"


def load_matrix(start: Path | None = None, *, file: Path | None = None) -> Matrix:
    """The matrix in force: the shipped kernels.toml, extended (or replaced) by the user's, and held to its kernels.lock if there is one.

    The user's is `file` if given, else the kernels.toml nearest above `start` (the current directory). Raises InputError.
    """
    shipped_path = paths.data(KERNELS_FILE)
    own = own_kernels_file(start, file=file)
    files = [shipped_path, *([own] if own is not None else [])]
    return replace(_matrix_of(files, _tried_files(files, start)), lock=read_lock(lock_path(start, file=file)))


def _matrix_of(files: Sequence[Path], of_tried: Sequence[Path]) -> Matrix:
    def read() -> Matrix:
        from kmatrix.matrix import tried  # here, and not above: a run whose files are known needs none of it
        from kmatrix.matrix.schema import Document, parse

        rows = [row for path in of_tried for row in tried.parse(parse_toml(texts[path], path), str(path))]
        return parse(*(Document(str(path), tried.applied(parse_toml(texts[path], path), rows)) for path in files))

    texts = {path: read_file(path) for path in (*files, *of_tried)}
    return parsed("matrix", [part for path, text in texts.items() for part in (str(path).encode(), text)], read)


def _tried_files(files: list[Path], start: Path | None) -> list[Path]:
    """Every tried.toml that counts: beside a kernels.toml, and the nearest above `start`."""
    near = nearest_above(start or Path.cwd(), TRIED_FILE)
    found = [*(path.with_name(TRIED_FILE) for path in files), *([near] if near is not None else [])]
    return [path for path in {path.resolve(): path for path in found}.values() if path.is_file()]


def own_kernels_file(start: Path | None = None, *, file: Path | None = None) -> Path | None:
    """The user's kernels.toml: `file`, or the nearest above `start` (the current directory); None where there is none but the shipped one."""
    own = file or nearest_above(start or Path.cwd(), KERNELS_FILE)
    return own if own is not None and own.resolve() != paths.data(KERNELS_FILE).resolve() else None


def load_definitions(start: Path) -> Definitions:
    """The names for features ([features.NAME]) of the kernels.toml nearest above `start`. Raises InputError."""
    from kmatrix.matrix.schema import Document, definitions

    own = nearest_above(start, KERNELS_FILE)
    return definitions(Document(str(own), read_toml(own))) if own is not None else {}


def lock_path(start: Path | None = None, *, file: Path | None = None) -> Path:
    """Where kernels.lock is, or would be: beside the user's kernels.toml; without one, the nearest above, or else in the current directory.

    The lock of a `file` of another name has that name: mine.toml, mine.lock.
    """
    start = start or Path.cwd()
    own = file or nearest_above(start, KERNELS_FILE)
    if own is not None:
        return own.with_suffix(".lock")
    return nearest_above(start, LOCK_FILE) or start.resolve() / LOCK_FILE


def read_lock(path: Path) -> Lock | None:
    """The kernels.lock at `path`; None where there is none. Raises InputError."""
    if not path.is_file():
        return None
    text = read_file(path)

    def read() -> Lock:
        from kmatrix.matrix import lock_schema

        return lock_schema.parse(parse_toml(text, path), path=path)

    return parsed("lock", (str(path).encode(), text), read)


def write_lock(made: Lock) -> None:
    """Write a kernels.lock, whole or not at all. Raises InputError where it cannot be written."""
    try:
        paths.write_whole(made.path, lockfile.render(made))
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", where=str(made.path), fix="check the folder's permissions"
        ) from None
