"""The reference collectors broken on purpose (tests/collectors/test_traps.py shows the cell that turns red): what the lint says before any kernel is booted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kmatrix.lint.engine import lint
from tests.collectors.test_traps import COLLECTORS, TRAPS

SEEN = {
    "the names that user space has for registers": "KM402",
    "the place that x86_64 has its first argument in": "KM401",
    "a system call that arm64 has not": "KM403",
    "fentry loads on arm64 before it can be attached": "KM504",
    "a global variable in the variant for 4.14": "KM501",
    "a member that kernfs_node has not any more": "KM208",
    "the new layout of kernfs_node on an old kernel": "KM207",
    "a cgroup id that is invented": "KM210",
}
"""The others take a kernel: a symbol that is not there, a wrong value, a configuration."""


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name: str, tmp_path: Path) -> None:
    trap = TRAPS[name]
    home = tmp_path / "collectors"
    shutil.copytree(COLLECTORS, home, ignore=shutil.ignore_patterns("build"))
    for file, there, instead in trap.edits:
        (home / file).write_text((home / file).read_text().replace(there, instead))
    found = lint([home / trap.collector, home / "bpf_common"]).findings
    assert {f.code for f in found} == ({SEEN[name]} if name in SEEN else set()), [
        f"{f.place.file}:{f.place.line} {f.code} {f.message}" for f in found
    ]
