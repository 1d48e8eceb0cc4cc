"""`pytest --shard=2/4`, as a CI's jobs call it."""

from __future__ import annotations

import json
import re
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
