"""Reads the user's TOML files, and finds the one that is in force."""

from __future__ import annotations

import tomllib
from pathlib import Path

from kmatrix.host.errors import InputError


def read_toml(path: Path) -> dict[str, object]:
    """The parsed TOML file; raises InputError for a missing, unreadable or malformed one."""
    return parse_toml(read_file(path), path)


def read_file(path: Path) -> bytes:
    """The file's bytes; raises InputError for a missing or unreadable one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), fix="check the path") from None
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="check the path and its permissions") from None


def parse_toml(data: bytes, path: Path) -> dict[str, object]:
    """The bytes of the TOML file at `path`, parsed; raises InputError for a malformed one."""
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 ({error.reason} at byte {error.start})", where=str(path), fix="save it as UTF-8 text"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", where=str(path), fix="correct the line named") from None


def nearest_above(start: Path, name: str) -> Path | None:
    """Return the path of the file `name` in the folder `start`, or in the nearest one above it that has it."""
    start = start.resolve()
    return next((folder / name for folder in (start, *start.parents) if (folder / name).is_file()), None)
