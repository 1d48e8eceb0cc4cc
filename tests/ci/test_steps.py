"""The action's steps, as a runner runs them, on booted guests; and GitLab's jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from kmatrix.runs import cell_records
from tests.cells import broken
from tests.ci.steps import AMBIENT, Runner, load
from tests.docs.console import ROOT

pytestmark = pytest.mark.usefixtures("both_of_6_1")

HERE = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""A runner on which kmatrix is installed already."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A repository with two collectors in a folder of it."""
    folder = tmp_path / "repository"
    broken.write(folder / "bpf", "sound")
    broken.write(folder / "bpf", "lopsided", "BREAK_LOAD_ON_ARM64")
    (folder / "bpf" / "lopsided" / "tiny.bpf.c").write_bytes(broken.SOURCE.read_bytes())
    return folder


def runner(workspace: Path, name: str, **inputs: str) -> Runner:
    temp = workspace.parent / name
    temp.mkdir()
    given = {"path": "bpf", "kernels": "6.1"} | inputs
    return Runner(workspace, temp, given, {"PATH": HERE})


def log_of(job: Runner) -> str:
    return "".join(done.stdout + done.stderr for done in job.log)


def test_a_job_runs_reports_and_fails_as_its_cells_do(workspace: Path) -> None:
    job = runner(workspace, "job")
    assert job.run() == 1, log_of(job)
    assert [name for name, _ in job.used] == ["actions/cache/restore@v4", "actions/cache/save@v4", "actions/upload-artifact@v4"]
    key, upload = job.used[0][1], job.used[2][1]
    assert key["key"].startswith(key["restore-keys"])
    assert key["path"].splitlines()[0].endswith("/kernels")
    assert upload == {
        "name": "kmatrix",
        "path": str(job.temp / "kmatrix/records"),
        "if-no-files-found": "ignore",
        "overwrite": "True",
    }
    records = list(cell_records.read_all(Path(upload["path"])))
    assert [(r.cell, r.ok) for r in records] == [
        ("lopsided[6.1-arm64]", False),
        ("lopsided[6.1-x86_64]", True),
        ("sound[6.1-arm64]", True),
        ("sound[6.1-x86_64]", True),
    ]
    # Files are named from the top of the repository, though the collectors are further down.
    annotations = [line for line in log_of(job).splitlines() if line.startswith("::error ")]
    assert len(annotations) == 1
    assert annotations[0].startswith("::error file=bpf/lopsided/tiny.bpf.c,line=")
    assert "### kmatrix: 1 of 4 cells is not as promised" in job.summary
    names = {path.name for path in Path(upload["path"]).iterdir()}
    assert names >= {"cells", "matrix.html", "matrix.xml", "badge.svg", "support.md"}
    assert job.outputs["report"]["status"] == "1"


@pytest.mark.slow
def test_kmatrix_is_installed_where_there_is_none(workspace: Path) -> None:
    """Into an environment of its own, which later steps find. It fetches what kmatrix depends on."""
    without = ":".join(folder for folder in os.environ["PATH"].split(":") if not (Path(folder) / "kmatrix").exists())
    temp = workspace.parent / "bare"
    temp.mkdir()
    job = Runner(workspace, temp, {}, {"PATH": without})
    status = job.run("Install kmatrix")
    if status and "No matching distribution" in log_of(job):
        pytest.skip("the package index cannot be reached")
    assert status == 0, log_of(job)
    assert job.outputs["PATH"]["added"] == f"{temp}/kmatrix/venv/bin:"
    assert job.run("Install kmatrix", "Plan") == 0, log_of(job)  # there is one now, and it plans
    assert job.outputs["plan"]["key"].startswith("kmatrix-")


def test_inputs_arrive_as_they_were_written(workspace: Path) -> None:
    job = runner(workspace, "one", arch="x86_64", collectors="sound", cache="false")
    assert job.run() == 0, log_of(job)
    assert [name for name, _ in job.used] == ["actions/upload-artifact@v4"]
    assert [r.cell for r in cell_records.read_all(job.temp / "kmatrix/records")] == ["sound[6.1-x86_64]"]
    evil = runner(workspace, "evil", kernels="6.1; touch /tmp/kmatrix-was-here $(touch x)", cache="false")
    assert evil.run() != 0
    assert "unknown kernel" in log_of(evil)
    assert not list(workspace.rglob("x"))


def test_a_command_of_ones_own_is_run_in_place_of_pytest(workspace: Path) -> None:
    command = 'kmatrix run sound/ring_x86_bpfel.o --kernels="$KERNELS" --arch="$ARCH" | tee said; echo "to $RECORDS"'
    job = runner(workspace, "command", arch="x86_64", command=command)
    assert job.run() == 0, log_of(job)
    assert "enter" in (workspace / "bpf" / "said").read_text()
    assert not (job.temp / "kmatrix/records").exists()
    failing = runner(workspace, "failing", command="exit 7")
    assert failing.run() == 7


def test_a_test_program_of_ones_own_leaves_reports_too(workspace: Path) -> None:
    program = workspace / "bpf" / "suite.sh"
    program.write_text("#!/bin/sh\necho 1..2\necho ok 1 - loads\necho not ok 2 - attaches\nexit 1\n")
    program.chmod(0o755)
    command = 'kmatrix test --kernels="$KERNELS" --arch="$ARCH" --kmatrix-dir="$RECORDS" -- ./suite.sh'
    job = runner(workspace, "suite", arch="x86_64", command=command)
    assert job.run() == 1, log_of(job)
    assert "attaches" in job.summary
    suites = ElementTree.parse(job.temp / "kmatrix/records/matrix.xml").getroot()
    assert [(case.get("name"), len(case)) for case in suites.iter("testcase")] == [("loads", 0), ("attaches", 1)]


def test_shards_are_joined_and_only_what_is_worse_than_main_fails(workspace: Path) -> None:
    for number in (1, 2):
        shard = runner(workspace, f"shard{number}", shard=f"{number}/2", cache="false")
        shard.run()
        (_, upload) = shard.used[-1]
        assert upload["name"] == f"kmatrix-{number}"
        shutil.copytree(upload["path"], workspace / "bpf" / "shards" / upload["name"])
    joined = runner(workspace, "joined", merge="shards", against="main")
    assert joined.run() == 1, log_of(joined)  # one cell is red, and there is nothing to compare with yet
    assert "::notice::There are no records in main yet" in log_of(joined)
    assert len(list(cell_records.read_all(joined.temp / "kmatrix/records"))) == 4

    shutil.copytree(joined.temp / "kmatrix/records", workspace / "bpf" / "main")
    again = runner(workspace, "again", merge="shards", against="main")
    assert again.run() == 0, log_of(again)  # it was as red there
    assert "no change: 4 cells compared" in again.summary

    path = cell_records.path_of(workspace / "bpf" / "main", "lopsided", "6.1-arm64")
    was = json.loads(path.read_text()) | {"ok": True, "observed": "full", "failure": None, "causes": []}
    path.write_text(json.dumps(was))
    worse = runner(workspace, "worse", merge="shards", against="main")
    assert worse.run() == 1
    assert "1 cell changed, for the worse" in worse.summary
    assert worse.outputs["report"]["status"] == "1"

    shutil.rmtree(workspace / "bpf" / "shards" / "kmatrix-2")
    missing = runner(workspace, "missing", merge="shards", against="main")
    assert missing.run() in (1, 2)
    assert "the records of shard 2/2 are not there" in log_of(missing)


def test_the_jobs_of_gitlab(workspace: Path) -> None:
    template = load(ROOT / "ci" / "gitlab.yml")

    def job(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # A job's lines run in one shell, which ends with the first that fails.
        script = "set -eo pipefail\n" + "\n".join(template[name]["script"])
        environment = {key: value for key, value in os.environ.items() if not key.startswith(AMBIENT)}
        given = {
            key: str(value) for key, value in template["variables"].items() if key.startswith("KMATRIX_") and "$" not in str(value)
        }
        environment |= given | {"CI_PROJECT_DIR": str(workspace), "PATH": HERE, "KMATRIX_PATH": "bpf", "KMATRIX_KERNELS": "6.1"}
        return subprocess.run(
            ["bash", "-c", script],
            cwd=workspace,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    kept = []
    for number in ("1", "2"):
        done = job("kmatrix", CI_NODE_INDEX=number, CI_NODE_TOTAL="2")
        assert f"shard {number}/2 has 2 of 4 tests" in done.stdout, done.stdout + done.stderr
        kept.append(workspace.parent / f"artifact{number}")
        shutil.copytree(workspace / "kmatrix-records", kept[-1])
    shutil.rmtree(workspace / "kmatrix-records")
    for artifact in kept:  # each job's files are put where they were
        shutil.copytree(artifact, workspace / "kmatrix-records", dirs_exist_ok=True)
    report = job("kmatrix-report")
    assert report.returncode == 1, report.stderr  # one cell is red
    suites = ElementTree.parse(workspace / "kmatrix-all" / "matrix.xml").getroot()
    assert [(suite.get("name"), suite.get("failures")) for suite in suites.findall("testsuite")] == [
        ("6.1-x86_64", "0"),
        ("6.1-arm64", "1"),
    ]
    assert (workspace / "kmatrix-all" / "matrix.html").is_file()
