"""`kmatrix report` of records that booted guests left: an annotation stands at the line that the verifier stopped at."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell
from tests.cells import broken

BAD_LINE = "event.uid = *(volatile __u32 *)id;"


@pytest.mark.usefixtures("both_of_6_1")
def test_annotations_junit_and_support_page_of_a_program_that_is_refused_on_one_arch(run_in: Shell, tmp_path: Path) -> None:
    def report(form: str) -> str:
        command = [*KMATRIX, "report", "--format", form]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stderr
        return done.stdout

    broken.write(tmp_path, "lopsided", "BREAK_LOAD_ON_ARM64")
    source = tmp_path / "lopsided" / "tiny.bpf.c"
    source.write_bytes(broken.SOURCE.read_bytes())
    assert run_in("pytest", "--kernels=6.1").returncode == 1

    number = 1 + next(at for at, line in enumerate(source.read_text().splitlines()) if BAD_LINE in line)
    (annotation,) = report("github").splitlines()
    assert annotation.startswith(f"::error file=lopsided/tiny.bpf.c,line={number},title=lopsided[6.1-arm64]::")
    cases = {case.get("name"): [each.tag for each in case] for case in ElementTree.fromstring(report("junit")).iter("testcase")}
    assert cases == {"lopsided[6.1-x86_64]": [], "lopsided[6.1-arm64]": ["failure"]}
    assert "| lopsided | fails | 6.1-arm64 |" in report("support")
    assert "1 of 2 cells not as promised" in report("badge")
