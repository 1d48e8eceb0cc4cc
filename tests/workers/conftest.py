"""The machines that these tests work on, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers import ssh_workers
from tests.workers.ssh_workers import Machine


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """`alpha` and `beta` have what this machine has; `bare` has no QEMU in its PATH. Beside their folders is
    `small`, a disk of 12 MiB."""
    ssh_workers.need_namespaces()
    root = tmp_path_factory.mktemp("machines")
    few = root / "bin"
    few.mkdir()
    for name in ("sh", "setpriv", "true"):
        (few / name).symlink_to(shutil.which(name) or "")
    path = os.environ["PATH"]
    small = root / "small"  # mounted before the machines are there: each has mounts of its own
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", small], check=True)
    with ssh_workers.machines(root, {"alpha": path, "beta": path, "bare": str(few)}) as made:
        try:
            yield made
        finally:
            subprocess.run(["umount", "-l", small], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty project."""
    return tmp_path
