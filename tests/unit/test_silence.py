"""What is said of an event that did not come."""

from __future__ import annotations

from typing import Any

import pytest

from kmatrix.verdict import events
from tests.unit.facts import demo

KNOWN = {"tgid": 115, "path": "/tmp/kmatrix-open"}
EVENT = {"name": "open", "match": {"tgid": "known.tgid", "path": "worker"}}
FIELDS = [{"name": "tgid", "type": "u32", "equals": "known.tgid"}, {"name": "path", "type": "char[16]"}]


def said(
    samples: list[dict[str, Any]],
    unmatched: int | None = None,
    count: int = 0,
    lost: int = 0,
    ran: dict[str, int | None] | None = None,
    **event: Any,
) -> str:
    collector = demo(event=[EVENT | {"field": FIELDS} | event])
    other = len(samples) if unmatched is None else unmatched
    facts = {
        "known": KNOWN,
        "unmatched": other,
        "sinks": {"buffer": {"unmatched": other, "sizes": {"24": other} if other else {}, "records": other + count}},
        "unmatched_samples": [{"event": "open", "fields": fields, "raw": ""} for fields in samples],
        "lost": lost,
        "running": "core",
        "attempts": [{"variant": "core", "programs": {name: {"runs": count} for name, count in (ran or {}).items()}}],
    }
    return events._silence(collector.events[0], count, facts)


def test_nothing_came() -> None:
    assert said([]) == "no open event arrived after the trigger"
    assert said([], lost=3) == "no open event arrived after the trigger; 3 lost"
    assert said([], count=1, min_count=2) == "1 of 2 open events arrived after the trigger"


def test_programs_that_ran_and_sent_nothing_are_named() -> None:
    ran = {"enter": 5, "exit": 6, "never": 0}
    nothing = (
        "no open event arrived after the trigger; nothing came out of the buffer, though programs ran (times: exit 6, enter 5)"
    )
    assert said([], ran=ran) == nothing
    assert said([], ran={"enter": None, "exit": 0}) == "no open event arrived after the trigger"
    assert said([], ran=ran, lost=3) == "no open event arrived after the trigger; 3 lost"
    assert "programs ran" not in said([{"tgid": 7, "path": "worker"}], ran=ran)
    assert "programs ran" not in said([], count=1, min_count=2, ran=ran)  # lines have no size, and came all the same
    assert said([], ran=dict.fromkeys("abcdef", 1)).endswith("(times: a 1, b 1, c 1, d 1 and 2 more)")


def test_of_what_came_the_nearest_is_told_with_what_differs() -> None:
    others = [{"tgid": 1, "path": "systemd"}, {"tgid": 115, "path": "kmatrix-open"}, {"tgid": 1, "path": ""}]
    assert said(others, unmatched=4) == (
        "no open event arrived after the trigger; 4 records of 24 bytes came; the nearest differs in path: 'kmatrix-open', expected 'worker'"
    )


def test_what_the_trigger_knows_is_named() -> None:
    assert said([{"tgid": 7, "path": "worker"}]).endswith(
        "1 record of 24 bytes came; it differs in tgid: 7, expected 115 (known.tgid)"
    )
    both = said([{"tgid": 7, "path": "wo"}])
    assert both.endswith("it differs in tgid: 7, expected 115 (known.tgid), and in path: 'wo', expected 'worker'")


def test_of_two_that_differ_in_a_text_the_more_alike_is_nearer() -> None:
    samples = [{"tgid": 115, "path": "cron"}, {"tgid": 115, "path": "workers"}]
    assert "path: 'workers', expected 'worker'" in said(samples)


def test_what_the_trigger_does_not_know_matches_nothing() -> None:
    event = {"match": {"tgid": "known.ppid"}}
    assert said([{"tgid": 115, "path": ""}], **event).endswith(
        "differs in tgid: 115, expected what the trigger does not know (known.ppid)"
    )


@pytest.mark.parametrize("unmatched", [1, 3])
def test_what_could_not_be_read_is_counted(unmatched: int) -> None:
    assert f"{unmatched} record{'s' if unmatched > 1 else ''} of 24 bytes came, none with tgid = 115, path = 'worker'" in said(
        [], unmatched
    )
