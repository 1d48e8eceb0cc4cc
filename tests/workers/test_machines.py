"""Runs on workers that SSH leads to: sshds in network namespaces, each with a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from conftest import AMBIENT, Shell, need_programs
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


def test_the_matrix_is_split_and_what_it_takes_is_brought_once(
    machines: dict[str, Machine], project: Path, run_in: Shell, need: object
) -> None:
    need("6.1-x86_64")  # type: ignore[operator]
    alpha, beta, bare = machines["alpha"], machines["beta"], machines["bare"]
    words = ("--dist", "kmatrix", *tx(bare, alpha, beta), *KERNELS, f"--junitxml={project}.xml", "-v")
    first = run_in("pytest", *words, cwd=project)
    assert first.returncode == 0, first.stdout + first.stderr
    assert ran(project) == Counter(TESTS)
    assert "bare gets no cells: qemu-system-x86_64 is not in its PATH" in first.stdout
    for machine in (alpha, beta):
        assert f"{machine.name}: kernel 6.1" in first.stderr  # progress
        assert (machine.cache / "kernels/refs/6.1-x86_64.json").is_file()
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


def test_a_machine_that_is_lost_in_mid_run_loses_no_cell(
    machines: dict[str, Machine], project: Path, need: object, capfd: pytest.CaptureFixture[str]
) -> None:
    need("6.1-x86_64")  # type: ignore[operator]
    alpha, beta = machines["alpha"], machines["beta"]
    for machine in (alpha, beta):
        (machine.folder / "home/began").unlink(missing_ok=True)
    words = ["--dist", "kmatrix", *tx(alpha, beta, env="//env:HOLD=6"), *KERNELS, f"--junitxml={project}.xml", "-v"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *words], cwd=project, env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        end = time.monotonic() + 120
        while not (alpha.folder / "home/began").exists():
            assert time.monotonic() < end
            assert running.poll() is None
            time.sleep(0.05)
        alpha.kill()
        output, _ = running.communicate(timeout=300)
    capfd.readouterr()
    assert running.returncode == 0, output
    assert ran(project) == Counter(TESTS)
    assert "alpha was lost (worker gw0): its cells go to other workers" in output
    assert len([line for line in output.splitlines() if line.startswith("[gw") and "PASSED" in line]) == len(TESTS)
    assert len(records(project)) == 4
    found = subprocess.run(["pgrep", "-f", str(alpha.cache)], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_without_a_worker_that_can_run_it_a_cell_is_one_error_with_a_record(
    machines: dict[str, Machine], project: Path, need: object
) -> None:
    """beta alone is left, and dies; nothing of what it had is lost, and nothing is said twice."""
    need("6.1-x86_64")  # type: ignore[operator]
    beta = machines["beta"]
    (project / "test_die.py").write_text(
        "import os, signal\n\ndef test_die(target):\n    os.system('touch $HOME/dies')\n    import time; time.sleep(60)\n"
    )
    (beta.folder / "home/dies").unlink(missing_ok=True)
    words = ["test_die.py", "sound", "--dist", "kmatrix", *tx(beta), *KERNELS, f"--junitxml={project}.xml"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)}
    command = [sys.executable, "-m", "pytest", *words]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + 120
        while not (beta.folder / "home/dies").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        beta.kill()
        output, _ = running.communicate(timeout=300)
    assert running.returncode == 1, output
    assert set(ran(project).values()) == {1}
    assert "infra: no worker can run it: beta was lost" in output
    lost = [record for record in records(project).values() if record["failure"] == "infra"]
    assert all(record["reason"] == "no worker can run it: beta was lost" for record in lost)
    (project / "test_die.py").unlink()
