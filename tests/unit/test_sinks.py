"""Sizes, sinks and test runs by made-up facts: what is said of records that do not fit, and what a manifest may say of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.manifest import schema
from kmatrix.manifest.event import whole
from kmatrix.manifest.packet import Packet
from kmatrix.verdict.events import judge_events
from kmatrix.verdict.failure import Problem
from tests.unit.facts import demo, good, manifest
from tests.unit.test_behaviour import ALL, target_with

U32 = [{"name": "pid", "type": "u32"}, {"name": "uid", "type": "u32"}]


def judged(event: dict[str, Any], sink: dict[str, Any], *, running: str = "ring", **more: Any) -> list[Problem]:
    if "from" in event:  # nothing comes out of a buffer
        more |= {"variant": [{"name": "ring", "behaviour": "full", "object": "ring", "needs": ["btf"]}]}
    collector = demo(event=[{"name": "exec", "match": {"pid": "known.pid"}, "field": U32} | event], **more)
    facts = good(collector, running)
    facts |= {"events": [], "counts": {}, "unmatched": sink.get("unmatched", 0), "sinks": {event.get("from", "buffer"): sink}}
    return judge_events(collector, target_with(ALL), facts)[0]


def said(event: dict[str, Any], sink: dict[str, Any], **more: Any) -> tuple[str, str]:
    (problem,) = judged(event, sink, **more)
    return problem.failure, problem.text


@pytest.mark.parametrize(
    ("event", "sink", "failure", "says"),
    [
        (
            {},
            {"missized": {"exec": {"24": 3}}},
            "wrong-data",
            "3 records of 24 bytes came; event exec describes 8: 16 bytes after uid are not described; list their fields, or say size = 24,"
            " or min_size = 8 where the length varies",
        ),
        ({}, {"missized": {"exec": {"4": 1}}}, "wrong-data", "1 record of 4 bytes came; event exec describes 8: uid (u32 at byte 4) is not in it"),
        ({}, {"missized": {"exec": {"6": 1}}}, "wrong-data", "uid (u32 at byte 4) is cut off"),
        ({"size": 24}, {"missized": {"exec": {"16": 2, "32": 1}}}, "wrong-data", "3 records (2 of 16, 1 of 32 bytes) came; event exec describes 24"),
        ({"min_size": 12}, {"missized": {"exec": {"8": 1}}}, "wrong-data", "event exec describes at least 12"),
        ({}, {"cut": {"exec": {"2": 1}}}, "wrong-data", "pid (u32 at byte 0) is cut off"),
        # None of a size that an event has; and others of the right size, which are not the one.
        ({}, {"sizes": {"2": 5}, "unmatched": 5}, "wrong-data", "5 records of 2 bytes came; event exec describes 8"),
        (
            {},
            {"sizes": {"2": 5, "8": 1}, "unmatched": 6},
            "silent",
            "no exec event arrived after the trigger; 6 records (5 of 2, 1 of 8 bytes) came, none with pid = 42",
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_records_that_do_not_fit(event: dict[str, Any], sink: dict[str, Any], failure: str, says: str) -> None:
    found = said(event, sink)
    assert (found[0], says in found[1]) == (failure, True), found


def test_a_perf_buffers_rounding_is_said() -> None:
    found = said({}, {"missized": {"exec": {"28": 1}}}, running="plain")
    assert (
        "1 record of 28 bytes came (a perf buffer rounds up: 21 to 28 were sent); event exec describes 8: 13 to 20 bytes after uid"
        in found[1]
    )


def test_what_came_out_of_other_sinks_is_said() -> None:
    entry = {"from": "map:starts", "match": {"key": "known.pid"}, "field": []}
    assert said(entry, {"records": 3, "unmatched": 3}) == (
        "silent",
        "no exec event arrived after the trigger; 3 entries are in the map, none with key = 42",
    )
    assert said(entry, {"records": 0, "unmatched": 0})[1].endswith("; map starts is empty")
    assert said(entry, {"records": 0, "unmatched": 0, "error": "the map is not in the kernel"})[1].endswith(
        "map starts: the map is not in the kernel"
    )
    line = {"from": "iter:enter", "match": {}, "contains": "known.pid", "field": []}
    assert said(line, {"records": 2, "unmatched": 2})[1].endswith("; 2 lines were read, none with 42 in it")


@pytest.mark.parametrize(
    ("run", "answer", "failure", "says"),
    [
        ({"returns": 2}, {"retval": 2}, None, ""),
        ({"returns": -1}, {"retval": 0xFFFFFFFF}, None, ""),
        ({"returns": 2}, {"retval": 1}, "wrong-data", "program enter returned 1, should be 2"),
        ({"returns": -1}, {"retval": 0xFFFFFFFE}, "wrong-data", "returned -2, should be -1"),
        ({"data": "00 01", "data_out": "0002"}, {"retval": 0, "data_out": "0003"}, "wrong-data", "data_out is 03 at byte 1, should be 02"),
        ({"data": "00 01", "data_out": "0002"}, {"retval": 0, "data_out": "00"}, "wrong-data", "data_out has 1 bytes, should have 2: it is 00"),
        ({"returns": 2}, {"error": "not supported"}, "silent", "the kernel did not run program enter on this input: not supported"),
    ],
)  # fmt: skip
def test_answers_to_test_runs(run: dict[str, Any], answer: dict[str, Any], failure: str | None, says: str) -> None:
    collector = demo(test_run=[{"program": "enter"} | run])
    facts = good(collector, "ring")
    facts["test_runs"] = {"enter": {"retval": None, "data_out": None, "ctx_out": None, "error": None} | answer}
    problems, _ = judge_events(collector, target_with(ALL), facts)
    assert [problem.failure for problem in problems] == ([failure] if failure else [])
    assert all(says in problem.text for problem in problems)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"struct": "e", "field": [{"name": "pid", "offset": 3}]}, "leave offset out"),
        ({"struct": "e", "packed": True}, "packed is what struct says already"),
        ({"field": [{"name": "pid"}]}, "field 'pid' has no type"),
        ({"size": 8, "min_size": 8}, "give one of the two"),
        ({"contains": "x"}, "contains is for lines"),
        ({"from": "map:starts", "match": {"pid": 1}, "field": []}, "of an entry there are key and value"),
        ({"from": "map:starts", "match": {"key": 1}, "size": 8, "field": []}, "size is not for the contents of a map"),
        ({"from": "iter:entr", "contains": "x", "match": {}, "field": []}, "names 'entr', which is not there; did you mean enter"),
        ({"from": "trace_pipe", "match": {"pdi": 1}, "field": []}, "names 'pdi', which is not there; did you mean pid"),
        ({"from": "trace_pipe", "match": {}, "field": []}, "asserts nothing"),
        ({"from": "trace_pipe", "struct": "e", "field": []}, "struct is for structs"),
        ({"from": "perf"}, 'write "map:NAME"'),
        ({"variants": ["rign"]}, "did you mean ring"),
    ],
)  # fmt: skip
def test_what_an_event_may_not_say(event: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        demo(event=[{"name": "exec", "match": {"pid": 1}, "field": U32} | event])
    assert says in str(error.value)


def test_members_of_members_may_be_written_without_quotes() -> None:
    """TOML reads a dotted key as a table in a table."""
    entry = {"name": "starts", "contains": [{"key": {"id": {"pid": 7}}, "value": {"a": {"b": {"c": "x"}}, "d": 1}}]}
    event = demo(map=[entry], event=[{"name": "e", "struct": "s", "match": {"id": {"pid": 7}, "kind": 1}}]).events
    assert event[0].match == {"id.pid": 7, "kind": 1}
    assert event[1].match == {"key.id.pid": 7}
    assert [(f.name, f.equals) for f in event[1].fields] == [("value.a.b.c", "x"), ("value.d", 1)]


def test_without_a_trigger_nothing_is_known() -> None:
    run = [{"program": "enter", "returns": 0}]
    event = [{"name": "exec", "match": {"pid": 1}, "field": U32}]
    data = {key: value for key, value in manifest(event=event, test_run=run).items() if key != "trigger"}
    assert schema.parse(data, path=Path("/demo/collector.toml")).trigger is None
    for change in ({"match": {"pid": "known.pid"}}, {"field": [{"name": "pid", "type": "u32", "equals": "known.pid"}]}):
        with pytest.raises(InputError, match=r"known.pid is what a \[trigger\] knows"):
            schema.parse(data | {"event": [event[0] | change]}, path=Path("/demo/collector.toml"))
    del data["test_run"]
    with pytest.raises(InputError, match=r"there are events but no \[trigger\]"):
        schema.parse(data, path=Path("/demo/collector.toml"))


def test_like_takes_the_struct_and_the_size() -> None:
    events = [{"name": "a", "struct": "e", "min_size": 8, "match": {"kind": 1}}, {"name": "b", "like": "a", "match": {"kind": 2}}]
    collector = demo(event=events)
    b = whole(collector.events[1], collector.events)
    assert (b.struct, b.min_size, b.match, b.like) == ("e", 8, {"kind": 2}, None)


def test_the_packets_checksums_are_right() -> None:
    """The sum over what a checksum covers, and the checksum, is all ones (RFC 1071)."""
    for packet in (
        Packet(protocol="udp", dport=53, payload="00 01 02"),
        Packet(protocol="tcp", dport=80),
        Packet(protocol="tcp", src="2001:db8::1", dst="2001:db8::2", dport=443, payload="ff"),
    ):
        frame = packet.bytes()
        four = frame[12:14] == b"\x08\x00"
        start = 14 + (20 if four else 40)
        addresses = frame[26:34] if four else frame[22:54]
        segment, number = frame[start:], 17 if packet.protocol == "udp" else 6
        if four:
            assert _sum(frame[14:34]) == 0xFFFF
            assert struct.unpack_from("!H", frame, 16)[0] == len(frame) - 14
        assert _sum(addresses + struct.pack("!HH", number, len(segment)) + segment) == 0xFFFF


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
