"""A collector's own loader, as far as it is pure: the manifest, which variant is which, what its lines say, and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.guest import processes, recognise
from kmatrix.guest.events import Lines, Sorter, Spec
from kmatrix.host.errors import InputError
from kmatrix.manifest import schema
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.request import request
from kmatrix.verdict.expectation import expected
from kmatrix.verdict.judge import Verdict, verdict
from kmatrix.verdict.observation import observed

ROOT = Path(__file__).parents[2]
MANIFEST: dict[str, Any] = {
    "schema": 1,
    "collector": {"name": "own"},
    "loader": {"command": ["./agent"], "files": ["agent"]},
    "variant": [
        {"name": "ring", "behaviour": "full", "needs": ["ringbuf"], "transport": "ringbuf"},
        {"name": "perf", "behaviour": "partial", "transport": "perf", "buffer": "events"},
    ],
    "program": [
        {"name": "enter", "hook": "tracepoint/syscalls/sys_enter_openat"},
        {"name": "extra", "hook": "kprobe/do_exit", "required": False},
    ],
    "trigger": {"kind": "open"},
    "event": [{"name": "open", "match": {"pid": "known.pid"}, "field": [{"name": "pid", "type": "int", "key": "process.pid"}]}],
}


def own(**changes: Any) -> Collector:
    data = MANIFEST | changes | {"loader": MANIFEST["loader"] | (changes.get("loader") or {})}
    if "loader" in changes and changes["loader"] is None:
        del data["loader"]
    return schema.parse(data, path=Path("/own/collector.toml"))


# -- the manifest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loader": {"comand": ["x"]}}, "loader.comand: unknown key; did you mean command?"),
        ({"loader": {"command": []}}, "loader.command"),
        ({"loader": {"ready": "soon"}}, "loader.ready"),
        ({"loader": {"ready": {"line": "x", "file": "y"}}}, "write { line ="),
        ({"loader": {"ready": {"line": "("}}}, "'(' is not a regular expression"),
        ({"loader": {"stop": "SIGTREM"}}, "unknown signal 'SIGTREM'; did you mean SIGTERM"),
        ({"loader": {"stop": []}}, "the stop command is empty"),
        ({"loader": {"files": ["../agent"]}}, "'../agent': a file's name in the guest"),
        ({"loader": {"files": {"agent": "deb:libbpf-tools"}}}, "write deb:PACKAGE/path/in/it"),
        ({"loader": {"names": {"ringbuff": "x"}}}, "did you mean ringbuf"),
        ({"loader": {"refusal_exits": [0]}}, "loader.refusal_exits[0]"),
        ({"variant": [{"name": "v", "behaviour": "full", "object": "x"}]}, "has an object, but with a [loader]"),
        ({"variant": [{"name": "v", "behaviour": "full", "buffer": "x"}]}, "buffer without transport"),
        ({"program": [{"name": "p", "hook": "somewhere"}]}, "does not say its type"),
        ({"event": [{"name": "e", "field": [{"name": "pid", "type": "u32"}]}]}, "of type int or str, not u32"),
        ({"event": [{"name": "e", "packed": True, "field": [{"name": "pid", "type": "int"}]}]}, "packed is for structs"),
        ({"event": [{"name": "e", "regex": "(?P<pdi>x)", "field": [{"name": "pid", "type": "int"}]}]}, "names 'pdi'"),
        ({"event": [{"name": "e", "regex": "x", "field": [{"name": "pid", "type": "int"}]}]}, "it is no group of regex"),
    ],
)
def test_a_wrong_manifest_is_one_error(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        own(**changes)
    assert says in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variant": [{"name": "v", "behaviour": "full"}]}, "has no object: name one, or bring a [loader]"),
        ({"program": [{"name": "p", "hook": "kprobe/x", "tag": "aa"}]}, "there is none"),
        ({"event": [{"name": "e", "field": [{"name": "pid", "type": "int"}]}]}, "int and str are for lines"),
        ({"event": [{"name": "e", "regex": "x", "field": [{"name": "pid", "type": "u32"}]}]}, "regex is for lines"),
    ],
)
def test_what_is_a_loaders_is_an_error_without_one(changes: dict[str, Any], says: str) -> None:
    objects = {
        "loader": None,
        "variant": [{"name": "v", "behaviour": "full", "object": "x"}],
        "event": [],
    }
    with pytest.raises(InputError) as error:
        own(**(objects | changes))
    assert says in str(error.value)


def test_the_guest_is_asked_in_the_same_form_as_with_objects() -> None:
    target = Target(load_matrix(ROOT).kernel("6.1"), "arm64")
    asked = request(own(loader={"stop": ["./agent", "off"], "ready": {"file": "up"}}), target)
    assert asked["objects"] == {}
    assert asked["variants"][0]["object"] is None
    assert [p["type"] for p in asked["variants"][0]["programs"]] == ["tracepoint", "kprobe"]
    assert asked["loader"]["ready"] == {"file": "up"}
    assert asked["loader"]["stop"] == ["./agent", "off"]
    assert asked["events"][0]["lines"] == {"regex": None}
    json.dumps(asked)


# -- which variant it is -----------------------------------------------------------------------------------------------------


def prog(ident: int, name: str, kind: str = "tracepoint", **more: Any) -> dict[str, Any]:
    return {"id": ident, "name": name, "type": kind, "tag": f"{ident:016x}"} | more


def map_(ident: int, name: str, kind: str) -> dict[str, Any]:
    return {"id": ident, "name": name, "type": kind}


def variant(name: str = "v", transport: str | None = None, buffer: str | None = None, **more: Any) -> dict[str, Any]:
    programs = [{"name": "enter", "hook": "tracepoint/syscalls/sys_enter_openat", "type": "tracepoint", "required": True}]
    return {"name": name, "transport": transport, "buffer": buffer, "programs": programs, "maps": [], "needs": []} | more


def test_names_and_types_decide() -> None:
    there = [prog(1, "other"), prog(2, "enter", "kprobe"), prog(3, "enter")]
    found = recognise.match(variant(), there, [], ())
    assert found.whole
    assert found.programs["enter"]["id"] == 3
    assert recognise.match(variant(), there[:2], [], ()).missing == ["program enter (tracepoint)"]


def test_the_transport_is_the_maps_type() -> None:
    maps = [map_(1, "events", "perf_event_array"), map_(2, "starts", "hash")]
    assert recognise.match(variant(transport="perf"), [prog(1, "enter")], maps, ()).maps["perf"]["id"] == 1
    assert recognise.match(variant(transport="perf", buffer="events"), [prog(1, "enter")], maps, ()).maps["events"]["id"] == 1
    assert recognise.match(variant(transport="ringbuf"), [prog(1, "enter")], maps, ()).missing == ["a ringbuf map"]
    named = variant(transport="perf", buffer="others")
    assert recognise.match(named, [prog(1, "enter")], maps, ()).missing == ["map others (perf_event_array)"]
    asked = variant(maps=[{"name": "starts", "type": "hash"}, {"name": "ends", "type": "hash"}])
    assert recognise.match(asked, [prog(1, "enter")], maps, ()).missing == ["map ends (hash)"]


def test_names_that_the_kernel_cut_off_are_told_apart_by_where_they_are_attached() -> None:
    programs = [
        {"name": f"tracepoint__syscalls__{name}", "hook": f"tracepoint/syscalls/{name}", "type": "tracepoint"}
        for name in ("sys_enter_open", "sys_exit_open", "sys_enter_openat")
    ]
    there = [
        prog(n, "tracepoint__sys", hook=hook) for n, hook in enumerate(("sys_enter_openat", "sys_exit_open", "sys_enter_open"))
    ]
    found = recognise.match(variant(programs=programs), there, [], ())
    assert [found.programs[p["name"]]["hook"] for p in programs] == ["sys_enter_open", "sys_exit_open", "sys_enter_openat"]


def test_without_names_a_variant_that_needs_what_is_not_there_is_out() -> None:
    core, plain = variant("core", needs=["btf"]), variant("plain")
    for name, first in (("", False), ("enter", True)):  # with a name it is what runs, whatever the manifest says of its needs
        assert recognise.match(core, [prog(1, name)], [], {"btf"}).whole is first
        assert recognise.match(plain, [prog(1, name)], [], {"btf"}).whole
    assert recognise.match(core, [prog(1, "")], [], ()).whole


def test_a_tag_tells_one_from_another() -> None:
    tagged = [{"name": "enter", "hook": "kprobe/x", "type": "kprobe", "tag": f"{2:016x}"}]
    assert (
        recognise.match(variant(programs=tagged), [prog(1, "", "kprobe"), prog(2, "", "kprobe")], [], ()).programs["enter"]["id"]
        == 2
    )
    assert not recognise.match(variant(programs=tagged), [prog(1, "enter", "kprobe")], [], ()).whole


NAMES = st.sampled_from(["a", "b", "a_name_longer_than_15", "a_name_longer_than_16", ""])
TYPES = st.sampled_from(["kprobe", "tracepoint"])


@given(
    st.lists(st.tuples(NAMES.filter(bool), TYPES, st.booleans()), max_size=5, unique_by=lambda p: p[0]),
    st.lists(st.tuples(NAMES, TYPES), max_size=6),
)
def test_no_program_of_the_kernel_is_taken_for_two(wanted: list[tuple[str, str, bool]], there: list[tuple[str, str]]) -> None:
    programs = [{"name": name, "hook": f"kprobe/{name}", "type": kind, "required": required} for name, kind, required in wanted]
    found = recognise.match(variant(programs=programs), [prog(n, name[:15], kind) for n, (name, kind) in enumerate(there)], [], ())
    ids = [entry["id"] for entry in found.programs.values()]
    assert len(ids) == len(set(ids)) <= len(there)
    assert all(entry["type"] == kind for name, kind, _ in wanted if (entry := found.programs.get(name)))
    assert found.whole == all(name in found.programs for name, _, required in wanted if required)


# -- processes ---------------------------------------------------------------------------------------------------------------


@given(st.text(alphabet="ab() \t1", max_size=15), st.sampled_from("RSDZX"), st.integers(1, 1 << 22))
def test_a_process_may_have_any_name(name: str, state: str, parent: int) -> None:
    process = processes.parse_stat(f"42 ({name}) {state} {parent} 42 42 0 -1 4194304")
    assert (process.pid, process.parent, process.name, process.zombie) == (42, parent, name, state in "ZX")


def test_who_descends_from_whom() -> None:
    table = {pid: processes.Process(pid, parent, "", False) for pid, parent in ((2, 1), (3, 2), (4, 3), (5, 2), (6, 5), (7, 1))}
    assert {p.pid for p in processes.below(table, 2, frozenset({5}))} == {3, 4}
    assert {p.pid for p in processes.below(table, 1, frozenset())} == {2, 3, 4, 5, 6, 7}


# -- lines -------------------------------------------------------------------------------------------------------------------

FIELDS = [{"name": "pid", "type": "int", "key": "process.pid"}, {"name": "comm", "type": "str"}]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('{"process": {"pid": 7, "tgid": 8}, "comm": "x"}', {"pid": 7, "comm": "x"}),
        ('{"process": {"pid": "0x10"}, "comm": 5}', {"pid": 16, "comm": "5"}),
        ('{"process": {"pid": "007"}}', {"pid": 7}),
        ('{"process": {"pid": 1.5}, "comm": null}', {"pid": "1.5"}),
        ('{"process": {"pid": "many"}}', {"pid": "many"}),
        ('{"process": 7}', None),
        ("[1, 2]", None),
        ("ready", None),
        ("", None),
        ("\xff{", None),
    ],
)
def test_a_json_line(line: str, fields: dict[str, Any] | None) -> None:
    assert Lines.of(FIELDS, None).decode(line.encode("latin-1")) == fields


@given(st.binary(max_size=200))
def test_no_line_is_too_strange(raw: bytes) -> None:
    for regex in (None, r"(?P<pid>\d+) (?P<comm>\S*)"):
        fields = Lines.of(FIELDS, regex).decode(raw)
        assert fields is None or set(fields) <= {"pid", "comm"}


def test_the_deepest_json_is_no_event() -> None:
    assert Lines.of(FIELDS, None).decode(b"[" * 100_000) is None


def test_a_line_that_a_regular_expression_takes_apart() -> None:
    form = Lines.of([{"name": "pid", "type": "int"}, {"name": "comm", "type": "str"}], r"^(?P<pid>-?\d+)(?: (?P<comm>\w+))?$")
    assert form.decode(b"12 cat") == {"pid": 12, "comm": "cat"}
    assert form.decode(b"-12") == {"pid": -12}
    assert form.decode(b"PID COMM") is None


def test_lines_are_sorted_as_samples_are() -> None:
    spec = Spec.of({"name": "open", "match": {"pid": "known.pid"}, "fields": FIELDS, "lines": {"regex": None}})
    sorter = Sorter([spec], {"pid": 7}, "lines")
    for line in (b"agent: ready", b'{"process": {"pid": 6}}', b'{"process": {"pid": 7}, "comm": "x"}'):
        sorter.add(line)
    assert [event["fields"] for event in sorter.matched] == [{"pid": 7, "comm": "x"}]
    assert (sorter.unmatched, sorter.samples[0]["fields"]) == (2, {"pid": 6})


# -- the verdict -------------------------------------------------------------------------------------------------------------


def facts(running: str | None, **changes: Any) -> dict[str, Any]:
    inventory: dict[str, Any] = {"programs": [], "maps": [], "links": [], "pins": [], "kprobe_events": []}
    during = inventory | {
        "programs": [prog(20, "enter")],
        "maps": [map_(30, "events", "ringbuf" if running == "ring" else "perf_event_array")],
    }
    report = {"id": 20, "loaded": True, "attached": True, "runs": 2, "error": None, "log": ""}
    extra = report | {"id": 21}
    key = "ring" if running == "ring" else "perf"
    maps = {"ringbuf" if key == "ring" else "events": {"id": 30}}
    attempts = []
    if running == "perf" or running is None:
        attempts.append(
            {
                "variant": "ring",
                "stage": "load",
                "error": {"errno": None, "text": "./agent ended with 3: no ringbuf"},
                "programs": {},
                "maps": {},
                "log": [],
            }
        )
    if running is None:
        attempts.append(attempts[0] | {"variant": "perf"})
        during = inventory
    else:
        during["programs"] = [*during["programs"], prog(21, "extra", "kprobe")]
        attempts.append(
            {
                "variant": running,
                "stage": None,
                "error": None,
                "programs": {"enter": report, "extra": extra},
                "maps": maps,
                "log": [],
            }
        )
    loader = {"command": ["./agent"], "died": None, "failure": None, "killed": False, "left": [], "cannot_start": None}
    return {
        "attempts": attempts, "running": running, "refusal": None,
        "kernel": {"before": inventory, "during": during, "after": inventory},
        "known": {"pid": 7, "cgroup_id": 9}, "trigger": {"ok": True}, "events": [{"event": "open", "fields": {"pid": 7}}] if running else [],
        "counts": {"open": 1} if running else {},
        "unmatched": 0, "lost": 0, "loader": loader | changes.pop("loader", {}),
    } | changes  # fmt: skip


def judged(name: str, found: dict[str, Any], **manifest: Any) -> Verdict:
    matrix = load_matrix(ROOT)
    target = Target(matrix.kernel(name), "x86_64")
    collector = own(**manifest)
    expectation = expected(collector, target, matrix)
    return verdict(collector, target, expectation, observed(collector, target, found), found, probe={})


def test_as_promised() -> None:
    assert judged("6.1", facts("ring")).ok
    assert judged("5.4", facts("perf")).ok


def test_without_its_fallback_it_is_red_with_its_own_words() -> None:
    said = "./agent ended with 3: no ringbuf"
    verdict = judged("5.4", facts(None, refusal=said))
    assert (verdict.failure, said in verdict.reason) == ("load", True)


def test_a_fallback_where_none_is_promised_is_red_too() -> None:
    verdict = judged("6.1", facts("perf"))
    assert verdict.failure == "load"
    assert "perf runs instead" in verdict.reason


@pytest.mark.parametrize(
    ("loader", "failure", "says"),
    [
        (
            {"died": "ended with 2 before it was told to stop: panic"},
            "worse",
            "./agent ended with 2 before it was told to stop: panic",
        ),
        ({"killed": True}, "leftover", "did not end when it was told to stop"),
        ({"left": ["helper", "sh"]}, "leftover", "left running: helper, sh"),
    ],
)
def test_how_it_ends_counts(loader: dict[str, Any], failure: str, says: str) -> None:
    verdict = judged("6.1", facts("ring", loader=loader))
    assert verdict.failure == failure
    assert says in verdict.reason


def test_what_is_neither_a_variant_nor_a_refusal() -> None:
    only = {"variant": MANIFEST["variant"][:1]}
    verdict = judged("5.4", facts(None, loader={"failure": "./agent was not ready within 15 s"}), **only)
    assert (verdict.failure, "not ready within" in verdict.reason) == ("worse", True)


def test_a_refusal_may_name_what_is_missing_in_its_own_words() -> None:
    only = {"variant": MANIFEST["variant"][:1]}
    refusal = facts(None, refusal="./agent ended with 1: BPF ring buffers unsupported")
    assert judged("5.4", refusal, **only).failure == "worse"
    assert judged("5.4", refusal, loader={"names": {"ringbuf": "ring ?buffer"}}, **only).ok


def test_a_key_that_is_not_in_the_line_is_a_field_that_is_absent() -> None:
    field = {"name": "cgroup", "type": "int", "equals": "known.cgroup_id", "degradable": True, "needs": ["cgroup_id_helper"]}
    event = [{"name": "open", "match": {"pid": "known.pid"}, "field": [{"name": "pid", "type": "int"}, field]}]
    verdict = judged("6.1", facts("ring"), event=event)
    assert (verdict.failure, "field:open.cgroup is missing too" in verdict.reason) == ("worse", True)


@pytest.mark.parametrize(
    ("hook", "told", "elsewhere"),
    [
        ("tracepoint/syscalls/sys_enter_openat", "sys_enter_openat", False),
        ("tracepoint/syscalls/sys_enter_openat", "sys_enter_close", True),
        ("kprobe/do_exit+0x0", "do_exit", False),
        ("kprobe/do_exit", "do_fork", True),
        ("kprobe/sys_openat", "__x64_sys_openat", False),
        ("kprobe/__arm64_sys_openat", "__arm64_sys_openat", False),
        ("raw_tp/sched_switch", "sched_wakeup", True),
        ("raw_tp/sched_switch", None, False),
        ("ksyscall/openat", "__x64_sys_openat", False),
        ("uprobe//bin/sh:main", "/bin/sh", False),
        ("tracepoint", "sched_switch", False),
    ],
)
def test_where_the_kernel_says_that_it_is(hook: str, told: str | None, elsewhere: bool) -> None:
    assert recognise.elsewhere(hook, told) is elsewhere
