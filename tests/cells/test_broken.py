"""Collectors broken on purpose: each fails in the class of what is wrong with it, in the right cells, and the sound one nowhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import Shell
from kmatrix.runs import cell_records
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
    broken.all_of_them(tmp_path)
    done = run_in("pytest", "--kernels=6.1", "-n", "2", "--junitxml=junit.xml")
    records = {(r.collector, r.arch): r for r in cell_records.read_all(tmp_path / ".kmatrix")}
    found = {name: {arch: records[name, arch].failure for arch in ("x86_64", "arm64")} for name in EXPECTED}
    assert found == EXPECTED, done.stdout
    assert done.returncode == 1

    said = done.stdout
    assert "errors" not in said.splitlines()[-1]  # failures all, none of them infra
    assert "program idle is attached to tracepoint/syscalls/sys_enter_swapoff and never ran" in records["idle", "arm64"].reason
    assert "uid is" in records["wrong", "x86_64"].reason
    assert "left_behind" in records["messy", "arm64"].reason
    assert "sysrq" in records["deadly", "arm64"].reason or "panic" in records["deadly", "arm64"].reason
    # The red cell shows its cause, the verifier's words and the command that replays it.
    lopsided = records["lopsided", "arm64"]
    assert "lopsided[6.1-arm64]" in said
    assert lopsided.reproduce in said
    log = lopsided.facts["attempts"][0]["programs"]["enter"]["log"]  # type: ignore[index]
    assert "invalid mem access" in log
    assert "invalid mem access" in said
    (cause,) = lopsided.causes
    assert (cause["kind"], cause["programs"], cause["variant"]) == ("pointer", ["enter"], "ring")
    assert re.fullmatch(r".+ @ tiny\.bpf\.c:\d+", cause["where"]["enter"])
    assert "cause     pointer: a number is used as a pointer" in said
    assert said.count("why, by cause:") == 1
    junit = (tmp_path / "junit.xml").read_text()
    assert junit.count('<property name="cause" value="pointer" />') == 1
    assert records["sound", "x86_64"].causes == []

    # And that command replays exactly that cell, with the same outcome.
    again = run_in("pytest", *_arguments(lopsided.reproduce))
    assert "1 failed" in again.stdout
    assert again.returncode == 1


def _arguments(command: str) -> list[str]:
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    return arguments


@pytest.mark.usefixtures("both_of_6_1")
def test_a_refusal_is_of_what_is_missing_and_the_guest_works_after_it(tmp_path: Path, run_in: Shell) -> None:
    """On a kernel without ring buffers (simulated): a refusal for another reason is no refusal, nor is one of a trigger that never works."""
    for name, trigger in (
        ("refuses", 'kind = "open"'),
        ("hopeless", 'kind = "command"\ncommand = ["false"]'),
        ("absent", 'kind = "command"\ncommand = ["/no/such"]'),
    ):
        broken.write(tmp_path, name, trigger=trigger, check="", fallback=False)
    # Its object has no ring buffer at all: what stops it here is the verifier.
    for name in ("masked", "masked-too"):
        manifest = broken.write(tmp_path, name, "BREAK_LOAD_ON_ARM64")
        broken.compile_object(manifest.with_name("ring_arm64_bpfel.o"), "arm64", "BREAK_LOAD_ON_ARM64")
        text = manifest.read_text().replace('transport = "ringbuf"', 'transport = "perf"')
        manifest.write_text(text if name == "masked" else text.replace('object = "perf"', 'object = "../sound/perf"'))
    broken.write(tmp_path, "sound")
    done = run_in("pytest", "--kernels=5.4-sim", "--arch=arm64", "-n", "2")
    records = {record.collector: record for record in cell_records.read_all(tmp_path / ".kmatrix")}
    found = {name: (record.observed, record.failure) for name, record in records.items()}
    assert found == {
        "refuses": ("refusal", None),
        "hopeless": (None, "infra"),
        "absent": (None, "infra"),
        "masked": ("refusal", "load"),
        "masked-too": (None, "load"),
        "sound": ("fallback", None),
    }, done.stdout
    assert "the trigger failed, also without the collector: false ended with 1" in records["hopeless"].reason
    assert "ring lacks ringbuf here, but fails for another reason: program enter" in records["masked-too"].reason
    assert records["refuses"].facts["trigger"]["after_refusal"]  # type: ignore[index]
    assert records["hopeless"].retried
    assert not records["sound"].retried
    assert set(records["sound"].inputs) == {"collector.toml", "ring", "perf"}

    # What an earlier run found is not left standing where a later one finds nothing.
    text = (tmp_path / "sound/collector.toml").read_text().replace("known.tgid", "known.nothing")
    # What a command knows, only its run can tell.
    (tmp_path / "sound/collector.toml").write_text(text.replace('kind = "open"', 'kind = "command"\ncommand = ["true"]'))
    again = run_in("pytest", "--kernels=5.4-sim", "--arch=arm64", "sound")
    assert "the trigger knows no such thing" in again.stdout
    assert "sound" not in {record.collector for record in cell_records.read_all(tmp_path / ".kmatrix")}
