"""Simulated kernels in real guests: collectors, probes, and loaders that are not ours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import lacking
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import ARCHES, Arch, host_arch
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.report import table
from kmatrix.runs import cell
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.verdict.judge import feature_mismatches

ROOT = Path(__file__).parents[2]
OBJECT = ROOT / "collectors/openat/build/openat_ringbuf_{}_bpfel.o"
EXPECTED = {"6.1": "full", "5.4-sim": "partial", "4.14-sim": "fallback", "6.1-nobtf": "fallback", "4.9-sim": "refusal"}
COMPILERS = {"x86_64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}


@pytest.fixture(scope="module")
def room() -> MachineRoom:
    return MachineRoom(load_matrix(ROOT))


@pytest.fixture
def on(room: MachineRoom, need: Callable[[str], None], request: pytest.FixtureRequest) -> Target:
    kernel, arch = request.param
    need(f"6.1-{arch}")
    return Target(room.matrix.kernel(kernel), arch)


def targets(*kernels: str) -> pytest.MarkDecorator:
    pairs = [(kernel, arch) for kernel in kernels for arch in ARCHES]
    return pytest.mark.parametrize("on", pairs, indirect=True, ids=[f"{kernel}-{arch}" for kernel, arch in pairs])


@pytest.mark.parametrize("name", ["openat", "execexit"])
@targets(*EXPECTED)
def test_all_four_behaviours_on_one_kernel(on: Target, name: str, room: MachineRoom, tmp_path: Path) -> None:
    collector = load_collector(ROOT / "collectors" / name / "collector.toml")
    record = cell.run(collector, on, room, tmp_path)
    assert (record.observed, record.ok) == (EXPECTED[on.kernel.name], True), record.reason
    assert record.facts is not None
    if on.simulated is None:
        assert record.simulated is None
        return
    assert record.simulated is not None
    assert record.simulated["base"] == "6.1"
    release = on.simulated.release or room.spec(on).kernel.release
    assert record.facts["release"] == release
    assert f"~{on.kernel.name}" in table.render([record], {}, colour=False, width=200)
    # The facts are the kernel's own, whatever the loader was told.
    after = record.facts["kernel"]["after"]
    assert after["programs"] == record.facts["kernel"]["before"]["programs"]
    if on.kernel.name == "5.4-sim":
        errors = [attempt["error"] for attempt in record.facts["attempts"]]
        assert errors[0]["errno"] == 22, errors
    if on.kernel.name == "4.9-sim":
        assert "4.9" in record.facts["refusal"]


@targets("4.9-sim", "4.14-sim", "5.4-sim", "6.1-nobtf", "6.1-nokprobes")
def test_the_guest_finds_every_feature_as_it_is_declared(on: Target, room: MachineRoom, tmp_path: Path) -> None:
    with room.machine(on, tmp_path / "console.log") as (_, probe):
        assert feature_mismatches(on, probe["features"], FEATURES) == []


@targets("5.4-sim", "6.1")
def test_bpftool_is_fooled(on: Target, room: MachineRoom, tmp_path: Path) -> None:
    with room.machine(on, tmp_path / "console.log") as (vm, _):
        vm.put("/root/x.o", Path(str(OBJECT).format("x86" if on.arch == "x86_64" else "arm64")).read_bytes())
        done = vm.run(["bpftool", "prog", "loadall", "/root/x.o", "/sys/fs/bpf/x"], timeout=60)
        pinned = vm.run(["ls", "/sys/fs/bpf"]).stdout.split()
    if on.simulated is None:
        assert (done.exit, pinned) == (0, [b"x"]), done.stderr.decode()
    else:
        assert done.exit != 0
        assert b"Invalid argument" in done.stderr
        assert pinned == []


@targets("4.14-sim")
def test_what_a_person_sees(on: Target, room: MachineRoom, tmp_path: Path) -> None:
    script = "uname -r; cat /proc/sys/kernel/osrelease; ls /sys/kernel/btf; ls /sys/devices/kprobe; modprobe -n virtio_net && echo modules"
    with room.machine(on, tmp_path / "console.log") as (vm, _):
        said = vm.run(["sh", "-c", script], timeout=60).stdout.decode()
        twice = vm.run(["uname", "-r"], timeout=60).stdout.decode()
    assert said.split() == ["4.14.0-kmatrix-sim", "4.14.0-kmatrix-sim", "modules"]
    assert twice.strip() == "4.14.0-kmatrix-sim"


STATIC_LOADER = r"""
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void)
{
    unsigned int map[18] = {27, 0, 0, 65536};   /* BPF_MAP_CREATE of a ring buffer */
    unsigned int named[18] = {2, 4, 4, 1, 0, 0, 0, 'x'};
    struct utsname uts;
    long fd = syscall(SYS_bpf, 0, map, 28);
    printf("ringbuf %d\n", fd < 0 ? errno : 0);
    fd = syscall(SYS_bpf, 0, named, 44);
    printf("named %d\n", fd < 0 ? errno : 0);
    fd = syscall(SYS_bpf, 0, (void *)8, 44);
    printf("fault %d\n", fd < 0 ? errno : 0);
    uname(&uts);
    printf("%s\n", uts.release);
    return 0;
}
"""


@targets("4.14-sim", "5.4-sim", "6.1")
def test_a_static_program_is_fooled(on: Target, room: MachineRoom, tmp_path: Path) -> None:
    with room.machine(on, tmp_path / "console.log") as (vm, _):
        vm.put("/root/loader", static(tmp_path, on.arch), 0o755)
        said = vm.run(["/root/loader"], timeout=60).stdout.decode().split("\n")
    wanted = {
        "4.14-sim": ["ringbuf 22", "named 22", "fault 14", "4.14.0-kmatrix-sim"],
        "5.4-sim": ["ringbuf 22", "named 0", "fault 14", "5.4.0-kmatrix-sim"],
        "6.1": ["ringbuf 0", "named 0", "fault 14", room.spec(on).kernel.release],
    }
    assert said[:4] == wanted[on.kernel.name]


def static(folder: Path, arch: Arch) -> bytes:
    compiler = shutil.which(COMPILERS[arch]) or (shutil.which("gcc") if arch == host_arch() else None)
    if compiler is None:
        (lacking if arch == host_arch() else pytest.skip)(
            f"no C compiler for {arch}: apt install gcc-{COMPILERS[arch].removesuffix('-gcc')}"
        )
    (folder / "loader.c").write_text(STATIC_LOADER)
    built = subprocess.run(
        [compiler, "-static", "-O1", "-o", str(folder / "loader"), str(folder / "loader.c")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No such file" in built.stderr or "cannot find -lc" in built.stderr:  # a cross compiler comes without its C library
        pytest.skip(f"no C library for {arch}: apt install libc6-dev-{'arm64' if arch == 'arm64' else 'amd64'}-cross")
    assert built.returncode == 0, built.stderr
    return (folder / "loader").read_bytes()


@targets("5.4-sim")
def test_a_cold_boot_is_simulated_too(on: Target, room: MachineRoom, tmp_path: Path) -> None:
    with MachineRoom(room.matrix, cold=True).machine(on, tmp_path / "console.log") as (vm, probe):
        assert probe["features"]["ringbuf"] is False
        assert vm.run(["uname", "-r"], timeout=60).stdout == b"5.4.0-kmatrix-sim\n"
