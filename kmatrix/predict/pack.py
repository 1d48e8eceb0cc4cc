"""A file of kernel profiles: tables of text by name, in which a line that several kernels share stands once.

    "KMXP", schema (2 bytes), 0 (2 bytes), SHA-256 of all that follows
    length of the directory (4 bytes), the directory (JSON, zstd): the profiles, and of each table its blocks with the first name of each
    the blocks (zstd): lines of `name TAB mask:value TAB mask:value…`, sorted by name; bit N of a mask (hexadecimal) is profile N

A look-up unpacks one block, so that a question costs the same whatever the number of profiles.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kmatrix.host.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC, SCHEMA = b"KMXP", 1
_HEAD = 4 + 2 + 2 + 32
_BLOCK = 192 << 10
"""Bytes of text that a block has, about: larger ones are packed better, and take longer to look into."""
_LEVEL = 19
TABLES = ("types", "names", "events", "config", "sysctls")

Meta = dict[str, Any]
Entries = tuple[tuple[int, str], ...]
"""The values of a name, each with the mask of the profiles that have it."""


class Pack:
    """An opened file of profiles."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for a file that is none, that is damaged, or of another schema."""
        self.path = path
        again = "make it again: kmatrix profiles add"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(path), fix="correct the path") from None
        if len(data) < _HEAD + 4 or data[:4] != MAGIC:
            raise InputError("this is not a file of kernel profiles", where=str(path), fix=again)
        (schema,) = struct.unpack_from("<H", data, 4)
        if schema != SCHEMA:
            newer = "a newer kmatrix wrote it" if schema > SCHEMA else "an older kmatrix wrote it"
            raise InputError(
                f"the profiles have schema {schema}, and this kmatrix reads schema {SCHEMA}: {newer}",
                where=str(path),
                fix="upgrade kmatrix" if schema > SCHEMA else again,
            )
        if hashlib.sha256(data[_HEAD:]).digest() != data[8:_HEAD]:
            raise InputError(
                "the file of kernel profiles is damaged: its digest is not that of its contents", where=str(path), fix=again
            )
        self.digest = data[8:_HEAD].hex()
        (length,) = struct.unpack_from("<I", data, _HEAD)
        directory = json.loads(zstd.decompress(data[_HEAD + 4 : _HEAD + 4 + length]))
        self.metas: list[Meta] = directory["profiles"]
        self._data, self._start = data, _HEAD + 4 + length
        self._tables: Mapping[str, tuple[list[str], list[tuple[int, int]]]] = {
            name: ([first for first, _, _ in blocks], [(at, size) for _, at, size in blocks])
            for name, blocks in directory["tables"].items()
        }
        self._blocks: dict[tuple[str, int], dict[str, str]] = {}
        self._near: dict[tuple[str, str], list[str]] = {}

    def _block(self, table: str, number: int) -> dict[str, str]:
        """The lines of a block by their names."""
        found = self._blocks.get((table, number))
        if found is None:
            at, size = self._tables[table][1][number]
            text = zstd.decompress(self._data[self._start + at : self._start + at + size]).decode()
            found = self._blocks[table, number] = dict(line.split("\t", 1) for line in text.split("\n"))
        return found

    def get(self, table: str, name: str) -> Entries:
        """The values of a name; none where no profile has it."""
        firsts = self._tables[table][0] if table in self._tables else []
        number = bisect_right(firsts, name) - 1
        line = self._block(table, number).get(name) if number >= 0 else None
        return entries(line) if line is not None else ()

    def near(self, table: str, name: str) -> list[str]:
        """The names that have `name` in them, of those that stand around it in the alphabet."""
        known = self._near.get((table, name))
        if known is None:
            known = self._near[table, name] = [each for each in self.around(table, name) if name in each]
        return known

    def around(self, table: str, name: str) -> Iterator[str]:
        """The names that stand around `name` in the alphabet, whether it is one of them or not."""
        firsts = self._tables[table][0] if table in self._tables else []
        number = bisect_right(firsts, name) - 1
        for each in range(max(number, 0), min(number + 2, len(firsts))):
            yield from self._block(table, each)

    def lines(self, table: str) -> Iterator[tuple[str, Entries]]:
        """Everything of a table, sorted by name."""
        for number in range(len(self._tables.get(table, ([], []))[0])):
            for name, line in self._block(table, number).items():
                yield name, entries(line)


def entries(line: str) -> Entries:
    """A line's values."""
    return tuple((int(mask, 16), value) for mask, _, value in (part.partition(":") for part in line.split("\t")))


Contents = Mapping[str, Mapping[str, Sequence[str]]]
"""By table and name: the values that one profile has (of a type's name it may have several)."""


def merged(parts: Iterable[tuple[Meta, Contents]]) -> tuple[list[Meta], dict[str, dict[str, dict[str, int]]]]:
    """The profiles, and by table, name and value the mask of the profiles that have it."""
    metas: list[Meta] = []
    tables: dict[str, dict[str, dict[str, int]]] = {name: {} for name in TABLES}
    for number, (meta, contents) in enumerate(parts):
        metas.append(meta)
        for table, lines in contents.items():
            here = tables[table]
            for name, values in lines.items():
                by = here.setdefault(name, {})
                for index, value in enumerate(values):
                    # The order of several values of one name is a part of them: others refer to the second as ~1.
                    key = f"{index}~{value}" if index else value
                    by[key] = by.get(key, 0) | 1 << number
    return metas, tables


def write(path: Path, metas: Sequence[Meta], tables: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
    """Write a file of profiles. It gets its name when it is whole."""
    directory: dict[str, list[list[Any]]] = {}
    blocks: list[bytes] = []
    at = 0
    for table in TABLES:
        directory[table] = []
        lines: list[str] = []
        first, size = "", 0
        ordered = sorted(tables.get(table, {}).items())
        for index, (name, by) in enumerate(ordered):
            line = f"{name}\t" + "\t".join(f"{mask:x}:{value}" for value, mask in by.items())
            first = first if lines else name
            lines.append(line)
            size += len(line) + 1
            if size >= _BLOCK or index == len(ordered) - 1:
                packed = zstd.compress("\n".join(lines).encode(), _LEVEL)
                directory[table].append([first, at, len(packed)])
                blocks.append(packed)
                at, lines, size = at + len(packed), [], 0
    head = zstd.compress(
        json.dumps({"profiles": metas, "tables": directory}, separators=(",", ":"), sort_keys=True).encode(), _LEVEL
    )
    body = struct.pack("<I", len(head)) + head + b"".join(blocks)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(MAGIC + struct.pack("<HH", SCHEMA, 0) + hashlib.sha256(body).digest() + body)
        temporary.replace(path)
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="choose a folder that can be written") from None


def contents(pack: Pack, number: int) -> dict[str, dict[str, list[str]]]:
    """What one profile of a pack has, to be merged with others."""
    bit = 1 << number
    found: dict[str, dict[str, list[str]]] = {}
    for table in TABLES:
        here: dict[str, list[str]] = {}
        for name, each in pack.lines(table):
            if values := [value for mask, value in each if mask & bit]:
                here[name] = ordered(values)
        found[table] = here
    return found


def ordered(values: Iterable[str]) -> list[str]:
    """The values that one profile has of a name, in their order, which stands before all but the first (`1~`)."""
    return [value.partition("~")[2] if _place(value) else value for value in sorted(values, key=_place)]


def _place(value: str) -> int:
    """Which of a name's types it is."""
    number, tilde, _ = value.partition("~")
    return int(number) if tilde and number.isdecimal() else 0
