"""A worker on another machine, on its own side: where it stands, and what goes back with each report.

The controller sends this worker pytest-xdist's own code, with far_entry before it (`source`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from kmatrix.plugin import far_entry

FILES, ROOT = "kmatrix_files", "kmatrix_root"
"""Attributes of a report: files that came to be since the last one, by path, and the folder of records that its texts name."""


def source(code: str, *, cwd: str, project: str, args: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the worker executes: `code` is xdist's own, `args` are pytest's, to be read in the folder `cwd`; `project` is what is held there."""
    told = {"code": code, "cwd": cwd, "project": project, "args": list(args), "environment": dict(environment)}
    begin, future, rest = inspect.getsource(far_entry).partition("from __future__ import annotations\n")
    return f"{begin}{future}told = {told!r}\n{rest}"


class Sender:
    """Registered on such a worker: with a report goes what the test left in the kmatrix directory."""

    def __init__(self, directory: Path, marks: Sequence[str]) -> None:
        """`marks` are the properties of a report whose test has left all that it will."""
        self._directory, self._marks = directory, set(marks)
        self._sent: dict[str, tuple[int, int]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before xdist sends the report."""
        has_record = any(name in self._marks for name, _ in report.user_properties)
        if report.when == "teardown" or (report.when == "setup" and has_record):
            setattr(report, FILES, self._new())
        setattr(report, ROOT, str(self._directory))

    def _new(self) -> dict[str, bytes]:
        found = {}
        for folder, folders, names in os.walk(self._directory):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder) / name
                with suppress(OSError):  # a console that was renamed meanwhile
                    status = path.stat()
                    key, stamp = path.relative_to(self._directory).as_posix(), (status.st_size, status.st_mtime_ns)
                    if not name.startswith(".") and self._sent.get(key) != stamp:
                        found[key] = path.read_bytes()
                        self._sent[key] = stamp
        return found
