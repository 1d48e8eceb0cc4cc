"""[stress]: what it makes of a collector, what is too much, and what of it is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.host.validation import Wrong
from kmatrix.manifest import schema
from kmatrix.manifest.stress import Stress, check_stress
from kmatrix.manifest.trigger import Trigger
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.cell import _patience as patience
from kmatrix.verdict.events import judge_events
from kmatrix.verdict.stress import judge_costs
from tests.unit.facts import MANIFEST, demo, good, manifest

STRESS = {"rate": 100.0, "seconds": 2.0, "lost": "0.5%", "memlock": "64K", "run_time": 10.0}


def test_a_collector_under_stress() -> None:
    collector = demo(stress=STRESS)
    loaded = collector.under_stress()
    assert (loaded.name, loaded.stressed, collector.stressed) == ("demo+stress", True, False)
    assert loaded.trigger is not None
    assert loaded.trigger.request() | {"command": [], "env": {}} == {
        "kind": "open", "command": [], "env": {}, "count": 200, "rate": 100.0,
    }  # fmt: skip
    assert [event.min_count for event in loaded.events] == [199]
    assert [event.min_count for event in collector.events] == [1]


def test_how_often_an_event_must_and_may_come() -> None:
    (event,) = demo(stress=STRESS).events
    once = event.model_copy(update={"min_count": 1, "max_count": 2})
    often = Stress.model_validate({"rate": 100.0, "seconds": 5.0, "lost": "18%"}).event(once)
    assert (often.min_count, often.max_count) == (410, 1000)


@pytest.mark.parametrize(
    ("stress", "words"),
    [
        ({"rate": 0.0}, "greater than 0"),
        ({"rate": 5.0, "lost": "100%"}, "is no part"),
        ({"rate": 5.0, "lost": "1"}, "is no part"),
        ({"rate": 5.0, "memlock": "64MB"}, "is no size"),
        ({"rate": 5.0, "run_time": 0.5}, "greater than 1"),
        ({"rate": 5.0, "runtime": 2.0}, "runtime"),
    ],
)
def test_a_wrong_promise(stress: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        schema.parse(manifest(stress=stress), path=Path("/demo/collector.toml"))


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        ({"kind": "exec"}, 'the trigger "exec" is done once'),
        ({"compose": ["open"]}, 'the trigger "compose" is done once'),
        ({"kind": "open", "count": 3}, "count does not go with it"),
    ],
)
def test_a_trigger_that_is_not_for_stress(trigger: dict[str, Any], words: str) -> None:
    with pytest.raises(Wrong, match=words):
        check_stress(Stress.model_validate(STRESS), Trigger.model_validate(trigger))


COSTS: dict[str, Any] = {
    "memlock": {"events": 65536, "seen": None},
    "run_time": {"enter": [20_000, 10], "extra": None},
    "empty": [200_000, 1000],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        (
            {"memlock": {"events": 65536, "seen": 4096}},
            r"69632 bytes, more than 65536 \(memlock = \"64K\"\); the largest is events",
        ),
        ({"run_time": {"enter": [20_010, 10]}}, r"enter takes 2001 ns a run, 10\.0 times an empty program's 200 ns"),
        ({"empty": None, "run_time": {"enter": [10**9, 1]}}, None),  # before 5.1
    ],
)
def test_what_costs_too_much(changes: dict[str, Any], words: str | None) -> None:
    facts: Any = {"costs": COSTS | changes}
    problems = list(judge_costs(demo(stress=STRESS).under_stress(), facts))
    assert [problem.failure for problem in problems] == ["costly"] * (words is not None)
    if words is not None:
        assert re.search(words, problems[0].text)
    assert list(judge_costs(demo(stress=STRESS), facts)) == []


@pytest.mark.parametrize(
    ("count", "lost", "dropped", "failure"),
    [(0, 7, 7, "silent"), (198, 0, None, "lost"), (199, 1, 1, None)],
)
def test_what_came_of_many(count: int, lost: int, dropped: int | None, failure: str | None) -> None:
    collector = demo(stress=STRESS).under_stress()
    facts: Any = {
        "running": "ring", "attempts": [], "events": [], "counts": {"open": count}, "known": {}, "lost": lost, "dropped": dropped, "unmatched_samples": [],
        "sinks": {}, "test_runs": {}, "unmatched": 0, "costs": COSTS,
    }  # fmt: skip
    problems, _ = judge_events(collector, load_matrix().target("6.1-x86_64"), facts)
    assert [problem.failure for problem in problems] == [failure] * (failure is not None)


@pytest.mark.parametrize(("lost", "dropped", "failure"), [(0, None, "silent"), (0, 0, "silent"), (1, None, "lost"), (0, 1, "lost")])
def test_what_did_not_come_of_a_trigger_that_is_pulled_once_is_lost_where_the_buffer_was_full(
    lost: int, dropped: int | None, failure: str
) -> None:
    events = [MANIFEST["event"][0] | {"min_count": 2}]
    collector = demo(event=events)
    facts = good(collector, "ring") | {"lost": lost, "dropped": dropped, "unmatched_samples": []}
    problems, _ = judge_events(collector, load_matrix().target("6.1-x86_64"), facts)  # type: ignore[arg-type]
    assert [problem.failure for problem in problems] == [failure]


def test_a_cell_under_stress_has_the_time_for_it() -> None:
    """The trigger is pulled twice where it fails, and takes 2 s by its rate, and some more beside."""
    collector = demo(stress=STRESS)
    assert patience(collector.under_stress()) - patience(collector) > 2 * 2.0
