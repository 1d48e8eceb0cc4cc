"""What the verifier says of its work, read off its log as each kernel writes it; what an atlas says has grown, and what is over a budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmatrix.guest import effort
from kmatrix.guest.effort import visits
from kmatrix.host.errors import InputError
from kmatrix.manifest.budget import share
from kmatrix.report import atlas as report
from kmatrix.runs import atlas
from kmatrix.runs.atlas import Page
from kmatrix.verdict.effort import Effort, effort_of, over

NOTHING = {"error": None, "log": ["verification time 20 usec", "stack depth 8", "processed 8 insns (limit 1000000) …"]}
LOGS = {
    (4, 14): ["0: (b7) r0 = 0", "1: (95) exit", "processed 40 insns, stack depth 16"],
    (5, 4): [
        "verification time 90 usec",
        "stack depth 64+32",
        "processed 40 insns (limit 1000000) max_states_per_insn 1 total_states 3 peak_states 2 mark_read 1",
    ],
}


def test_the_log_of_a_new_kernel_has_it_all() -> None:
    effort = effort_of({"log": LOGS[5, 4], "jited": 100, "xlated": 80, "verified": 40}, NOTHING, (5, 4))
    assert effort == Effort(40, 1_000_000, (64, 32), 3, 2, 4.5, 100, 80)
    assert effort.stack_share == 96 / 512


def test_functions_that_do_not_call_each_other_take_no_more_than_there_is() -> None:
    assert Effort(40, 1_000_000, (300, 300)).stack_share == 1


def test_a_verifier_that_writes_down_each_instruction_tells_nothing_of_its_time() -> None:
    effort = effort_of({"log": LOGS[5, 4], "visits": []}, NOTHING, (5, 4))
    assert effort is not None
    assert (effort.insns, effort.time_ratio) == (40, None)


def test_the_log_of_an_old_kernel_has_the_instructions_and_the_stack() -> None:
    effort = effort_of({"log": LOGS[4, 14], "jited": 0, "xlated": 16, "verified": 0}, {"log": []}, (4, 14))
    assert effort == Effort(40, 131_072, (16,), xlated=16)


def test_a_program_that_does_not_load_has_none() -> None:
    assert effort_of({"error": "invalid argument"}, NOTHING, (6, 1)) is None


@pytest.mark.parametrize(
    ("effort", "budget", "said"),
    [
        (Effort(800_000, 1_000_000, (8,)), "80%", []),
        (Effort(800_001, 1_000_000, (8,)), "80%", ["800,001 of 1,000,000 instructions (80%)"]),
        (Effort(8, 1_000_000, (256, 256)), "90%", ["512 of 512 bytes of stack (100%)"]),
    ],
)
def test_what_is_over_a_budget(effort: Effort, budget: str, said: list[str]) -> None:
    assert over(effort, share(budget)) == said


def test_the_lines_that_are_looked_at_most() -> None:
    log = """; int a = b; @ x.c:3
0: (b7) r0 = 0
1: (bf) r1 = r2
from 1 to 4: R0=0
; return a; @ x.c:9
4: (95) exit
; int a = b; @ x.c:3
from 0 to 1: (bf) r1 = r2
processed 4 insns"""
    assert visits(log) == [("int a = b; @ x.c:3", 3), ("return a; @ x.c:9", 1)]


def test_growth_is_told_once_for_all_targets_where_it_is_the_same(tmp_path: Path) -> None:
    was, now = (
        [Page("x/a.bpf.o", f"6.1-{arch}", {"open": Effort(insns, 1_000_000)}) for arch in ("x86_64", "arm64")]
        for insns in (100, 150)
    )
    atlas.save(was, tmp_path / "a.json")
    assert report.growth(now, atlas.kept(tmp_path / "a.json")) == ["a.bpf.o open on 6.1: 100 -> 150 instructions (+50%)"]
    assert report.growth(was, atlas.kept(tmp_path / "a.json")) == []


@pytest.mark.parametrize(("text", "said"), [("no", "is no atlas"), ('{"schema": 9}', "has schema 9"), ("[]", "is no atlas")])
def test_a_file_that_is_no_atlas(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=said):
        atlas.kept(tmp_path / "a.json")


def test_programs_that_do_not_load_are_told_together() -> None:
    errors = {name: f"prog '{name}': failed to find kernel BTF type ID of '{name}': -3; and more" for name in ("one", "two")}
    page = Page("a.bpf.o", "6.1-arm64", errors=errors)
    text = report.render([page], frozenset(), width=100, lines=False)
    assert "6.1-arm64: one, two: failed to find kernel BTF type ID of that name: -3" in text


def test_an_atlas_is_json() -> None:
    data = json.loads(json.dumps(atlas.as_json([Page("a.o", "6.1-x86_64", {"p": Effort(1, 2)})])))
    assert data["pages"][0]["efforts"]["p"]["insns"] == 1


def _reports(*times: int | None) -> list[dict[str, object]]:
    return [
        {"error": None, "log": [] if time is None else [f"verification time {time} usec"], "load": n}
        for n, time in enumerate(times)
    ]


@pytest.mark.parametrize(
    ("loads", "kept", "asked"),
    [
        (_reports(9000, 400, 7000, *[450] * 7), 1, 10),  # the quickest, wherever it comes
        (_reports(2_000_000, 1), 0, 1),  # so long that what the first one does besides is nothing
        (_reports(None, 5), 0, 1),  # the kernel does not say
        ([{"error": "refused"}, {"error": None}], 0, 1),
    ],
)
def test_the_time_is_that_of_the_quickest_load(
    monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, object]], kept: int, asked: int
) -> None:
    left = list(loads)
    monkeypatch.setattr(effort, "measure", lambda _contract, names, _seconds: {names[0]: left.pop(0)})
    assert effort.timed(None, ["p"], 1.0) == {"p": loads[kept]}  # type: ignore[arg-type]
    assert len(loads) - len(left) == asked
