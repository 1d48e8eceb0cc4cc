"""Reds in pytest's output, on real guests: told once in detail, and each with its reason in the short summary."""

from __future__ import annotations

import re
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell
from tests.cells import broken

pytestmark = pytest.mark.usefixtures("both_of_6_1")

REASON = "no open event arrived after the trigger"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    manifest = broken.write(tmp_path, "silent", "BREAK_SILENT")
    manifest.write_text(manifest.read_text().replace("timeout = 2.0", "timeout = 0.5"))
    return tmp_path


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_cells_that_fail_alike_are_told_once(here: Path, run_in: Shell, workers: list[str]) -> None:
    done = run_in("pytest", "--kernels=6.1", "--junitxml=out.xml", *workers, env={"COLUMNS": "120"})
    told, _, summary = done.stdout.partition("short test summary info")
    assert done.stdout.count("look in   kmatrix shell") == 1
    assert told.count("  alike     1 more cell: 6.1-") == 1
    assert told.count(REASON) == 2  # in its account, and under the table
    assert f"silent on 6.1 (2 cells)  silent: {REASON}" in told
    for arch in ("x86_64", "arm64"):
        assert f"FAILED silent/collector.toml::silent[6.1-{arch}] - silent: {REASON}" in summary
    assert "2 failed" in summary
    assert done.returncode == 1
    junit = ElementTree.parse(here / "out.xml").getroot()
    assert [REASON in str(failure.text) for failure in junit.iter("failure")] == [True, True]


def test_vv_tells_of_each(here: Path, run_in: Shell) -> None:
    assert here.exists()
    assert run_in("pytest", "--kernels=6.1", "-vv").stdout.count("  look in   kmatrix shell") == 2


def test_without_its_account_the_reproduction_is_under_the_table(here: Path, run_in: Shell) -> None:
    assert here.exists()
    done = run_in("pytest", "--kernels=6.1", "--tb=no")
    assert "FAILURES" not in done.stdout
    assert done.stdout.count("reproduce: pytest") == 1


def test_look_in_works_where_pytest_was_called(here: Path, run_in: Shell) -> None:
    """Also in the collector's own folder."""
    for folder in (here, here / "silent"):
        done = run_in("pytest", "--kernels=6.1", "--arch=x86_64", cwd=folder)
        found = re.search(r"look in   kmatrix (.*)", done.stdout)
        assert found, done.stdout
        command = [*KMATRIX, *shlex.split(found[1])]
        shell = subprocess.run(command, cwd=folder, input="ls; exit 3\n", capture_output=True, text=True, check=False)
        assert "ring_x86_bpfel.o" in shell.stdout, shell.stderr
        assert shell.returncode == 3
