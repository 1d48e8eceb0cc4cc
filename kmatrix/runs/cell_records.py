"""The record: one JSON file a cell. Every report is derived from these files, also after the run. docs/record.md describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kmatrix.host.errors import InputError
from kmatrix.runs import record_files

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
    boot_warnings: Sequence[str] = field(default_factory=list)
    """What the kernel warned of when it booted, before the collector was there."""
    warning: bool = False
    """Whether what is not as promised warns of what comes, and fails nothing: on a kernel that moves on, which the manifest does not name."""
    machine: Mapping[str, Any] | None = None
    """Of a real machine: name, ssh, model, node, release, cpus, memory_mib, and `changed`, the kernel it had before, where that was another;
    null for a VM."""
    schema: str = SCHEMA

    @property
    def red(self) -> bool:
        """Whether the cell fails: it is not as promised, and no warning."""
        return not self.ok and not self.warning

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
    """Write the record, whole or not at all; returns its path. Raises InfraError."""
    return record_files.write(record, path_of(directory, record.collector, record.target), directory)


def read(path: Path) -> Record:
    """The record at `path`; raises InputError where it is none, or of a schema this version does not know."""
    return record_files.read(path, _RECORD, SCHEMA, "cell")


_RECORD = TypeAdapter(Record)


def read_all(directory: Path, bad: list[InputError] | None = None) -> Iterator[Record]:
    """The records under the kmatrix directory, by file name. What is no record is raised, or, where `bad` is given, put there."""
    return record_files.read_all(directory / "cells", read, bad)
