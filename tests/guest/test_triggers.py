"""What each kind of trigger does, as BPF programs see it on real kernels, beside what the trigger says of it.

`KMATRIX_TRIGGER_TARGETS=5.10-arm64,5.15-x86_64` takes these targets instead: for a look at every kernel there is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from kmatrix.matrix.kernel import Target
from tests.guest.conftest import Guest

Compiled = Callable[[str, Target], bytes]
TARGETS = os.environ.get("KMATRIX_TRIGGER_TARGETS", "4.14-x86_64,6.12-arm64").split(",")

FIELDS = [
    *({"name": name, "type": "u32"} for name in ("kind", "pid", "tgid", "uid")),
    {"name": "id", "type": "u64"},
    *({"name": f"arg{number}", "type": "u64"} for number in range(6)),
    {"name": "comm", "type": "char[16]"},
    {"name": "first", "type": "char[320]"},
    {"name": "second", "type": "char[320]"},
]
NAMES = ["ENTER", "EXIT", "ENDED", "SIGNALLED", "NEW_TASK", "MODULE", "BLOCK", "FAULT", "WAITED", "CALLED", "RETURNED", "WRITTEN", "READ", "LATE"]  # fmt: skip
KIND = {name: number for number, name in enumerate(NAMES, 1)}
SYSCALLS = {  # (x86_64, arm64)
    "read": (0, 63), "write": (1, 64), "mmap": (9, 222), "openat": (257, 56), "rename": (82, 38), "link": (86, 37), "unlink": (87, 35),
    "symlink": (88, 36), "chmod": (90, 53), "chown": (92, 54), "setuid": (105, 146), "capset": (126, 91), "ptrace": (101, 117),
    "mount": (165, 40), "umount": (166, 39), "bpf": (321, 280), "futex": (202, 98),
}  # fmt: skip
AT = {"unlink", "chmod", "chown"}
"""Those that are the …at(2) of their name on arm64, which knows no other, with all arguments one later. Of rename, link and symlink it is not so simple."""
BUFFER = {"transport": "perf", "buffer": "events"}


class Seen(NamedTuple):
    """A record that must come of a trigger: what it is known by, and what it must say, by the name of a field."""

    trigger: str
    what: str
    match: dict[str, Any]
    says: dict[str, Any]


def _call(arch: str, name: str, who: str, **says: Any) -> Seen:
    """A system call. `first` and `second` are its leading paths, wherever this arch has them."""
    number = SYSCALLS[name][arch == "arm64"]
    if arch == "arm64" and name in AT:
        says = {{"first": "second", "arg1": "arg2", "arg2": "arg3"}.get(field, field): value for field, value in says.items()}
    return Seen(who, name, {"kind": KIND["ENTER"], "pid": f"{who}.pid", "id": number}, says)


def _seen(arch: str) -> list[Seen]:
    """What must be seen of every trigger. `NAME` in a text `TRIGGER.NAME` is what that trigger knows by that name."""
    old = arch == "x86_64"
    both = {"first": "rename.path", "second": "rename.new_path"} if old else {"second": "rename.path"}
    linked = {"first": "link.path", "second": "link.new_path"} if old else {"second": "link.path"}
    target = {"first": "symlink.target"} | ({"second": "symlink.path"} if old else {})
    return [
        _call(arch, "openat", "open", second="open.path", arg2="open.flags", tgid="open.tgid", uid="open.uid", comm="open.comm"),
        _call(arch, "openat", "create", second="create.path", arg2="create.flags", arg3="create.mode"),
        _call(arch, "rename", "rename", **both),
        _call(arch, "link", "link", **linked),
        _call(arch, "symlink", "symlink", **target),
        _call(arch, "unlink", "unlink", first="unlink.path"),
        _call(arch, "chmod", "chmod", first="chmod.path", arg1="chmod.mode"),
        _call(arch, "chown", "chown", first="chown.path", arg1="chown.owner", arg2="chown.group"),
        Seen("write", "write", {"kind": KIND["ENTER"], "pid": "write.pid", "id": SYSCALLS["write"][not old], "arg0": "write.fd"},
             {"second": "write.content", "arg2": "write.bytes"}),
        Seen("read", "read", {"kind": KIND["ENTER"], "pid": "read.pid", "id": SYSCALLS["read"][not old], "arg0": "read.fd"}, {}),
        Seen("read", "read's result", {"kind": KIND["EXIT"], "pid": "read.pid", "id": SYSCALLS["read"][not old], "arg0": "read.ret"}, {}),
        Seen("mmap", "mmap", {"kind": KIND["ENTER"], "pid": "mmap.pid", "id": SYSCALLS["mmap"][not old], "arg4": "mmap.fd"},
             {"arg1": "mmap.length", "arg2": "mmap.prot", "arg3": "mmap.flags", "arg5": "mmap.offset"}),
        Seen("mmap", "mmap's result", {"kind": KIND["EXIT"], "pid": "mmap.pid", "id": SYSCALLS["mmap"][not old],
             "arg0": "mmap.address"}, {}),
        Seen("fork", "fork", {"kind": KIND["NEW_TASK"], "pid": "fork.pid", "arg0": "fork.child"}, {"comm": "fork.comm"}),
        Seen("thread", "thread", {"kind": KIND["NEW_TASK"], "pid": "thread.pid", "arg0": "thread.thread"}, {"arg1": "thread.clone_flags"}),
        Seen("exit", "exit", {"kind": KIND["ENDED"], "pid": "exit.pid"}, {"arg0": "exit.exit_code", "comm": "exit.comm"}),
        Seen("exit2", "killed", {"kind": KIND["ENDED"], "pid": "exit2.pid"}, {"arg0": "exit2.exit_code"}),
        Seen("exit3", "thread's end", {"kind": KIND["ENDED"], "pid": "exit3.pid"}, {"tgid": "exit3.tgid", "arg0": 0}),
        Seen("signal", "signal", {"kind": KIND["SIGNALLED"], "pid": "signal.pid", "arg0": "signal.signal"},
             {"arg1": "signal.victim", "first": "signal.victim_comm", "uid": "signal.uid"}),
        Seen("setuid", "setuid", {"kind": KIND["ENTER"], "pid": "setuid.pid", "id": SYSCALLS["setuid"][not old]},
             {"arg0": "setuid.new_uid", "uid": "setuid.old_uid"}),
        _call(arch, "capset", "capset", uid=0),
        _call(arch, "ptrace", "ptrace", arg0="ptrace.request", arg1="ptrace.target"),
        _call(arch, "mount", "mount", first="mount.source", second="mount.path"),
        _call(arch, "umount", "umount", first="umount.path", arg1="umount.flags"),
        _call(arch, "bpf", "bpf", arg0="bpf.cmd", arg2="bpf.size"),
        Seen("block_io", "read", {"kind": KIND["BLOCK"], "arg0": "block_io.dev"},
             {"arg1": "block_io.sector", "arg2": "block_io.sectors", "arg3": "block_io.bytes"}),
        Seen("page_fault", "the first page", {"kind": KIND["FAULT"], "pid": "page_fault.pid", "arg0": "page_fault.address"}, {}),
        Seen("page_fault", "the last page", {"kind": KIND["FAULT"], "pid": "page_fault.pid", "arg0": "page_fault.last_address"}, {}),
        Seen("off_cpu", "off the CPU", {"kind": KIND["WAITED"], "pid": "off_cpu.pid"}, {"arg0": "bounds"}),
        Seen("run_queue", "in the queue", {"kind": KIND["LATE"], "pid": "run_queue.pid"}, {"arg0": "bounds"}),
        Seen("futex", "futex", {"kind": KIND["ENTER"], "pid": "futex.pid", "arg0": "futex.address"},
             {"id": SYSCALLS["futex"][not old], "arg1": "futex.op", "arg2": "futex.value"}),
        Seen("uprobe", "called", {"kind": KIND["CALLED"], "pid": "uprobe.pid"},
             {"arg0": "uprobe.number", "arg1": "uprobe.wide", "arg2": "uprobe.text_address", "first": "uprobe.text", "comm": "uprobe.comm"}),
        Seen("uprobe", "returned", {"kind": KIND["RETURNED"], "pid": "uprobe.pid"}, {"arg0": "uprobe.ret"}),
        Seen("tls", "written", {"kind": KIND["WRITTEN"], "pid": "tls.pid", "arg0": "tls.request_len"}, {"first": "tls.request"}),
        Seen("tls", "read", {"kind": KIND["READ"], "pid": "tls.pid"}, {"first": "tls.request"}),
    ]  # fmt: skip


@pytest.fixture(params=TARGETS)
def guest(request: pytest.FixtureRequest, boot: Callable[[str], Guest]) -> Guest:
    """A pristine guest of each of the targets."""
    return boot(request.param)


PROGRAMS = [
    "on_enter",
    "on_exit",
    "on_new_task",
    "on_end",
    "on_signal",
    "on_module",
    "on_block",
    "on_fault",
    "on_wakeup",
    "on_switch",
    "on_call",
    "on_return",
    "on_tls_write",
    "on_tls_read",
    "on_tls_returned",
]
OFTEN = {"run_queue": {"count": 3}}
"""On a crowded host, a process may be woken before it is off the CPU."""
EXITS = [{"kind": "exit"}, {"kind": "exit", "how": "signal"}, {"kind": "exit", "how": "thread"}]


def _known(value: Any) -> Any:
    """`mount.path` as the request has it: known.mount_path."""
    return f"known.{value.replace('.', '_', 1)}" if isinstance(value, str) else value


def _cell(guest: Guest, data: bytes, seen: Sequence[Seen], parts: list[dict[str, Any]], **around: Any) -> dict[str, Any]:
    """One cell of all programs, with the triggers one after the other."""
    events = [
        {"name": str(at), "match": {field: _known(value) for field, value in one.match.items()}, "fields": FIELDS}
        for at, one in enumerate(seen)
    ]
    trigger = {"compose": parts, "timeout": 60, **around}
    return guest.cell(data, programs=PROGRAMS, trigger=trigger, events=events, timeout=2.0, **BUFFER)


def _agrees(kind: str, value: Any, wanted: Any, least: Any, most: Any, *, whole: bool) -> bool:
    """Behind what is read into a buffer, other bytes may follow."""
    if wanted == "bounds":
        return bool(least <= value and (value <= most or kind in OFTEN))
    return bool(value == wanted or (not whole and str(value).startswith(str(wanted))))


def _wrong(seen: Sequence[Seen], facts: dict[str, Any]) -> list[str]:
    """What did not come, or says something else than the trigger knows."""
    assert facts["running"] == "only", facts["refusal"]
    assert facts["trigger"]["ok"], facts["trigger"]
    known, wrong = facts["known"], []
    for at, one in enumerate(seen):
        come = [event["fields"] for event in facts["events"] if event["event"] == str(at)]
        if not come:
            wrong.append(f"{one.trigger}: {one.what}: nothing came with {one.match}")
        for field, value in one.says.items():
            least, most = (known.get(f"{one.trigger}_{name}_ns") for name in ("least", "most"))
            wanted = known[_known(value).removeprefix("known.")] if isinstance(value, str) and value != "bounds" else value
            if come and not any(_agrees(one.trigger, each[field], wanted, least, most, whole=one.what != "read") for each in come):
                wrong.append(f"{one.trigger}: {one.what}: {field} is {[each[field] for each in come]}, not {wanted}")
    return wrong


def test_every_kind(guest: Guest, compiled: Compiled) -> None:
    data, arch = compiled("triggers", guest.target), guest.target.arch
    seen = _seen(arch)
    kinds = list(dict.fromkeys(one.trigger for one in seen if not one.trigger.startswith("exit")))
    wrong = []
    # As many at a time as a guest has memory for; each time with those whose binaries programs are attached to.
    for named, more in ((kinds[:9], []), (kinds[9:18], []), (kinds[18:-2], EXITS)):
        parts = [{"kind": kind, **OFTEN.get(kind, {})} for kind in (*named, *kinds[-2:])] + more
        here = [one for one in seen if one.trigger in {*named, *kinds[-2:]} or (more and one.trigger.startswith("exit"))]
        wrong += _wrong(here, _cell(guest, data, here, parts))
    assert wrong == []


CONTAINER = ("pid", "mnt", "net", "uts", "ipc", "cgroup")


@pytest.mark.parametrize("name", [target for target in TARGETS if not target.startswith(("4.", "5.4-"))])
def test_as_in_a_container(name: str, boot: Callable[[str], Guest], compiled: Compiled) -> None:
    """The kernel's own structures say of the process what the trigger says of it."""
    guest = boot(name)
    data = compiled("surroundings", guest.target)
    fields = [
        *({"name": field, "type": "u32"} for field in ("tgid", "ns_pid", "pid_ns", "net_ns", "uts_ns", "padding")),
        *({"name": field, "type": "u64"} for field in ("cgroup_id", "ancestor")),
    ]
    event = {"name": "where", "match": {"tgid": "known.tgid"}, "fields": fields}

    def cell(**around: Any) -> dict[str, Any]:
        trigger = {"kind": "create", **around}
        return guest.cell(data, programs=["where", "below_what?"], trigger=trigger, events=[event], **BUFFER)

    plain = cell()
    kinds = [kind for kind in CONTAINER if plain["known"][f"{kind}_ns"] is not None]  # kernels that are built have no uts and ipc
    assert {"pid", "mnt", "net"} <= set(kinds)
    inside, deep = cell(namespaces=kinds), cell(cgroup_depth=2)
    for facts in (plain, inside, deep):
        assert facts["trigger"]["ok"], facts["trigger"]
        assert facts["events"], facts["refusal"]
        for come in facts["events"]:
            named = come["fields"].keys() - {"padding", "ancestor"}
            named -= {f"{kind}_ns" for kind in CONTAINER if kind not in kinds}
            assert {key: come["fields"][key] for key in named} == {key: facts["known"][key] for key in named}
    known = inside["known"]
    assert known["ns_pid"] == 1 != known["pid"]
    assert known["ppid"] != plain["known"]["ppid"]
    for kind in kinds:
        assert known[f"{kind}_ns"] not in (None, plain["known"][f"{kind}_ns"])
        assert plain["known"][f"{kind}_ns"] == deep["known"][f"{kind}_ns"]
    assert deep["known"]["cgroup_path"].count("/") == plain["known"]["cgroup_path"].count("/") + 1
    above = {come["fields"]["ancestor"] for come in deep["events"]} - {0}
    assert above == ({deep["known"]["cgroup_parent_id"]} if guest.target.kernel.version >= (5, 14) else set())
    assert deep["known"]["cgroup_parent_id"] != deep["known"]["cgroup_id"]


def test_options(guest: Guest, compiled: Compiled) -> None:
    """Paths across a mount, with names as long as can be; a disk that is written to; what is done many times."""
    data, arch = compiled("triggers", guest.target), guest.target.arch
    there = {"place": "mount", "name": "long"}
    seen = [one for one in _seen(arch) if one.trigger in ("create", "unlink", "block_io", "uprobe")]
    parts: list[dict[str, Any]] = [
        {"kind": "create", **there},
        {"kind": "unlink", **there},
        {"kind": "block_io", "op": "write"},
        {"kind": "uprobe", "count": 5, "rate": 50.0},
    ]
    parts += [{"kind": "tls"}, {"kind": "oom"}]  # of the first the object has programs; the second looks for its cgroup
    facts = _cell(guest, data, seen, parts, namespaces=["pid", "cgroup"], cgroup_depth=2)
    assert _wrong(seen, facts) == []
    known = facts["known"]
    assert len(known["create_name"]) == 255
    assert known["create_dev"] != 0
    assert known["create_path"].startswith("/tmp/kmatrix/mount/of/tmpfs/")
    assert {known["create_ns_pid"], known["unlink_ns_pid"], known["oom_ns_pid"]} == {1}
    assert known["oom_victim"] > 2  # in its own namespace it would be 2
    assert facts["counts"][str([one.what for one in seen].index("called"))] == 5


def test_usdt(boot: Callable[[str], Guest], compiled: Compiled) -> None:
    guest = boot(TARGETS[-1])
    if guest.target.kernel.version < (5, 4):
        pytest.skip("libbpf's <bpf/usdt.bpf.h> takes the kernel's BTF, which 4.14 has not")
    fields = [
        *(
            {"name": name, "type": kind}
            for name, kind in (("tgid", "u32"), ("number", "s32"), ("wide", "s64"), ("text_address", "s64"))
        ),
        {"name": "text", "type": "char[32]"},
    ]
    event = {"name": "usdt", "match": {"tgid": "known.tgid"}, "fields": fields}
    facts = guest.cell(compiled("usdt", guest.target), programs=["on_usdt"], trigger={"kind": "usdt"}, events=[event], **BUFFER)
    assert facts["running"] == "only", facts["refusal"]
    (come,) = facts["events"]
    assert come["fields"] == {name: facts["known"][name] for name in come["fields"]}


def test_a_module_is_loaded_where_there_is_one(guest: Guest, compiled: Compiled) -> None:
    debian = guest.call("run", argv=["sh", "-c", "find /lib/modules -name dummy.ko | grep -q ."])["exit"] == 0
    event = {"name": "module", "match": {"kind": KIND["MODULE"], "pid": "known.pid"}, "fields": FIELDS}
    facts = guest.cell(
        compiled("triggers", guest.target), programs=["on_module"], trigger={"kind": "module_load"}, events=[event], **BUFFER
    )
    assert facts["trigger"]["ok"] is debian
    if debian:
        (come,) = facts["events"]
        assert (come["fields"]["first"], come["fields"]["uid"]) == (facts["known"]["module"], 0)
    else:
        assert "no file of the module dummy" in facts["trigger"]["error"]
