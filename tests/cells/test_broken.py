"""Collectors broken on purpose in six ways: six failures, of six classes, in the right cells."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from conftest import Shell
from kmatrix.report import result
from tests.cells import broken

EXPECTED = {
    "sound": {"x86_64": None, "arm64": None},
    "silent": {"x86_64": "silent", "arm64": "silent"},
    "idle": {"x86_64": "silent", "arm64": "silent"},
    "wrong": {"x86_64": "wrong-data", "arm64": "wrong-data"},
    "modest": {"x86_64": "better", "arm64": "better"},
    "lopsided": {"x86_64": None, "arm64": "load"},
    "messy": {"x86_64": "leftover", "arm64": "leftover"},
    "deadly": {"x86_64": "kernel", "arm64": "kernel"},
}


@pytest.mark.usefixtures("both_of_6_1")
def test_each_breakage_fails_in_its_class_and_cell(tmp_path: Path, run_in: Shell) -> None:
    broken.all_six(tmp_path)
    done = run_in("pytest", "--kernels=6.1", "-n", "2")
    records = {(r.collector, r.arch): r for r in result.read_all(tmp_path / ".kmatrix")}
    found = {name: {arch: records[name, arch].failure for arch in ("x86_64", "arm64")} for name in EXPECTED}
    assert found == EXPECTED, done.stdout
    assert done.returncode == 1

    said = done.stdout
    assert "errors" not in said.splitlines()[-1]  # failures all, none of them infra
    assert "program idle is attached to tracepoint/syscalls/sys_enter_swapoff and never ran" in records["idle", "arm64"].reason
    assert "uid is" in records["wrong", "x86_64"].reason
    assert "left_behind" in records["messy", "arm64"].reason
    assert "sysrq" in records["deadly", "arm64"].reason or "panic" in records["deadly", "arm64"].reason
    # The red cell shows the verifier's words and the command that replays it.
    lopsided = records["lopsided", "arm64"]
    assert "lopsided[6.1-arm64]" in said
    assert lopsided.reproduce in said
    log = lopsided.facts["attempts"][0]["programs"]["enter"]["log"]  # type: ignore[index]
    assert "invalid mem access" in log
    assert "invalid mem access" in said

    # And that command replays exactly that cell, with the same outcome.
    again = run_in("pytest", *_arguments(lopsided.reproduce))
    assert "1 failed" in again.stdout
    assert again.returncode == 1


def _arguments(command: str) -> list[str]:
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    return arguments
