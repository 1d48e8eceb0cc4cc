"""collector.toml: what is understood, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.manifest import schema
from kmatrix.manifest.load import find_collector, load_collector
from kmatrix.runs import request
from tests.unit.facts import demo, manifest


def wrong(data: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        schema.parse(data, path=Path("/demo/collector.toml"))
    assert error.value.where == "/demo/collector.toml"
    assert error.value.fix
    return str(error.value)


def event(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "open", "field": [{"name": "pid", "type": "u32"} | changes.pop("first", {})]} | changes]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (manifest(colector={}), "colector: unknown key; did you mean collector"),
        (manifest(collector={"name": "x", "tiemout": 3}), "collector.tiemout: unknown key; did you mean timeout or load_timeout?"),
        (manifest(collector={}), "collector.name: missing"),
        (manifest(collector={"name": "a b"}), "use letters"),
        (manifest(collector={"name": "x", "min_kernel": "4"}), "write major.minor"),
        (manifest(collector={"name": "x", "timeout": 0}), "collector.timeout"),
        (manifest(variant=[]), "variant"),
        (manifest(variant=[{"name": "ring", "behaviour": "refusal", "object": "x"}]), "behaviour"),
        (manifest(variant=[{"name": "ring", "behaviour": "full", "object": "x", "needs": ["ringbuff"]}]), "did you mean ringbuf"),
        (
            manifest(variant=[{"name": "ring", "behaviour": "full", "object": "x", "transport": "perf"}]),
            "transport and buffer go together",
        ),
        (manifest(variant=[{"name": "ring", "behaviour": "full", "object": "x"}] * 2), "variant 'ring' is there twice"),
        (manifest(program=[{"name": "p-q", "hook": "x"}]), "not a C identifier"),
        (
            manifest(program=[{"name": "p", "hook": "x", "variants": ["rign"]}]),
            "names 'rign', which is not there; did you mean ring",
        ),
        (manifest(program=[{"name": "p", "hook": "x", "required": False}]), "has no required program"),
        (manifest(program=[{"name": "p", "hook": "x", "arches": ["mips"]}]), "program[0].arches"),
        (manifest(trigger={"kind": "opne"}), "trigger.kind: unknown trigger 'opne'; did you mean open?"),
        (manifest(trigger={"kind": "open", "env": {"A": "b"}}), 'env goes with kind = "command"'),
        (manifest(trigger={"kind": "command"}), 'kind = "command" and command'),
        (manifest(trigger=None), "no [trigger]"),
        (manifest(event=event(first={"type": "u128"})), "unknown type 'u128'"),
        (manifest(event=event(match={"pdi": 1})), "match names 'pdi', which is not there; did you mean pid"),
        (manifest(event=event(first={"equals": "known.PID"})), "is not known.NAME"),
        (
            manifest(event=event(match={"pid": "known.pdi"})),
            "event 'open': match: pid: the trigger 'open' provides no known.pdi; did you mean pid",
        ),
        (
            manifest(event=event(first={"equals": "known.victim"})),
            "the trigger 'open' provides no known.victim",
        ),
        (manifest(event=event(first={"one_of": [1, "known.tigd"]})), "did you mean tgid"),
        (manifest(event=event(first={"contains": "known.paht"})), "did you mean path"),
        (manifest(event=event(first={"needs": ["btf"]})), "must be degradable"),
        (manifest(event=[{"name": "open"}]), "has no fields"),
        (manifest(event=event(like="opne")), "like names 'opne'"),
        (manifest(expect=[{"kernels": "5.4", "behaviour": "full"}]), "expect[0].reason: missing"),
        (manifest(expect=[{"kernels": "5.4", "behaviour": "full", "reason": "r", "variant": "x"}]), "names 'x'"),
        (manifest(event=event(match={"pid": 1}, max_count=1, min_count=2)), "max_count 1 is below min_count 2"),
        (manifest(event=event()), "event 'open' asserts nothing"),
        (manifest(event=[]), "a variant has a transport, but there is no [[event]]"),
        (manifest(expect=[{"kernels": "5.4", "behaviour": "refusal", "reason": "r"}]), "what must a refusal there say?"),
        (
            manifest(expect=[{"kernels": "5.4", "behaviour": "refusal", "reason": "r", "message": "("}]),
            "is not a regular expression",
        ),
        (manifest(trigger={"kind": "open", "family": "ipv6"}), 'family goes with kind = "tcp_accept", "tcp_close", "tcp_connect"'),
        (manifest(trigger={"kind": "open", "famly": "ipv6"}), "unknown key 'famly'; did you mean family?"),
        (manifest(trigger={"kind": "tcp_connect", "family": "ipv5"}), "family = 'ipv5' is not known"),
        (manifest(trigger={"kind": "tcp_connect", "family": 6}), 'write family = "ipv4" or family = "ipv6"'),
        (
            manifest(expect=[{"kernels": "5.4", "behaviour": "partial", "reason": "r", "degraded": ["program:exta"]}]),
            "did you mean program:extra",
        ),
        (manifest(schema=2), "schema"),
    ],
)
def test_a_wrong_manifest_is_one_error_naming_file_key_and_fix(data: dict[str, Any], says: str) -> None:
    assert says in wrong({key: value for key, value in data.items() if value is not None})


def test_the_trigger_connects_over_the_family_that_is_asked_for() -> None:
    asked = request._trigger(demo(trigger={"kind": "tcp_connect", "family": "ipv6"}))
    assert asked == {"kind": "tcp_connect", "command": [], "env": {}, "family": "ipv6"}
    assert "family" not in (request._trigger(demo(trigger={"kind": "tcp_connect"})) or {})


def test_bpf2go_names_are_understood() -> None:
    names = demo().variants[0].candidates("arm64")
    assert {"ring", "ring_arm64_bpfel.o", "ring_bpfel_arm64.o"} <= set(names)
    assert "ring_x86_bpfel.o" in demo().variants[0].candidates("x86_64")


def test_objects_by_table_and_by_placeholder() -> None:
    table = demo(variant=[{"name": "v", "behaviour": "full", "object": {"arm64": "a.o"}}], event=[])
    assert table.variants[0].candidates("arm64") == ("a.o",)
    assert table.variants[0].candidates("x86_64") == ()
    placeholder = demo(variant=[{"name": "v", "behaviour": "full", "object": "{arch}/v.o"}], event=[])
    assert placeholder.variants[0].candidates("arm64")[0] == "arm64/v.o"


def test_like_takes_the_layout_and_keeps_its_own_checks() -> None:
    events = [
        {"name": "exec", "field": [{"name": "kind", "type": "u32", "equals": 1}, {"name": "pid", "type": "u32"}]},
        {"name": "exit", "like": "exec", "field": [{"name": "kind", "type": "u32", "equals": 2}]},
    ]
    collector = demo(event=events)
    assert [(f.name, f.equals) for f in collector.layout(collector.events[1])] == [("kind", 2), ("pid", None)]


def test_programs_by_variant_and_arch() -> None:
    programs = [
        {"name": "a", "hook": "x"},
        {"name": "b", "hook": "x", "arches": ["arm64"]},
        {"name": "c", "hook": "x", "variants": ["perf"]},
    ]
    collector = demo(program=programs)
    assert [p.name for p in collector.programs_of(collector.variants[0], "x86_64")] == ["a"]
    assert [p.name for p in collector.programs_of(collector.variants[1], "arm64")] == ["a", "b", "c"]


def test_collectors_are_found_by_name_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "collectors" / "demo"
    home.mkdir(parents=True)
    (home / "collector.toml").write_text(
        'schema = 1\n[collector]\nname = "demo"\n[[variant]]\nname = "v"\nbehaviour = "full"\nobject = "o"\n'
        '[[program]]\nname = "p"\nhook = "kprobe/x"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert find_collector(Path("demo")).name == "demo"
    assert find_collector(home).name == "demo"
    with pytest.raises(InputError, match="did you mean demo"):
        find_collector(Path("dmeo"))
    monkeypatch.chdir(home)
    assert find_collector(Path("demo")).name == "demo"  # also from where its own collector.toml is


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    text = 'schema = 1\n[collector]\nname = "demo"\n[[variant]]\nname = "v"\nbehaviour = "full"\nobject = "o"\n[[program]]\nname = "p"\nhook = "k"\n'
    (tmp_path / "collector.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_collector(tmp_path).name == "demo"


ONE = {"name": "ring", "behaviour": "full", "object": "ring"}


@pytest.mark.parametrize(
    ("variant", "says", "fix"),
    [
        (
            {"name": "ring", "behavior": "full", "object": "ring"},
            "variant[0].behavior ('ring'): unknown key; did you mean behaviour?",
            "known keys here: arches, behaviour, buffer, contract, name, needs, object, transport",
        ),
        (
            ONE | {"needs": ["ringbuff"]},
            "variant[0].needs ('ring'): unknown feature 'ringbuff'; did you mean ringbuf or map:ringbuf or map:user_ringbuf?",
            "`kmatrix features` lists those without a parameter; docs/features.md has the kinds with one",
        ),
        (ONE | {"needs": "btf"}, "variant[0].needs ('ring'): must be a list in brackets; it is 'btf'", "correct variant[0].needs"),
        (
            ONE | {"object": 3},
            "variant[0].object ('ring'): must be a text in quotes, or must be a table; it is 3",
            "correct variant[0].object",
        ),
        (
            ONE | {"object": {"x86": "o"}},
            "variant[0].object.x86 ('ring'): unknown value 'x86'; did you mean x86_64?; it must be 'x86_64' or 'arm64'",
            "correct variant[0].object.x86",
        ),
        (
            ONE | {"transport": "ring"},
            "variant[0].transport ('ring'): unknown value 'ring'; did you mean ringbuf?; it must be 'ringbuf' or 'perf'",
            "correct variant[0].transport",
        ),
    ],
)
def test_one_mistake_in_the_only_variant_is_one_sentence(variant: dict[str, Any], says: str, fix: str) -> None:
    """pydantic also says that the list of variants is too short, and prints the whole of it."""
    assert wrong(manifest(variant=[variant], event=[])) == f"/demo/collector.toml: {says}\n  fix: {fix}"


def test_two_mistakes_are_both_said() -> None:
    said = wrong(manifest(variant=[{"nmae": "ring", "object": "ring"}], event=[]))
    assert "variant[0].nmae: unknown key; did you mean name?" in said
    assert "variant[0].behaviour: missing" in said
    assert "variant[0].name" not in said


def test_a_table_in_place_of_a_list_of_tables_is_told_of_the_brackets() -> None:
    assert "variant: is a table, and a list of tables is wanted: write [[variant]]" in wrong(manifest(variant=ONE, event=[]))
