"""A budget in a manifest, on booted kernels: a cell is held to it by what each kernel's own verifier says of the programs that ran there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from conftest import Shell
from kmatrix.report.page.model import Table
from kmatrix.report.page.story import story
from kmatrix.runs import cell_records
from tests.cells import broken

NEXT = """
[[program]]
name = "next"
hook = "tracepoint/syscalls/sys_enter_openat"
attach = false
"""
MET = """
[budget]
insns = "80%"
stack = "90%"
[budget.programs.next]
insns = 2
"""
EXCEEDED = """
[budget.programs.enter]
insns = "0.001%"
stack = 7
"""


def test_a_budget_that_is_met_and_one_that_is_not(tmp_path: Path, run_in: Shell, need: Callable[[str], None]) -> None:
    need("6.1-x86_64")
    need("4.14-x86_64")
    for name, defines, program, budget in (("thrifty", ["CALLS_NEXT"], NEXT, MET), ("greedy", [], "", EXCEEDED)):
        manifest = broken.write(tmp_path, name, *defines, program=program)
        manifest.write_text(manifest.read_text() + budget)
    done = run_in("pytest", "--kernels=6.1,4.14", "--arch=x86_64")
    records = {record.cell: record for record in cell_records.read_all(tmp_path / ".kmatrix")}
    assert {cell: record.failure for cell, record in records.items()} == {
        "thrifty[6.1-x86_64]": None,
        "thrifty[4.14-x86_64]": None,
        "greedy[6.1-x86_64]": "budget",
        "greedy[4.14-x86_64]": "budget",
    }, done.stdout
    for kernel, limit, allowed, behaviour in (("6.1", "1,000,000", 10, "full"), ("4.14", "131,072", 1, "fallback")):
        met, greedy = (records[f"{name}[{kernel}-x86_64]"] for name in ("thrifty", "greedy"))
        assert met.facts is not None
        # `enter` loads only together with `next`, and `next` has two instructions: exactly its budget.
        efforts = met.facts["effort"]
        assert efforts.keys() == {"enter", "next"}
        assert {report["error"] for report in efforts.values()} == {None}
        assert "processed 2 insns" in efforts["next"]["log"][-1]
        assert greedy.facts is not None
        (report,) = greedy.facts["effort"].values()
        said = re.search(
            rf"^program enter: the verifier looks at (\d+) of at most {limit} instructions \([\d.]+%\), "
            rf'more than its budget of {allowed} \(insns = "0.001%"\)\nalso: '
            r"program enter: it takes (\d+) of at most 512 bytes of stack \([\d.]+%\), more than its budget of 7 \(stack = 7\)$",
            greedy.reason,
        )
        assert said is not None, greedy.reason
        assert int(said[1]) > allowed
        if kernel == "6.1":  # which keeps the number, as 4.14 does not
            assert report["verified"] == int(said[1])
        assert int(said[2]) >= 8  # the event
        assert greedy.observed == behaviour
        tables = [part for step in story(greedy, tmp_path) for part in step.parts if isinstance(part, Table)]
        (shown,) = [table for table in tables if table.title == "What the verifier did"]
        shares = [f"{int(said[1]) / int(limit.replace(',', '')):.2%}", f"{int(said[2]) / 512:.2%}"]
        assert shown.rows == [("enter", said[1], shares[0], said[2], shares[1])]


def test_with_atlas_all_programs_are_measured_and_none_is_held_to_anything(tmp_path: Path, run_in: Shell, both_of_6_1: str) -> None:
    broken.write(tmp_path, "plain")
    done = run_in("pytest", f"--kernels={both_of_6_1}", "--arch=x86_64", "--atlas")
    assert done.returncode == 0, done.stdout
    (record,) = cell_records.read_all(tmp_path / ".kmatrix")
    assert record.facts is not None
    ((name, report),) = record.facts["effort"].items()
    assert name == "enter"
    assert f"processed {report['verified']} insns" in report["log"][-1]
    assert record.reproduce.endswith("--atlas")
    assert any(
        isinstance(part, Table) and part.title == "What the verifier did" for step in story(record, tmp_path) for part in step.parts
    )
