"""Two real loaders that are not ours: a Go agent by cilium/ebpf, and libbpf-tools' opensnoop out of Debian's package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Shell, lacking
from kmatrix.host.errors import KmatrixError
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import ARCHES
from kmatrix.runs import cell, shell
from kmatrix.runs.cell_records import Record
from kmatrix.runs.machine_room import MachineRoom

EXAMPLES = Path(__file__).parents[2] / "examples"
GO_AGENT = {"6.1": "full", "5.4": "partial", "5.4-sim": "partial", "4.14": "fallback", "4.14-sim": "fallback", "4.9-sim": "refusal"}
OPENSNOOP = {"6.1": "full", "5.4": "full", "6.1-nobtf": "refusal", "4.14": "refusal"}
NEEDED = {"5.4-sim": "6.1", "4.14-sim": "6.1", "4.9-sim": "6.1", "6.1-nobtf": "6.1"}


def cells(expected: dict[str, str]) -> pytest.MarkDecorator:
    pairs = [(f"{kernel}-{arch}", behaviour) for kernel, behaviour in expected.items() for arch in ARCHES]
    return pytest.mark.parametrize(("name", "behaviour"), pairs)


@pytest.fixture
def run(room: MachineRoom, need: Callable[[str], None], tmp_path: Path) -> Callable[[Path, str], Record]:
    """run(folder, "5.4-arm64"): the record of the collector in that folder."""

    def cell_(folder: Path, name: str) -> Record:
        kernel, _, arch = name.rpartition("-")
        need(f"{NEEDED.get(kernel, kernel)}-{arch}")
        return cell.run(load_collector(folder), room.matrix.target(name), room, tmp_path / ".kmatrix")

    return cell_


@pytest.fixture(scope="module")
def go_agent() -> Path:
    """The Go agent's folder, the agent built."""
    if shutil.which("go") is None or not Path("/usr/share/gocode/src/github.com/cilium/ebpf").is_dir():
        lacking("no Go, or no cilium/ebpf for it: apt-get install golang-go golang-github-cilium-ebpf-dev")
    done = subprocess.run(["make", "-C", str(EXAMPLES / "go-agent")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return EXAMPLES / "go-agent"


@pytest.fixture
def without_fallback(go_agent: Path, tmp_path: Path) -> Path:
    """The same collector, its agent told to do without its fallback."""
    folder = tmp_path / "go-agent"
    shutil.copytree(go_agent, folder)
    manifest = folder / "collector.toml"
    manifest.write_text(manifest.read_text().replace('["./agent"]', '["./agent", "--no-fallback"]'))
    return folder


@cells(GO_AGENT)
def test_a_go_agent(go_agent: Path, run: Callable[[Path, str], Record], name: str, behaviour: str) -> None:
    record = run(go_agent, name)
    assert (record.observed, record.ok) == (behaviour, True), record.reason
    assert record.facts is not None
    if behaviour == "refusal":
        assert "needs kernel 4.14 or newer, this is 4.9.0" in record.facts["refusal"]
        return
    report = record.facts["attempts"][-1]["programs"]
    assert [r["attached"] for r in report.values()] == [True]
    (process,) = record.facts["loader"]["processes"]
    assert process["name"] == "agent"
    if "4.14" not in name:  # fdinfo does not say before
        assert [r["id"] for r in report.values()] == process["programs"]


@pytest.mark.parametrize("name", [f"{kernel}-{arch}" for kernel in ("5.4", "5.4-sim") for arch in ARCHES])
def test_it_is_red_without_its_fallback(without_fallback: Path, run: Callable[[Path, str], Record], name: str) -> None:
    record = run(without_fallback, name)
    assert (record.expected, record.observed, record.failure) == ("partial", "refusal", "load")
    assert "./agent ended with 3: agent: open_ringbuf cannot run, it needs ringbuf: map events: map create" in record.reason
    assert "invalid argument" in record.reason
    assert record.facts is not None
    assert record.facts["kernel"]["after"] == record.facts["kernel"]["before"]


def test_it_is_red_where_it_attaches_elsewhere_than_it_says(
    go_agent: Path, run: Callable[[Path, str], Record], tmp_path: Path
) -> None:
    """By a line it says that it is ready, its programs run and its events come: the kernel says where they come from."""
    folder = tmp_path / "go-agent"
    shutil.copytree(go_agent, folder)
    manifest = folder / "collector.toml"
    manifest.write_text(manifest.read_text().replace("sys_enter_openat", "sys_exit_openat"))
    record = run(folder, "5.4-x86_64")
    assert (record.expected, record.observed, record.failure) == ("partial", None, "attach")
    assert "open_perf is not attached to tracepoint/syscalls/sys_exit_openat: it is attached to sys_enter_openat" in record.reason


def test_and_green_where_it_needs_none(without_fallback: Path, run: Callable[[Path, str], Record]) -> None:
    assert run(without_fallback, "6.1-x86_64").ok


def test_the_red_cell_is_replayed_by_the_line_under_it(without_fallback: Path, run_in: Shell, need: Callable[[str], None]) -> None:
    need("6.1-x86_64")
    first = run_in("pytest", "--kernels=5.4-sim", "--arch=x86_64", cwd=without_fallback)
    assert "1 failed" in first.stdout
    assert "needs ringbuf" in first.stdout
    line = next(text for text in first.stdout.splitlines() if text.strip().startswith("reproduce"))
    again = run_in("pytest", *[word.strip("'") for word in line.split()[2:]], cwd=without_fallback)
    assert "1 failed" in again.stdout
    assert "needs ringbuf" in again.stdout


@cells(OPENSNOOP)
def test_opensnoop(run: Callable[[Path, str], Record], name: str, behaviour: str) -> None:
    try:
        record = run(EXAMPLES / "opensnoop", name)
    except KmatrixError as error:
        if "libbpf-tools" in str(error) or "mirror" in str(error):
            lacking(f"the package cannot be had: {error}")
        raise
    assert (record.observed, record.ok) == (behaviour, True), record.reason
    assert record.facts is not None
    if behaviour == "refusal":
        assert "kernel BTF" in record.facts["refusal"]
        return
    reports = record.facts["attempts"][0]["programs"]
    runs = {hook.rsplit("_", 2)[-1]: report["runs"] for hook, report in reports.items()}
    assert runs["openat"] > 0
    assert runs.get("open", 0) == 0  # told apart, although the kernel keeps of both names "tracepoint__sys"


@pytest.mark.parametrize("arch", ARCHES)
def test_a_shell_finds_the_agent_in_place(
    go_agent: Path, room: MachineRoom, need: Callable[[str], None], tmp_path: Path, arch: str
) -> None:
    need(f"6.1-{arch}")
    target = room.matrix.target(f"6.1-{arch}")
    with room.machine(target, tmp_path / "console.log") as (vm, _):
        folder = shell.lay_out(vm, load_collector(go_agent), target)
        done = vm.run(["./agent", "-h"], cwd=folder)
        assert b"no-fallback" in done.stderr
        assert vm.run(["ls"], cwd=folder).stdout.split() == [b"agent", b"collector.toml"]
