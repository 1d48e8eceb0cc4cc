"""Cells on a real machine: here, a VM that runs for long, which kmatrix knows as an address alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from conftest import Shell
from kmatrix.cli.hosts import group
from kmatrix.host.errors import InfraError
from kmatrix.runs import real_machines
from kmatrix.verdict.judge import BEHAVIOURS
from kmatrix.vm.boards import identity
from kmatrix.vm.boards.board import Board
from kmatrix.vm.boards.connection import Connection
from tests.boards.vm_board import VmBoard

COLLECTORS = Path(__file__).parents[2] / "collectors"
SIX = "dns,execexit,fentrysched,oom,openat,tcpconnect" if "KMATRIX_BOARDS" in os.environ else "oom,tcpconnect"
"""By hand all of them; else one that takes cgroups, and one that takes the network."""

OTHERS = r"""
import ctypes, os, platform, struct, time
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
def bpf(command, attr):
    buffer = ctypes.create_string_buffer(attr, len(attr))
    fd = libc.syscall(number, command, buffer, len(attr))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd
os.makedirs("/sys/fs/bpf/others", exist_ok=True)
kept = [bpf(0, struct.pack("=IIIII", 2, 4, 8, 1, 0))]
code = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0))
license = ctypes.create_string_buffer(b"GPL")
raw = tuple(map(int, platform.release().split(".")[:2])) >= (4, 17)  # before, neither raw tracepoints are known nor names
prog = bpf(5, struct.pack("=IIQQIIQII16s", 17 if raw else 1, 2, ctypes.addressof(code), ctypes.addressof(license), 0, 0, 0, 0, 0, b"others" if raw else b""))
path, tracepoint = ctypes.create_string_buffer(b"/sys/fs/bpf/others/prog"), ctypes.create_string_buffer(b"sys_enter")
bpf(6, struct.pack("=QI", ctypes.addressof(path), prog))
if raw:
    kept.append(bpf(17, struct.pack("=QI", ctypes.addressof(tracepoint), prog)))
open("/run/others", "w").write(str(os.getpid()))
while True:  # and it goes on: what appears while a cell runs need not be the cell's
    if len(kept) < 300:
        kept.append(bpf(0, struct.pack("=IIIII", 2, 4, 8, 1, 0)))
    time.sleep(0.5)
"""
SEEN = r"""
for kind in prog map link; do echo $kind $(bpftool $kind list 2>/dev/null | sed -n "s/^\([0-9]*\): .*/\1/p"); done
find /sys/fs/bpf; ls /run /tmp /sys/class/net; cat /sys/kernel/tracing/kprobe_events /proc/sys/kernel/bpf_stats_enabled 2>/dev/null
grep -c . /proc/mounts; ls -d /sys/fs/cgroup/*/ | grep -v "kmatrix-[0-9]"; find /var/lib/kmatrix -maxdepth 1 -not -name "agent-*"
"""


def seen(board: VmBoard) -> list[str]:
    """What is on the machine, by its own tools."""
    return board.sh(SEEN).splitlines()


def without_maps(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("map")]


@pytest.fixture
def others(board: VmBoard) -> Any:
    """Somebody else uses BPF on the machine: a program that is attached and pinned, and maps, of which there are more and more."""
    board.vm.put("/run/others.py", OTHERS.encode())
    there = Connection(board.host())  # the VM's own agent ends what it started
    said = there.run(
        "setsid python3 /run/others.py > /run/others.log 2>&1 < /dev/null & while ! test -s /run/others; do sleep 0.1; done",
        timeout=120,
    )
    there.close()
    assert said.status == 0
    yield
    if not board.vm.closed:
        board.sh("kill $(cat /run/others); rm -rf /run/others* /sys/fs/bpf/others; true")


def test_collectors_run_and_nothing_of_them_stays(board: VmBoard, others: None, run_in: Shell, tmp_path: Path) -> None:  # noqa: ARG001
    toml, started = board.write(), time.monotonic()
    Board(board.host()).target()  # what is brought is there then, and the folders of kmatrix
    before = seen(board)
    done = run_in(
        "pytest", str(COLLECTORS), f"--kernels={board.name}", f"--kernels-file={toml}", f"--collectors={SIX}", "-q", cwd=tmp_path
    )
    after = seen(board)
    print(f"{board.name}: {time.monotonic() - started:.0f} s\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"@{board.name}" in done.stdout
    assert f"@ {board.name} is a real machine: " in done.stdout
    assert without_maps(after) == without_maps(before)
    assert any("others" in line for line in after)
    records = [json.loads(path.read_text()) for path in (tmp_path / ".kmatrix" / "cells").iterdir()]
    assert len(records) == len(SIX.split(","))
    for record in records:
        assert record["observed"] in BEHAVIOURS
        assert record["machine"]["release"] == board.spec.kernel.release
        assert record["versions"]["release"] == board.spec.kernel.release
        known = {entry["name"] for entry in record["facts"]["kernel"]["during"]["programs"]}
        assert "others" not in known, "programs of others are none of the cell's"
    maps = [line for line in (*before, *after) if line.startswith("map")]
    assert len(maps[1]) > len(maps[0]), "others loaded meanwhile, and that was no leftover"


def test_only_who_names_a_host_gets_it(board: VmBoard) -> None:
    from kmatrix.matrix.load import load_matrix
    from kmatrix.runs.machine_room import MachineRoom

    matrix = load_matrix(file=board.write())
    for expression in ("all", ">=4.14", "default"):
        assert all(kernel.host is None for kernel in matrix.select(expression))
    assert [str(each) for each in MachineRoom(matrix).targets(board.name, "all")] == [f"{board.name}-{board.spec.arch}"]


def test_one_at_a_time_and_a_kernel_that_changed_is_said(board: VmBoard, tmp_path: Path) -> None:
    host = board.host()
    Board(host).target()  # it is known then
    first, second = Board(host), Board(board.host(wait="0.5"))
    known = identity.read(host)
    assert known is not None
    place = identity.folder() / f"{host.name}.json"
    place.write_text(place.read_text().replace(known.release, "4.4.0-old"))
    with first.machine(tmp_path / "console") as (vm, probe):
        assert first.changed is not None
        assert first.changed.startswith("4.4.0-old")
        assert probe["features"]["bpf_syscall" if "bpf_syscall" in probe["features"] else "btf"] is not None
        assert vm.call("surroundings", sysctls=[])["cgroup"] == "v2"
        with pytest.raises(InfraError, match=r"is in use by .* on .* \(process \d+\), since"), second.machine(tmp_path / "other"):
            pass


def test_nothing_stays_where_the_supervisor_is_killed(board: VmBoard, tmp_path: Path) -> None:
    before = seen(board)
    script = (
        "import sys; sys.path.insert(0, '/run/kmatrix/agent'); import os, struct, ctypes, time\n"
        "from kmatrix_guest import bpf\n"
        "fd = bpf.map_create(2, 4, 8, 1)\n"
        "path = ctypes.create_string_buffer(b'/sys/fs/bpf/pinned')\n"
        "bpf.bpf(6, struct.pack('=QI', ctypes.addressof(path), fd))\n"
        "if os.fork() == 0:\n os.setsid(); time.sleep(1000)\n"
    )
    with Board(board.host()).machine(tmp_path / "console") as (vm, _):
        vm.put("/tmp/leave.py", script.encode())
        more = "ip link add veth9 type veth peer name veth8; mount -t tmpfs x /mnt"
        made = vm.run(["sh", "-c", f"python3 /tmp/leave.py > /dev/null 2>&1 & {more}; sleep 1"])
        assert made.exit == 0
        board.sh("kill -9 $(cat /var/lib/kmatrix/pid)")
        with pytest.raises(InfraError, match="the machine runs on, but the session ended"):
            vm.call("surroundings", sysctls=[])
    deadline = time.monotonic() + 30
    while (after := seen(board)) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert after == before


def test_what_cannot_be_used_is_said_in_one_error(board: VmBoard) -> None:
    known = board.folder / "known_hosts"
    right = known.read_text()
    (board.folder / "wrong").write_text(right.replace(right.split()[2], (board.folder / "user.pub").read_text().split()[1]))
    (board.folder / "nothing").write_text("")
    with pytest.raises(InfraError, match=r"the host key is SHA256:.*, and known_hosts has SHA256:"):
        Board(board.host(known_hosts='"wrong"')).target()
    with pytest.raises(InfraError, match=r"the host key of .* is not known: ssh-ed25519 SHA256:") as error:
        Board(board.host(known_hosts='"nothing"')).target()
    assert "compare the fingerprint" in str(error.value.fix)
    (finding,) = real_machines.findings(board.host(ssh='"root@127.0.0.1:1"'), {})
    assert (finding.level, "no connection" in finding.found) == ("lacks", True)
    assert [each.level for each in real_machines.findings(board.host(), {})] == ["ok"]
    said = CliRunner().invoke(group, ["check", board.name, f"--kernels-file={board.write()}"])
    assert said.exit_code == 0, said.output
    assert f"{board.name}-{board.spec.arch}: " in said.output
    elsewhere = board.write(ssh='"root@127.0.0.1:1"')
    said = CliRunner().invoke(group, ["check", "--json", f"--kernels-file={elsewhere}"])
    assert (said.exit_code, json.loads(said.output)[0]["findings"][0]["level"]) == (1, "lacks")
    board.sh("mkdir -p /run/small && mount -t tmpfs -o size=1m small /run/small")
    try:
        with pytest.raises(InfraError, match="the disk there is full"):
            Board(board.host(folder='"/run/small/kmatrix"')).target()
        assert board.sh("find /run/small/kmatrix -mindepth 1") == ""
    finally:
        board.sh("umount /run/small && rmdir /run/small")
    board.sh("echo user:x:1000:1000::/tmp:/bin/sh >> /etc/passwd; cd /run/kmatrix; chmod 711 . ssh; chmod 644 ssh/authorized_keys")
    with pytest.raises(InfraError, match="the user has no root: the uid is 1000"):
        Board(board.host(ssh=f'"user@127.0.0.1:{board.port}"')).target()
    board.sh("mkdir -m 777 /run/open")
    with pytest.raises(InfraError, match="others than root may write to /run/open there"):
        Board(board.host(folder='"/run/open"')).target()


def test_a_panic_is_the_kernels_and_the_machine_comes_back(board: VmBoard, run_in: Shell, tmp_path: Path) -> None:
    text = (COLLECTORS / "openat" / "collector.toml").read_text()
    folder = tmp_path / "dies"
    folder.mkdir()
    (folder / "build").symlink_to(COLLECTORS / "openat" / "build")
    head, _, events = text.partition('[trigger]\nkind = "open"\n')
    command = 'kind = "command"\ncommand = ["sh", "-c", "echo c > /proc/sysrq-trigger"]\n'
    head = head.replace('name = "openat"', 'name = "dies"')
    (folder / "collector.toml").write_text(f"{head}[trigger]\n{command}{events}")
    toml = board.write(silence="6")
    done = run_in("pytest", str(folder), f"--kernels={board.name}", f"--kernels-file={toml}", "-q", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / ".kmatrix" / "cells").iterdir()]
    print(record["reason"])
    assert record["failure"] == "kernel", record["reason"]
    assert record["reason"].startswith("panic: ")
    there = Connection(board.host())
    assert there.run("true").status == 0, "it is back"
    there.close()
