"""`kmatrix bisect --tree`: the whole way, over a git tree that takes no time to build: its make copies the image of a kernel in the store.

The kernels are real, and so are git, make, the store, the boots and the cells. Where the real 5.4 and 5.15 are not in the store, skipped.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import KMATRIX, need_programs
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import INFO, host_arch

COLLECTOR = Path(__file__).parents[2] / "collectors/openat"

MAKEFILE = """VERSION = 5
PATCHLEVEL = SERIES
SUBLEVEL = 0
allnoconfig:
\t@cp $(KCONFIG_ALLCONFIG) $(O)/.config
olddefconfig:
\t@true
bzImage Image:
\t@mkdir -p $(O)/arch/$(ARCH)/boot; cp `cat image` $(O)/arch/$(ARCH)/boot/$@
"""


@pytest.fixture
def tree(tmp_path: Path, need: Callable[[str], None]) -> Iterator[Path]:
    """Twelve commits: 5.15 up to the seventh, 5.4 (no ring buffer) from the eighth on; the sixth does not build."""
    arch = host_arch()
    if arch is None:
        pytest.skip("kernels of this machine's arch are not run")
    need_programs("git", "make", "gcc", "flex", "bison", "bc", "pahole")
    for kernel in ("5.4", "5.15"):
        need(f"{kernel}-{arch}")
    images = {name: entry.image for name in ("5.4", "5.15") if (entry := KernelStore().find(name, arch)) is not None}
    tree = tmp_path / "tree"
    tree.mkdir()

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tree, "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments], check=True)

    git("init", "--quiet")
    (tree / "Kconfig").write_text("")
    for number in range(1, 13):
        series = "5.15" if number < 8 else "5.4"
        makefile = MAKEFILE.replace("bzImage Image", INFO[arch].image).replace("SERIES", series.removeprefix("5."))
        (tree / "Makefile").write_text(makefile)
        (tree / "image").write_text("/nowhere" if number == 6 else str(images[series]))
        (tree / "number").write_text(str(number))
        git("add", ".")
        git("commit", "--quiet", "-m", f"change {number}")
        git("tag", f"c{number}")
    yield tree
    declared = tmp_path / f".kmatrix/bisect/openat@{arch}/kernels.toml"
    for name in tomllib.loads(declared.read_text()).get("kernels", {}) if declared.exists() else ():
        KernelStore().remove(name, arch)


def test_the_first_commit_that_changes_it(tree: Path, tmp_path: Path) -> None:
    arch = host_arch()
    command = [
        *KMATRIX,
        "bisect",
        COLLECTOR,
        "--tree",
        tree,
        "--good=c1",
        "--bad=c12",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / f".kmatrix/bisect/openat@{arch}/state.json"
    while not state.exists() or len(json.loads(state.read_text())["outcomes"]) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    known = json.loads(state.read_text())["outcomes"]

    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout)
    assert end["bad"]["title"].endswith("change 8")
    assert end["good"]["title"].endswith("change 7")
    assert (end["good"]["behaviour"], end["bad"]["behaviour"]) == ("full", "partial")
    outcomes = json.loads(state.read_text())["outcomes"]
    assert {commit: outcomes[commit] for commit in known} == known  # gone on with
    assert len(outcomes) <= 7
    skipped = [outcome for outcome in outcomes.values() if outcome["skipped"]]
    assert all(outcome["title"].endswith("change 6") and "failed" in outcome["skipped"] for outcome in skipped)
    assert not subprocess.run(["git", "-C", tree, "status", "--porcelain"], capture_output=True, check=True).stdout
    # The command it gives replays the cell, on the kernel of that commit.
    replay = end["bad"]["reproduce"].replace("pytest ", f"{sys.executable} -m pytest ", 1)
    again = subprocess.run(replay, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert "partial" in again.stdout, again.stdout + again.stderr
