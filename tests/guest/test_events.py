"""Layouts against ctypes, which lays structs out as C does; and which event is which."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.guest.events import MATCHED_CAP, SAMPLES_CAP, Layout, Lines, Sorter, Spec, holds, printed

_C: dict[str, Any] = {
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "s8": ctypes.c_int8,
    "s16": ctypes.c_int16,
    "s32": ctypes.c_int32,
    "s64": ctypes.c_int64,
    "be16": ctypes.c_uint16,
    "be32": ctypes.c_uint32,
    "ipv4": ctypes.c_uint32,
    "ipv6": ctypes.c_uint32 * 4,
    "char[5]": ctypes.c_char * 5,
    "char[16]": ctypes.c_char * 16,
    "bytes[3]": ctypes.c_ubyte * 3,
}


def fields(*types: str) -> list[dict[str, str]]:
    return [{"name": f"f{index}", "type": kind} for index, kind in enumerate(types)]


@given(st.lists(st.sampled_from(sorted(_C)), min_size=1, max_size=12), st.booleans())
def test_fields_stand_where_c_puts_them(types: list[str], packed: bool) -> None:
    members = [(f"f{index}", _C[kind]) for index, kind in enumerate(types)]
    body: dict[str, Any] = {"_fields_": members} | ({"_pack_": 1, "_layout_": "ms"} if packed else {})
    struct = type("Event", (ctypes.Structure,), body)
    layout = Layout.of(fields(*types), packed=packed)
    assert [offset for _, _, offset in layout.fields] == [getattr(struct, name).offset for name, _ in members]
    assert layout.padded == ctypes.sizeof(struct)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("u8", "ff", 255),
        ("s8", "ff", -1),
        ("u16", "0100", 1),
        ("s32", "feffffff", -2),
        ("u64", "efcdab8967452301", 0x0123456789ABCDEF),
        ("s64", "ffffffffffffffff", -1),
        ("be16", "01bb", 443),
        ("be32", "7f000001", 0x7F000001),
        ("ipv4", "7f000001", "127.0.0.1"),
        ("ipv6", "00000000000000000000000000000001", "::1"),
        ("char[4]", "61620063", "ab"),
        ("char[2]", "6162", "ab"),
        ("char[3]", "c3a900", "é"),
        ("char[2]", "ff00", "\ufffd"),
        ("bytes[3]", "000102", "000102"),
    ],
)
def test_values(kind: str, raw: str, value: int | str) -> None:
    assert Layout.of(fields(kind)).decode(bytes.fromhex(raw)) == {"f0": value}


def test_a_short_event_is_not_decoded_and_a_padded_one_is() -> None:
    layout = Layout.of(fields("u32", "u32"))
    assert layout.decode(bytes(7)) is None
    assert layout.decode(bytes(8)) == layout.decode(bytes(12)) == {"f0": 0, "f1": 0}


def _spec(name: str, **match: int | str) -> Spec:
    return Spec(name, Layout.of([{"name": "kind", "type": "u32"}, {"name": "pid", "type": "u32"}]), match, 1)


def _event(kind: int, pid: int) -> bytes:
    return kind.to_bytes(4, "little") + pid.to_bytes(4, "little")


def test_events_go_to_the_first_that_they_match() -> None:
    sorter = Sorter([_spec("exec", kind=1, pid="known.pid"), _spec("exit", kind=2, pid="known.pid")], {"pid": 7}, "perf")
    assert not sorter.satisfied
    sorter.add(_event(1, 7))
    sorter.add(_event(2, 8))
    assert not sorter.satisfied
    sorter.add(_event(2, 7))
    assert sorter.satisfied
    assert [(event["event"], event["fields"]["pid"]) for event in sorter.matched] == [("exec", 7), ("exit", 7)]
    assert sorter.matched[0]["raw"] == "0100000007000000"
    assert sorter.unmatched == 1
    assert sorter.samples == [{"event": "exit", "fields": {"kind": 2, "pid": 8}, "raw": "0200000008000000"}]


def test_each_event_is_read_by_its_own_layout() -> None:
    """Two that are of one size, and one that may be shorter than another of the same layout."""
    sorter = Sorter([_sized("words", "u32", "u32"), _sized("halves", "u16", "u16", "u32", match={"f1": 3})], {}, "perf")
    sorter.add(_event(7, 1))
    sorter.add(_event(3 << 16 | 2, 1))
    assert [event["fields"] for event in sorter.matched] == [{"f0": 7, "f1": 1}, {"f0": 2, "f1": 3, "f2": 1}]
    sorter = Sorter([_sized("whole", "u32", "u32"), _sized("head", "u32", "u32", min_size=4)], {}, "perf")
    sorter.add(bytes.fromhex("07000000"))
    assert sorter.counts == {"head": 1}


def test_what_asks_for_less_gets_what_is_left() -> None:
    sorter = Sorter([_spec("any"), _spec("exec", kind=1)], {}, "perf")
    for kind in (1, 2, 1):
        sorter.add(_event(kind, 7))
    assert sorter.counts == {"exec": 2, "any": 1}


def test_many_of_one_kind_do_not_crowd_out_another() -> None:
    sorter = Sorter([_spec("exec", kind=1), _spec("exit", kind=2)], {}, "perf")
    for _ in range(MATCHED_CAP + 5):
        sorter.add(_event(1, 7))
    sorter.add(_event(2, 7))
    assert sorter.counts == {"exec": MATCHED_CAP + 5, "exit": 1}
    assert [event["event"] for event in sorter.matched] == ["exec"] * MATCHED_CAP + ["exit"]


@pytest.mark.parametrize("known", [{}, {"pid": None}])
def test_what_is_not_known_matches_nothing(known: dict[str, None]) -> None:
    sorter = Sorter([_spec("exec", pid="known.pid")], known, "perf")
    sorter.add(_event(1, 0))
    assert not sorter.satisfied
    lines = Spec("exec", Lines.of([{"name": "kind", "type": "int"}, {"name": "pid", "type": "int"}], None), {"pid": "known.pid"}, 1)
    printed = Sorter([lines], known, "lines")
    printed.add(b'{"kind": 1}')
    assert not printed.satisfied


def test_the_nearest_samples_are_kept() -> None:
    sorter = Sorter([_spec("exec", kind=1, pid="known.pid")], {"pid": 7}, "ringbuf")
    for pid in range(100, 100 + SAMPLES_CAP):
        sorter.add(_event(9, pid))
    sorter.add(_event(1, 8))
    sorter.add(b"\x01")  # not even long enough
    assert sorter.unmatched == SAMPLES_CAP + 2
    assert len(sorter.samples) == SAMPLES_CAP
    assert sorter.samples[0]["fields"] == {"kind": 1, "pid": 8}


def test_min_count() -> None:
    spec = Spec.of({"name": "e", "fields": fields("u8"), "match": {}, "min_count": 3})
    sorter = Sorter([spec], {}, "perf")
    for _ in range(2):
        sorter.add(b"\0")
    assert not sorter.satisfied
    sorter.add(b"\0")
    assert sorter.satisfied


def test_max_count() -> None:
    """More than enough is kept as well: it is for the host to judge."""
    request = {"name": "e", "fields": fields("u8"), "match": {}}
    assert not Sorter([Spec.of(request)], {}, "perf").limited
    sorter = Sorter([Spec.of(request), Spec.of(request | {"name": "f", "max_count": 1})], {}, "perf")
    assert sorter.limited
    for _ in range(3):
        sorter.add(b"\0")
    assert len(sorter.matched) == 3


def _sized(name: str, *types: str, **more: Any) -> Spec:
    return Spec.of({"name": name, "fields": fields(*types), "match": {"f0": 7}} | more)


def test_a_record_of_another_size_is_told_from_one_that_did_not_come() -> None:
    sorter = Sorter([_sized("e", "u32", "u32")], {}, "ringbuf")
    sorter.add(_event(7, 1) + bytes(4))
    assert (sorter.satisfied, sorter.settled, sorter.missized) == (False, True, {"e": {12: 1}})
    sorter.add(bytes.fromhex("07000000"))  # too short, and all that is to match is in it
    assert sorter.missized == {"e": {12: 1, 4: 1}}
    sorter.add(bytes.fromhex("08000000"))  # another's
    assert (sorter.missized["e"], sorter.unmatched, sorter.sizes) == ({12: 1, 4: 1}, 3, {12: 1, 4: 2})
    sorter.add(_event(7, 1))
    assert (sorter.satisfied, sorter.counts) == (True, {"e": 1})


def test_a_record_that_ends_before_all_that_is_to_match_is_doubtful() -> None:
    spec = Spec.of({"name": "e", "fields": fields("u32", "u32", "u64"), "match": {"f0": 7, "f2": 1}})
    sorter = Sorter([spec], {}, "ringbuf")
    sorter.add(_event(7, 1))
    assert (sorter.settled, sorter.doubtful, sorter.cut) == (False, True, {"e": {8: 1}})
    sorter.add(_event(8, 1))
    assert sorter.cut == {"e": {8: 1}}


@pytest.mark.parametrize(
    ("size", "transport", "fits"),
    [(16, "ringbuf", True), (12, "ringbuf", True), (8, "ringbuf", False), (20, "ringbuf", False), (20, "perf", True), (12, "perf", True),
     (28, "perf", False), (15, "ringbuf", False)],
)  # fmt: skip
def test_the_padding_of_c_and_of_perf_buffers_is_allowed_for(size: int, transport: str, fits: bool) -> None:
    """{u64, u32}: 12 bytes, which C makes 16, and a perf buffer 12 and 20."""
    assert _sized("e", "u64", "u32").fits(size, transport) is fits


def test_kinds_are_told_apart_by_their_sizes_too() -> None:
    sorter = Sorter([_sized("short", "u32", "u32"), _sized("long", "u32", "u32", "u64")], {}, "ringbuf")
    sorter.add(_event(7, 1) + bytes(8))
    sorter.add(_event(7, 1))
    assert (sorter.counts, sorter.missized) == ({"long": 1, "short": 1}, {})


def test_records_whose_length_varies() -> None:
    spec = _sized("e", "u32", "u32", "char[]", min_size=8)
    sorter = Sorter([spec], {}, "ringbuf")
    sorter.add(_event(7, 1) + b"hello\0")
    sorter.add(_event(7, 1))
    sorter.add(_event(7, 1)[:6])
    assert [event["fields"]["f2"] for event in sorter.matched] == ["hello", ""]
    assert sorter.missized == {"e": {6: 1}}
    cut = _sized("e", "u32", "u32", "char[16]", "u32", min_size=8)
    assert cut.decode(_event(7, 1) + b"hel") == {"f0": 7, "f1": 1, "f2": "hel"}


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [("ubits[1:5]", "6b", 21), ("sbits[6:4]", "6b03", -3), ("ubits[0:1]", "6b", 1), ("sbits[0:1]", "01", -1)],
)
def test_bit_fields(kind: str, raw: str, value: int) -> None:
    assert Layout.of(fields(kind)).decode(bytes.fromhex(raw)) == {"f0": value}


NEW = f"{'sh':>16}-115     [000] d..3.    12.345678: bpf_trace_printk: opened /etc by 7"
OLD = f"{'kmatrix worker':>16}-42    [001] d...   5.000001: 0: opened /etc by 7"
ODD = f"{'<...>':>16}-1150  (   1150) [000] .... 12.3: 0x00000001: opened 11 by 7"


def test_what_is_read_of_trace_pipe_is_taken_apart() -> None:
    """Old kernels write no line end, new ones do; a message may have one of its own."""
    assert printed(OLD + OLD + ODD) == [OLD, OLD, ODD]
    assert printed(f"CPU:0 [LOST 3 EVENTS]\n{NEW}\n{NEW}\n\n") == [NEW, NEW]
    assert printed("") == []


def test_lines_of_bpf_printk() -> None:
    spec = Spec.of({"name": "p", "fields": [{"name": "by", "type": "int"}], "contains": "/etc",
                    "lines": {"regex": r"by (?P<by>\d+)", "source": "trace_pipe"}})  # fmt: skip
    sorter = Sorter([spec], {}, "trace_pipe")
    for line in (NEW, OLD, ODD, "CPU:0 [LOST 3 EVENTS]", NEW.replace("bpf_trace_printk", "sys_enter")):
        sorter.add(line.encode())
    assert [event["fields"] for event in sorter.matched] == [
        {"line": "opened /etc by 7", "pid": 115, "comm": "sh", "by": 7},
        {"line": "opened /etc by 7", "pid": 42, "comm": "kmatrix worker", "by": 7},
    ]
    assert sorter.unmatched == 3


def test_a_number_is_not_found_in_a_longer_one() -> None:
    assert not holds("pid 1150", 115)
    assert not holds("pid 2115", 115)
    assert holds("pid 115,", 115)
    assert not holds("anything", None)
