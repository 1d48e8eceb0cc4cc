"""[budget]: what in it is wrong, what is above it, and what a cell is where it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kmatrix.guest.limit import AT_MOST
from kmatrix.host.errors import InputError
from kmatrix.manifest import schema
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.load import load_matrix
from kmatrix.report.page.model import Table
from kmatrix.report.page.story import story
from kmatrix.runs.cell import _patience as patience
from kmatrix.runs.patience import INTERRUPTION
from kmatrix.verdict.budget import judge_budget
from kmatrix.verdict.expectation import expected
from kmatrix.verdict.judge import Verdict, verdict
from kmatrix.verdict.observation import observed
from tests.unit.facts import PIN, demo, good, manifest, record

SHARE_OF_INSNS = re.escape('write a share of the limit, such as "80%", or a number of instructions from 1 to 999999')
SHARE_OF_STACK = re.escape('write a share of the limit, such as "90%", or a number of bytes from 1 to 511')


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"insns": "180%"}, f"budget.insns: no program comes above '180%' of the verifier's limit: {SHARE_OF_INSNS}"),
        ({"insns": "100%"}, "no program comes above '100%'"),
        ({"insns": "x"}, f"budget.insns: 'x' is no budget: {SHARE_OF_INSNS}"),
        ({"insns": "-5%"}, "'-5%' is no budget"),
        ({"insns": 0.8}, "0.8 is no budget"),
        ({"insns": True}, "True is no budget"),
        ({"insns": "0.0%"}, "'0.0%' allows nothing"),
        ({"insns": 0}, f"budget.insns: 0 allows nothing: {SHARE_OF_INSNS}"),
        ({"insns": -1}, "-1 allows nothing"),
        ({"insns": 1_000_000}, "no program comes above 1000000, as the verifier's limit is 1000000"),
        ({"stack": 512}, f"budget.stack: no program comes above 512, as the verifier's limit is 512: {SHARE_OF_STACK}"),
        ({"stack": "many"}, f"budget.stack: 'many' is no budget: {SHARE_OF_STACK}"),
        ({"instructions": 5}, "budget.instructions"),
        ({}, "budget: it allows nothing and forbids nothing: write insns"),
        ({"insns": 5, "programs": {"enter": {}}}, "budget.programs.enter: it allows nothing and forbids nothing"),
        ({"insns": 5, "programs": {"enter": {"stack": "x"}}}, "budget.programs.enter.stack: 'x' is no budget"),
        ({"programs": {"entre": {"insns": 5}}}, "budget: programs names 'entre', which is not there.*enter"),
    ],
)
def test_a_wrong_budget(budget: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        schema.parse(manifest(budget=budget), path=Path("/demo/collector.toml"))


def test_a_budget_of_what_libbpf_does_not_load() -> None:
    head = {"name": "demo", "loader": "cilium"}
    with pytest.raises(
        InputError, match=r"\[budget\] is measured where libbpf loads the objects, and collector.loader is 'cilium'"
    ):
        demo(collector=head, budget={"insns": 5})
    variants = [{"name": "only", "behaviour": "full"}]
    programs = [{"name": "enter", "hook": "tracepoint/syscalls/sys_enter_openat"}]
    own = {"loader": {"command": ["./agent"]}, "variant": variants, "program": programs, "event": []}
    assert demo(**own).budget is None
    with pytest.raises(InputError, match=r"\[budget\] is measured where kmatrix loads the objects, and \[loader\] loads by itself"):
        demo(**own, budget={"insns": 5})
    only_a_test = {"schema": 1, "collector": {"name": "demo"}, "test": {"command": ["./run"]}, "budget": {"insns": 5}}
    with pytest.raises(InputError, match="there is no \\[\\[program\\]\\]: write one, or remove \\[budget\\]"):
        schema.parse(only_a_test, path=Path("/demo/collector.toml"))


def test_what_is_measured() -> None:
    collector = demo(budget={"programs": {"extra": {"stack": 100}}})
    assert collector.budget is not None
    assert collector.budget.measured(["enter", "extra", "extra"]) == ["extra"]
    every = demo(budget={"insns": "80%", "programs": {"extra": {"stack": 100}}}).budget
    assert every is not None
    assert every.measured(["enter", "extra"]) == ["enter", "extra"]
    extra = every.of("extra")
    assert (extra.insns, extra.stack) == (every.insns, every.programs["extra"].stack)
    assert collector.loaded_by("cilium").budget is None
    assert demo(budget={"insns": 5}, stress=STRESS).under_stress().budget is None


def test_a_program_that_is_measured_is_loaded_twice_more() -> None:
    one, both = demo(budget={"programs": {"extra": {"stack": 100}}}), demo(budget={"insns": "80%"})
    assert patience(both) - patience(one) == patience(one) - patience(demo()) == 2 * (AT_MOST * both.load_timeout + INTERRUPTION)


STRESS = {"rate": 100.0}


def _report(insns: int, stack: str, limit: str = " (limit 1000000)") -> dict[str, Any]:
    return {"error": None, "verified": 0, "log": [f"stack depth {stack}", f"processed {insns} insns{limit} max_states_per_insn 1"]}


NOT_ALONE = {"error": "prog 'enter': failed to load"}


@pytest.mark.parametrize(
    ("budget", "version", "report", "words"),
    [
        ({"insns": "80%"}, (6, 1), _report(800_000, "8"), None),
        (
            {"insns": "80%"},
            (6, 1),
            _report(800_001, "8"),
            "program enter: the verifier looks at 800,001 of at most 1,000,000 instructions (80.00%), "
            'more than its budget of 800,000 (insns = "80%")',
        ),
        ({"insns": "2.01%"}, (6, 1), _report(20_100, "8"), None),
        ({"insns": "80%"}, (4, 14), _report(104_857, "8", ""), None),
        ({"insns": "80%"}, (4, 14), _report(104_858, "8", ""), 'of at most 131,072 instructions (80.00%), more than its budget of 104,857'),
        ({"insns": 5000}, (4, 14), _report(5000, "8", ""), None),
        ({"insns": 5000}, (6, 1), _report(5001, "8"), "(0.50%), more than its budget of 5,000 (insns = 5000)"),
        ({"insns": 5000, "programs": {"enter": {"insns": 6000}}}, (6, 1), _report(5001, "8"), None),
        ({"stack": "90%"}, (6, 1), _report(5, "460"), None),
        (
            {"stack": "90%"},
            (6, 1),
            _report(5, "400+61"),
            "program enter: it takes 461 of at most 512 bytes of stack (400+61, with the functions that it calls) (90.04%), "
            'more than its budget of 460 (stack = "90%")',
        ),
        ({"stack": 100}, (6, 1), _report(5, "104"), "(20.31%), more than its budget of 100 (stack = 100)"),
        ({"insns": "80%"}, (6, 1), NOT_ALONE, "cannot be measured: prog 'enter': failed to load"),
        ({"insns": "80%"}, (6, 1), {"error": None, "verified": 0, "log": [""]}, "the kernel does not say how many"),
    ],
)  # fmt: skip
def test_what_is_above_a_budget(
    budget: dict[str, Any], version: tuple[int, int], report: dict[str, Any], words: str | None
) -> None:
    facts: Any = {"effort": {"enter": report}}
    problems = list(judge_budget(demo(budget=budget), version, facts))
    assert [problem.failure for problem in problems] == ["budget"] * (words is not None)
    if words is not None:
        assert words in problems[0].text
    assert list(judge_budget(demo(), version, facts)) == []


def _verdict(collector: Collector, facts: Any) -> tuple[str | None, Verdict]:
    matrix = load_matrix()
    target = matrix.target("6.1-x86_64")
    seen = observed(collector, target, facts)
    return seen.behaviour, verdict(collector, target, expected(collector, target, matrix), seen, facts, probe={})


def test_a_cell_above_its_budget() -> None:
    """It does what it promises all the same; and what is graver than a budget is told first."""
    collector = demo(budget={"insns": 50})
    facts = good(collector, "ring") | {"effort": {"enter": _report(50, "8"), "extra": _report(9, "8")}}
    assert _verdict(collector, facts)[1].ok
    facts["effort"]["enter"] = _report(51, "8")
    facts["kernel"]["after"]["pins"].append(PIN)
    behaviour, found = _verdict(collector, facts)
    assert (behaviour, found.ok, found.failure) == ("full", False, "budget")
    assert found.reason.splitlines()[1] == f"also: pinned object {PIN} is still there afterwards"
    facts["events"], facts["counts"] = [], {"open": 0}
    assert _verdict(collector, facts)[1].failure == "silent"
    without = good(collector, "ring", absent=("field:open.cgroup_id",)) | {"effort": facts["effort"]}
    assert _verdict(collector, without)[1].failure == "worse"


def test_the_story_of_a_cell_has_the_numbers() -> None:
    efforts = {"enter": _report(65_536, "64+32", ""), "other": NOT_ALONE}
    told = story(record(facts={"release": "4.14.67", "attempts": [], "effort": efforts}), Path("/nowhere"))
    (table,) = [part for step in told for part in step.parts if isinstance(part, Table)]
    assert table.rows == [("enter", "65,536", "50.00%", "96", "18.75%"), ("other", "not measured", "", "", "")]
