"""Cells on real guests, by the agent alone: what runs, what is optional, what is left, and how much is said."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from kmatrix.matrix.kernel import Target
from tests.guest.conftest import Guest

Compiled = Callable[[str, Target], bytes]
EVENT = {
    "name": "open",
    "match": {"tgid": "known.tgid"},
    "fields": [{"name": "pid", "type": "u32"}, {"name": "tgid", "type": "u32"}],
}
BUFFER = {"transport": "perf", "buffer": "events"}


def test_required_programs_run_and_nothing_stays(guest: Guest, compiled: Compiled) -> None:
    facts = guest.cell(compiled("hooks", guest.target), programs=["works", "on_kprobe"], events=[EVENT], **BUFFER)
    assert facts["running"] == "only"
    (attempt,) = facts["attempts"]
    assert attempt["stage"] is None
    during = {program["id"]: program for program in facts["kernel"]["during"]["programs"]}
    for name in ("works", "on_kprobe"):
        report = attempt["programs"][name]
        assert report["attached"] is True
        assert during[report["id"]]["tag"] == report["tag"]
    # 4.14 has no kprobe PMU, and links are from 5.15 on for these hooks.
    modern = guest.target.kernel.version >= (5, 15)
    old = guest.target.kernel.version < (4, 17)
    assert attempt["programs"]["works"]["via"] == ("link" if modern else "perf_event")
    assert attempt["programs"]["on_kprobe"]["via"] == ("link" if modern else "tracefs" if old else "perf_event")
    assert len(facts["kernel"]["during"]["kprobe_events"]) == (1 if old else 0)
    assert facts["kernel"]["after"] == facts["kernel"]["before"]
    assert facts["events"][0]["fields"] == {name: facts["known"][name] for name in ("pid", "tgid")}
    assert facts["known"]["pid"] != facts["known"]["tgid"]


@pytest.mark.parametrize(("broken", "stage"), [("cannot_load", "load"), ("cannot_attach", "attach")])
def test_an_optional_program_may_fail_and_a_required_one_may_not(
    boot: Callable[[str], Guest], compiled: Compiled, broken: str, stage: str
) -> None:
    guest = boot("4.14-x86_64")
    data = compiled("hooks", guest.target)
    facts = guest.cell(data, programs=["works", f"{broken}?"], events=[EVENT], **BUFFER)
    assert facts["running"] == "only"
    report = facts["attempts"][0]["programs"][broken]
    assert report["attached"] is False
    assert report["error"]
    assert report["loaded"] is (stage == "attach")

    facts = guest.cell(data, programs=["works", broken], events=[EVENT], **BUFFER)
    assert facts["running"] is None
    assert facts["attempts"][0]["stage"] == stage
    assert broken in facts["attempts"][0]["error"]["text"]
    assert broken in facts["refusal"]
    assert "4.14.67" in facts["refusal"]
    assert facts["kernel"]["after"] == facts["kernel"]["during"] == facts["kernel"]["before"]


def test_the_verifiers_log_is_complete(guest: Guest, compiled: Compiled) -> None:
    facts = guest.cell(compiled("verbose", guest.target), programs=["verbose"])
    report = facts["attempts"][0]["programs"]["verbose"]
    log = report["log"]
    assert log.count("\n") > 1500
    assert "0: " in log[:200]
    assert "invalid mem access" in log[-1000:]
    assert report["loaded"] is False


def test_a_manifest_that_names_what_the_object_has_not(boot: Callable[[str], Guest], compiled: Compiled) -> None:
    guest = boot("6.1-x86_64")
    data = compiled("hooks", guest.target)
    facts = guest.cell(data, programs=["works", "imagined"])
    assert facts["attempts"][0]["stage"] == "open"
    assert "imagined" in facts["refusal"]
    facts = guest.cell(data, programs=["works"], transport="ringbuf", buffer="imagined")
    assert "imagined" in facts["refusal"]
    facts = guest.cell(data[:1000], programs=["works"])
    assert facts["attempts"][0]["stage"] == "open"


def test_the_kernels_type_of_the_buffer_counts(boot: Callable[[str], Guest], compiled: Compiled) -> None:
    guest = boot("6.1-x86_64")
    facts = guest.cell(compiled("hooks", guest.target), programs=["works"], events=[EVENT], transport="ringbuf", buffer="events")
    assert facts["events"][0]["transport"] == "perf"


def test_below_the_floor_nothing_is_tried(boot: Callable[[str], Guest], compiled: Compiled) -> None:
    guest = boot("6.1-x86_64")
    facts = guest.cell(compiled("hooks", guest.target), programs=["works"], min_kernel=[6, 2])
    assert facts["attempts"] == []
    assert "needs kernel 6.2" in facts["refusal"]
    assert facts["release"] in facts["refusal"]
    assert (facts["trigger"]["after_refusal"], facts["trigger"]["ok"]) == (True, True)  # but the guest has to work


def test_after_a_refusal_the_guest_works_as_before(boot: Callable[[str], Guest], compiled: Compiled) -> None:
    guest = boot("5.4-x86_64")
    for trigger, works in ({"kind": "open"}, True), ({"kind": "command", "command": ["false"]}, False):
        facts = guest.cell(compiled("hooks", guest.target), programs=["cannot_attach"], trigger=trigger)
        assert facts["running"] is None
        assert facts["trigger"]["after_refusal"]
        assert facts["trigger"]["ok"] is works
        assert facts["known"]["tgid"]


def test_twice_in_the_same_guest(guest: Guest, compiled: Compiled) -> None:
    """The second trigger's child is made while the collector runs, and must not keep it from being detached."""
    for _ in range(2):
        facts = guest.cell(compiled("hooks", guest.target), programs=["works"], events=[EVENT], **BUFFER)
        assert len(facts["events"]) >= 1
        assert facts["kernel"]["after"] == facts["kernel"]["before"]


def _fire(guest: Guest, data: bytes, **trigger: Any) -> dict[str, Any]:
    files = {"go.sh": base64.b64encode(b'#!/bin/sh\necho "{\\"answer\\": $ANSWER}"\n').decode()}
    return guest.cell(data, programs=["works"], trigger=trigger, files=files)


def test_triggers(guest: Guest, compiled: Compiled) -> None:
    data = compiled("hooks", guest.target)
    known = _fire(guest, data, kind="exec")["known"]
    assert (known["exit_status"], known["exit_code"], known["comm"]) == (7, 0x700, "kmatrix-exec")
    known = _fire(guest, data, kind="tcp_connect")["known"]
    assert (known["daddr"], known["family"]) == ("127.0.0.1", 2)
    assert 0 < known["sport"] != known["dport"] > 0
    known = _fire(guest, data, kind="tcp_connect", family="ipv6")["known"]
    assert (known["daddr"], known["family"]) == ("::1", 10)
    for _ in range(2):  # one that was prepared, and one that was not
        known = _fire(guest, data, kind="dns")["known"]
        assert (known["saddr"], known["dport"]) == ("127.0.0.1", 53)
        facts = _fire(guest, data, kind="oom")
        assert facts["trigger"]["ok"], facts["trigger"]
        assert facts["known"]["victim"] != facts["known"]["pid"]

    facts = _fire(guest, data, kind="command", command=["./go.sh"], env={"ANSWER": 42})
    assert facts["trigger"]["ok"]
    assert (facts["known"]["answer"], facts["known"]["comm"], facts["known"]["exit_status"]) == (42, "go.sh", 0)
    facts = _fire(guest, data, kind="command", command=["sh", "-c", "echo so it is >&2; exit 3"])
    assert facts["trigger"] | {"stdout": ""} == {
        "ok": False, "exit": 3, "error": "sh ended with 3: so it is", "stdout": "", "stderr": "so it is\n",
        "after": {"ok": False, "error": "sh ended with 3: so it is"},
    }  # fmt: skip
    facts = _fire(guest, data, kind="command", command=["sleep", "60"], timeout=0.5)
    assert facts["trigger"]["error"] == "did not end within 0.5 s"
    facts = _fire(guest, data, kind="command", command=["no-such-command"])
    assert "no-such-command" in facts["trigger"]["error"]
    facts = _fire(guest, data, kind="earthquake")
    assert "earthquake" in facts["trigger"]["error"]


def test_cgroup_ids_are_the_kernels(guest: Guest, compiled: Compiled) -> None:
    """The id of the trigger's cgroup: the inode number from 5.5 on, with the generation in the upper half before."""
    known = _fire(guest, compiled("hooks", guest.target), kind="open")["known"]
    inode = int(guest.call("run", argv=["sh", "-c", "mkdir /sys/fs/cgroup/t && stat -c %i /sys/fs/cgroup/t"])["stdout"])
    if guest.target.kernel.version < (5, 5):
        assert known["cgroup_id"] >> 32 >= 1
        assert 0 < known["cgroup_id"] & 0xFFFFFFFF < inode
    else:
        assert 0 < known["cgroup_id"] < inode


def test_a_program_that_others_call_is_loaded_only(guest: Guest, compiled: Compiled) -> None:
    """What it tells comes too, and an event that comes once too often is seen."""
    data = compiled("called", guest.target)
    facts = guest.cell(data, programs=["caller", "called-"], events=[EVENT | {"max_count": 1}], **BUFFER)
    assert facts["running"] == "only"
    report = facts["attempts"][0]["programs"]["called"]
    assert (report["loaded"], report["attached"], report["via"], report["error"]) == (True, False, None, None)
    assert report["id"] in {program["id"] for program in facts["kernel"]["during"]["programs"]}
    assert facts["kernel"]["after"] == facts["kernel"]["before"]
    mine = [event for event in facts["events"] if event["fields"]["pid"] == facts["known"]["pid"]]
    assert len(mine) == 4  # two opens
    facts = guest.cell(data, programs=["caller", "called"], **BUFFER)
    assert facts["running"] is None


def test_programs_on_the_network_see_the_trigger(guest: Guest, compiled: Compiled) -> None:
    data, version = compiled("net", guest.target), guest.target.kernel.version
    company = version >= (4, 15)
    programs = ["on_socket", "first", "second" if company else "second?"]
    facts = guest.cell(data, programs=programs, trigger={"kind": "tcp_connect"})
    assert facts["running"] == "only"
    assert facts["trigger"]["ok"]
    reports = facts["attempts"][0]["programs"]
    assert reports["on_socket"]["via"] == "socket"
    assert reports["first"]["via"] == ("link" if version >= (5, 7) else "cgroup")
    assert reports["second"]["attached"] is company
    if not company:
        assert "taken" in reports["second"]["error"]
    trace = guest.call("run", argv=["sh", "-c", "cat /sys/kernel/tracing/trace || cat /sys/kernel/debug/tracing/trace"])["stdout"]
    assert {name for name in reports if f"kmatrix {name}" in trace} == {"on_socket", "first"} | ({"second"} if company else set())
    assert facts["kernel"]["after"] == facts["kernel"]["before"]


def test_a_program_that_does_harm(boot: Callable[[str], Guest], compiled: Compiled) -> None:
    """The trigger fails while the program is attached, and not any more when it is gone."""
    guest = boot("6.1-x86_64")
    facts = guest.cell(compiled("deny", guest.target), programs=["deny"])
    assert facts["running"] == "only"
    assert facts["trigger"] == {
        "ok": False,
        "exit": None,
        "error": "openat(/tmp/kmatrix/open-target) answers EPERM",
        "after": {"ok": True, "error": None},
    }


def test_taint(guest: Guest, compiled: Compiled) -> None:
    data = compiled("hooks", guest.target)
    taint = _fire(guest, data, kind="open")["taint"]
    assert taint["before"] == taint["after"]
    assert not taint["after"] & 1 << 6  # U: userspace asked for it
    facts = _fire(guest, data, kind="command", command=["sh", "-c", "echo 64 > /proc/sys/kernel/tainted"])
    assert facts["taint"] == {"before": taint["after"], "after": taint["after"] | 1 << 6}
    assert "after" not in facts["trigger"]
