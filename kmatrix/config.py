"""Reads the user's TOML files: kernels.toml on top of the shipped one, kernels.lock, and collector.toml. The only module that opens them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kmatrix import collector, lock, matrix, paths
from kmatrix.errors import InputError
from kmatrix.nearest import did_you_mean

KERNELS_FILE = "kernels.toml"
LOCK_FILE = "kernels.lock"
COLLECTOR_FILE = "collector.toml"


def load_matrix(start: Path | None = None, *, file: Path | None = None) -> matrix.Matrix:
    """The matrix in force: the shipped kernels.toml, extended (or replaced) by the user's, and held to its kernels.lock if there is one.

    The user's is `file` if given, else the kernels.toml nearest above `start` (the current directory). Raises InputError.
    """
    shipped_path = paths.data(KERNELS_FILE)
    found = matrix.parse(read_toml(shipped_path), where=str(shipped_path))
    own = file or _nearest_above(start or Path.cwd(), KERNELS_FILE)
    if own is not None and own.resolve() != shipped_path.resolve():
        found = matrix.parse(read_toml(own), where=str(own), base=found)
    path = lock_path(start, file=file)
    return replace(found, lock=read_lock(path))


def lock_path(start: Path | None = None, *, file: Path | None = None) -> Path:
    """Where kernels.lock is, or would be: beside the user's kernels.toml; without one, the nearest above, or else in the current directory.

    The lock of a `file` of another name has that name: mine.toml, mine.lock.
    """
    start = start or Path.cwd()
    own = file or _nearest_above(start, KERNELS_FILE)
    if own is not None:
        return own.with_suffix(".lock")
    return _nearest_above(start, LOCK_FILE) or start.resolve() / LOCK_FILE


def read_lock(path: Path) -> lock.Lock | None:
    """The kernels.lock at `path`; None where there is none. Raises InputError."""
    return lock.parse(read_toml(path), path=path) if path.is_file() else None


def write_lock(made: lock.Lock) -> None:
    """Write a kernels.lock, whole or not at all. Raises InputError where it cannot be written."""
    try:
        paths.write_whole(made.path, lock.render(made))
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", where=str(made.path), fix="check the folder's permissions"
        ) from None


def read_toml(path: Path) -> dict[str, object]:
    """The parsed TOML file; raises InputError for a missing, unreadable or malformed one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), fix="check the path") from None
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 ({error.reason} at byte {error.start})", where=str(path), fix="save it as UTF-8 text"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", where=str(path), fix="correct the line named") from None


def _nearest_above(start: Path, name: str) -> Path | None:
    start = start.resolve()
    return next((folder / name for folder in (start, *start.parents) if (folder / name).is_file()), None)


def load_collector(path: Path) -> collector.Collector:
    """The collector of a collector.toml (or of the folder that holds one). Raises InputError."""
    file = path / COLLECTOR_FILE if path.is_dir() else path
    return collector.parse(read_toml(file), path=file)


def find_collector(named: Path) -> collector.Collector:
    """The collector in the folder (or manifest) `named`, else the one of that name under the current directory or its collectors/.

    Raises InputError with the nearest names.
    """
    if named.exists():
        return load_collector(named)
    around = {
        manifest.parent.name: manifest for pattern in ("*/", "collectors/*/") for manifest in Path().glob(pattern + COLLECTOR_FILE)
    }
    by_name = {found.name: found for found in _readable(around.values())}
    name = str(named)
    if name not in by_name:
        raise InputError(
            f"no collector {name!r}{did_you_mean(name, by_name)}",
            where="--collector",
            fix=f"give its folder, or one of: {', '.join(sorted(by_name)) or '(none is here)'}",
        )
    return by_name[name]


def _readable(manifests: Iterable[Path]) -> Iterator[collector.Collector]:
    """The collectors of the manifests that have no error: a neighbour's must not keep one from being found."""
    for manifest in manifests:
        with suppress(InputError):
            yield load_collector(manifest)
