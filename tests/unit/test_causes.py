"""The causes of a cell's failures: found from its facts, told in the account of the cell, and once for all cells that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix.report import causes as report
from kmatrix.report import html, markdown, table
from kmatrix.report.explain import explain
from kmatrix.report.page import collectors
from kmatrix.report.page.model import Finding
from kmatrix.runs.cell_records import Record
from kmatrix.verdict.diagnosis import causes, has_failed
from tests.unit.test_report import record

LOG = (
    "0: R1=ctx() R10=fp0\n; task = bpf_get_current_task_btf(); @ tiny.bpf.c:9\n0: (85) call unknown#158\ninvalid func unknown#158\n"
)
BAD = {
    "loaded": False,
    "attached": False,
    "error": "prog 'enter': BPF program load failed: Invalid argument",
    "errno": 22,
    "log": LOG,
    "section": "kprobe/x",
}
STRANGE = BAD | {"log": "a word that nobody knows\n"}
GOOD = {"loaded": True, "attached": True, "error": None, "log": "", "section": "kprobe/x"}


def attempt(*, maps: dict[str, Any] | None = None, variant: str = "core", **programs: Any) -> dict[str, Any]:
    failed = next((program for program in programs.values() if program["error"]), None)
    stage = "load" if failed else None
    error = {"errno": 22, "text": failed["error"]} if failed else None
    return {"variant": variant, "stage": stage, "error": error, "programs": programs, "maps": maps or {}, "log": []}


def red(*attempts: dict[str, Any], kernel: str = "5.10", failed: bool = True, **changes: Any) -> Record:
    found = causes([each for each in attempts if has_failed(each)], (5, 10), "x86_64", {})
    state: dict[str, Any] = (
        {"ok": False, "failure": "load", "observed": "fallback", "reason": "core: it did not load"} if failed else {}
    )
    state |= {
        "expectation": {"variant": "core", "why": "so"},
        "facts": {"attempts": list(attempts), "running": None if failed else "core"},
    }
    return record("openat", kernel=kernel, arch="x86_64", cell=f"openat[{kernel}-x86_64]", causes=found, **(state | changes))


def test_each_cause_once_with_the_programs_that_have_it() -> None:
    (first, second) = causes([attempt(enter=BAD, leave=BAD, other=STRANGE, good=GOOD)], (5, 10), "x86_64", {})
    assert (first["kind"], first["programs"], first["maps"]) == ("helper", ["enter", "leave"], [])
    assert (first["headline"], first["since"]) == ("helper bpf_get_current_task_btf, since 5.11", "5.11")
    assert first["where"] == dict.fromkeys(("enter", "leave"), "task = bpf_get_current_task_btf(); @ tiny.bpf.c:9")
    assert first["said"] == "invalid func unknown#158"
    assert first["see"] == "docs/diagnosis.md#helper"
    assert (second["kind"], second["programs"]) == ("unclassified", ["other"])
    assert "a word that nobody knows" in second["what"]


def test_a_map_is_the_cause_of_the_program_that_is_without_it() -> None:
    ring = {"type": "ringbuf", "max_entries": 4096, "error": "map 'ring': failed to create: Invalid argument(-22)", "errno": 22}
    without = BAD | {"log": "0: <invalid BPF map reference>\nBPF map 'ring' is referenced but wasn't created\n"}
    (found,) = causes([attempt(maps={"ring": ring}, enter=without)], (5, 4), "x86_64", {})
    assert (found["headline"], found["maps"], found["programs"]) == ("map type ringbuf, since 5.8", ["ring"], ["enter"])


def test_where_nothing_failed_there_is_no_cause() -> None:
    assert not has_failed(attempt(enter=GOOD))
    assert causes([attempt(enter=GOOD)], (6, 12), "arm64", {}) == []


def test_an_object_that_does_not_open() -> None:
    failed = attempt(enter=GOOD) | {
        "stage": "open",
        "error": {"errno": 95, "text": "elf: legacy map definitions in 'maps' section are not supported by libbpf v1.0+"},
    }
    (found,) = causes([failed], (6, 12), "x86_64", {})
    assert (found["kind"], found["programs"], found["maps"]) == ("object", [], [])


def test_what_a_loader_of_its_own_says_is_read_and_what_is_not_known_is_none() -> None:
    words_ = {"errno": None, "text": "./agent exited with 1: load program: invalid argument: unknown func bpf_loop#181"}
    own = {"variant": "core", "stage": "load", "error": words_, "programs": {}, "maps": {}, "log": []}
    (found,) = causes([own], (5, 10), "x86_64", {}, own_loader=True)
    assert found["headline"] == "helper bpf_loop, since 5.17"
    other = own | {"error": {"errno": None, "text": "it lacks program enter"}}
    assert causes([other], (5, 10), "x86_64", {}, own_loader=True) == []


def test_a_red_cell_tells_its_cause_and_keeps_the_log_for_who_asks(tmp_path: Path) -> None:
    said = explain(red(attempt(enter=BAD)), tmp_path)
    assert "  cause     helper: helper bpf_get_current_task_btf, since 5.11\n" in said
    assert "    of      program enter (variant core)\n" in said
    assert "    at      task = bpf_get_current_task_btf(); @ tiny.bpf.c:9\n" in said
    assert "    said    invalid func unknown#158\n" in said
    assert "; see docs/diagnosis.md#helper\n" in said
    assert "its log of 4 lines is in the record, and shown with -vv" in said
    assert "R10=fp0" not in said
    assert "R10=fp0" in explain(red(attempt(enter=BAD)), tmp_path, logs=True)


def test_what_is_not_known_is_shown_raw_and_says_so(tmp_path: Path) -> None:
    said = explain(red(attempt(enter=STRANGE)), tmp_path)
    assert "cause     unclassified: " in said
    assert "      a word that nobody knows" in said.splitlines()


def test_what_failed_as_promised_is_no_cause_of_the_red_one() -> None:
    before = attempt(variant="newer", enter=BAD)
    after = attempt(variant="core", enter=STRANGE)
    assert [cause["variant"] for cause in report.relevant(red(before, after))] == ["core"]
    assert report.relevant(red(before, attempt(enter=GOOD), failed=False)) == []
    assert report.classes(red(before, after)) == "unclassified"


@pytest.mark.parametrize("failure", ["wrong-data", "silent", "lost", "costly", "better"])
def test_what_failed_before_the_variant_that_runs_is_no_cause(failure: str) -> None:
    before, after = attempt(variant="newer", enter=BAD), attempt(variant="core", enter=GOOD)
    runs = {"attempts": [before, after], "running": "core"}
    assert report.relevant(red(before, after, failure=failure, facts=runs)) == []


def test_of_a_refusal_every_variant_counts_and_of_a_leftover_none() -> None:
    refused: dict[str, Any] = {"expectation": {"variant": None, "why": "so"}, "failure": "worse"}
    variants = attempt(variant="newer", enter=BAD), attempt(variant="core", enter=STRANGE)
    assert [cause["variant"] for cause in report.relevant(red(*variants, **refused))] == ["newer", "core"]
    assert report.relevant(red(*variants, **refused | {"failure": "leftover"})) == []


def test_a_cause_is_told_once_with_the_first_kernel_on_which_it_works() -> None:
    records = [
        red(attempt(enter=BAD), kernel="5.4"),
        red(attempt(enter=BAD), kernel="5.10"),
        red(attempt(enter=GOOD), kernel="6.1", failed=False),
        red(attempt(enter=GOOD), kernel="6.12", failed=False),
    ]
    lines = list(report.told_once(records))
    assert lines[:4] == [
        "helper: helper bpf_get_current_task_btf, since 5.11",
        "  openat on 5.4-x86_64, 5.10-x86_64: program enter",
        "  works on 6.1-x86_64",
        "  at task = bpf_get_current_task_btf(); @ tiny.bpf.c:9",
    ]
    assert lines[4].startswith("  fix: ")
    assert len(lines) == 5
    whole = table.render(records, {}, colour=False, width=200)
    assert whole.count("since 5.11") == 1
    assert "why, by cause:\n  helper: helper" in whole
    assert "why, by cause" not in table.render(records[2:], {}, colour=False, width=200)


def test_many_places_of_one_cause_are_cut() -> None:
    places = report.places([{"where": {str(number): f"line {number}" for number in range(9)}}])
    assert places == ["line 0", "line 1", "line 2", "line 3", "and 5 more places"]


def test_reports_carry_the_class(tmp_path: Path) -> None:
    records = [red(attempt(enter=BAD))]
    page = html.render(records, tmp_path)
    assert '"text":"helper: helper bpf_get_current_task_btf, since 5.11","cells":["openat@5.10-x86_64"]' in page
    (row,) = collectors.rows(records, tmp_path)
    (told,) = [part for step in row.cells[0].story for part in step.parts if isinstance(part, Finding)]
    assert told.places == ["task = bpf_get_current_task_btf(); @ tiny.bpf.c:9"]
    summary = markdown.render(records, tmp_path)
    assert "Why, by cause:" in summary
    assert "  openat on 5.10-x86_64: program enter" in summary
