"""Real guests: asked, crashed, hung and lost.

Where something must be noticed when it happens, the call's timeout is so long that only noticing ends the test.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmatrix.vm import GuestError, GuestTimeout, KernelDied, Machine, Snapshot, VmLost, VmSpec, boot
from kmatrix.vm import machine as engine
from tests.vm.test_process import gone

LONG = 3000.0


@pytest.fixture
def machine(native: Snapshot, console: Path) -> Iterator[Machine]:
    with native.restore(console) as machine:
        yield machine


def test_cold_boot(spec: VmSpec, console: Path) -> None:
    with boot(spec, console) as machine:
        assert machine.hello["release"] == spec.kernel.release
        assert machine.run(["cat", "/proc/cmdline"]).stdout.decode().strip().startswith("root=/dev/vda ro")
        mounts = machine.run(["cat", "/proc/mounts"]).stdout.decode()
        assert "/dev/vda /usr ext4 ro" in mounts
        assert ("/dev/vdb /usr/lib/modules ext4 ro" in mounts) == (spec.kernel.modules_image is not None)
        assert machine.splat() is None
        pid = machine.pid
    assert gone(pid)
    assert console.exists()


def test_a_program_is_run(machine: Machine) -> None:
    result = machine.run(["sh", "-c", "cat; echo $WORD >&2; pwd; exit 3"], env={"WORD": "err"}, stdin="in\n", cwd="/tmp")
    assert (result.exit, result.signal, result.stdout, result.stderr, result.timed_out) == (3, None, b"in\n/tmp\n", b"err\n", False)
    assert machine.run(["sh", "-c", "kill -9 $$"]).signal == 9
    assert machine.run(["printf", "\\377\\376"]).stdout == b"\xff\xfe"


def test_a_program_is_stopped_in_time(machine: Machine) -> None:
    assert machine.run(["sleep", "3000"], timeout=0.5).timed_out


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_files_go_there_and_back(machine: Machine, size: int) -> None:
    data = os.urandom(size)
    machine.put("/tmp/there", data, mode=0o751)
    assert machine.get("/tmp/there") == data
    assert machine.run(["stat", "-c", "%a", "/tmp/there"]).stdout == b"751\n"


def test_the_agents_exceptions_come_through(machine: Machine) -> None:
    with pytest.raises(GuestError) as caught:
        machine.get("/nonexistent")
    assert caught.value.kind == "FileNotFoundError"
    assert "Traceback" in caught.value.traceback
    assert machine.run(["true"]).exit == 0, "it goes on"


def test_a_panic_is_noticed_and_named(machine: Machine) -> None:
    with pytest.raises(KernelDied) as caught:
        machine.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], timeout=LONG)
    splat = caught.value.splat
    assert splat.kind == "panic"
    assert "sysrq triggered crash" in splat.title
    assert any("sysrq_handle_crash" in line for line in splat.excerpt)
    assert machine.closed
    assert "sysrq triggered crash" in machine.console_text()
    with pytest.raises(VmLost):
        machine.call("probe")


def test_a_panic_on_the_other_arch(snapshot: Snapshot, console: Path) -> None:
    with snapshot.restore(console) as machine, pytest.raises(KernelDied, match="sysrq triggered crash"):
        machine.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], timeout=LONG)
    assert "sysrq triggered crash" in console.read_text()


def test_a_warning_is_seen_without_losing_the_answer(machine: Machine) -> None:
    # A kernel's line as any other: written to /dev/kmsg at level 4, it goes where a WARN's lines go.
    line = "WARNING: CPU: 0 PID: 1 at kmatrix.c:1 on_purpose+0x1/0x2"
    assert machine.run(["sh", "-c", f"echo '<4>{line}' > /dev/kmsg"]).exit == 0
    splat = machine.splat()
    assert splat is not None
    assert (splat.kind, splat.title) == ("warning", line)


def test_after_an_oops_nothing_is_waited_for_for_long(machine: Machine) -> None:
    # What the oops took will never answer.
    with pytest.raises(KernelDied, match="oops: Internal error: on purpose"):
        machine.run(["sh", "-c", "echo '<1>Internal error: on purpose' > /dev/kmsg; sleep 3000"], timeout=LONG)


def test_qemus_death_is_noticed(machine: Machine) -> None:
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(VmLost, match=r"QEMU was killed by signal 9 during probe"):
        machine.call("probe", timeout=LONG)


def test_a_guest_that_powers_off_is_noticed(machine: Machine) -> None:
    with pytest.raises(VmLost, match="QEMU ended with exit status 0 during run"):
        machine.run(["sh", "-c", "echo o > /proc/sysrq-trigger; sleep 3000"], timeout=LONG)


def test_a_guest_without_memory_is_said_to_be_so(machine: Machine) -> None:
    """The kernel's OOM killer is called, and is told to take the agent."""
    with pytest.raises(VmLost, match="the guest had no memory left during run, and its kernel ended kmatrix-init") as caught:
        machine.run(["sh", "-c", "echo 1000 > /proc/$PPID/oom_score_adj; echo f > /proc/sysrq-trigger; sleep 60"], timeout=LONG)
    assert caught.value.fix == "give the kernel more memory in kernels.toml (memory, in MiB)"


def test_an_agent_that_dies_says_so(machine: Machine) -> None:
    with pytest.raises(VmLost, match="the agent was killed by signal 9"):
        machine.run(["sh", "-c", "kill -9 $PPID; sleep 3000"], timeout=LONG)


def test_a_guest_that_hangs(machine: Machine) -> None:
    os.kill(machine.pid, signal.SIGSTOP)
    with pytest.raises(GuestTimeout, match=r"no answer to probe in 0\.5 s"):
        machine.call("probe", timeout=0.5)
    os.kill(machine.pid, signal.SIGCONT)
    assert machine.call("time", now=time.time()), "a late answer is not taken for another call's"
    assert machine.run(["echo", "x"]).stdout == b"x\n"


def test_a_boot_that_hangs(native_spec: VmSpec, console: Path) -> None:
    with pytest.raises(GuestTimeout, match=r"no answer to boot in 0\.3 s; the console is empty"):
        boot(native_spec, console, timeout=LONG, silence=0.3)


def test_an_agent_that_does_not_start(native_spec: VmSpec, console: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "agent", lambda: b"not a zip")
    with pytest.raises(VmLost, match=r"(?s)the console's last lines.*kmatrix-init: the agent ended"):
        boot(native_spec, console, timeout=LONG)


def test_a_kernel_that_finds_no_root(native_spec: VmSpec, console: Path) -> None:
    lost = dataclasses.replace(native_spec, cmdline=("init=/nonexistent",))
    with pytest.raises(KernelDied, match="Kernel panic - not syncing"):
        boot(lost, console, timeout=LONG)


def test_ssh_is_forwarded_and_nothing_else(machine: Machine) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA nobody"
    answer = machine.call("sshd", authorized_key=key, timeout=120)
    port = machine.forward_ssh(answer["port"])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        assert connection.recv(100).startswith(b"SSH-2.0-")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        attempt = f"import socket; socket.create_connection(('10.0.2.2', {listener.getsockname()[1]}), 3)"
        assert machine.run(["python3", "-c", attempt], timeout=60).exit != 0, "the guest reaches nothing of the host"


def test_two_forwards_are_told_apart(machine: Machine) -> None:
    assert machine.forward_ssh(22) != machine.forward_ssh(80)


def test_errors_travel_between_processes(machine: Machine) -> None:
    with pytest.raises(GuestError) as guest_error:
        machine.call("nonsense")
    with pytest.raises(KernelDied) as died:
        machine.run(["sh", "-c", "echo c > /proc/sysrq-trigger"])
    for error in (guest_error.value, died.value):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
