"""What `kmatrix run` makes of outcomes: the exit status behind it, the table of many objects, each cause once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix.manifest.contract import load_contract
from kmatrix.report import objects
from kmatrix.report.contract import one_of_lines
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


def test_the_closing_line() -> None:
    good, bad = Outcome(OLD, programs={"run": ATTACHED}), Outcome(OLD, programs={"run": NOT_LOADED})
    new, coming = Outcome(NEW, programs={"run": ATTACHED}), Outcome(NEW, programs={"run": NOT_LOADED}, moving=True)
    assert objects.closing({"x.o": [good]}) is None, "the table says it"
    assert objects.closing({"d/x.o": [good, new]}) == "x.o on 2 targets: good on all"
    assert objects.closing({"d/x.o": [bad, new]}) == f"x.o on 2 targets: good on 1, not on {OLD}"
    assert objects.closing({"x.o": [good], "y.o": [good], "z.o": []}) == "2 objects on 1 target: 2 are good on all"
    two = {"x.o": [bad, new], "y.o": [good, coming]}
    assert objects.closing(two) == f"2 objects on 2 targets: 1 is good on all, 1 is not ({OLD}: 1); 1 is a warning of what comes"
    lost = Outcome(OLD, error="no kernel", infra=True)
    said = f"2 objects on 1 target: 0 are good on all, 2 are not ({OLD}: 2); 1 of these by the machine room's fault"
    assert objects.closing({"x.o": [lost], "y.o": [bad]}) == said


def test_forms_of_one_object_among_many_are_lines_for_its_contract(tmp_path: Path) -> None:
    """Options are for one object alone. What is printed is a contract that says just these groups."""

    def outcome(count: int) -> Outcome:
        programs = {
            f"{kind}_{number}": (NOT_LOADED if kind == "fentry" else ATTACHED) | {"section": f"{kind}/function_{number}"}
            for number in range(count)
            for kind in ("fentry", "kprobe")
        }
        return Outcome(OLD, programs=programs)

    text = objects.render_many({"d/many.bpf.o": [outcome(9)], "d/one.o": [outcome(1)]}, {}, colour=False, width=80)
    assert "--one-of" not in text
    assert "say so at the top of many.contract.toml, beside the object:" in text
    many = text.partition("many.contract.toml, beside the object:\n")[2].partition("\n\n")[0]
    assert max(map(len, many.splitlines())) < 120
    (tmp_path / "many.contract.toml").write_text(f"{many}\n[variables]\n")
    groups = load_contract(tmp_path / "many.contract.toml").one_of
    assert [[form.programs for form in group] for group in groups] == [[(f"fentry_{n}",), (f"kprobe_{n}",)] for n in range(9)]
    assert text.endswith('one.contract.toml, beside the object:\n      one_of = ["fentry_0", "kprobe_0"]')
    assert one_of_lines([("a", "b"), ("a", "b", "c")]) == ['one_of = ["a", "b", "c"]']
    alone = objects.render([outcome(1)], {}, colour=False, width=80)
    assert alone.endswith("--one-of fentry_0,kprobe_0")


def test_the_lines_of_source_of_all_objects_are_told() -> None:
    x, y = ([Outcome(OLD, programs={"run": failing("helper", "helper bpf_loop", where=f"{name} @ {name}.c:3")})] for name in "xy")
    text = objects.render_many({"x.o": x, "y.o": y}, {}, colour=False, width=200)
    assert f"    x.o: run on {OLD}\n    y.o: run on {OLD}\n    at x @ x.c:3\n    at y @ y.c:3\n" in text
