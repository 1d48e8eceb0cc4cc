"""What a loader's privileges leave of a kernel's features, and what is said where one is missing."""

from __future__ import annotations

from typing import Any

import pytest

from kmatrix.guest.privileges import NAMESPACES, seccomp_program
from kmatrix.guest.table_capabilities import CONTAINER, NAMES, refused_in_container
from kmatrix.matrix import privileges
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import surroundings
from kmatrix.verdict.diagnosis import Failing, diagnose

SHIPPED = load_matrix()
AS_FOUND: dict[str, Any] = {
    "lockdown": "none", "lsm": ["lockdown", "bpf"], "cgroup": "v2", "cpus": 1, "memory_mib": 203, "refused": {},
    "sysctls": {"kernel.unprivileged_bpf_disabled": "2", "kernel.perf_event_paranoid": "3"},
    "loader": {"uid": 0, "caps": None, "filter": False},
}  # fmt: skip


def has(kernel: str, *features: str) -> list[bool | None]:
    return [SHIPPED.kernel(kernel).has(each, "x86_64") for each in features]


def test_each_plain_feature_has_its_rule() -> None:
    assert set(privileges._PLAIN) == set(FEATURES)
    assert set(NAMES) >= {name for opened_by in CONTAINER.values() for name in opened_by}


def test_the_rights_that_features_take() -> None:
    assert has("6.1+cap=bpf,perfmon", "fentry", "ringbuf", "tc_clsact", "map:sockmap", "prog:xdp") == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert has("6.1+cap=bpf", "ringbuf", "fentry", "probe_read", "prog:socket_filter") == [True, False, False, True]
    assert has("6.1+cap=sys_admin", "fentry", "tracepoints", "tc_clsact", "prog:xdp") == [True, True, False, True]
    assert has("5.4+cap=sys_admin", "raw_tracepoint", "prog:xdp", "tc_clsact") == [True, True, False]
    assert has("5.4+cap=net_admin", "raw_tracepoint", "prog:xdp", "btf") == [False, False, True]


def test_perf_events_are_restricted_on_debians_kernels_until_told_otherwise() -> None:
    assert has("6.1+cap=bpf,perfmon", "tracepoints", "kprobes", "perf_buffer") == [False, False, False]
    assert has("6.1+cap=bpf,perfmon+paranoid=2", "tracepoints", "kprobes", "perf_buffer") == [True, True, True]
    assert has("5.15+cap=bpf,perfmon", "tracepoints") == [True]
    # an ordinary user cannot look into tracefs
    assert has("5.15+unprivileged+cap=bpf,perfmon", "tracepoints", "fentry") == [False, True]
    assert has("5.15+unprivileged+cap=bpf,perfmon,dac_read_search", "tracepoints") == [True]


def test_an_ordinary_user_has_what_the_kernel_lets_anyone_have() -> None:
    assert has("6.1+unprivileged", "ringbuf", "map:hash", "prog:socket_filter", "btf") == [False, False, False, True]
    assert has("6.1+unprivileged=0", "map:hash", "prog:socket_filter", "prog:kprobe", "bpf2bpf") == [True, True, False, False]
    assert has("5.4+unprivileged", "map:hash", "prog:socket_filter") == [True, True]
    assert has("5.10+unprivileged", "map:hash") == [False]
    assert has("6.1+seccomp=container+unprivileged=0", "map:hash") == [False]


def test_what_depends_on_the_program_is_for_the_probe_to_say() -> None:
    assert has("6.1+cap=none", "helper:bpf_loop", "insn:atomic_fetch") == [False, False]
    assert has("6.1+cap=bpf", "helper:bpf_loop", "helper:bpf_dynptr_read") == [None, None]
    assert has("6.1+cap=bpf,perfmon,net_admin", "helper:bpf_loop") == [True]
    assert has("5.10+cap=bpf", "helper:bpf_loop") == [False]  # not in 5.10, whoever asks


def test_a_containers_filter_opens_with_capabilities() -> None:
    closed = refused_in_container(())
    assert {"bpf", "perf_event_open", "mount"} <= set(closed)
    assert "bpf" not in refused_in_container(("bpf",))
    assert "mount" in refused_in_container(("bpf",))
    assert "perf_event_open" not in refused_in_container(("sys_admin",))
    # four instructions, one for each call, two answers; eight bytes each
    assert len(seccomp_program(closed)) == 8 * (len(closed) + 6)
    assert set(NAMESPACES) == {"mount", "cgroup", "uts", "ipc", "net"}


@pytest.mark.parametrize(
    ("kernel", "found", "said"),
    [
        ("6.1+lockdown", {}, "lockdown is none, not confidentiality"),
        ("6.1+nolsm", {}, "the list of LSMs is lockdown,bpf, not lockdown,capability,yama"),
        ("6.1+jit=off", {"sysctls": {"net.core.bpf_jit_enable": "1"}, "refused": {"net.core.bpf_jit_enable": "Invalid argument"}},
         "net.core.bpf_jit_enable is 1, and cannot be set to 0 (Invalid argument)"),
        ("6.1+cgroup1", {}, "cgroups of version 2 are mounted"),
        ("6.1+cpus=4", {}, "it has 1 CPUs, not 4"),
        ("6.1+mem=512M", {}, "it has 203 MiB of memory, not 512"),
        ("6.1+cap=bpf", {}, "a loader has all capabilities, not the capabilities bpf"),
        ("6.1+cap=none", {"loader": {"uid": 0, "caps": ["bpf"], "filter": False}}, "a loader has the capabilities bpf, not no capability"),
        ("6.1+unprivileged", {"loader": {"uid": 0, "caps": [], "filter": False}}, "a loader is user 0"),
        ("6.1+seccomp=container", {}, "a loader has no filter of system calls"),
    ],
)  # fmt: skip
def test_a_guest_that_is_not_as_the_name_says(kernel: str, found: dict[str, Any], said: str) -> None:
    target = Target(SHIPPED.kernel(kernel), "x86_64")
    assert any(said in each for each in surroundings.differing(target, AS_FOUND | found))


def test_one_that_is() -> None:
    target = Target(SHIPPED.kernel("6.1+harden+cpus=2"), "x86_64")
    found = AS_FOUND | {"cpus": 2, "sysctls": {"net.core.bpf_jit_harden": "2"}}
    assert surroundings.differing(target, found) == []
    assert surroundings.parameters(target.kernel) == ("kmatrix.sysctl.net.core.bpf_jit_harden=2",)


def diagnosed(
    caps: list[str] | None, *, uid: int = 0, lockdown: str = "none", filtered: bool = False, **failing: Any
) -> tuple[str, str]:
    loader = {"uid": uid, "caps": caps, "filter": filtered}
    situation = AS_FOUND | {"lockdown": lockdown, "loader": loader}
    shape = {"stage": "load", "error": "Operation not permitted", "version": (6, 1), "arch": "x86_64", "errno": 1}
    cause = diagnose(Failing(**{**shape, **failing, "situation": situation}))
    assert cause is not None
    return cause.kind, cause.what


TRACEPOINT = {"wants": {"type": "tracepoint", "attach_type": 0}, "section": "tracepoint/oom/mark_victim"}


@pytest.mark.parametrize(
    ("caps", "more", "said"),
    [
        (["bpf"], TRACEPOINT, "program type tracepoint: the loader lacks CAP_PERFMON or CAP_SYS_ADMIN"),
        ([], TRACEPOINT, "program type tracepoint: the loader lacks CAP_BPF or CAP_SYS_ADMIN"),
        ([], {**TRACEPOINT, "version": (5, 4)}, "program type tracepoint: the loader lacks CAP_SYS_ADMIN"),
        (["bpf"], {"wants": {"type": "xdp"}, "section": "xdp"}, "program type xdp: the loader lacks CAP_NET_ADMIN or CAP_SYS_ADMIN"),
        (["bpf", "perfmon"], {**TRACEPOINT, "stage": "attach", "errno": 13}, "kernel.perf_event_paranoid is 3"),
        (["bpf"], {**TRACEPOINT, "stage": "attach", "errno": 13}, "the loader lacks CAP_PERFMON or CAP_SYS_ADMIN"),
        (["bpf"], {"stage": "attach", "section": "tc"}, "attaching a program of section tc: the loader lacks CAP_NET_ADMIN"),
        ([], {"stage": "map", "map_type": "hash", "name": "calls"}, "map calls (hash): the loader lacks CAP_BPF or CAP_SYS_ADMIN: kernel.unprivileged_bpf_disabled is 2"),
        (["bpf"], {"stage": "map", "map_type": "sockmap", "name": "socks"}, "map socks (sockmap): the loader lacks CAP_NET_ADMIN"),
        (["bpf"], {"log": "unknown func bpf_probe_read_kernel#113", "errno": 22}, "helper bpf_probe_read_kernel: the loader lacks CAP_PERFMON or CAP_SYS_ADMIN"),
        (["bpf"], {"log": "R0 leaks addr as return value", "errno": 13}, "the verifier's 'R0 leaks addr as return value': the loader lacks CAP_PERFMON or CAP_SYS_ADMIN"),
    ],
)  # fmt: skip
def test_the_capability_that_is_missing_is_named(caps: list[str], more: dict[str, Any], said: str) -> None:
    kind, what = diagnosed(caps, **more)
    assert kind == "permission"
    assert said in what


def test_lockdown_a_filter_and_tracefs_are_told_as_what_they_are() -> None:
    attaching = {
        **TRACEPOINT,
        "stage": "attach",
        "errno": 2,
        "error": "failed to determine tracepoint 'oom/mark_victim' perf event ID",
    }
    assert diagnosed(None, **attaching) == ("tracepoint", "tracepoint oom/mark_victim is not in this kernel")
    kind, what = diagnosed(None, lockdown="confidentiality", **attaching)
    assert (kind, "locked down for confidentiality" in what) == ("lockdown", True)
    kind, what = diagnosed([], filtered=True, **TRACEPOINT)
    assert (kind, "(seccomp) refuses bpf(2)" in what) == ("permission", True)
    kind, what = diagnosed(["bpf", "perfmon"], uid=65534, **attaching)
    assert (kind, "tracefs is root's" in what) == ("permission", True)
