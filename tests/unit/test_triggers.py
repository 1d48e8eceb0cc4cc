"""The table of triggers: what the guest can do, what a manifest may say of it, and what the reference documents are the same."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kmatrix.guest import triggers
from kmatrix.guest.triggers import kind as kinds
from kmatrix.guest.triggers import network
from kmatrix.guest.triggers.kind import ALWAYS, lasts, times
from kmatrix.host.errors import InputError
from kmatrix.manifest.trigger import Trigger

DOCUMENT = Path(__file__).parents[2] / "docs/triggers.md"
ROWS = {
    match["kind"]: match
    for match in re.finditer(
        r"^\| `?(?P<kind>\w+)`? \|[^|]*\|(?P<options>[^|]*)\|(?P<known>[^|]*)\|$", DOCUMENT.read_text(), re.MULTILINE
    )
    if match["kind"] != "kind"
}


@pytest.mark.parametrize("kind", triggers.KINDS)
def test_the_document_has_what_each_knows(kind: str) -> None:
    assert _names(ROWS[kind]["known"]) == set(triggers.KINDS[kind].known)


@pytest.mark.parametrize("kind", triggers.KINDS)
def test_the_document_has_the_options_of_each(kind: str) -> None:
    """`family = "ipv4"`, `"ipv6"`; `transport = …`: of an option, all values in the order of the row."""
    options: dict[str, list[str]] = {}
    for name, value in re.findall(r'`(?:([a-z_]+))?(?: = )?("[^"`]+")?`', ROWS[kind]["options"]):
        options.setdefault(name or list(options)[-1], []).extend([value.strip('"')] * bool(value))
    assert options == {name: list(values) for name, values in triggers.KINDS[kind].options.items()}


def test_the_document_has_no_other_kinds() -> None:
    assert set(ROWS) == {"all", *triggers.KINDS}


def test_the_document_has_what_is_always_known() -> None:
    assert _names(ROWS["all"]["known"]) == set(ALWAYS)


def test_only_what_most_collectors_use_waits_in_the_snapshot() -> None:
    """Each that does is a process in the memory of every VM."""
    assert {kind for kind, row in triggers.KINDS.items() if row.prepared} == {"open", "exec", "tcp_connect", "dns", "oom"}


def _names(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", cell))


def test_what_a_command_knows_is_not_known_beforehand() -> None:
    assert triggers.known("command") is None
    assert triggers.known("open") == {*ALWAYS, *triggers.KINDS["open"].known}


def _trigger(**said: Any) -> Trigger:
    return Trigger.model_validate(said)


def test_several_triggers_know_by_their_names() -> None:
    trigger = _trigger(compose=["create", {"kind": "create", "name": "long"}, "exec"], namespaces=["pid"], cgroup_depth=2)
    known = trigger.known()
    assert known is not None
    assert {"create_path", "create2_path", "exec_exit_status", "create_ns_pid"} <= known
    assert "path" not in known
    request = trigger.request()
    assert [part["kind"] for part in request["compose"]] == ["create", "create", "exec"]
    assert request["compose"][1]["name"] == "long"
    assert (request["namespaces"], request["cgroup_depth"], "kind" in request) == (["pid"], 2, False)
    assert _trigger(compose=["open", {"kind": "command", "command": ["./go"]}]).known() is None


def test_what_is_asked_for_as_often_as_the_manifest_says() -> None:
    assert _trigger(kind="open", count=20, rate=100).request() | {"command": [], "env": {}} == {
        "kind": "open", "command": [], "env": {}, "count": 20, "rate": 100.0,
    }  # fmt: skip
    assert "count" not in _trigger(kind="open").request()


def test_the_times_come_as_fast_as_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than its share is followed at once, until the rate is kept again."""
    now = [64.0]
    monkeypatch.setattr(
        kinds, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    )
    begun = []
    for number in times({"count": 4, "rate": 2.0}):
        begun.append((number, now[0]))
        now[0] += 0.75 if number == 0 else 0.125
    assert begun == [(0, 64.0), (1, 64.75), (2, 65.0), (3, 65.5)]
    assert list(times({})) == [0]


def test_what_is_done_often_is_given_the_time_for_it() -> None:
    fast, slow = {"kind": "fork", "count": 100}, {"kind": "open", "count": 100, "rate": 20.0}
    assert lasts({"kind": "open"}) == 0.0
    assert lasts(fast) > 0.0
    assert lasts(slow) == 5.0 + lasts(fast)
    assert lasts({"compose": [fast, slow]}) == lasts(fast) + lasts(slow)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"kind": "create", "compose": ["open"]}, "kind and compose exclude each other"),
        ({"compose": []}, "compose is empty"),
        ({"kind": "compose"}, "composed of nothing"),
        ({"compose": ["opne"]}, "unknown trigger 'opne'; did you mean open"),
        ({"compose": ["open"], "count": 3}, "count belongs to one trigger"),
        ({"kind": "packets", "namespaces": ["net"]}, "in the guest's own network namespace"),
        ({"compose": ["open", "packets"], "namespaces": ["pid", "net"]}, "in the guest's own network namespace"),
        ({"compose": ["open", {"compose": ["open"]}]}, "compose stands in compose"),
        ({"compose": [{"kind": "open", "cgroup_depth": 2}]}, "cgroup_depth stands in compose"),
        ({"compose": [{"kind": "rename", "place": "attic"}]}, "place = 'attic' is not known"),
        ({"kind": "exec", "count": 3}, "is done once"),
        ({"kind": "open", "rate": 3}, "but not how often"),
        ({"kind": "open", "count": 0}, "greater than or equal to 1"),
        ({"kind": "open", "namespaces": ["pids"]}, "unknown namespace 'pids'; did you mean pid"),
        ({"kind": "open", "cgroup_depth": 0}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_go_together(said: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, InputError), match=words.replace("(", r"\(")):
        Trigger.model_validate(said)


def test_the_document_says_which_are_done_once() -> None:
    once = {kind for kind, row in triggers.KINDS.items() if not row.repeats}
    said = re.search(r"of the last time\. (.*?) and the kinds on the\s+network are done once", DOCUMENT.read_text(), re.DOTALL)
    assert said is not None
    assert once == _names(said[1]) | set(network.KINDS)
