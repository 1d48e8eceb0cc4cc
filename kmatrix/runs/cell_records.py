"""The record: one JSON file a cell. Every report is derived from these files, also after the run. docs/record.md describes it."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError

DEFAULT_DIRECTORY = ".kmatrix"
"""Where records and consoles go, where not said otherwise."""
SCHEMA = "kmatrix.cell/1"
"""Name and version of the record's form; the number grows when a reader of the old form would misread the new one."""


@dataclass(frozen=True)
class Record:
    """Everything that is known of one cell after it ran."""

    cell: str
    """The pytest item's id: `openat[5.4-arm64]`."""
    collector: str
    kernel: str
    arch: str
    expected: str
    """The behaviour promised."""
    observed: str | None
    """The behaviour shown; null where it was none of the four, or nothing could be seen."""
    ok: bool
    failure: str | None
    """The class of what went wrong (kmatrix.verdict.failure.FAILURES); null for an ok cell."""
    reason: str
    facts: Mapping[str, Any] | None
    """What the guest's kernel showed; null where it did not get that far."""
    probe: Mapping[str, Any] | None
    """The features the guest found, and how."""
    timings: Mapping[str, float]
    """Seconds by stage, and `total`."""
    console: str | None
    """The console's log, relative to the kmatrix directory."""
    versions: Mapping[str, str]
    expectation: Mapping[str, Any] = field(default_factory=dict)
    """What `expected` rests on: variant, degradations, missing features, why."""
    reproduce: str = ""
    """The command that replays exactly this cell."""
    simulated: Mapping[str, Any] | None = None
    """Of a simulated kernel: base, as_of, hidden features, the release that uname says, what is not simulated; null for a real one."""
    started: str = ""
    """When, in UTC: 2026-11-24T23:59:59Z."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of what was judged: the manifest, each variant's object, a loader's files."""
    retried: str | None = None
    """What went wrong in the machine room at the first try; null where there was one."""
    causes: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """Why what failed did: one for each cause and variant (kmatrix.verdict.diagnosis.causes); empty where nothing did."""
    schema: str = SCHEMA

    @property
    def target(self) -> str:
        """Kernel × arch, as it is written everywhere."""
        return f"{self.kernel}-{self.arch}"


def path_of(directory: Path, collector: str, target: str) -> Path:
    """Where the record of a cell stands under the kmatrix directory."""
    return directory / "cells" / f"{collector}@{target}.json"


def forget(directory: Path, collector: str, target: str) -> None:
    """Remove the record of an earlier run of a cell: it must not be taken for this one's."""
    path_of(directory, collector, target).unlink(missing_ok=True)


def write(record: Record, directory: Path) -> Path:
    """Write the record, whole or not at all; returns its path."""
    path = path_of(directory, record.collector, record.target)
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False, default=str) + "\n"
    try:
        paths.write_whole(path, text)
    except OSError as error:
        raise unwritable(error, directory) from None
    return path


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
        raise unwritable(error, directory) from None


def _ignore(directory: Path) -> None:
    """Have git leave the records alone, in any project. A file that somebody put there stays."""
    with suppress(FileExistsError), (directory / ".gitignore").open("x") as file:
        file.write("# What kmatrix's runs leave: records and consoles. `kmatrix report` reads them.\n*\n")


def unwritable(error: OSError, directory: Path) -> InfraError:
    """What to say where a record cannot be written in the kmatrix directory."""
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


def read(path: Path) -> Record:
    """The record at `path`; raises InputError where it is none, or of a schema this version does not know."""
    fix = "remove the file and run the cell again"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"not a cell's record ({error})", where=str(path), fix=fix) from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        other = f"report it with the kmatrix that wrote it, or {fix}" if found is not None else fix
        raise InputError(f"schema {found!r}, this kmatrix reads {SCHEMA}", where=str(path), fix=other)
    try:
        return _RECORD.validate_python(data)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise InputError(f"not a whole record (missing or wrong: {wrong})", where=str(path), fix=fix) from None


_RECORD = TypeAdapter(Record)


def read_all(directory: Path, bad: list[InputError] | None = None) -> Iterator[Record]:
    """The records under the kmatrix directory, by file name. What is no record is raised, or, where `bad` is given, put there."""
    for path in sorted((directory / "cells").glob("*.json")):
        try:
            yield read(path)
        except InputError as error:
            if bad is None:
                raise
            bad.append(error)
