"""Kernels that move on, in a pytest run on real guests: what is not as promised there is counted as a warning, and fails nothing.

6.1 stands for one, by a kernels.toml that says so: the newest kernel is another one each week.
"""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell
from tests.cells import broken

pytestmark = pytest.mark.usefixtures("both_of_6_1")

REASON = "uid is 4201, should be 4711"
EXPECT = """
[[expect]]
kernels = "6.1"
arch = "x86_64"
behaviour = "full"
reason = "we promise it of this one too"
"""
TEST = """
schema = 1
[collector]
name = "suite"
[test]
command = ["sh", "-c", "echo 1..1; echo not ok 1 - sums"]
arches = ["x86_64"]
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    shipped = (Path(__file__).parents[2] / "kernels.toml").read_text()
    moves = re.search(r'\[kernels\."6\.1"\].*?(?=\n\[kernels)', shipped, re.DOTALL)
    assert moves is not None
    (tmp_path / "kernels.toml").write_text(f"schema = 1\n{moves[0]}\nmoving = true\n")
    broken.write(tmp_path, "wrong", check="equals = 4711")
    return tmp_path


def kmatrix(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*KMATRIX, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_what_is_not_as_promised_on_a_kernel_that_moves_on_is_a_warning(here: Path, run_in: Shell) -> None:
    (here / "suite").mkdir()
    (here / "suite" / "collector.toml").write_text(TEST)
    done = run_in("pytest", "--kernels=6.1", "--junitxml=out.xml", env={"COLUMNS": "120"})
    assert done.returncode == 0, done.stdout
    assert "4 warned" in done.stdout  # two cells, a test, and its sub-test
    assert "! full→wrong-data" in done.stdout
    assert re.search(
        rf"warnings, of 6\.1 \(6\.1\.\S+, 6\.1\.\S+\): it moves on.*\n  wrong on 6\.1 \(2 cells\)  wrong-data: .*{REASON}",
        done.stdout,
    )
    junit = ElementTree.parse(here / "out.xml").getroot()
    assert [str(each.get("message")).endswith(REASON) for each in junit.iter("skipped")].count(True) == 2
    record = json.loads((here / ".kmatrix/cells/wrong@6.1-x86_64.json").read_text())
    assert (record["ok"], record["warning"], record["failure"]) == (False, True, "wrong-data")
    report = kmatrix(here, "report")
    assert report.returncode == 0
    assert "warnings, of 6.1" in report.stdout
    assert json.loads(kmatrix(here, "report", "--json").stdout)["ok"] is True


def test_a_manifest_that_names_the_kernel_promises(here: Path, run_in: Shell) -> None:
    manifest = here / "wrong" / "collector.toml"
    manifest.write_text(manifest.read_text() + EXPECT)
    done = run_in("pytest", "--kernels=6.1", "--arch=x86_64")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "✗ full→wrong-data" in done.stdout


def test_kmatrix_run_warns(here: Path) -> None:
    """The object needs a helper that 6.1 does not have."""
    source = here / "new.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("tracepoint/syscalls/sys_enter_openat") int enter(void *ctx) { return ((long (*)(void))9999)(); }\n'
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    broken.compile_object(here / "new.bpf.o", "x86", source=source)
    done = kmatrix(here, "run", "new.bpf.o", "--kernels=6.1", "--arch=x86_64")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "! load" in done.stdout
    assert "warnings, of 6.1-x86_64 (6.1." in done.stdout
