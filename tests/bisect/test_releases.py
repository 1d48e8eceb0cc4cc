"""`kmatrix bisect` over booted releases: an fentry collector on arm64, which has fentry only in the newest of them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import KMATRIX, need_programs
from kmatrix.kernels.sources.imported import stage_package
from kmatrix.kernels.store import KernelStore
from tests.cells.broken import compile_object

MANIFEST = """
schema = 1
[collector]
name = "fentry"
timeout = 2.0
[[variant]]
name = "only"
behaviour = "full"
object = "fentry"
needs = ["fentry"]
transport = "ringbuf"
buffer = "events"
[[program]]
name = "enter"
hook = "fentry/do_sys_openat2"
[trigger]
kind = "open"
[[event]]
name = "open"
match = { tgid = "known.tgid" }
[[event.field]]
name = "tgid"
type = "u32"
"""

KERNELS = """
schema = 1
extends = false
[kernels."5.10"]
version = "5.10"
features = { lsm = false }
sources = [{ kind = "debian", suite = "bullseye", series = "5.10" }]
[kernels."6.1"]
version = "6.1"
config = { FPROBE = false }
sources = [{ kind = "debian", suite = "bookworm", series = "6.1" }]
[kernels.nobody-has]
version = "6.6"
sources = [{ kind = "import" }]
[kernels."6.12"]
version = "6.12"
sources = [{ kind = "debian", suite = "trixie", series = "6.12" }]
"""


@pytest.fixture
def folder(tmp_path: Path, need: Callable[[str], None]) -> Path:
    """A line of three of Debian's kernels, and one that is not there."""
    for kernel in ("5.10", "6.1", "6.12"):
        need(f"{kernel}-arm64")
    need_programs("clang")
    (tmp_path / "collector.toml").write_text(MANIFEST)
    (tmp_path / "kernels.toml").write_text(KERNELS)
    for arch in ("x86", "arm64"):
        compile_object(tmp_path / f"fentry_{arch}_bpfel.o", arch, source=Path(__file__).with_name("fentry.bpf.c"))
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [*KMATRIX, "bisect", ".", "--arch", "arm64", *arguments]


def bisect(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=600)


def test_the_first_release_that_changes_it(folder: Path) -> None:
    process = subprocess.Popen(
        command("--good=5.10", "--bad=6.12"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state = folder / ".kmatrix/bisect/fentry@arm64/state.json"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    first = folder / ".kmatrix/cells/fentry@5.10-arm64.json"
    assert list(json.loads(state.read_text())["outcomes"]) == ["5.10"]
    run_at = first.stat().st_mtime_ns

    done = bisect(folder, "--good=5.10", "--bad=6.12")
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == run_at  # gone on with, not begun again
    assert "good  5.10-arm64: refusal" in done.stdout
    assert "bad   6.12-arm64: full" in done.stdout
    assert "skip  nobody-has-arm64: skipped: is not in the kernel store" in done.stdout
    assert "the first bad kernel is 6.12-arm64, or one of these" in done.stdout
    assert "good  6.1-arm64: refusal" in done.stdout.split("the first bad kernel")[1]
    assert "--kernels=6.12 --arch=arm64" in done.stdout

    again = bisect(folder, "--good=5.10", "--bad=6.12", "--json")
    end = json.loads(again.stdout)
    assert (end["good"]["kernel"], end["bad"]["kernel"]) == ("6.1", "6.12")
    assert [outcome["kernel"] for outcome in end["between"]] == ["nobody-has"]
    assert "fentry[" not in again.stderr  # no cell ran
    assert json.loads(Path(end["bad"]["record"]).read_text())["observed"] == "full"

    other = bisect(folder, "--good=6.1", "--bad=6.12")
    assert other.returncode == 2
    assert "--reset" in other.stderr
    backwards = bisect(folder, "--good=6.12", "--bad=5.10", "--reset", "--json")
    end = json.loads(backwards.stdout)
    assert (end["good"]["kernel"], end["bad"]["kernel"]) == ("6.12", "6.1")


def test_an_arch_that_no_variant_is_for(folder: Path) -> None:
    manifest = folder / "collector.toml"
    manifest.write_text(manifest.read_text().replace('needs = ["fentry"]', 'needs = ["fentry"]\narches = ["x86_64"]'))
    done = bisect(folder, "--good=5.10", "--bad=6.12")
    assert (done.returncode, "no variant of fentry is for arm64" in done.stderr) == (2, True)


def test_ends_that_say_nothing(folder: Path) -> None:
    alike = bisect(folder, "--good=5.10", "--bad=6.1")
    assert alike.returncode == 2
    assert "behaves the same on both ends: refusal" in alike.stderr
    (folder / "kernels.toml").write_text(KERNELS + '[kernels.given]\nversion = "6.12"\nsources = [{ kind = "import" }]\n')
    for more in (["--reset"], []):
        missing = bisect(folder, "--good=5.10", "--bad=given", *more)
        assert missing.returncode == 3
        assert "kernels import given" in missing.stderr
    # Mended as it says, the same command goes on.
    entry = KernelStore().find("6.12", "arm64")
    assert entry is not None
    KernelStore().add("given", "arm64", lambda into: stage_package([entry.path], "arm64", into))
    try:
        assert "the first bad kernel is given-arm64" in bisect(folder, "--good=5.10", "--bad=given").stdout
    finally:
        KernelStore().remove("given", "arm64")
