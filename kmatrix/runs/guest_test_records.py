"""The record of a test command on one target: one JSON file, beside those of cells. docs/record.md describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kmatrix.host.errors import InputError
from kmatrix.runs import record_files
from kmatrix.verdict.suites.subtest import SubTest

SCHEMA = "kmatrix.test/1"
FOLDER = "tests"
"""Where the records stand under the kmatrix directory."""


@dataclass(frozen=True)
class TestRecord:
    """Everything that is known of a test command on one target after it ran."""

    __test__ = False  # not for pytest to collect

    test: str
    """The name: the manifest's, that of --name, or the program's file name."""
    kernel: str
    arch: str
    command: Sequence[str]
    """As it ran on the target."""
    ok: bool
    failure: str | None
    """The class of what went wrong (kmatrix.verdict.suites.judge.FAILURES); null where nothing did."""
    reason: str
    exit: int | None
    signal: int | None
    format: str | None
    """In which format its output named sub-tests; null where none was recognised."""
    subtests: Sequence[SubTest]
    output: str
    """The last lines of standard output."""
    errors: str
    """The last lines of standard error."""
    timings: Mapping[str, float]
    """Seconds by stage, and `total`."""
    console: str | None
    """The console's log, relative to the kmatrix directory; null where nothing was wrong."""
    versions: Mapping[str, str]
    reproduce: str = ""
    """The command that replays it."""
    simulated: Mapping[str, Any] | None = None
    """As in a cell's record."""
    started: str = ""
    """When, in UTC: 2026-11-24T23:59:59Z."""
    brought: Sequence[str] = field(default_factory=list)
    """Files that came back out of the guest: core dumps, coverage; paths on the host."""
    warning: bool = False
    """As in a cell's record: it did not pass on a kernel that moves on, which fails nothing."""
    schema: str = SCHEMA

    @property
    def red(self) -> bool:
        """Whether the test fails: it did not pass, and that is no warning."""
        return not self.ok and not self.warning

    @property
    def target(self) -> str:
        """Kernel × arch, as it is written everywhere."""
        return f"{self.kernel}-{self.arch}"

    @property
    def says_more(self) -> bool:
        """Whether the command says something that its sub-tests do not: it has none, or it failed of something else than a red one."""
        return not self.subtests or (not self.ok and (self.failure != "test" or not any(each.red for each in self.subtests)))


_RECORD = TypeAdapter(TestRecord)


def item_of(record: TestRecord) -> str:
    """The name of its pytest item, if it were one: `test:loader[5.4-arm64]`."""
    return f"test:{record.test}[{record.target}]"


def path_of(directory: Path, test: str, target: str) -> Path:
    """Where the record of a test command on a target stands under the kmatrix directory."""
    return directory / FOLDER / f"{test}@{target}.json"


def console_of(test: str, target: str) -> str:
    """Where the guest's console is kept, below the kmatrix directory: beside those of cells, and by no name of theirs."""
    return f"console/test:{test}@{target}.log"


def write(record: TestRecord, directory: Path) -> Path:
    """Write the record, whole or not at all; returns its path. Raises InfraError."""
    return record_files.write(record, path_of(directory, record.test, record.target), directory)


def read(path: Path) -> TestRecord:
    """The record at `path`; raises InputError where it is none, or of a schema that this version does not know."""
    return record_files.read(path, _RECORD, SCHEMA, "test")


def read_all(directory: Path, bad: list[InputError] | None = None) -> Iterator[TestRecord]:
    """The records under the kmatrix directory, by file name. What is no record is raised, or, where `bad` is given, put there."""
    return record_files.read_all(directory / FOLDER, read, bad)
