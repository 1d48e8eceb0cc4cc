"""The other ops, on real guests."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

import pytest

from kmatrix.vm import GuestError
from tests.guest.conftest import Guest


def test_files(guest: Guest) -> None:
    content = bytes(range(256)) * 4096
    guest.call("put", path="/tmp/a/b/c", data=base64.b64encode(content).decode(), mode=0o750)
    got = guest.call("get", path="/tmp/a/b/c")
    assert (base64.b64decode(got["data"]), got["mode"]) == (content, 0o750)
    with pytest.raises(GuestError, match="FileNotFoundError"):
        guest.call("get", path="/tmp/none")
    with pytest.raises(GuestError, match="unknown op"):
        guest.call("dance")


def test_commands(guest: Guest) -> None:
    ran = guest.call("run", argv=["sh", "-c", "cat; echo $A >&2; pwd; exit 3"], stdin="in\n", env={"A": "b"}, cwd="/tmp")
    assert ran == {"exit": 3, "signal": None, "timed_out": False, "stdout": "in\n/tmp\n", "stderr": "b\n"}
    assert guest.call("run", argv=["sh", "-c", "kill -TERM $$"])["signal"] == 15
    assert guest.call("run", argv=["no-such-command"])["exit"] == 127
    assert guest.call("run", argv=["/tmp"])["exit"] == 126
    ran = guest.call("run", argv=["printf", r"\377"])
    assert base64.b64decode(ran["stdout_base64"]) == b"\xff"


def _processes(guest: Guest) -> set[str]:
    said = guest.call("run", argv=["sh", "-c", "cd /proc; for p in [0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done"])[
        "stdout"
    ]
    return {line.strip() for line in said.splitlines() if "sleep" in line and "for p in" not in line}


def _groups(guest: Guest) -> list[str]:
    """The cgroups of the prepared triggers, and the command's own."""
    said: str = guest.call("run", argv=["sh", "-c", "ls -d /sys/fs/cgroup/kmatrix-*"])["stdout"]
    return said.split()


def test_commands_leave_no_processes(guest: Guest) -> None:
    before = _groups(guest)
    ran = guest.call("run", argv=["sh", "-c", "sleep 101 & setsid sleep 102 & echo gone"], timeout=30)
    assert (ran["stdout"], ran["timed_out"]) == ("gone\n", False)
    ran = guest.call("run", argv=["sh", "-c", "setsid sleep 103 & echo here; sleep 104"], timeout=2)
    assert (ran["stdout"], ran["timed_out"], ran["signal"]) == ("here\n", True, 9)
    assert _processes(guest) == set()
    assert len(_groups(guest)) == len(before)


def test_the_clock_is_set(boot: Callable[[str], Guest]) -> None:
    guest = boot("6.1-arm64")
    guest.call("time", now=1.9e9)
    assert guest.call("run", argv=["date", "-u", "+%Y"])["stdout"] == "2030\n"


@pytest.mark.parametrize("name", ["4.14-arm64", "6.1-x86_64"])
def test_ssh(boot: Callable[[str], Guest], name: str) -> None:
    """A real client logs in with the key that was given, and with no other."""
    import paramiko

    guest = boot(name)
    key, stranger = paramiko.RSAKey.generate(2048), paramiko.RSAKey.generate(2048)
    answer = guest.call("sshd", authorized_key=f"{key.get_name()} {key.get_base64()} test")
    assert answer["port"] == 22
    assert guest.call("sshd", authorized_key=f"{key.get_name()} {key.get_base64()} test")["host_key"] == answer["host_key"]
    port = guest.vm.forward_ssh()

    def client(with_key: paramiko.PKey) -> paramiko.SSHClient:
        ssh = paramiko.SSHClient()
        kind, _, text = answer["host_key"].partition(" ")
        host_key = paramiko.Ed25519Key(data=base64.b64decode(text.split()[0]))
        ssh.get_host_keys().add(f"[127.0.0.1]:{port}", kind, host_key)
        wait = 120
        ssh.connect(
            "127.0.0.1", port, "root", pkey=with_key, look_for_keys=False, allow_agent=False,
            timeout=wait, banner_timeout=wait, auth_timeout=wait,
        )  # fmt: skip
        return ssh

    with client(key) as ssh:
        _, out, _ = ssh.exec_command("uname -r; exit 5")
        assert out.read().decode().strip() == guest.vm.hello["release"]
        assert out.channel.recv_exit_status() == 5
    with pytest.raises(paramiko.AuthenticationException):
        client(stranger)


def test_the_agent_is_there_after_whatever_happened(guest: Guest) -> None:
    for _ in range(3):
        with pytest.raises(GuestError):
            guest.call("cell", nonsense=os.getpid())
    assert guest.call("run", argv=["true"])["exit"] == 0
