"""The triggers on the network: a collector receives what each makes happen, with right values, and one that is broken is found out.

All of them in one guest of each target. Every day, three targets and one family of addresses on each are enough. KMATRIX_TRIGGER_TARGETS
names targets on which all are tried ("5.4-arm64,5.10-x86_64").
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kmatrix.manifest.load import load_collector
from kmatrix.objects.derived import derived
from kmatrix.objects.described import described
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.runs.request import request
from kmatrix.verdict.expectation import expected
from kmatrix.verdict.judge import Verdict, verdict
from kmatrix.verdict.observation import observed
from tests.guest.conftest import Guest

DAILY = {"4.14-x86_64": "ipv4", "6.1-x86_64": "ipv6", "6.12-arm64": "ipv4"}
TARGETS = os.environ.get("KMATRIX_TRIGGER_TARGETS", ",".join(DAILY)).split(",")
ALL = "KMATRIX_TRIGGER_TARGETS" in os.environ
SOCKET, CALL, PATH, BYTES, PACKET, INGRESS, EGRESS, COUNTS = range(1, 9)
"""enum what in bpf/traffic.bpf.c; and what bpf/tcp_counts.bpf.c says."""
Values = Mapping[str, int | str]


class Expected(NamedTuple):
    """An event that must come: by what it is told from others, and what of it is checked."""

    name: str
    match: Values
    fields: Values = {}


class Case(NamedTuple):
    """A trigger, what watches it, and what must come out."""

    trigger: Mapping[str, str]
    programs: Mapping[str, str]
    events: tuple[Expected, ...]
    broken: str
    """The macro of a mistake that the object is compiled with to break it."""
    failure: str
    """What it then fails in."""
    object: str = "traffic"
    since: tuple[int, int] = (4, 14)
    """The first kernel that has what it watches with."""

    @property
    def name(self) -> str:
        return "-".join([*self.trigger.values(), *self.programs])


def _kprobes(*functions: str) -> dict[str, str]:
    return {name: f"kprobe/{name}" for name in functions}


def _around(function: str) -> dict[str, str]:
    return {f"enter_{function}": f"kprobe/{function}", f"exit_{function}": f"kretprobe/{function}"}


def _calls(*names: str) -> dict[str, str]:
    return {name: f"tracepoint/syscalls/sys_exit_{name}" for name in names}


ME: Values = {"pid": "known.pid", "comm": "known.comm"}
MINE: Values = {"tgid": "known.tgid"}
ENDS: Values = {
    "family": "known.family",
    "saddr": "known.saddr",
    "daddr": "known.daddr",
    "sport": "known.sport",
    "dport": "known.dport",
}


def _returns(name: str, known: str) -> Expected:
    return Expected(name, {"what": CALL, **MINE, "ret": known}, ME)


def _tcp(family: str) -> list[Case]:
    connect = _around(f"tcp_v{family[-1]}_connect")
    own = {name: ENDS[name] for name in ("family", "saddr", "sport")}
    return [
        Case(
            {"kind": "tcp_connect", "family": family},
            connect,
            (Expected("connect", {"what": SOCKET, **MINE}, ME | ENDS | {"ret": "known.ret"}),),
            "BREAK_PORTS",
            "wrong-data",
        ),
        Case(
            {"kind": "tcp_connect", "family": family, "port": "closed"},
            _calls("connect"),
            (_returns("refused", "known.ret"),),
            "BREAK_SILENT",
            "silent",
        ),
        Case(
            {"kind": "tcp_listen", "family": family},
            _around("inet_csk_listen_start"),
            (
                Expected("listen", {"what": SOCKET, **MINE, "ret": "known.ret"}, ME | own),
                Expected("taken", {"what": SOCKET, **MINE, "ret": "known.taken_ret"}, ME | own),
            ),
            "BREAK_PID",
            "wrong-data",
        ),
        Case(
            {"kind": "tcp_accept", "family": family},
            {"inet_csk_accept": "kretprobe/inet_csk_accept", **_calls("accept4")},
            (
                Expected("accept", {"what": SOCKET, **MINE}, ME | ENDS),
                _returns("accepted", "known.ret"),
                _returns("empty", "known.empty_ret"),
            ),
            "BREAK_PORTS",
            "wrong-data",
        ),
        Case(
            {"kind": "tcp_close", "family": family},
            _kprobes("tcp_close", "tcp_sendmsg", "tcp_cleanup_rbuf"),
            (
                Expected("close", {"what": SOCKET, **MINE, "len": 0, "pid": "known.pid"}, ME | ENDS | {"state": 1}),
                Expected("send", {"what": SOCKET, **MINE, "len": "known.sent"}, ME | ENDS),
                Expected("receive", {"what": SOCKET, **MINE, "len": "known.received"}, ME | ENDS),
                Expected("peer", {"what": SOCKET, "pid": "known.peer_pid", "len": "known.sent"}, {"comm": "known.peer_comm"}),
            ),
            "BREAK_PID",
            "silent",
        ),
        Case(
            {"kind": "tcp_retransmit", "family": family},
            _kprobes("tcp_retransmit_skb"),
            (Expected("retransmit", {"what": SOCKET, "sport": "known.sport"}, ENDS | {"state": "known.state"}),),
            "BREAK_SILENT",
            "silent",
        ),
        Case(
            {"kind": "tcp_reset", "family": family},
            _kprobes("tcp_send_active_reset", "tcp_reset"),
            (
                # The kernel has given up the socket's port by then (skc_num).
                Expected(
                    "sent",
                    {"what": SOCKET, "dport": "known.dport"},
                    ME | {name: ENDS[name] for name in ("family", "saddr", "daddr")},
                ),
                # Of the socket that it reaches, the ends are the other way round. The loopback interface has it done by who sends.
                Expected("reached", {"what": SOCKET, "dport": "known.sport"}, {"sport": "known.dport", "daddr": "known.saddr"}),
            ),
            "BREAK_PID",
            "wrong-data",
        ),
    ]


PORTS: Values = {"sport": "known.sport", "dport": "known.dport"}
ESTABLISHED, FIN_WAIT1, CLOSE, LISTEN = 1, 4, 7, 10


def _tracepoints() -> list[Case]:
    """What agents for newer kernels watch instead of functions."""
    state = {"state": "tracepoint/sock/inet_sock_set_state"}
    closing: Values = {"what": SOCKET, "pid": "known.pid", "len": ESTABLISHED, "state": FIN_WAIT1}
    listening: Values = {"what": SOCKET, "pid": "known.pid", "len": CLOSE, "state": LISTEN, "sport": "known.sport"}
    # Two listen at the port, and one is refused after its state has been set.
    listens = (
        Expected("listening", listening, {"family": "known.family"}),
        Expected("refused", {**listening, "len": LISTEN, "state": CLOSE}),
    )
    retransmit, reset = (
        {name: f"tracepoint/tcp/{hook}"} for name, hook in (("retransmit", "tcp_retransmit_skb"), ("reset", "tcp_receive_reset"))
    )
    return [
        Case(
            {"kind": "tcp_close", "family": "ipv6"},
            state,
            (Expected("closing", closing, PORTS),),
            "BREAK_PORTS",
            "wrong-data",
            since=(4, 16),
        ),
        Case({"kind": "tcp_listen", "family": "ipv6"}, state, listens, "BREAK_PID", "silent", since=(4, 16)),
        Case(
            {"kind": "tcp_retransmit", "family": "ipv6"},
            retransmit,
            (Expected("again", {"what": SOCKET, "sport": "known.sport"}, PORTS | {"state": "known.state"}),),
            "BREAK_PORTS",
            "silent",
            since=(4, 17),
        ),
        Case(
            {"kind": "tcp_reset", "side": "received", "family": "ipv6"},
            reset,
            (Expected("reached", {"what": SOCKET, **PORTS}),),
            "BREAK_PORTS",
            "silent",
            since=(4, 15),
        ),
    ]


def _udp(family: str) -> list[Case]:
    send = "udp_sendmsg" if family == "ipv4" else "udpv6_sendmsg"
    return [
        Case(
            {"kind": "udp_send", "family": family},
            {**_kprobes(send), **_calls("sendto")},
            (
                Expected("send", {"what": SOCKET, **MINE, "sport": "known.sport"}, ME | ENDS | {"len": "known.bytes"}),
                Expected(
                    "lost",
                    {"what": SOCKET, **MINE, "dport": "known.closed_dport"},
                    {"sport": "known.closed_sport", "len": "known.bytes"},
                ),
                _returns("sent", "known.ret"),
                _returns("refused", "known.closed_ret"),
            ),
            "BREAK_PID",
            "wrong-data",
        ),
        Case(
            {"kind": "udp_receive", "family": family},
            {**_kprobes("skb_consume_udp"), **_calls("recvfrom")},
            (
                Expected("receive", {"what": SOCKET, **MINE}, ME | ENDS | {"len": "known.bytes"}),
                _returns("received", "known.ret"),
                _returns("empty", "known.empty_ret"),
            ),
            "BREAK_PORTS",
            "wrong-data",
        ),
    ]


def _packets(family: str, *, tcx: bool = False) -> Case:
    out = ENDS | {"len": "known.bytes", "ret": "known.frame_bytes", "text": "known.payload"}
    back = {
        "family": "known.family",
        "saddr": "known.daddr",
        "daddr": "known.saddr",
        "sport": "known.dport",
        "dport": "known.sport",
    }
    back |= {"len": "known.reply_bytes", "ret": "known.reply_frame_bytes", "text": "known.reply_payload"}
    near = {"ifindex": "known.ifindex"}
    both = (Expected("in", {"what": INGRESS}, back | near), Expected("out", {"what": EGRESS}, out | near))
    programs = {"on_ingress": "classifier/ingress", "on_egress": "classifier/egress", "on_xdp": "xdp"}
    if tcx:
        tcx_programs = {"on_tcx_ingress": "tcx/ingress", "on_tcx_egress": "tcx/egress"}
        return Case({"kind": "packets"}, tcx_programs, both, "BREAK_SILENT", "silent", since=(6, 6))
    seen = (Expected("received", {"what": PACKET}, back), *both)
    return Case({"kind": "packets", "family": family}, programs, seen, "BREAK_PORTS", "wrong-data")


def _unix(kind: str, program: str, call: str, **more: str) -> Case:
    there = {"family": "known.family"} | ({"len": "known.bytes"} if kind == "unix_send" else {})
    return Case(
        {"kind": kind, **more},
        {**_kprobes(program), **_calls(call)},
        (
            Expected("there", {"what": PATH, **MINE, "text": "known.path"}, ME | there),
            Expected("missing", {"what": PATH, **MINE, "text": "known.missing_path"}, ME | there),
            _returns("done", "known.ret"),
            _returns("absent", "known.missing_ret"),
        ),
        "BREAK_PID",
        "wrong-data",
    )


def _dns(transport: str) -> Case:
    """What is sent first: over TCP, two bytes of length come before the message."""
    ahead = 2 if transport == "tcp" else 0
    return Case(
        {"kind": "dns", "transport": transport, "rcode": "nxdomain"},
        {"bytes": "tracepoint/syscalls/sys_enter_sendto"},
        tuple(
            Expected(
                name, {"what": BYTES, **MINE, f"flags_at_{ahead}": f"known.{name}_flags"}, ME | {f"id_at_{ahead}": "known.query_id"}
            )
            for name in ("query", "answer")
        ),
        "BREAK_SILENT",
        "silent",
    )


CASES = [
    *_tcp("ipv4"),
    *_tcp("ipv6"),
    Case(
        {"kind": "tcp_close"},
        _kprobes("tcp_close"),
        (
            Expected(
                "counts", {"what": COUNTS, "pid": "known.pid"}, {"acked": "known.bytes_acked", "received": "known.bytes_received"}
            ),
        ),
        "BREAK_COUNTS",
        "wrong-data",
        object="tcp_counts",
    ),
    Case(
        {"kind": "tcp_retransmit", "segment": "syn"},
        _kprobes("tcp_retransmit_skb"),
        (Expected("retransmit", {"what": SOCKET, "sport": "known.sport"}, ENDS | {"state": 2}),),
        "BREAK_SILENT",
        "silent",
    ),
    Case(
        {"kind": "tcp_reset", "side": "received"},
        _kprobes("tcp_reset"),
        (Expected("reached", {"what": SOCKET, "sport": "known.sport"}, ENDS | {"pid": "known.peer_pid"}),),
        "BREAK_SILENT",
        "silent",
    ),
    *_tracepoints(),
    *_udp("ipv4"),
    *_udp("ipv6"),
    _unix("unix_connect", "unix_stream_connect", "connect"),
    _unix("unix_connect", "unix_stream_connect", "connect", type="seqpacket"),
    _unix("unix_send", "unix_dgram_sendmsg", "sendto"),
    _dns("udp"),
    _dns("tcp"),
    _packets("ipv4"),
    _packets("ipv6"),
    _packets("ipv4", tcx=True),
]

LAYOUT = {
    "what": ("u32", 0), "pid": ("u32", 4), "tgid": ("u32", 8), "ret": ("s32", 12), "len": ("u32", 16), "family": ("u16", 20),
    "state": ("u16", 22), "sport": ("u16", 24), "dport": ("be16", 26), "ifindex": ("u32", 28), "saddr": ("ipv4", 32), "daddr": ("ipv4", 48),
    "comm": ("char[16]", 64), "text": ("char[48]", 80), "id_at_0": ("be16", 80), "id_at_2": ("be16", 82), "flags_at_0": ("be16", 82),
    "flags_at_2": ("be16", 84), "acked": ("u64", 16), "received": ("u64", 24),
}  # fmt: skip
"""Type and offset of each field in the objects' events, and of two of them in what a resolver sends."""
SIZES = {"traffic": 128, "tcp_counts": 32}
NEEDS = {"traffic": "", "tcp_counts": ', "btf"'}


def manifest(case: Case, path: Path, data: bytes, arch: str) -> Path:
    """A collector that watches the trigger with an object."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "object.o").write_bytes(data)
    lines = ["schema = 1", "[collector]", f'name = "{path.name}"', "timeout = 1.0", "[[variant]]", 'name = "perf"', 'behaviour = "full"',
             'object = "object.o"', f'arches = ["{arch}"]', f'needs = ["perf_buffer"{NEEDS[case.object]}]', 'transport = "perf"', 'buffer = "events"']  # fmt: skip
    for name, hook in case.programs.items():
        lines += ["[[program]]", f'name = "{name}"', f'hook = "{hook}"']
    lines += ["[trigger]", *(f'{name} = "{value}"' for name, value in case.trigger.items())]
    for event in case.events:
        match = ", ".join(f"{name} = {_toml(value)}" for name, value in event.match.items())
        lines += ["[[event]]", f'name = "{event.name}"', f"size = {SIZES[case.object]}", f"match = {{ {match} }}"]
        used = sorted({*event.match, *event.fields}, key=lambda name: LAYOUT[name][1])
        for name in used:
            kind, offset = LAYOUT[name]
            kind = "ipv6" if kind == "ipv4" and case.trigger.get("family") == "ipv6" else kind
            lines += ["[[event.field]]", f'name = "{name}"', f'type = "{kind}"', f"offset = {offset}"]
            lines += [f"equals = {_toml(event.fields[name])}"] if name in event.fields else []
    (path / "collector.toml").write_text("\n".join(lines) + "\n")
    return path


def _toml(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def judged(folder: Path, guest: Guest, room: MachineRoom) -> tuple[Verdict, dict[str, Any]]:
    """The verdict on the collector, as a cell has it, and the facts."""
    arch = guest.target.arch
    collector = derived(described(load_collector(folder), [arch]), [arch])
    question = request(collector, guest.target)
    facts = guest.call("cell", **question, now=time.time())
    seen = observed(collector, guest.target, facts)
    promised = expected(collector, guest.target, room.matrix)
    return verdict(collector, guest.target, promised, seen, facts, probe=guest.probe["features"]), facts


def _tried(guest: Guest, family: str | None) -> list[Case]:
    """The cases with that family, or with any; without BTF, not that which needs it."""
    without = set() if guest.probe["features"]["btf"] else {"tcp_counts"}
    cases = [case for case in CASES if family is None or case.trigger.get("family", family) == family]
    return [case for case in cases if case.object not in without and guest.target.kernel.version >= case.since]


@pytest.mark.parametrize("target", TARGETS)
def test_each_is_seen_with_right_values(
    target: str, boot: Callable[[str], Guest], compiled: Callable[..., bytes], room: MachineRoom, tmp_path: Path
) -> None:
    guest = boot(target)
    wrong = {}
    for case in _tried(guest, None if ALL else DAILY[target]):
        folder = manifest(case, tmp_path / case.name, compiled(case.object, guest.target), guest.target.arch)
        found, facts = judged(folder, guest, room)
        if not found.ok:
            wrong[case.name] = (found.failure, found.reason, facts["trigger"], facts["unmatched_samples"][:2])
    assert wrong == {}
    # The processes at the other ends are gone with the triggers.
    waits = "for i in $(seq 20); do grep -q kmatrix-peer /proc/[0-9]*/comm || exit 0; sleep 0.2; done; exit 1"
    assert guest.call("run", argv=["sh", "-c", waits])["exit"] == 0


def test_each_is_missed_where_the_collector_is_broken(
    boot: Callable[[str], Guest], compiled: Callable[..., bytes], room: MachineRoom, tmp_path: Path
) -> None:
    guest = boot("6.1-x86_64")
    found = {}
    cases = _tried(guest, None if ALL else "ipv4")
    for case in cases:
        folder = manifest(case, tmp_path / case.name, compiled(case.object, guest.target, case.broken), guest.target.arch)
        found[case.name] = judged(folder, guest, room)[0].failure
    assert found == {case.name: case.failure for case in cases}
