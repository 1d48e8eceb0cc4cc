"""Probes of features with a parameter: each kind says yes and no, on kernels that differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.guest.conftest import Guest

DIFFERENT = {
    "helper:bpf_loop": (False, True),
    "helper:bpf_loop@kprobe": (False, True),
    "helper:bpf_map_lookup_elem@xdp": (True, True),
    "helper:bpf_xdp_adjust_head@kprobe": (False, False),
    "btf:task_struct.__state": (False, True),
    "btf:task_struct.state": (True, False),
    "btf:task_struct.se.vruntime": (True, True),
    "btf:sk_buff.len": (True, True),
    "btf:struct task_struct": (True, True),
    "btf:union task_struct": (False, False),
    "btf:enum bpf_func_id.BPF_FUNC_loop": (False, True),
    "btf:typedef pid_t": (True, True),
    "btf:func/vfs_open/2": (True, True),
    "btf:func/vfs_open/5": (False, False),
    "btf:func/vfs_read": (True, True),
    "btf:func/no_such_function": (False, False),
    "symbol:vfs_open": (True, True),
    "symbol:no_such_function": (False, False),
    "tracepoint:sched/sched_process_exit": (True, True),
    "tracepoint:sched/no_such_tracepoint": (False, False),
    "tracepoint-field:syscalls/sys_enter_openat.flags": (True, True),
    "tracepoint-field:syscalls/sys_enter_openat.colour": (False, False),
    "tracepoint-field:sched/sched_switch.prev_comm": (True, True),
    "config:BPF_SYSCALL": (True, True),
    "config:NO_SUCH_OPTION": (False, False),
    "config:HZ=250": (True, True),
    "config:HZ=1000": (False, False),
    "sysctl:kernel.ostype=Linux": (True, True),
    "sysctl:kernel.ostype=Minix": (False, False),
    "sysctl:kernel.no_such_setting": (False, False),
    "module:nf_conntrack": (True, True),
    "module:no_such_module": (False, False),
}
"""Name → whether Debian's 5.10 and 6.1 have it."""


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_each_kind_says_yes_and_no(boot: Callable[[str], Guest], arch: str) -> None:
    config = {"BPF_SYSCALL": "y", "HZ": "250"}  # as it comes from the file beside Debian's image
    for at, kernel in enumerate(("5.10", "6.1")):
        found = boot(f"{kernel}-{arch}").call("facts", names=list(DIFFERENT), config=config)
        wrong = {f"{name}: {found['why'][name]}" for name, there in found["features"].items() if there is not DIFFERENT[name][at]}
        assert wrong == set(), kernel


def test_a_fact_that_the_guest_cannot_tell_is_neither(boot: Callable[[str], Guest]) -> None:
    guest = boot("6.1-x86_64")
    found = guest.call("facts", names=["kfunc:bpf_ct_release", "config:BPF_SYSCALL"], config=None)
    assert found["features"] == {"kfunc:bpf_ct_release": None, "config:BPF_SYSCALL": None}
    assert "nf_conntrack, which is not loaded" in found["why"]["kfunc:bpf_ct_release"]


def test_probing_facts_leaves_nothing_behind(boot: Callable[[str], Guest]) -> None:
    guest = boot("6.1-arm64")
    names = [name for name in DIFFERENT if not name.startswith("config:")]
    guest.call("facts", names=[*names, "link:xdp", "link:cgroup", "attach:flow_dissector", "map:struct_ops", "attach:xdp_cpumap"])
    facts = guest.call("cell", collector="none", min_kernel=[99, 0], variants=[], objects={})
    assert {kind: entries for kind, entries in facts["kernel"]["after"].items() if entries} == {}
