"""The files of records, of cells and of test commands alike: written whole, checked when they are read."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind")

DEFAULT_DIRECTORY = ".kmatrix"
"""Where records and consoles go, where not said otherwise."""


def write(record: DataclassInstance, path: Path, directory: Path) -> Path:
    """Write a record to `path` under the kmatrix directory, whole or not at all; returns the path. Raises InfraError."""
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False, default=str) + "\n"
    try:
        paths.write_whole(path, text)
    except OSError as error:
        raise _unwritable(error, directory) from None
    return path


def read(path: Path, form: TypeAdapter[Kind], schema: str, of: str) -> Kind:
    """The record at `path`. Raises InputError where it is none, or of a schema that this version does not know.

    `of` is what it is a record of, as a word of the message: `cell`, `test`.
    """
    fix = f"remove the file and run the {of} again"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"not a {of}'s record ({error})", where=str(path), fix=fix) from None
    found: Any = data.get("schema") if isinstance(data, dict) else None
    if found != schema:
        other = f"report it with the kmatrix that wrote it, or {fix}" if found is not None else fix
        raise InputError(f"schema {found!r}, this kmatrix reads {schema}", where=str(path), fix=other)
    try:
        return form.validate_python(data)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise InputError(f"not a whole record (missing or wrong: {wrong})", where=str(path), fix=fix) from None


def read_all(folder: Path, read_one: Callable[[Path], Kind], bad: list[InputError] | None = None) -> Iterator[Kind]:
    """The records in a folder, by file name. What is no record is raised, or, where `bad` is given, put there."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield read_one(path)
        except InputError as error:
            if bad is None:
                raise
            bad.append(error)


def check_directory(directory: Path) -> None:
    """Make the kmatrix directory; raises InfraError where nothing can be written there."""
    try:
        new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        if new or directory.name == DEFAULT_DIRECTORY:  # not in a folder that is somebody else's
            _ignore(directory)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _unwritable(error, directory) from None


def _ignore(directory: Path) -> None:
    """Have git leave the records alone, in any project. A file that somebody put there stays."""
    with suppress(FileExistsError), (directory / ".gitignore").open("x") as file:
        file.write("# What kmatrix's runs leave: records and consoles. `kmatrix report` reads them.\n*\n")


def _unwritable(error: OSError, directory: Path) -> InfraError:
    remedy = {
        errno.ENOSPC: "free space there",
        errno.EDQUOT: "free space there",
        errno.EACCES: "give yourself the right to write there",
        errno.EPERM: "give yourself the right to write there",
        errno.EROFS: "mount it writable",
        errno.EEXIST: "move the file that has its name",
        errno.ENOTDIR: "move the file that has its name, or its parent's",
    }.get(error.errno or 0)
    other = "choose another folder with --kmatrix-dir"
    fix = f"{remedy}, or {other}" if remedy else other
    return InfraError(f"cannot write records: {error.strerror}", where=str(directory), fix=fix)
