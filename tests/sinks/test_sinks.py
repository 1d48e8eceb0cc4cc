"""What does not come out of a buffer: the contents of maps, an iterator's text, bpf_printk, the answer to a test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.host.errors import InputError
from kmatrix.manifest.load import load_collector
from kmatrix.objects.described import described
from tests.sinks.conftest import Build, Judge

HEAD = """
schema = 1
[collector]
name = "sinks"
timeout = 2.0
[[variant]]
name = "only"
behaviour = "full"
object = "sinks"
[[program]]
name = "enter"
hook = "tracepoint/syscalls/sys_enter_openat"
[[program]]
name = "drop_short"
hook = "xdp"
attach = false
[trigger]
kind = "open"
"""
GOOD = """
[[map]]
name = "opens"
type = "hash"
contains = [{ key = { tgid = "known.tgid", uid = "known.uid" }, value = { opens = 2, comm = "known.comm" } }]
[[map]]
name = "untyped"
contains = [{ key = 5, value = 1 }]

[[event]]
name = "total"
from = "map:totals"
match = { key = 1 }
field = [{ name = "value", min = 2 }, { name = "cpu", equals = 0 }]

[[event]]
name = "printed"
from = "trace_pipe"
regex = 'opened by (?P<tgid>\\d+) as (?P<uid>\\d+)'
match = { pid = "known.pid" }
field = [{ name = "tgid", type = "int", equals = "known.tgid" }, { name = "uid", type = "int", equals = "known.uid" }]

[[test_run]]
program = "drop_short"
packet = { protocol = "udp", dport = 53, payload = "00 01" }
repeat = 3
returns = 3
data_out = "42 00 00 00 00 00 00 00 00 00 00 00 08 00 45 00 00 1e 00 00 00 00 40 11 f6 cb c0 00 02 01 c0 00 02 02 9c 40 00 35 00 0a df 5f 00 01"
[[test_run]]
name = "not ip"
program = "drop_short"
data = "000000000000 000000000000 0806 0000"
returns = 2
"""
TARGETS = ("6.1-x86_64", "5.10-arm64", "5.4-x86_64")
WRONG = {
    "value = { opens = 2,": ("value = { opens = 3,", "wrong-data", "value.opens is 2, should be 3"),
    "[{ key = 5,": ("[{ key = 6,", "silent", "1 entries are in the map, none with key = 6"),
    '"value", min = 2': ('"value", min = 200', "wrong-data", "should be at least 200"),
    "match = { pid =": ("match = { line =", "silent", "none with line = "),
    "returns = 3": ("returns = 1", "wrong-data", "program drop_short returned 3, should be 1"),
    "08 00 45 00": ("08 00 46 00", "wrong-data", "data_out is 45 at byte 14, should be 46"),
}


@pytest.mark.parametrize("target", TARGETS)
def test_maps_printk_and_test_runs(build: Build, judge: Judge, target: str) -> None:
    build("sinks")
    record = judge(target, HEAD + GOOD)
    assert record.ok, record.reason
    assert record.facts is not None
    assert record.facts["test_runs"]["drop_short"]["retval"] == 3
    assert record.timings["events"] < 1.0
    # Broken, one thing at a time; on the oldest and the newest kernel, some of them.
    for right, (wrong, failure, says) in WRONG.items() if target.startswith("6.1") else list(WRONG.items())[:1]:
        assert right in GOOD
        found = judge(target, HEAD + GOOD.replace(right, wrong))
        assert (found.failure, says in found.reason) == (failure, True), found.reason


def test_a_program_that_the_kernel_does_not_run_on_request(build: Build, judge: Judge) -> None:
    build("sinks")
    kprobe = '[[program]]\nname = "on_kprobe"\nhook = "kprobe/vfs_open"\n[[test_run]]\nprogram = "on_kprobe"\nreturns = 0\n'
    found = judge("6.1-x86_64", HEAD + kprobe)
    assert (found.failure, "the kernel did not run program on_kprobe on this input: " in found.reason) == ("silent", True), (
        found.reason
    )


ITERATOR = """
schema = 1
[collector]
name = "iterator"
timeout = 2.0
[[variant]]
name = "only"
behaviour = "full"
object = "iterator"
needs = ["btf"]
[[program]]
name = "dump"
hook = "iter/task"
[[program]]
name = "on_switch"
hook = "raw_tp/sched_switch"

[[event]]
name = "init"
from = "iter:dump"
regex = '^(?P<pid>\\d+) (?P<comm>.*)$'
match = { pid = 1 }
max_count = 1
field = [{ name = "pid", type = "int" }, { name = "comm", nonzero = true }]
[[event]]
name = "kthreadd"
from = "iter:dump"
contains = "kthreadd"
[[test_run]]
program = "on_switch"
ctx = "1147000000000000 2a00000000000000 0000000000000000"
returns = 5
[[map]]
name = ".bss"
contains = [{ key = 0, value = { last_argument = 42 } }]
"""


@pytest.mark.parametrize("target", ["6.1-arm64", "5.10-arm64"])
def test_an_iterators_text_global_variables_and_a_run_on_a_context(build: Build, judge: Judge, target: str) -> None:
    build("iterator")
    record = judge(target, ITERATOR)
    assert record.ok, record.reason
    assert record.facts is not None
    assert record.facts["sinks"]["iter:dump"]["records"] > 5
    if target.startswith("6.1"):
        return
    for right, wrong, failure, says in (
        ('contains = "kthreadd"', 'contains = "kthreadf"', "silent", "lines were read, none with 'kthreadf' in it"),
        ("max_count = 1", "max_count = 1\nmin_count = 1", None, ""),
        ("last_argument = 42", "last_argument = 43", "wrong-data", "value.last_argument is 42, should be 43"),
    ):
        found = judge(target, ITERATOR.replace(right, wrong))
        assert (found.failure, says in found.reason) == (failure, True), found.reason


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"map:totals"', '"map:total"', "the object {path} has no such map; did you mean totals"),
        ('"value", min', '"value.count", min', "field 'value.count' is not in an entry of map totals"),
        ('"map:totals"', '"maps:totals"', 'write "map:NAME" for the contents of a map'),
        ("{ opens = 2,", "{ open = 2,", "field 'value.open' is not in an entry of map opens; did you mean value.opens"),
        ('program = "drop_short"\npacket', 'program = "drop_shrt"\npacket', "did you mean drop_short?"),
        ("returns = 2", "", "it asserts nothing"),
        ("0806 0000", "0806 000", "is not bytes in hexadecimal digits"),
        ('from = "trace_pipe"', 'from = "iter:nothing"', "names 'nothing', which is not there"),
        ("payload =", "payloda =", "did you mean payload"),
    ],
)
def test_what_is_wrong_is_said_before_a_vm_starts(build: Build, tmp_path: Path, old: str, new: str, says: str) -> None:
    build("sinks")
    assert old in HEAD + GOOD
    (tmp_path / "collector.toml").write_text((HEAD + GOOD).replace(old, new))
    with pytest.raises(InputError) as error:
        described(load_collector(tmp_path), ["x86_64"])
    assert says.format(path=tmp_path / "sinks_x86_bpfel.o") in str(error.value)
    assert error.value.fix
