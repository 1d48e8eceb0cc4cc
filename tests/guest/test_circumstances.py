"""Kernels under circumstances, booted: each is as its name says, and the guest's probe finds the features that are declared."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import KMATRIX
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import cell
from kmatrix.runs.machine_room import MachineRoom
from tests.guest.conftest import Guest

COLLECTORS = Path(__file__).parents[2] / "collectors"


def as_declared(guest: Guest) -> bool:
    """Whether the probe, which has the privileges of a loader there, finds the features that are declared."""
    found = guest.probe["features"]
    differing = {
        name: (guest.target.has(name), found[name], guest.probe["why"][name])
        for name in FEATURES
        if found[name] is not None and found[name] is not guest.target.has(name)
    }
    assert differing == {}
    return True


@pytest.mark.parametrize(
    ("target", "script", "said"),
    [
        ("6.1+lockdown-x86_64", "mount -t securityfs none /mnt; cat /mnt/lockdown", "none integrity [confidentiality]"),
        ("6.12+lockdown-arm64", "mount -t securityfs none /mnt; cat /mnt/lockdown", "none integrity [confidentiality]"),
        ("6.1+nolsm-x86_64", "mount -t securityfs none /mnt; cat /mnt/lsm", "lockdown,capability,yama"),
        ("6.1+cgroup1-arm64", "grep -c 'cgroup2' /proc/mounts || true", "0"),
        ("6.12+harden+cpus=2+mem=512M-x86_64", "cat /proc/sys/net/core/bpf_jit_harden; nproc", "2\n2"),
        ("6.1+jit=off+paranoid=2-x86_64", "cat /proc/sys/net/core/bpf_jit_enable /proc/sys/kernel/perf_event_paranoid", "0\n2"),
    ],
)
def test_the_guest_is_as_the_name_says(boot: Callable[[str], Guest], target: str, script: str, said: str) -> None:
    guest = boot(target)
    done = guest.vm.run(["sh", "-c", script], timeout=30)
    assert done.stdout.decode().strip() == said, done.stderr
    assert as_declared(guest)
    assert guest.probe["surroundings"]["refused"] == {}


BPF_AND_PERFMON = 1 << 39 | 1 << 38
"""CAP_BPF and CAP_PERFMON (include/uapi/linux/capability.h)."""


@pytest.mark.parametrize(
    ("target", "uid", "caps", "filtered"),
    [
        ("6.1+cap=bpf,perfmon-x86_64", 0, BPF_AND_PERFMON, False),
        ("6.12+unprivileged-arm64", 65534, 0, False),
        ("6.12+unprivileged+cap=bpf,perfmon-arm64", 65534, BPF_AND_PERFMON, False),
        ("6.1+seccomp=container-x86_64", 0, None, True),
        ("5.4+cap=sys_admin-arm64", 0, 1 << 21, False),
        ("5.4+unprivileged-arm64", 65534, 0, False),
    ],
)
def test_what_loads_has_what_is_left_and_no_more(
    boot: Callable[[str], Guest], target: str, uid: int, caps: int | None, filtered: bool
) -> None:
    """A program that is executed keeps it; the agent, which looks on, is root."""
    guest = boot(target)
    rows = dict(line.split(":\t", 1) for line in guest.vm.run(["cat", "/proc/self/status"]).stdout.decode().splitlines())
    assert int(rows["Uid"].split()[0]) == uid
    assert caps is None or int(rows["CapEff"], 16) == caps
    assert (rows["Seccomp"] == "2") is filtered
    assert as_declared(guest)


def run(folder: Path, *arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [*KMATRIX, "run", *arguments, "--json"], cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_a_program_goes_with_its_circumstances_and_the_cause_is_told(
    compiled: Callable[[str, Target], bytes], need: Callable[[str], None], tmp_path: Path
) -> None:
    need("6.1-x86_64")
    (tmp_path / "reads.bpf.o").write_bytes(compiled("reads", load_matrix().target("6.1-x86_64")))
    status, told = run(
        tmp_path, "reads.bpf.o", "--kernels=6.1,6.1+lockdown,6.1+cap=bpf,6.1+unprivileged,6.1+seccomp=container", "--arch=x86_64"
    )
    assert status == 1
    plain, locked, *others = (each["programs"]["by_address"] for each in told["targets"])
    assert (plain["loaded"], plain["attached"]) == (True, True)
    assert not any(each["loaded"] for each in (locked, *others))
    assert locked["diagnosis"]["kind"] == "lockdown"
    assert "bpf_probe_read_kernel" in locked["diagnosis"]["where"]
    assert {each["diagnosis"]["kind"] for each in others} == {"permission"}
    words = " / ".join(each["diagnosis"]["what"] for each in others)
    assert "program type kprobe: the loader lacks CAP_PERFMON" in words
    assert "(seccomp) refuses bpf(2)" in words


def test_what_changes_under_each_circumstance(
    compiled: Callable[[str, Target], bytes], need: Callable[[str], None], tmp_path: Path
) -> None:
    """Each program of the object is good on 6.1, and fails under its circumstance, for that reason."""
    need("6.1-x86_64")
    (tmp_path / "under.bpf.o").write_bytes(compiled("under", load_matrix().target("6.1-x86_64")))
    kernels = (
        "6.1",
        "6.1+nolsm",
        "6.1+jit=off+paranoid=2",
        "6.1+mem=160M",
        "6.1+cap=bpf,perfmon",
        "6.1+jit=off+paranoid=2+cap=bpf,perfmon",
    )
    _, told = run(tmp_path, "under.bpf.o", f"--kernels={','.join(kernels)}", "--arch=x86_64")
    found = {each["target"].removesuffix("-x86_64"): each["programs"] for each in told["targets"]}
    assert all(program["loaded"] and program["attached"] for program in found["6.1"].values()), found["6.1"]

    def kind(kernel: str, program: str) -> str | None:
        cause = found[kernel][program]["diagnosis"]
        return cause["kind"] if cause is not None else None

    assert [kind("6.1+nolsm", name) for name in ("needs_lsm", "needs_jit")] == ["lsm", None]
    assert [kind("6.1+jit=off+paranoid=2", name) for name in ("needs_jit", "needs_lsm")] == ["jit", None]
    assert [kind("6.1+mem=160M", name) for name in ("needs_memory", "needs_jit")] == ["memory", None]
    assert kind("6.1+cap=bpf,perfmon", "needs_events") == "permission"
    assert "kernel.perf_event_paranoid is 3" in found["6.1+cap=bpf,perfmon"]["needs_events"]["diagnosis"]["what"]
    assert kind("6.1+jit=off+paranoid=2+cap=bpf,perfmon", "needs_events") is None


def test_the_least_capabilities(compiled: Callable[[str, Target], bytes], need: Callable[[str], None], tmp_path: Path) -> None:
    for each in ("6.1-x86_64", "5.4-x86_64"):
        need(each)
    (tmp_path / "rights.bpf.o").write_bytes(compiled("rights", load_matrix().target("6.1-x86_64")))
    status, told = run(tmp_path, "rights.bpf.o", "--find-caps", "--kernels=5.4,6.1", "--arch=x86_64")
    assert status == 0, told
    old, new = told["targets"]
    assert new["caps"] == ["net_admin", "net_raw", "perfmon", "bpf"]
    assert {name: each["caps"] for name, each in new["programs"].items()} == {
        "plain": ["net_raw", "bpf"],  # it is attached to a packet socket
        "traces": ["perfmon", "bpf"],
        "classifies": ["net_admin", "bpf"],
    }
    assert new["why"]["perfmon"] == "program type raw_tracepoint"
    assert new["why"]["net_raw"] == "attaching a program of section socket"
    assert old["caps"] == ["net_admin", "net_raw", "sys_admin"]
    assert old["programs"]["plain"]["caps"] == ["net_raw"]  # 5.4 as it is built lets anyone load one
    assert old["programs"]["traces"]["caps"] == ["sys_admin"]


@pytest.mark.parametrize(
    ("collector", "kernel"), [("oom", "6.1+lockdown"), ("tcpconnect", "6.1+unprivileged"), ("dns", "6.1+cap=bpf")]
)
def test_a_collector_refuses_as_its_needs_say(
    room: MachineRoom, need: Callable[[str], None], tmp_path: Path, collector: str, kernel: str
) -> None:
    """Each of them is full on 6.1 (tests/collectors)."""
    need("6.1-x86_64")
    record = cell.run(
        load_collector(COLLECTORS / collector / "collector.toml"), room.matrix.target(f"{kernel}-x86_64"), room, tmp_path
    )
    assert (record.expected, record.ok) == ("refusal", True), record.reason
    assert {cause["kind"] for cause in record.causes} <= {"lockdown", "permission"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("6.1+cap=bpff-x86_64", "'bpff' is no capability; did you mean bpf"),
        ("5.15+jit=off-x86_64", "5.15 cannot have jit=off: its kernel was built with CONFIG_BPF_JIT_ALWAYS_ON"),
        ("6.1+jit=off+harden-x86_64", "exclude each other"),
    ],
)
def test_what_cannot_be_had_is_one_error_and_nothing_boots(need: Callable[[str], None], target: str, said: str) -> None:
    need(f"{target.partition('+')[0]}-x86_64")
    done = subprocess.run([*KMATRIX, "exec", target, "--", "true"], capture_output=True, text=True, timeout=60, check=False)
    assert said in done.stderr
    assert done.returncode == 2
    assert "snapshot of" not in done.stderr
