"""Runs on workers that SSH leads to: sshds in network namespaces, each with a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from conftest import AMBIENT, Shell, need_programs
from kmatrix.host.paths import cache_dir
from tests.cells import broken
from tests.workers.ssh_workers import Machine

KERNELS = ("--kernels=6.1,6.1-nobtf", "--arch=x86_64", "--accel=tcg")
HOLDS = """
import os, time
from pathlib import Path

def test_hold(target):
    Path(os.environ["HOME"], "began").touch()
    time.sleep(float(os.environ.get("HOLD", "0.1")))
"""

ONCE = """
import os
from pathlib import Path

def test_once():
    mark = Path(os.environ["HOME"], "once")
    if not mark.exists():
        mark.touch()
        os._exit(3)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_programs("clang")
    root = tmp_path_factory.mktemp("project")
    broken.write(root, "sound")
    broken.write(root, "other")
    (root / "test_hold.py").write_text(HOLDS)
    return root


def tx(*machines: Machine, env: str = "") -> list[str]:
    return [word for machine in machines for word in ("--tx", machine.tx + env)]


def ran(project: Path) -> Counter[str]:
    """How often JUnit's file has each test."""
    return Counter(case.get("name") or "" for case in ElementTree.parse(f"{project}.xml").iter("testcase"))


TESTS = {f"{name}[{target}]" for name in ("sound", "other", "test_hold") for target in ("6.1-x86_64", "6.1-nobtf-x86_64")}


def records(project: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in (project / ".kmatrix/cells").glob("*.json")}


def started(project: Path, words: list[str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)}
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(running: subprocess.Popen[str], marks: dict[str, Path]) -> str:
    """The name of the first mark that is there."""
    end = time.monotonic() + 120
    while True:
        for name, path in marks.items():
            if path.exists():
                return name
        assert time.monotonic() < end
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.05)


def test_the_matrix_is_split_and_what_it_takes_is_brought_once(
    machines: dict[str, Machine], project: Path, run_in: Shell, need: object
) -> None:
    need("6.1-x86_64")  # type: ignore[operator]
    alpha, beta, bare = machines["alpha"], machines["beta"], machines["bare"]
    beta.cache.mkdir()
    for kind in ("kernels", "images"):  # beta has them already: each kernel, by its digest
        (beta.cache / kind).symlink_to(cache_dir(kind))
    words = ("--dist", "kmatrix", *tx(bare, alpha, beta), *KERNELS, f"--junitxml={project}.xml", "-v")
    first = run_in("pytest", *words, cwd=project)
    assert first.returncode == 0, first.stdout + first.stderr
    assert ran(project) == Counter(TESTS)
    assert "bare gets no cells: qemu-system-x86_64 is not in its PATH" in first.stdout
    assert "alpha: kernel 6.1" in first.stderr  # progress
    assert "beta: kernel 6.1" not in first.stderr
    assert (alpha.cache / "kernels/refs/6.1-x86_64.json").is_file()
    workers = {line.split("]")[0] for line in first.stdout.splitlines() if line.startswith("[gw")}
    assert workers == {"[gw0", "[gw1"}
    found = records(project)
    assert len(found) == 4
    assert all(record["ok"] for record in found.values())
    assert all((project / ".kmatrix" / str(record["console"])).is_file() for record in found.values())
    assert not any((machine.cache / "snapshots").exists() for machine in (bare,))

    again = run_in("pytest", *words, cwd=project)
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("all is there, nothing was sent") >= 2
    assert "kernel 6.1" not in again.stderr


def test_what_is_red_there_is_told_as_if_it_had_run_here(
    machines: dict[str, Machine], project: Path, run_in: Shell, need: object
) -> None:
    need("6.1-x86_64")  # type: ignore[operator]
    checks = project / "checks"
    checks.mkdir()
    (checks / "collector.toml").write_text('schema = 1\n[collector]\nname = "checks"\n[test]\ncommand = ["./tap.sh"]\n')
    (checks / "tap.sh").write_text("#!/bin/sh\necho 1..2\necho ok 1 - good\necho not ok 2 - bad\nexit 1\n")
    (checks / "tap.sh").chmod(0o755)
    (checks / "test_once.py").write_text(ONCE)
    words = ("checks", "--dist", "kmatrix", *tx(machines["alpha"]), "--kernels=6.1", "--arch=x86_64", "--accel=tcg")
    done = run_in("pytest", *words, f"--junitxml={project}.xml", cwd=project)
    shutil.rmtree(checks)
    assert done.returncode == 1
    assert ran(project) == Counter(
        dict.fromkeys(("test:checks[6.1-x86_64]", "good[6.1-x86_64]", "bad[6.1-x86_64]", "test_once"), 1)
    )
    assert "replacing crashed worker gw0" in done.stdout  # the machine is there, so it goes on there
    assert "was lost" not in done.stdout
    record = json.loads((project / ".kmatrix/tests/checks@6.1-x86_64.json").read_text())
    assert [(each["name"], each["ending"]) for each in record["subtests"]] == [("good", "passed"), ("bad", "failed")]
    assert str(machines["alpha"].cache) not in done.stdout + json.dumps(record)


def test_a_machine_that_is_lost_in_mid_run_loses_no_cell(machines: dict[str, Machine], project: Path, need: object) -> None:
    need("6.1-x86_64")  # type: ignore[operator]
    both = {name: machines[name] for name in ("alpha", "beta")}
    for machine in both.values():
        (machine.folder / "home/began").unlink(missing_ok=True)
    words = ["--dist", "kmatrix", *tx(*both.values(), env="//env:HOLD=6"), *KERNELS, f"--junitxml={project}.xml", "-v"]
    with started(project, words) as running:
        lost = wait_for(running, {name: machine.folder / "home/began" for name, machine in both.items()})
        both[lost].kill()
        output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    assert ran(project) == Counter(TESTS)
    assert f"{lost} was lost (worker gw" in output
    assert len([line for line in output.splitlines() if line.startswith("[gw") and "PASSED" in line]) == len(TESTS)
    assert len(records(project)) == 4
    found = subprocess.run(["pgrep", "-f", str(both[lost].cache)], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_without_a_worker_that_can_run_it_a_cell_is_one_error_with_a_record(
    machines: dict[str, Machine], project: Path, need: object
) -> None:
    """The machine that is left dies too; nothing of what it had is lost, and nothing is said twice."""
    need("6.1-x86_64")  # type: ignore[operator]
    last = next(machine for machine in (machines["beta"], machines["alpha"]) if machine.is_up)
    (project / "test_die.py").write_text(
        "import os, time\nfrom pathlib import Path\n\ndef test_die(target):\n"
        "    Path(os.environ['HOME'], 'dies').touch()\n    time.sleep(60)\n"
    )
    words = ["test_die.py", "sound", "--dist", "kmatrix", *tx(last), *KERNELS, f"--junitxml={project}.xml"]
    with started(project, words) as running:
        wait_for(running, {"": last.folder / "home/dies"})
        last.kill()
        output, _ = running.communicate(timeout=300)
    assert running.returncode == 1, output
    assert set(ran(project).values()) == {1}
    assert len(ran(project)) == 4
    reason = f"no worker can run it: {last.name} was lost"
    assert f"infra: {reason}" in output
    lost = [record for record in records(project).values() if record["failure"] == "infra"]
    assert [(record["reason"], record["ok"]) for record in lost] == [(reason, False)] * len(lost)
    assert lost
