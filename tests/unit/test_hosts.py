"""[hosts.NAME] of kernels.toml: what it may say, what it means, and that no other word means a host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmatrix.guest.supervisor import _console_line
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.progress import Quiet
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.schema import Document, parse
from kmatrix.report import names, table
from kmatrix.runs import real_machines
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm.boards.board import Board
from kmatrix.vm.boards.identity import Identity
from kmatrix.vm.console import splats

KERNELS = {"5.4": {"version": "5.4"}, "6.1": {"version": "6.1"}}
SEEN = Identity(
    "6.1.21-v8+",
    "#1642 SMP",
    "aarch64",
    "boot",
    "pi4",
    "Raspberry Pi 4",
    4,
    3792,
    None,
    {"features": {"btf": True, "ringbuf": False}},
)


def matrix(**host: Any) -> Any:
    entry = {"ssh": "root@192.0.2.1"} | host
    return parse(Document("/project/kernels.toml", {"schema": 1, "kernels": KERNELS, "hosts": {"pi4": entry}}))


def test_an_entry_is_read() -> None:
    host = matrix(port=2222, identity="key", known_hosts="/etc/known", reboot="", wait=5).hosts["pi4"]
    assert host.ssh == "root@192.0.2.1:2222"
    assert (host.identity, host.known_hosts) == (Path("/project/key"), Path("/etc/known"))
    assert (host.reboot, host.wait, host.folder) == ("", 5, "/var/lib/kmatrix")
    assert matrix().hosts["pi4"].reboot is None
    assert matrix(ssh="ssh://root@[2001:db8::1]/", port=22).hosts["pi4"].ssh == "ssh://root@[2001:db8::1]:22"


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ({"ssh": "root@"}, "is no address"),
        ({"ssh": "root@192.0.2.1:22", "port": 22}, "the port is given twice"),
        ({"ssh": "root@[2001:db8::1]:22", "port": 22}, "the port is given twice"),
        ({"features": {"ringbuff": True}}, "ringbuff"),
        ({"folder": "here; rm -r /"}, "folder"),
        ({"silence": 0}, "silence"),
        ({"python": "/usr/bin/python3"}, "python"),
    ],
)
def test_a_wrong_entry_is_refused(host: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        matrix(**host)
    assert said in str(error.value)
    assert "pi4" in str(error.value)


@pytest.mark.parametrize("name", ["5.4", "mine", "store", "all", "pi4-arm64"])
def test_a_host_has_a_name_of_its_own(name: str) -> None:
    data = {"schema": 1, "kernels": KERNELS, "sets": {"mine": ["5.4"]}, "hosts": {name: {"ssh": "root@192.0.2.1"}}}
    with pytest.raises(InputError, match=r"already a kernel or a set|cannot name a host"):
        parse(Document("kernels.toml", data))


def test_a_set_cannot_hold_a_host() -> None:
    data = {"schema": 1, "kernels": KERNELS, "sets": {"mine": ["pi4"]}, "hosts": {"pi4": {"ssh": "root@192.0.2.1"}}}
    with pytest.raises(InputError, match="unknown kernel 'pi4'"):
        parse(Document("kernels.toml", data))


@pytest.mark.parametrize("expression", ["all", ">=4.14", "5.4..6.1", "default"])
def test_no_other_word_means_a_host(expression: str) -> None:
    assert [kernel.name for kernel in matrix().select(expression)] == ["5.4", "6.1"]


def test_what_only_a_vm_can_be_is_refused() -> None:
    with pytest.raises(InputError, match="no circumstance can be made there: lockdown is a VM's"):
        MachineRoom(matrix()).targets("pi4+lockdown", "all")
    with pytest.raises(InputError, match=r"is a real machine \(\[hosts.pi4\]\)"):
        matrix().kernel("pi4")


def target(**host: Any) -> Target:
    return SEEN.target(matrix(**host).hosts["pi4"])


def test_a_machine_has_what_was_probed_there_and_nothing_by_its_version() -> None:
    pi4 = target()
    assert str(pi4) == "pi4-arm64"
    assert (pi4.has("btf"), pi4.has("ringbuf")) == (True, False)
    assert pi4.has("helper:bpf_loop") is None, "6.1 implies it, and a vendor's kernel need not have it"
    declared = target(features={"ringbuf": True, "helper:bpf_loop": True})
    assert (declared.has("ringbuf"), declared.has("helper:bpf_loop")) == (True, True)


def test_a_machines_release_says_its_series() -> None:
    host = matrix().hosts["pi4"]
    for release, version in {"6.1.21-v8+": (6, 1), "5.10-rc1": (5, 10), "6.12-custom": (6, 12)}.items():
        assert replace(SEEN, release=release).target(host).kernel.version == version
    with pytest.raises(InfraError, match="'mine' is no kernel's release"):
        replace(SEEN, release="mine").target(host)


def test_a_trigger_that_no_machine_has_is_refused(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "collectors" / "openat"
    text = (source / "collector.toml").read_text()
    (tmp_path / "build").symlink_to(source / "build")
    for kind in ('kind = "block_io"', 'compose = [{ kind = "open" }, { kind = "module_load" }]'):
        head, _, _ = text.partition('kind = "open"')
        head = head.replace('transport = "ringbuf"\nbuffer = "events"\n', "").replace('transport = "perf"\nbuffer = "events"\n', "")
        (tmp_path / "collector.toml").write_text(f"{head}{kind}\n")
        collector = load_collector(tmp_path / "collector.toml")
        real_machines.check(collector, Target(matrix().kernels["6.1"], "arm64"))
        with pytest.raises(InputError, match=r"the trigger (block_io|module_load) cannot be pulled on pi4, a real machine"):
            real_machines.check(collector, target())


def test_a_machine_of_another_kernel_is_another() -> None:
    assert SEEN.is_like(SEEN)
    assert not SEEN.is_like(Identity.of({**vars(SEEN), "version": "#1643 SMP"})), "the same release, built anew"


@pytest.mark.parametrize(
    ("reboot", "said"),
    [
        (None, "it does not answer any more"),
        ("echo no power >&2; exit 3", "ended with 3: no power"),
        ("", "it did not come back within 0.3 s"),
        ('test "$KMATRIX_HOST" = gone', "it did not come back within 0.3 s"),
    ],
)
def test_a_machine_that_does_not_come_back_is_lost(reboot: str | None, said: str) -> None:
    board = Board(Host("gone", "root@127.0.0.1:1", reboot=reboot, reboot_timeout=0.3, connect_timeout=5))
    with pytest.raises(InfraError) as error:
        board._reboot()
    assert said in error.value.message
    assert error.value.fix


def test_a_machine_out_of_reach_is_one_finding() -> None:
    (finding,) = real_machines.findings(Host("gone", "root@127.0.0.1:1", connect_timeout=5), {})
    assert (finding.level, finding.what) == ("lacks", "machine")
    assert "gone (root@127.0.0.1:1): no connection" in finding.found
    assert finding.fix


def test_kernel_messages_are_as_on_a_console() -> None:
    record = b"4,1234,12345678,-;WARNING: CPU: 0 PID: 1 at kernel/x.c:1\n SUBSYSTEM=net\n"
    assert _console_line(record) == b"[   12.345678] WARNING: CPU: 0 PID: 1 at kernel/x.c:1\n"
    (splat,) = splats(_console_line(record).decode())
    assert (splat.kind, splat.time) == ("warning", 12.345678)


def test_reports_mark_a_machine() -> None:
    host = Host("pi4", "root@192.0.2.1")
    account = {"name": "pi4", "ssh": host.ssh, "model": "Raspberry Pi 4", "release": "6.1.21-v8+", "changed": "6.1.20 (#1)"}
    assert names.head("pi4-arm64", simulated=False, real=True) == "@pi4\narm64"
    assert table.real("pi4", account) == (
        "@ pi4 is a real machine: Raspberry Pi 4, kernel 6.1.21-v8+, root@192.0.2.1; before, its kernel was 6.1.20 (#1)"
    )
    assert names.machine(account, address=False) == "Raspberry Pi 4, kernel 6.1.21-v8+"
    never_reached = real_machines.RealMachines(matrix(), Quiet()).account(target())
    assert never_reached is not None
    assert names.machine(never_reached) == "root@192.0.2.1"
