"""Records out of a buffer: described by the object, compared by size, and told apart where several kinds share a buffer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kmatrix.host.errors import InputError
from kmatrix.manifest.load import load_collector
from kmatrix.objects.described import described
from tests.sinks.conftest import Build, Judge

HEAD = """
schema = 1
[collector]
name = "records"
timeout = 4.0
[[variant]]
name = "only"
behaviour = "full"
object = "records"
transport = "{transport}"
buffer = "events"
[[program]]
name = "enter"
hook = "tracepoint/syscalls/sys_enter_openat"
[trigger]
kind = "open"
"""
DESCRIBED = """
[[event]]
name = "open"
struct = "event"
match = { id.tgid = "known.tgid", kind = "KIND_OPEN" }
field = [
    { name = "ticks", equals = 0x1122334455667788 },
    { name = "id.pid", nonzero = true },
    { name = "flag", equals = 1 },
    { name = "level", equals = 21 },
    { name = "down", equals = -3 },
    { name = "kind", one_of = ["KIND_OPEN", "KIND_CLOSE"] },
    { name = "addr.v4", type = "ipv4", equals = "127.0.0.1" },
    { name = "addr", type = "ipv6", equals = "7f00:1::" },
    { name = "port", equals = 443 },
    { name = "marks[1]", equals = 11 },
    { name = "comm", equals = "known.comm" },
    { name = "uid", equals = "known.uid" },
]
"""
LISTED = """
[[event]]
name = "open"
match = { tgid = "known.tgid" }
field = [
    { name = "ticks", type = "u64" }, { name = "pid", type = "u32" }, { name = "tgid", type = "u32" },
    { name = "bits", type = "u32" }, { name = "kind", type = "u32" }, { name = "addr", type = "ipv6" },
    { name = "port", type = "be16", equals = 443 }, { name = "marks", type = "bytes[6]" }, { name = "comm", type = "char[16]" },
"""
WHOLE = LISTED + '    { name = "uid", type = "u32", equals = "known.uid" },\n]\n'
SHORT = LISTED + "]\n"
LONG = LISTED + '    { name = "uid", type = "u32" }, { name = "euid", type = "u32" }, { name = "more", type = "u64" },\n]\n'
RING, PERF = HEAD.format(transport="ringbuf"), HEAD.format(transport="perf")
TARGETS = ("6.1-x86_64", "5.10-arm64", "5.4-x86_64")


def _how(target: str) -> tuple[str, tuple[str, ...], str]:
    """The manifest's head, the macros and the transport of a target: on 5.4 there are no ring buffers."""
    return (PERF, (), "perf") if target.startswith("5.4") else (RING, ("USE_RINGBUF",), "ringbuf")


@pytest.mark.parametrize("target", TARGETS)
def test_the_object_says_what_an_event_is(build: Build, judge: Judge, target: str) -> None:
    head, defines, transport = _how(target)
    build("records", *defines)
    record = judge(target, head + DESCRIBED)
    assert (record.ok, record.observed) == (True, "full"), record.reason
    assert record.facts is not None
    (event, *_) = record.facts["events"]
    assert event["transport"] == transport
    assert event["fields"]["addr.v6"] == "7f000001" + "00" * 12
    # And a check that does not hold is not overlooked.
    wrong = judge(target, head + DESCRIBED.replace("equals = -3", "equals = -4"))
    assert (wrong.failure, "down is -3, should be -4" in wrong.reason) == ("wrong-data", True), wrong.reason


@pytest.mark.parametrize("target", [*TARGETS, "6.1-arm64-perf"])
def test_a_record_of_another_size_is_wrong_data_at_once(build: Build, judge: Judge, target: str) -> None:
    head, defines, transport = _how(target)
    if target.endswith("-perf"):
        target, head, defines, transport = "6.1-arm64", PERF, (), "perf"
    build("records", *defines)
    whole = judge(target, head + WHOLE)
    assert whole.ok, whole.reason
    came, more = (
        ("76 bytes came (a perf buffer rounds up: 69 to 76 were sent)", "5 to 12") if transport == "perf" else ("72 bytes came", 8)
    )
    for manifest, says in (
        (SHORT, f"records of {came}; event open describes 64: {more} bytes after comm are not described"),
        (LONG, f"records of {came}; event open describes 80: more (u64 at byte 72) is"),
    ):
        start = time.monotonic()
        wrong = judge(target, head + manifest)
        assert (wrong.failure, says in wrong.reason) == ("wrong-data", True), wrong.reason
        assert wrong.timings["events"] < 1.0, f"{time.monotonic() - start}"
    # A manifest may say that it describes the start only: of records of one size, or of at least a size.
    for size in ("size = 72", "min_size = 64"):
        partial = judge(target, head + SHORT.replace("match =", f"{size}\nmatch ="))
        assert partial.ok, partial.reason
    varying = judge(target, head + LONG.replace("match =", "min_size = 100\nmatch ="))
    assert "describes at least 100" in varying.reason


@pytest.mark.parametrize("target", TARGETS)
def test_a_struct_that_is_not_what_is_sent(build: Build, judge: Judge, target: str) -> None:
    """The record is cut off before the end of the struct, or goes on behind it."""
    head, defines, transport = _how(target)
    for sent, says in ((64, "describes 72 (struct event): uid (u32 at byte 64)"), (80, "8 bytes follow the struct")):
        build("records", *defines, f"SENT={sent}")
        record = judge(target, head + DESCRIBED)
        # A perf buffer fills 64 bytes up to 68: uid seems to be there.
        if sent == 64 and transport == "perf":
            says = "(a perf buffer rounds up: 61 to 68 were sent); event open describes 72"
        if sent == 80 and transport == "perf":
            says = "were sent); event open describes 72 (struct event): 5 to 12 bytes follow"
        assert (record.failure, says in record.reason) == ("wrong-data", True), record.reason


OTHERS = """
[[event]]
name = "other"
struct = "other"
match = { pid = "known.pid" }
field = [{ name = "mark", equals = 99 }]
[[event]]
name = "text"
struct = "text"
min_size = 8
match = { pid = "known.pid", length = 6 }
field = [{ name = "words", equals = "hello" }]
"""


@pytest.mark.parametrize("target", TARGETS)
def test_kinds_of_different_sizes_share_a_buffer(build: Build, judge: Judge, target: str) -> None:
    head, defines, _ = _how(target)
    build("records", *defines, "SEND_OTHERS")
    record = judge(target, head + DESCRIBED + OTHERS)
    assert record.ok, record.reason
    assert record.facts is not None
    assert set(record.facts["counts"]) == {"open", "other", "text"}
    # One that does not come is silent, and what came is said with its sizes.
    silent = judge(target, (head + DESCRIBED + OTHERS).replace("length = 6", "length = 7"))
    assert silent.failure == "silent"
    assert "records (" in silent.reason
    assert "the nearest differs in length: 6, expected 7" in silent.reason


def test_what_is_wrong_is_said_before_a_vm_starts(build: Build, tmp_path: Path) -> None:
    build("records", "USE_RINGBUF")

    def refused(text: str) -> str:
        (tmp_path / "collector.toml").write_text(text)
        with pytest.raises(InputError) as error:
            described(load_collector(tmp_path), ["x86_64"])
        assert error.value.fix
        return str(error.value)

    said = refused(RING + DESCRIBED.replace('struct = "event"', 'struct = "evnt"'))
    assert 'struct = "evnt" is not in the BTF of' in said
    assert "did you mean event?" in said
    assert "unused_evnt" in said
    said = refused(RING + DESCRIBED.replace('"marks[1]"', '"marks[3]"'))
    assert "field 'marks[3]' is not in struct event; did you mean marks[" in said
    said = refused(RING + DESCRIBED.replace('"KIND_CLOSE"', '"KIND_CLOSED"'))
    assert "its enum has no KIND_CLOSED; did you mean KIND_CLOSE" in said
    said = refused(RING + DESCRIBED.replace('type = "ipv4"', 'type = "ipv6"'))
    assert 'type = "ipv6" has 16 bytes, and in the object it is u32, 4 bytes' in said
    said = refused(PERF + DESCRIBED)
    assert 'buffer = "events" is a ring buffer in the object, and transport = "perf" means a perf buffer' in said
    assert 'write transport = "ringbuf"' in said

    build("records", "USE_RINGBUF", "WIDER_ON_ARM64")
    said = refused(RING + DESCRIBED)
    assert "struct event is not the same in all objects: uid is u32 at byte 64 in records_x86_bpfel.o" in said
    assert "u32 at byte 68 in records_arm64_bpfel.o (variant 'only', arm64)" in said
    # Between variants too: the other one's object has another struct of that name.
    build("records", "USE_RINGBUF")
    build("records", "WIDER_ON_ARM64", "__TARGET_ARCH_arm64", output="wide")
    second = RING.replace("[[program]]", '[[variant]]\nname = "second"\nbehaviour = "partial"\nobject = "wide"\n'
                          'transport = "perf"\nbuffer = "events"\n[[program]]')  # fmt: skip
    assert "variant 'second', x86_64" in refused(second + DESCRIBED)
    stripped = tmp_path / "records_x86_bpfel.o"
    stripped.write_bytes(stripped.read_bytes().replace(b".rel.BTF\0", b".rel.XXX\0"))
    assert "has no BTF that could say" in refused(RING + DESCRIBED)
