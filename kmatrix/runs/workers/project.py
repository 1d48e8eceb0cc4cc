"""The project's files: what a worker must have of them, and where each stands there.

That is the folder that pytest runs in (its rootdir), what the command line names outside of it, and the kernels.toml in force with its
lock. Objects are among them whether or not git has them: a collector is nothing without them. What no run reads is left out: files and
folders with a dot before their name, virtual environments, and what --rsyncignore (or the ini file's rsyncignore) names.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.runs.workers.parcel import Parcel
from kmatrix.runs.workers.take import digest_of

IGNORED = (".*", "*.pyc", "__pycache__", "node_modules", "*.egg-info")
MANY = 4 << 30
"""Bytes above which something is among the project's files that is none of it."""


@dataclass(frozen=True)
class Project:
    """A project's files, below a folder that all of them are in."""

    base: Path
    parcel: Parcel

    def there(self, path: Path, tree: str) -> str | None:
        """Where `path` is on a worker that has the project in `tree`; None where it does not go there."""
        path = _absolute(path)
        return f"{tree}/{path.relative_to(self.base)}" if path.is_relative_to(self.base) else None

    def argument(self, word: str, tree: str, cwd: Path) -> str:
        """A word of the command line as a worker takes it: absolute paths of the project are those of the worker."""
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        path, colons, rest = value.partition("::")
        if not path.startswith("/") and not (".." in Path(path).parts and (cwd / path).exists()):
            return word
        moved = self.there(cwd / path, tree)
        return word if moved is None else f"{option}{equals}{moved}{colons}{rest}"


def gather(
    roots: Iterable[Path],
    files: Iterable[Path],
    ignored: Sequence[str] = (),
    *,
    leave: Iterable[Path] = (),
    within: Iterable[Path] = (),
) -> Project:
    """The project that stands in the folders `roots`, with single `files` beside. `leave` are folders that are not of it, `within` some
    that must have a place on the worker, whatever is in them.

    Raises InputError where it is so large that something is in it that no run takes.
    """
    tops = sorted({_absolute(root) for root in roots})
    tops = [top for top in tops if not any(top != other and top.is_relative_to(other) for other in tops)]
    single = [_absolute(file) for file in files]
    base = Path(os.path.commonpath([*tops, *(file.parent for file in single), *map(_absolute, within)]))
    left = {_absolute(folder) for folder in leave}
    found = {path for top in tops for path in (_below(top, (*IGNORED, *ignored), left) if top.is_dir() else [top])}
    listed, total = [], 0
    for path in sorted({*found, *single}):
        entry = _entry(path, base)
        if entry is not None:
            listed.append(entry)
            total += entry[1] if len(entry) > 2 else 0
            if total > MANY:
                fix = "leave out what no run reads: --rsyncignore=GLOB, or rsyncignore in the ini file"
                raise InputError(f"has more than {MANY >> 30} GiB of files to bring to workers", where=str(base), fix=fix)
    return Project(base, Parcel("project", digest_of(listed), base, listed))


def _absolute(path: Path) -> Path:
    """The path without `..`, its links as they are."""
    return Path(os.path.normpath(Path.cwd() / path))


def _below(top: Path, ignored: Sequence[str], leave: set[Path]) -> Iterator[Path]:
    def out(folder: str, name: str) -> bool:
        return any(fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(f"{folder}/{name}", glob) for glob in ignored)

    for folder, folders, names in os.walk(top):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink() and not out(folder, name)]
        folders[:] = [
            name
            for name in folders
            if name not in links
            and not out(folder, name)
            and here / name not in leave
            and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in (*names, *links) if not out(folder, name))


def _entry(path: Path, base: Path) -> list[Any] | None:
    """As kmatrix.runs.workers.take has it; None for what is no file, or gone."""
    relative = path.relative_to(base).as_posix()
    if path.is_symlink() and path.is_dir():
        target = path.readlink()
        inside = _absolute(path.parent / target).is_relative_to(base)
        return [relative, str(target)] if inside and not target.is_absolute() else None
    try:
        status = path.stat()
        if not path.is_file():
            return None
        return [relative, status.st_size, paths.sha256(path), status.st_mode & 0o777, status.st_mtime_ns]
    except FileNotFoundError:
        return None
    except OSError as error:
        fix = "make it readable, or leave it out: --rsyncignore=GLOB"
        raise InputError(f"cannot be read, and workers need it: {error.strerror}", where=str(path), fix=fix) from None
