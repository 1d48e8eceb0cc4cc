"""The image booted: PID 1, and what the agent and people find in it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import lacking_kernel
from kmatrix.host.progress import Quiet
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import parse_arch
from kmatrix.matrix.load import load_matrix
from kmatrix.vm import Machine, VmLost, VmSpec, boot, guest_image

# The oldest, with all drivers built in, and one with modules and an initramfs.
TARGETS = ["4.14-x86_64", "4.14-arm64", "6.1-x86_64", "6.1-arm64"]
FAST = "5.4-x86_64"  # boots soonest: for what is the same everywhere


def spec_of(name: str) -> VmSpec:
    kernel, _, arch = name.rpartition("-")
    entry = KernelStore().find(kernel, parse_arch(arch))
    if entry is None:
        lacking_kernel(load_matrix().kernel(kernel), f"{name} is not in the kernel store: kmatrix kernels list")
    return VmSpec(entry, guest_image.obtain(entry.arch, reporter=Quiet()))


@pytest.fixture(scope="module", params=TARGETS)
def vm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with boot(spec_of(request.param), tmp_path_factory.mktemp("console") / "log") as machine:
        yield machine


def output(vm: Machine, script: str) -> str:
    done = vm.run(["sh", "-c", script], timeout=60)
    assert done.exit == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


def python(vm: Machine, program: str) -> str:
    done = vm.run(["python3", "-c", program], timeout=120)
    assert done.exit == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode().strip()


def test_everything_is_mounted(vm: Machine) -> None:
    mounts = {line.split()[1]: line.split()[2:4] for line in output(vm, "cat /proc/mounts").splitlines()}
    kinds = {where: kind for where, (kind, _) in mounts.items()}
    assert kinds["/usr"] == "ext4"
    assert mounts["/usr"][1].split(",")[0] == "ro"
    tmpfs = ("/", "/run", "/tmp", "/var/tmp", "/root", "/dev/shm")
    expected = {"/dev": "devtmpfs", "/dev/pts": "devpts", "/proc": "proc", "/sys": "sysfs"} | dict.fromkeys(tmpfs, "tmpfs")
    expected |= {
        "/sys/fs/bpf": "bpf",
        "/sys/kernel/debug": "debugfs",
        "/sys/kernel/tracing": "tracefs",
        "/sys/fs/cgroup": "cgroup2",
    }
    assert {where: kinds.get(where) for where in expected} == expected


def test_what_must_be_writable_is(vm: Machine) -> None:
    output(vm, "for d in /root /tmp /run /var/tmp /dev/shm /sys/fs/cgroup; do mkdir $d/x && rmdir $d/x || exit 1; done")
    assert vm.run(["touch", "/usr/x"]).exit != 0


def test_loopback_is_up(vm: Machine) -> None:
    assert "127.0.0.1/8" in output(vm, "ip -brief address show lo")
    program = (
        "import socket; s=socket.create_server(('127.0.0.1', 0)); c=socket.create_connection(s.getsockname()); print('connected')"
    )
    assert python(vm, program) == "connected"


def test_libbpf_loads_by_ctypes(vm: Machine) -> None:
    assert python(vm, "import ctypes; print(ctypes.CDLL('libbpf.so.1').libbpf_major_version())") == "1"


def test_bpftool_speaks_to_the_kernel(vm: Machine) -> None:
    assert isinstance(json.loads(output(vm, "bpftool --json prog list")), list)


def test_the_standard_library_is_whole(vm: Machine) -> None:
    modules = "asyncio bz2 ctypes curses decimal email hashlib http.server lzma multiprocessing readline sqlite3 ssl tempfile urllib.request uuid xml.dom zlib"
    assert python(vm, f"import {modules.replace(' ', ', ')}; print('whole')") == "whole"


def test_the_tools_that_people_reach_for_are_there(vm: Machine) -> None:
    tools = (
        "bash awk cat dmesg find grep head hexdump hostname id ip less ls mount ps sed ss strings sysctl tar tc top vi which xargs"
    )
    assert output(vm, f"for t in {tools}; do command -v $t >/dev/null || echo $t; done") == ""
    assert output(vm, "hostname").strip() == "kmatrix"
    assert output(vm, "id -un; stat -c %U:%G /etc/passwd").split() == ["root", "root:root"]
    assert output(vm, "ps -o comm= -p 1").strip() in ("kmatrix-init", "python3")


def test_random_numbers_come_at_once(vm: Machine) -> None:
    # Not os.GRND_NONBLOCK's EAGAIN: the pool is initialised, also on kernels that count entropy.
    assert python(vm, "import os; print(len(os.getrandom(64, os.GRND_NONBLOCK)))") == "64"


def test_modules_can_be_loaded_where_the_kernel_has_any(vm: Machine) -> None:
    if vm.spec.kernel.modules is None:
        assert output(vm, "ls /lib/modules").strip() == ""
        pytest.skip("this kernel has no modules")
    release = vm.spec.kernel.release
    assert release in output(vm, "ls /lib/modules").split()
    output(vm, "modprobe dummy && grep -w ^dummy /proc/modules")


def test_sshd_starts_on_demand(vm: Machine) -> None:
    answer = vm.call(
        "sshd", timeout=90, authorized_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAnrSD4vDbJBvwVWRXZlq4qLx2M3u0wUAUPmQDcJJuvB x"
    )
    assert answer["port"] == 22
    script = "import socket; s=socket.create_connection(('127.0.0.1', 22), 30); print(s.recv(8).decode())"
    assert python(vm, script) == "SSH-2.0-"


def test_orphans_are_reaped(vm: Machine) -> None:
    output(vm, "(setsid sh -c 'sleep 0.2' &) ; sleep 0.6")
    states = [line.split() for line in output(vm, "ps -e -o stat=,comm=").splitlines()]
    assert [name for state, name in states if state.startswith("Z")] == []


# --- what PID 1 says when something is wrong


def agent(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Give guests this agent instead of ours."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("agent.py", source)
    monkeypatch.setattr("kmatrix.vm.machine.agent", out.getvalue)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "def main(port): raise ValueError('no luck')",
            ["ValueError: no luck", "kmatrix-init: the agent ended with exit status 1"],
        ),
        ("def main(port): pass", ["kmatrix-init: the agent ended with exit status 0"]),
        ("import os\ndef main(port): os.kill(os.getpid(), 9)", ["kmatrix-init: the agent was killed by signal 9"]),
        ("this is no Python", ["SyntaxError", "kmatrix-init: the agent ended with exit status 1"]),
    ],
)
def test_an_agent_that_ends_ends_the_vm_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: list[str]
) -> None:
    agent(monkeypatch, source)
    with pytest.raises(VmLost) as caught:
        boot(spec_of(FAST), tmp_path / "log")
    for line in says:
        assert line in str(caught.value)


def test_a_first_line_that_is_none_ends_the_vm_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmatrix.vm.machine.pack", lambda data: 7)  # noqa: ARG005
    with pytest.raises(VmLost, match=r"kmatrix-init: the host's first line is not \{"):
        boot(spec_of(FAST), tmp_path / "log")


def test_a_missing_port_ends_the_vm_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmatrix.vm.virtme.PORT", "another")
    with pytest.raises(VmLost, match="kmatrix-init: no virtio-serial port named kmatrix"):
        boot(spec_of(FAST), tmp_path / "log")


def test_the_agents_children_are_its_own_to_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import json, os, subprocess
def main(port):
    codes = [subprocess.run(["sh", "-c", f"(sleep 0.01 &); exit {n}"]).returncode for n in range(20)]
    os.write(port, json.dumps({"hello": {"codes": codes, "pid": os.getpid()}}).encode() + b"\\n")
    os.read(port, 1)
"""
    agent(monkeypatch, source)
    with boot(spec_of(FAST), tmp_path / "log") as machine:
        assert machine.hello["codes"] == list(range(20))
        assert machine.hello["pid"] != 1
