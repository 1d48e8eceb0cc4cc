"""The standard's corrections, each on a booted kernel: what the headers' names do where it matters that they do the right thing."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from tests.guest.conftest import Guest
from tests.headers.conftest import Build

Boot = Callable[[str], Guest]
BUFFER = {"transport": "perf", "buffer": "events"}
WITH_BTF = ("5.4-x86_64", "5.4-arm64", "5.10-arm64", "5.15-x86_64", "6.1-x86_64", "6.1-arm64")
TESTED = ("btf", "ringbuf", "probe_read_kernel", "current_task_btf", "task_storage")


def event(*fields: tuple[str, str]) -> dict[str, Any]:
    layout = [{"name": name, "type": kind} for name, kind in (("tgid", "u32"), *fields)]
    return {"name": "event", "match": {"tgid": "known.tgid"}, "fields": layout}


FEATURES = event(("program", "u32"), *((name, "u8") for name in (*TESTED[:2], "task_cgroups", *TESTED[2:])))


def seen(facts: dict[str, Any]) -> list[dict[str, Any]]:
    assert facts["running"] == "only", facts["refusal"]
    assert facts["trigger"]["ok"], facts["trigger"]
    assert facts["kernel"]["after"] == facts["kernel"]["before"]
    return [each["fields"] for each in facts["events"]]


@pytest.mark.parametrize("name", WITH_BTF)
def test_features_are_those_that_the_kernel_has(boot: Boot, build: Build, name: str) -> None:
    """g_core_features agrees with the guest's probes, and REQUIRE_CORE_FEATURES lets through exactly where it should."""
    guest = boot(name)
    programs = ["any", "btf", "ringbuf", "current_task_btf", "task_storage", "probe_read_kernel"]
    told = seen(guest.cell(build("features", guest.target.arch), programs=programs, events=[FEATURES], **BUFFER))
    probed = {feature: guest.probe["features"][feature] for feature in TESTED}
    assert told
    for each in told:
        assert {feature: bool(each[feature]) for feature in TESTED} == probed
        assert each["task_cgroups"] == 1
    passed = {programs[each["program"]] for each in told}
    assert passed == {"any"} | {feature for feature in TESTED if probed[feature]}


@pytest.mark.parametrize("name", ["4.14-x86_64", "4.14-arm64"])
def test_an_object_that_tests_for_features_does_not_load_without_btf(boot: Boot, build: Build, name: str) -> None:
    guest = boot(name)
    facts = guest.cell(build("features", guest.target.arch), programs=["any"], events=[FEATURES], **BUFFER)
    assert facts["running"] is None
    assert "BTF" in facts["refusal"]


@pytest.mark.parametrize("name", ["4.14-x86_64", "4.14-arm64", "5.4-x86_64", "6.1-arm64"])
def test_the_fallback_variant_has_no_global_data_and_claims_nothing(boot: Boot, build: Build, name: str) -> None:
    """Also where it prints: the line is in the kernel's trace, its format nowhere but in the program."""
    guest = boot(name)
    data = build("features", guest.target.arch, "CORE_COMPAT_FALLBACK", "BPF_DEBUG")
    assert not [
        s.name for s in ELFFile(BytesIO(data)).iter_sections() if s.name.startswith((".rodata", ".data", ".bss", ".kconfig"))
    ]
    facts = guest.cell(data, programs=["any"], events=[FEATURES], **BUFFER)
    told = seen(facts)
    assert told
    assert not any(each[feature] for each in told for feature in (*TESTED, "task_cgroups"))
    assert set(facts["attempts"][0]["maps"]) == {"events"}
    known = {each["id"] for each in facts["kernel"]["before"]["maps"]}
    assert len([each for each in facts["kernel"]["during"]["maps"] if each["id"] not in known]) == 1
    trace = guest.call("run", argv=["sh", "-c", "cat /sys/kernel/tracing/trace || cat /sys/kernel/debug/tracing/trace"])["stdout"]
    assert "kmatrix program 0" in trace


@pytest.mark.parametrize("name", ["4.14-x86_64", "4.14-arm64", "5.4-x86_64", "5.4-arm64", "6.1-x86_64", "6.1-arm64"])
@pytest.mark.parametrize("variant", ["CORE_COMPAT_FALLBACK", "CORE"])
def test_arguments_and_result(boot: Boot, build: Build, name: str, variant: str) -> None:
    """All six arguments of sendto(2), and what it returns; in the object with relocations only where there is BTF."""
    guest = boot(name)
    old = guest.target.kernel.version < (4, 17)
    if variant == "CORE" and old:
        variant = "CORE_COMPAT_FALLBACK"
    data = build("registers", guest.target.arch, f'FUNCTION="{"SyS_sendto" if old else "__sys_sendto"}"', variant)
    values = [(f"arg{number}", "u64") for number in range(6)]
    layout = event(("returned", "u32"), *values, ("packet", "be16"), ("port", "be16"))
    facts = guest.cell(data, programs=["arguments", "result"], trigger={"kind": "dns"}, events=[layout], **BUFFER)
    told, known = seen(facts), facts["known"]
    asked, _ = [each for each in told if not each["returned"]]  # the query, and its answer
    assert (asked["packet"], asked["port"]) == (known["query_id"], 53)  # arguments 1 and 4
    assert (asked["arg2"], asked["arg3"], asked["arg5"]) == (known["query_len"], 0, 16)
    assert 2 < asked["arg0"] < 100  # a file descriptor
    assert known["query_len"] in [each["arg0"] for each in told if each["returned"]]


SAY_INODE = """folder=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); echo "{\\"inode\\": $(stat -c %i $folder)}" """
CGROUPS = event(*((name, "u64") for name in ("own", "parents", "nobodys", "by_helper")))


def in_a_cgroup(guest: Guest, data: bytes) -> tuple[list[dict[str, Any]], int, int]:
    """What is told of a shell in a cgroup of its own, that cgroup's id, and the inode number of its directory."""
    trigger = {"kind": "command", "command": ["sh", "-c", SAY_INODE]}
    facts = guest.cell(data, programs=["enter_openat"], trigger=trigger, events=[CGROUPS], **BUFFER)
    told = seen(facts)
    assert told
    return told, facts["known"]["cgroup_id"], facts["known"]["inode"]


@pytest.mark.parametrize("name", ["5.4-x86_64", "5.4-arm64", "5.10-x86_64", "6.1-x86_64", "6.1-arm64", "6.12-x86_64"])
def test_the_cgroup_id_over_both_layouts(boot: Boot, build: Build, name: str) -> None:
    """The directory's inode number, under a generation before 5.5; the helper's id; the root's of the agent; none of no task."""
    guest = boot(name)
    told, ident, inode = in_a_cgroup(guest, build("cgroups", guest.target.arch))
    old = guest.target.kernel.version < (5, 5)
    assert inode == (ident & 0xFFFFFFFF if old else ident)
    assert (ident >> 32 > 0) == old
    for each in told:
        assert each["own"] == each["by_helper"] == ident
        assert each["nobodys"] == 0
        assert each["parents"] & 0xFFFFFFFF == 1  # the root cgroup's inode, where the agent is


@pytest.mark.parametrize(
    ("name", "helper"), [("4.14-x86_64", False), ("4.14-arm64", False), ("5.4-arm64", True), ("6.1-x86_64", True)]
)
def test_the_cgroup_id_without_btf(boot: Boot, build: Build, name: str, helper: bool) -> None:
    """By the helper, of the current task only; absent before 4.18, for there is nothing to ask."""
    guest = boot(name)
    defines = ["CORE_COMPAT_FALLBACK", *(["CORE_COMPAT_CGROUP_ID_HELPER"] if helper else [])]
    told, ident, _ = in_a_cgroup(guest, build("cgroups", guest.target.arch, *defines))
    for each in told:
        assert (each["own"], each["nobodys"]) == (ident if helper else 0, 0)


@pytest.mark.parametrize("name", ["5.4-x86_64", "5.4-arm64"])
@pytest.mark.parametrize("program", ["on_cgroup", "on_xdp", "on_tc"])
def test_a_refusal_lets_traffic_through(boot: Boot, build: Build, name: str, program: str) -> None:
    """On 5.4 the requirement (a ring buffer) is not met: the program runs, and the packets of the trigger pass all the same."""
    guest = boot(name)
    data = build("neutral", guest.target.arch)
    facts = guest.cell(data, programs=[program], trigger={"kind": "dns"})
    assert facts["trigger"]["ok"], facts["trigger"]
    assert facts["attempts"][0]["programs"][program]["runs"] >= 2


@pytest.mark.parametrize("program", ["on_cgroup", "on_xdp"])
def test_zero_would_have_cut_the_network(boot: Boot, build: Build, program: str) -> None:
    guest = boot("5.4-x86_64")
    facts = guest.cell(build("neutral", "x86_64", "NEUTRAL_AS_IN_THE_STANDARD"), programs=[program], trigger={"kind": "dns"})
    assert not facts["trigger"]["ok"]
    assert facts["trigger"]["after"]["ok"]


@pytest.mark.parametrize("name", ["5.10-x86_64", "6.1-arm64"])
def test_and_where_nothing_is_missing_the_program_does_its_work(boot: Boot, build: Build, name: str) -> None:
    guest = boot(name)
    facts = guest.cell(build("neutral", guest.target.arch), programs=["on_cgroup"], trigger={"kind": "dns"})
    assert not facts["trigger"]["ok"]  # it drops everything


FILTER = """
import ctypes, os, platform, socket, struct
libc, nr = ctypes.CDLL(None, use_errno=True), {"x86_64": 321, "aarch64": 280}[platform.machine()]
path = ctypes.create_string_buffer(b"/sys/fs/bpf/filter")
attr = ctypes.create_string_buffer(struct.pack("QII", ctypes.addressof(path), 0, 0), 128)
fd = libc.syscall(nr, 7, attr, 16)  # BPF_OBJ_GET
receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
receiver.bind(("127.0.0.1", 0))
receiver.setsockopt(socket.SOL_SOCKET, 50, struct.pack("i", fd))  # SO_ATTACH_BPF
receiver.settimeout(1)
sender.sendto(b"through", receiver.getsockname())
try:
    print(receiver.recv(100).decode())
except TimeoutError:
    print("dropped")
"""


@pytest.mark.parametrize(("name", "as_in_the_standard"), [("5.4-x86_64", False), ("5.4-arm64", False), ("5.4-x86_64", True)])
def test_a_socket_filter_that_refuses(boot: Boot, build: Build, name: str, as_in_the_standard: bool) -> None:
    """On the receiving socket itself, for a filter on a packet socket drops only copies."""
    guest = boot(name)
    data = build("neutral", guest.target.arch, *(["NEUTRAL_AS_IN_THE_STANDARD"] if as_in_the_standard else []))
    guest.call("put", path="/tmp/neutral.o", data=base64.b64encode(data).decode())
    ran = guest.call("run", argv=["bpftool", "prog", "loadall", "/tmp/neutral.o", "/sys/fs/bpf/all"])
    assert ran["exit"] == 0, ran["stderr"]
    ran = guest.call("run", argv=["sh", "-c", "mv /sys/fs/bpf/all/on_socket /sys/fs/bpf/filter || ls /sys/fs/bpf/all"])
    assert ran["exit"] == 0, ran
    ran = guest.call("run", argv=["python3", "-ISc", FILTER], timeout=60)
    assert ran["stdout"].strip() == ("dropped" if as_in_the_standard else "through"), ran
