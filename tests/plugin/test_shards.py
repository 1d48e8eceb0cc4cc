"""`pytest --shard=2/4`, as a CI's jobs call it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Shell
from tests.cells import broken

CELL = re.compile(r"^\S+::\S+\[\S+\]$", re.M)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    broken.write(tmp_path, "sound")
    broken.write(tmp_path, "other")
    return tmp_path


@pytest.fixture
def own_cache(tmp_path: Path) -> dict[str, str]:
    """A cache that knows no durations; collecting needs nothing else of it."""
    return {"KMATRIX_CACHE": str(tmp_path / "cache")}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("shard", ["5/4", "0/4", "x", ""])
def test_a_wrong_shard_is_one_error(run_in: Shell, own_cache: dict[str, str], shard: str) -> None:
    done = run_in("pytest", f"--shard={shard}", env=own_cache)
    assert done.returncode == 4
    assert done.stderr.count("is not a shard") == 1
    assert "fix: write NUMBER/COUNT" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.usefixtures("here")
def test_durations_of_a_folder_without_records_are_one_error(run_in: Shell, own_cache: dict[str, str]) -> None:
    done = run_in("pytest", "--shard=1/2", "--shard-durations=nowhere", env=own_cache)
    assert done.returncode == 4
    assert "--shard-durations" in done.stderr
    assert "there are no records" in done.stderr


@pytest.mark.usefixtures("here")
def test_shards_share_the_cells_out(run_in: Shell, own_cache: dict[str, str]) -> None:
    collect = ("pytest", "--collect-only", "-q", "--kernels=5.4,6.1")
    whole = CELL.findall(run_in(*collect, env=own_cache).stdout)
    parts = [run_in(*collect, f"--shard={n}/3", env=own_cache).stdout for n in (1, 2, 3)]
    cells = [CELL.findall(part) for part in parts]
    assert sorted(cell for part in cells for cell in part) == sorted(whole)
    assert [len(part) for part in cells] == [2, 3, 3]
    assert "kmatrix: shard 2/3 has 3 of 8 tests, cut by count" in parts[1]
    # What -k leaves out is left out before.
    few = run_in(*collect, "--shard=1/2", "-k", "sound", env=own_cache).stdout
    assert "shard 1/2 has 2 of 4 tests" in few


@pytest.mark.usefixtures("here")
def test_durations_of_records_decide(run_in: Shell, own_cache: dict[str, str], here: Path) -> None:
    """The cell that takes long is alone."""
    cells = here / "earlier" / "cells"
    cells.mkdir(parents=True)
    for name in ("sound", "other"):
        for target in ("5.4-x86_64", "5.4-arm64", "6.1-x86_64", "6.1-arm64"):
            slow = name == "sound" and target == "5.4-x86_64"
            (cells / f"{name}@{target}.json").write_text(json.dumps(fabricated(name, target, 100.0 if slow else 1.0)))
    collect = ("pytest", "--collect-only", "-q", "--kernels=5.4,6.1", "--shard=1/2", "--shard-durations=earlier")
    said = run_in(*collect, env=own_cache).stdout
    assert "by the measured durations of 8 of them" in said
    parts = [CELL.findall(run_in(*collect[:-2], f"--shard={n}/2", collect[-1], env=own_cache).stdout) for n in (1, 2)]
    slow = next(part for part in parts if "sound/collector.toml::sound[5.4-x86_64]" in part)
    assert len(slow) <= 2
    assert len(parts[0]) + len(parts[1]) == 8


def fabricated(collector: str, target: str, seconds: float) -> dict[str, object]:
    kernel, _, arch = target.rpartition("-")
    return {
        "schema": "kmatrix.cell/1",
        "cell": f"{collector}[{target}]",
        "collector": collector,
        "kernel": kernel,
        "arch": arch,
        "expected": "full",
        "observed": "full",
        "ok": True,
        "failure": None,
        "reason": "",
        "facts": None,
        "probe": None,
        "timings": {"total": seconds},
        "console": None,
        "versions": {},
    }


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("side_by_side", [(), ("-n", "2")])
def test_a_shard_that_has_nothing_to_do_is_no_failure(
    run_in: Shell, own_cache: dict[str, str], tmp_path: Path, side_by_side: tuple[str, ...]
) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    last = run_in("pytest", "test_one.py", "--shard=2/2", *side_by_side, env=own_cache)
    first = run_in("pytest", "test_one.py", "--shard=1/2", *side_by_side, env=own_cache)
    # One test, two shards: one has it, and the other ends well.
    assert {"has 0 of 1 tests" in last.stdout, "has 0 of 1 tests" in first.stdout} == {True, False}
    assert (first.returncode, last.returncode) == (0, 0), first.stdout + last.stdout
    none = run_in("pytest", "test_one.py", "--shard=1/2", "-k", "nothing", *side_by_side, env=own_cache)
    assert none.returncode == pytest.ExitCode.NO_TESTS_COLLECTED  # no shard has anything: that is not this shard's luck


@pytest.mark.usefixtures("both_of_6_1")
def test_two_shards_joined_are_one_run_and_a_changed_verdict_shows_alone(run_in: Shell, tmp_path: Path) -> None:
    """On booted guests: the table, the reasons and the records are the same; then one collector is broken."""

    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from kmatrix.cli import main; main()"
        command = [sys.executable, "-c", code, "report", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    broken.write(tmp_path, "sound")
    broken.write(tmp_path, "silent", "BREAK_SILENT")
    whole = run_in("pytest", "--kernels=6.1", "--kmatrix-dir=whole")
    parts = [run_in("pytest", "--kernels=6.1", f"--shard={n}/2", f"--kmatrix-dir=part{n}") for n in (1, 2)]
    assert [part.returncode for part in parts] == [1, 1]
    counts = [len(list((tmp_path / f"part{n}" / "cells").iterdir())) for n in (1, 2)]
    assert counts == [2, 2]
    # The whole run told the cache how long its cells took.
    assert "by the measured durations of 4 of them" in parts[0].stdout

    joined = report("--merge", "part1", "part2", "--into", "joined")
    assert joined.stdout == report("whole").stdout
    assert whole.returncode == joined.returncode == 1
    assert joined.stderr == ""
    assert [verdicts(tmp_path / name) for name in ("whole", "joined")] == [verdicts(tmp_path / "whole")] * 2
    assert all((tmp_path / "joined" / console).is_file() for console in consoles(tmp_path / "joined"))

    same = report("joined", "--against", "whole")
    assert (same.returncode, same.stdout) == (0, "no change: 4 cells compared, against whole\n")
    shutil.rmtree(tmp_path / "sound")
    broken.write(tmp_path, "sound", "BREAK_VALUE")
    assert run_in("pytest", "--kernels=6.1", "--arch=arm64", "--kmatrix-dir=joined").returncode == 1
    changed = report("joined", "--against", "whole")
    assert changed.returncode == 1
    assert changed.stdout.startswith("1 cell changed, for the worse (4 compared), against whole\n")
    assert "sound[6.1-arm64]: was full, is ✗ full→wrong-data" in changed.stdout
    assert "silent" not in changed.stdout
    assert "x86_64" not in changed.stdout


def verdicts(directory: Path) -> list[tuple[object, ...]]:
    records = [json.loads(path.read_text()) for path in sorted((directory / "cells").iterdir())]
    names = ("cell", "expected", "observed", "ok", "failure", "reason", "reproduce", "inputs", "causes", "expectation")
    return [tuple(record[name] for name in names) for record in records]


def consoles(directory: Path) -> list[str]:
    return [json.loads(path.read_text())["console"] for path in sorted((directory / "cells").iterdir())]
