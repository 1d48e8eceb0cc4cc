"""`kmatrix run --save` and `--check` on real guests: the same is 0, worse and better are 1, with the cause."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from conftest import KMATRIX, need_programs
from tests.cells import broken

BASELINE = "kmatrix.baseline.json"
Kmatrix = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def kmatrix(tmp_path: Path) -> Kmatrix:
    def run(*arguments: str) -> CompletedProcess[str]:
        command = [*KMATRIX, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)

    return run


@pytest.fixture
def kernels(need: Callable[[str], None]) -> str:
    """One that has ring buffers, and one that has none."""
    for name in ("6.1-x86_64", "6.1-arm64", "5.4-sim-x86_64"):
        need(name)
    return "--kernels=5.4-sim,6.1"


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A folder with two objects: what is attached everywhere, and what takes a ring buffer."""
    need_programs("clang")
    (tmp_path / "build").mkdir()
    broken.compile_object(tmp_path / "build" / "perf.bpf.o", "x86")
    broken.compile_object(tmp_path / "build" / "ring.bpf.o", "x86", "USE_RINGBUF")
    return tmp_path / "build"


def test_what_loads_where_is_saved_and_held(kmatrix: Kmatrix, objects: Path, kernels: str, tmp_path: Path) -> None:
    both = ("build/perf.bpf.o", "build/ring.bpf.o")
    saved = kmatrix("run", *both, kernels, "--arch=x86_64", "--save", BASELINE)
    assert saved.returncode == 0, saved.stderr  # red or not
    assert saved.stdout.splitlines()[-1] == f"{BASELINE}: 2 objects on 2 targets saved"
    text = (tmp_path / BASELINE).read_text()
    held = json.loads(text)["objects"]["build/ring.bpf.o"]["programs"]["enter"]
    assert held["6.1-x86_64"]["state"] == "attached"
    assert held["5.4-sim-x86_64"] == {"state": "not loaded", "class": "map-type", "cause": "map type ringbuf, since 5.8"}

    same = kmatrix("run", *both, "--check", BASELINE)
    assert same.returncode == 0, same.stdout + same.stderr
    assert same.stdout.splitlines()[-1] == f"as the baseline {BASELINE} has it: 4 programs on 2 targets"

    broken.compile_object(objects / "perf.bpf.o", "arm64", "BREAK_LOAD_ON_ARM64")
    broken.compile_object(objects / "ring.bpf.o", "x86")  # mended: it takes a perf buffer now
    differs = kmatrix("run", *both, "--check", BASELINE)
    assert differs.returncode == 1
    said = differs.stdout.partition("3 differences from the baseline")[2]
    worse, _, better = said.partition("better:")
    assert "attached → not loaded\n    a number is used as a pointer" in worse
    assert "    build/perf.bpf.o: enter on 5.4-sim-x86_64, 6.1-x86_64\n" in worse
    assert "not loaded → attached\n    before: map type ringbuf, since 5.8 [map-type]\n" in better
    assert "    build/ring.bpf.o: enter on 5.4-sim-x86_64\n" in better
    assert "objects whose content changed since the baseline was saved: build/perf.bpf.o, build/ring.bpf.o" in better
    assert f"give the same command with --save {BASELINE} instead of --check {BASELINE}" in better
    assert (tmp_path / BASELINE).read_text() == text  # --check writes nothing

    accepted = kmatrix("run", *both, "--save", BASELINE)
    assert accepted.stdout.splitlines()[-1] == f"{BASELINE}: 2 objects on 2 targets saved"  # without --kernels: those that it had
    some = kmatrix("run", *both, "--check", BASELINE, "--kernels=6.1", "--json")
    assert some.returncode == 0
    compared = json.loads(some.stdout)["baseline"]
    assert (compared["differences"], compared["targets"], compared["not_compared"]) == ([], ["6.1-x86_64"], ["5.4-sim-x86_64"])


@pytest.mark.usefixtures("objects", "kernels")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build/perf.bpf.o", "--check", "nowhere.json"], "nowhere.json: cannot be read: No such file"),
        (["build/perf.bpf.o", "--check", "build/perf.bpf.o"], "build/perf.bpf.o: not a baseline"),
        (["build/perf.bpf.o", "--check", "old.json"], "schema 'kmatrix.baseline/0' is of another version"),
        (["build/perf.bpf.o", "build/ring.bpf.o", "--check", "b.json"], "objects that are not in the baseline: build/ring.bpf.o"),
        (["build/ring.bpf.o", "--check", "b.json"], "objects that are not in the baseline: build/ring.bpf.o"),
        (["build/perf.bpf.o", "--check", "b.json", "--kernels=6.1"], "the baseline has no 6.1 on x86_64 and arm64"),
        (["build/perf.bpf.o", "--check", "b.json", "--save", "b.json"], "--save and --check do not go together"),
        (["build/perf.bpf.o", "--check", "b.json", "--program", "enter"], "a baseline holds whole objects"),
        (["build/perf.bpf.o", "--save", "build/ring.bpf.o"], "this file is no baseline, and is not overwritten"),
        (["build/perf.bpf.o", "--save", "nowhere/b.json"], "nowhere: there is no such folder"),
    ],
)
def test_wrong_input_is_one_error_before_a_vm_starts(kmatrix: Kmatrix, arguments: list[str], says: str, tmp_path: Path) -> None:
    programs = {"enter": {"5.4-sim-x86_64": {"state": "attached", "via": "perf_event"}}}
    one = {
        "schema": "kmatrix.baseline/1",
        "kmatrix": "0.2.0",
        "targets": {"5.4-sim-x86_64": {"release": "6.1.0-50-amd64"}},
        "objects": {"build/perf.bpf.o": {"sha256": "0", "programs": programs}},
    }
    (tmp_path / "b.json").write_text(json.dumps(one))
    (tmp_path / "old.json").write_text(json.dumps(one | {"schema": "kmatrix.baseline/0"}))
    done = kmatrix("run", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "fix:" in done.stderr
    assert done.stdout == ""
