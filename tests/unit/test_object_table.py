"""What `kmatrix run` makes of outcomes: the exit status behind it, the table of many objects, each cause once."""

from __future__ import annotations

from typing import Any

import pytest

from kmatrix.report import objects
from kmatrix.runs.object_run import Outcome, state

OLD, NEW = "5.10-x86_64", "6.1-x86_64"
ATTACHED = {"loaded": True, "attached": True, "error": None, "diagnosis": None}
LOADED = ATTACHED | {"attached": None}


def failing(kind: str, what: str, *, loaded: bool = False, where: str | None = None) -> dict[str, Any]:
    diagnosis = {"kind": kind, "headline": what, "fix": "do otherwise", "see": "docs/diagnosis.md#x", "where": where}
    return {"loaded": loaded, "attached": False, "error": "Invalid argument", "log": "", "diagnosis": diagnosis}


NOT_LOADED = failing("helper", "helper bpf_loop, since 5.17")
NOT_ATTACHED = failing("symbol", "symbol gone: this kernel has no such function", loaded=True)
PLACEHOLDER = failing("placeholder", "dummy_read stands for a target that the loader chooses")
OFF = {"loaded": False, "attached": False, "error": None, "diagnosis": None, "off": True}
NO_MAP = {
    "error": "Invalid argument",
    "diagnosis": {
        "kind": "map-size",
        "headline": "map stacks has max_entries = 0",
        "fix": "give one",
        "see": "docs/diagnosis.md#x",
    },
}


@pytest.mark.parametrize(
    ("program", "word"),
    [
        (ATTACHED, "attached"),
        (LOADED, "loaded"),
        (NOT_ATTACHED, "not attached"),
        (NOT_LOADED, "not loaded"),
        (PLACEHOLDER, "placeholder"),
        (OFF, "off"),
        (PLACEHOLDER | {"loaded": True}, "placeholder"),
    ],
)
def test_how_far_a_program_came(program: dict[str, Any], word: str) -> None:
    assert state(program) == word


@pytest.mark.parametrize(
    ("outcome", "passed", "shown"),
    [
        (Outcome(NEW, programs={"a": ATTACHED, "b": LOADED}), True, "2/2"),
        (Outcome(NEW, programs={"a": ATTACHED, "b": NOT_ATTACHED}), False, "✗ 1/2"),
        (Outcome(NEW, programs={"a": ATTACHED, "b": NOT_LOADED}), False, "✗ 1/2"),
        (Outcome(NEW, programs={"a": ATTACHED, "b": PLACEHOLDER}), True, "1/1 +1 placeholder"),
        (Outcome(NEW, programs={"a": ATTACHED, "b": OFF}), True, "1/1"),
        (Outcome(NEW, programs={"a": PLACEHOLDER}), False, "placeholders"),
        (Outcome(NEW, programs={"a": ATTACHED}, maps={"stacks": NO_MAP}), False, "✗ 1/1"),
        (Outcome(NEW, programs={"a": ATTACHED}, together=False), False, "✗ 1/1"),
        (Outcome(NEW, error="panic: Fatal exception"), False, "✗ error"),
    ],
)
def test_what_passes_and_how_an_object_is_shown(outcome: Outcome, passed: bool, shown: str) -> None:
    assert outcome.good is passed
    rendered = objects.render_many({"build/x.o": [outcome], "build/y.o": []}, {}, colour=False, width=200)
    row = next(line for line in rendered.splitlines() if "x.o" in line and "│" in line)
    assert row.split("│")[2].strip() == shown


def test_a_cause_of_many_objects_is_told_once() -> None:
    def both(*names: str) -> list[Outcome]:
        return [Outcome(OLD, programs=dict.fromkeys(names, NOT_LOADED)), Outcome(NEW, programs=dict.fromkeys(names, ATTACHED))]

    text = objects.render_many({"build/x.o": both("enter", "exit"), "build/y.o": both("run")}, {}, colour=False, width=200)
    assert text.partition("╯\n\n")[2] == (
        "helper bpf_loop, since 5.17\n"
        f"    x.o: enter, exit on {OLD}\n"
        f"    y.o: run on {OLD}\n"
        f"    good on {NEW}\n"
        "    fix: do otherwise; see docs/diagnosis.md#x"
    )


def test_a_target_is_good_only_where_no_object_fails_of_anything() -> None:
    x = [Outcome(OLD, programs={"run": NOT_LOADED}), Outcome(NEW, programs={"run": ATTACHED})]
    y = [Outcome(OLD, programs={"run": NOT_LOADED}), Outcome(NEW, programs={"run": NOT_ATTACHED})]
    text = objects.render_many({"x.o": x, "y.o": y}, {}, colour=False, width=200)
    assert "good on" not in text.partition("symbol gone")[0]


def test_the_lines_of_source_of_all_objects_are_told() -> None:
    x, y = ([Outcome(OLD, programs={"run": failing("helper", "helper bpf_loop", where=f"{name} @ {name}.c:3")})] for name in "xy")
    text = objects.render_many({"x.o": x, "y.o": y}, {}, colour=False, width=200)
    assert f"    x.o: run on {OLD}\n    y.o: run on {OLD}\n    at x @ x.c:3\n    at y @ y.c:3\n" in text
