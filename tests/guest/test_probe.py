"""The probes: each can say yes and no, none leaves anything behind, and the table says what they find."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from kmatrix.matrix.features import FEATURES
from tests.guest.conftest import Guest

EVERYWHERE = {
    "cgroup_v2",
    "perf_buffer",
    "kprobes",
    "uprobes",
    "syscall_tracepoints",
    "cgroup_v1",
    "tc_clsact",
    "tracepoints",
    "probe_read",
}
"""What even 4.14 has (built with what it needs)."""


def test_the_oldest_has_not_what_the_newest_has(boot: Callable[[str], Guest]) -> None:
    old, new = boot("4.14-x86_64").probe["features"], boot("6.12-x86_64").probe["features"]
    assert {name for name, there in old.items() if there} == EVERYWHERE
    assert {name for name, there in new.items() if not there} == set()


def test_in_between(boot: Callable[[str], Guest]) -> None:
    found = boot("5.4-arm64").probe
    there = {name for name, yes in found["features"].items() if yes}
    assert {"btf", "global_data", "insns_1m", "bounded_loops", "cgroup_id_helper"} <= there
    assert not {"ringbuf", "probe_read_kernel", "fentry", "bpf_link", "memcg_accounting", "task_storage"} & there
    assert found["why"]["memcg_accounting"].startswith("EPERM")
    assert "unknown#113" in found["why"]["probe_read_kernel"]


def test_loading_does_not_prove_attaching(boot: Callable[[str], Guest]) -> None:
    """fentry programs load on 6.1-arm64; its kernel cannot attach them."""
    found = boot("6.1-arm64").probe
    assert found["features"]["fentry"] is False
    assert "ENOTSUPP" in found["why"]["fentry"]


def test_the_table_says_what_is_found(guest: Guest) -> None:
    declared, found = guest.target.features, guest.probe["features"]
    assert {name for name in FEATURES if found[name] is not None and found[name] != (name in declared)} == set()


def test_probing_leaves_nothing_behind(guest: Guest) -> None:
    """The snapshot was taken after the probe: what is there at the beginning of a cell is what it left."""
    facts = guest.call("cell", collector="none", min_kernel=[99, 0], variants=[], objects={})
    assert {kind: entries for kind, entries in facts["kernel"]["before"].items() if entries} == {}


@pytest.mark.usefixtures("libbpf_here")
def test_every_probe_can_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel that refuses everything, none says yes and none breaks."""
    from kmatrix.guest import bpf, libbpf, probe, probe_facts
    from kmatrix.guest.facts import FACTS

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    def no_files(path: str, *_: object, **__: object) -> object:
        if path == "/proc/filesystems":
            return io.StringIO("nodev\tsysfs\n\text4\n")
        if path == "/proc/self/mounts":
            return io.StringIO("proc /proc proc rw 0 0\n")
        raise FileNotFoundError(2, "No such file or directory", path)

    kernel = probe.Kernel()
    kernel.tracefs, kernel.config = "/nonexistent", {}
    monkeypatch.setattr(bpf, "syscall", refuse)
    monkeypatch.setattr(bpf.libc, "mount", lambda *_: -1, raising=False)
    monkeypatch.setattr(libbpf, "btf_load_vmlinux", lambda: None)
    monkeypatch.setattr(libbpf, "probe_map_type", lambda *_: 0)
    monkeypatch.setattr(libbpf, "probe_prog_type", lambda *_: 0)
    monkeypatch.setattr(libbpf, "tc_hook_create", lambda *_: -95)
    monkeypatch.setattr("builtins.open", no_files)
    monkeypatch.setattr("os.listdir", no_files)
    for name, function in probe.PROBES.items():
        there, why = function(kernel)
        assert not there, f"{name}: {why}"
        assert why
    of_image = {"btf": "task_struct.pid", "symbol": "vfs_open", "tracepoint": "sched/sched_switch", "tracepoint-field": "a/b.c"}
    examples = {**of_image, "sysctl": "kernel.ostype", "module": "ext4"}
    for kind, find in probe_facts.PROBES.items():
        for parameter in FACTS.get(kind, [examples.get(kind, "")]):
            there, why = find(kernel, parameter)
            assert not there, f"{kind}:{parameter}: {why}"
            assert why
