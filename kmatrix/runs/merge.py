"""Records of several kmatrix directories, such as a run's shards, joined in one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError
from kmatrix.runs import cell_records, guest_test_records, record_files, shards
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord

INTO = Path(record_files.DEFAULT_DIRECTORY) / "merged"
"""Where joined records go, where not said otherwise."""
SCHEMA = "kmatrix.merged/1"
_MARKS = ("cells/*.json", f"{guest_test_records.FOLDER}/*.json", shards.FILE)
"""What a kmatrix directory has one of."""
_FILE = "merged.json"
"""Marks a folder that a merge made, and may make anew."""


@dataclass(frozen=True)
class Found:
    """A record, and the directory that it is from."""

    record: Record | TestRecord
    directory: Path

    @property
    def cell(self) -> str:
        """What cell it is of, or what test on what target."""
        return self.record.cell if isinstance(self.record, Record) else guest_test_records.item_of(self.record)


@dataclass(frozen=True)
class Merged:
    """Records, joined."""

    directory: Path
    """Where they are now, with their consoles."""
    notes: Sequence[str]
    """What a reader should know: cells that were there twice."""
    lacks: Sequence[str]
    """What keeps the joined records from being a whole run's: shards that are not there, or were cut in another way."""


def merge(directories: Sequence[Path], into: Path) -> Merged:
    """Join the records of `directories` in the folder `into`, which is made anew. Of a cell that is there twice, the newest record is taken.

    Raises InputError where a directory has no records, a file is no record that this version reads, or `into` is not a merge's; InfraError
    where it cannot be written.
    """
    found = [each for directory in directories for each in _read(directory)]
    for directory in directories:
        if _inside(directory, into):
            fix = "name another folder with --into"
            raise InputError("the records of a merge cannot be merged into the same folder", where=str(into), fix=fix)
    newest: dict[str, Found] = {}
    notes = []
    for each in found:
        if (other := newest.get(each.cell)) is not None:
            older, newer = sorted((other, each), key=lambda one: one.record.started)  # of equals, the one named last is taken
            notes.append(_twice(newer, older))
            each = newer
        newest[each.cell] = each
    lacks = [*_missing_shards(directories)]
    try:
        _renew(into)
        for each in newest.values():
            _copy(each, into)
        marker = {"schema": SCHEMA, "from": [str(directory) for directory in directories], "notes": notes, "lacks": lacks}
        paths.write_whole(into / _FILE, json.dumps(marker, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        fix = "name another folder with --into"
        raise InfraError(f"the merged records cannot be written: {error.strerror}", where=str(into), fix=fix) from None
    return Merged(into, notes, lacks)


def _read(directory: Path) -> Iterator[Found]:
    records: list[Record | TestRecord] = [*cell_records.read_all(directory), *guest_test_records.read_all(directory)]
    # A shard of which nothing was left to do has an account, and no record.
    if not records and shards.read_account(directory) is None:
        fix = "name the folders that were the shards' --kmatrix-dir"
        raise InputError("there are no records", where=str(directory), fix=fix)
    yield from (Found(record, directory) for record in records)


def _twice(newer: Found, older: Found) -> str:
    when = f", of {newer.record.started}," if newer.record.started else ""
    return f"{newer.cell} is in {older.directory} and in {newer.directory}: the newer record{when} of {newer.directory} is taken"


def _missing_shards(directories: Sequence[Path]) -> Iterator[str]:
    accounts = {directory: found for directory in directories if (found := shards.read_account(directory)) is not None}
    counts = {account.of for account in accounts.values()}
    cuts = {account.cut for account in accounts.values()}
    if len(counts) > 1 or len(cuts) > 1:
        yield "the shards were not cut alike, so a cell may be in none of them: " + ", ".join(
            f"{account.shard}/{account.of} in {directory} (cut {account.cut})" for directory, account in accounts.items()
        )
    elif accounts:
        (count,) = counts
        there = {account.shard for account in accounts.values()}
        if missing := [f"{number}/{count}" for number in range(1, count + 1) if number not in there]:
            yield f"the records of shard{'' if len(missing) == 1 else 's'} {', '.join(missing)} are not there"


def _inside(directory: Path, into: Path) -> bool:
    return directory.resolve() == into.resolve()


def _renew(into: Path) -> None:
    """Make the folder, empty. One that has something in it is emptied only where an earlier merge made it."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())) and not (into / _FILE).is_file():
        fix = "name an empty folder, or a new one, with --into"
        raise InputError("this is not a folder that an earlier merge made, and is left alone", where=str(into), fix=fix)
    if into == INTO:
        record_files.check_directory(INTO.parent)  # git leaves it alone
    for name in ("cells", guest_test_records.FOLDER, "console"):
        shutil.rmtree(into / name, ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)


def _copy(found: Found, into: Path) -> None:
    record = found.record
    if record.console is not None:
        if isinstance(record, Record):
            name = f"console/{record.collector}@{record.target}.log"
        else:
            name = guest_test_records.console_of(record.test, record.target)
        with suppress(FileNotFoundError):  # consoles are not always kept
            (into / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(found.directory / record.console, into / name)
        record = replace(record, console=name)
    if isinstance(record, Record):
        cell_records.write(record, into)
    else:
        guest_test_records.write(record, into)


def expand(directories: Sequence[Path]) -> list[Path]:
    """The kmatrix directories that are meant: a folder that has no records itself, and has folders that do, means those (a CI's artifacts).

    Each once, by its path.
    """
    found = []
    for directory in directories:
        here = any(any(directory.glob(mark)) for mark in _MARKS)
        inner = [each for each in sorted(directory.glob("*/")) if any(any(each.glob(mark)) for mark in _MARKS)]
        found += [directory] if here or not inner else inner
    return list({os.path.realpath(directory): directory for directory in found}.values())
