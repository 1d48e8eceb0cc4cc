"""`kmatrix report --against`: what changed from one run to another, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kmatrix.cli import cli
from kmatrix.host.errors import InputError
from kmatrix.report.changes import Changes, compare
from kmatrix.runs import cell_records
from kmatrix.runs.cell_records import Record
from tests.unit.facts import record


def red(collector: str = "openat", *, failure: str = "load", observed: str | None = "refusal", **changes: Any) -> Record:
    changes = {"reason": "the kernel refused program enter"} | changes
    return record(collector, ok=False, failure=failure, observed=observed, **changes)


def cause(headline: str, kind: str = "helper") -> dict[str, Any]:
    return {
        "variant": "core", "stage": "load", "programs": ["enter"], "maps": [], "kind": kind, "what": headline, "since": None,
        "headline": headline, "fix": "leave it out", "see": "docs/diagnosis.md", "where": {"enter": "x = f(); @ a.bpf.c:7"}, "said": "",
    }  # fmt: skip


def kinds(changes: Changes) -> list[tuple[str, str, bool]]:
    return [(change.kind, change.record.cell, change.worse) for change in changes.changes]


ONE = "openat[5.4-arm64]"


@pytest.mark.parametrize(
    ("before", "after", "kind", "worse"),
    [
        (record(), red(), "new red", True),
        (red(), record(), "now green", False),
        (record(expected="full", observed="full"), record(), "verdict changed", True),
        (record(), record(expected="full", observed="full"), "verdict changed", False),
        (red(observed="fallback", failure="worse"), red(), "verdict changed", True),
        (red(), red(observed=None, failure="kernel"), "verdict changed", True),
        (red(observed=None, failure="kernel"), red(), "verdict changed", False),
        (red(reason="no event came"), red(reason="no map could be made"), "diagnosis changed", False),
        (red(causes=[cause("bpf_loop, since 5.17")]), red(causes=[cause("bpf_strncmp, since 5.17")]), "diagnosis changed", False),
    ],
)
def test_each_kind_of_change(before: Record, after: Record, kind: str, worse: bool) -> None:
    assert kinds(compare([before], [after])) == [(kind, ONE, worse)]


def test_new_and_gone_cells() -> None:
    found = compare([record("dns"), red("oom")], [record(), red("exec")])
    assert kinds(found) == [
        ("gone cell", "dns[5.4-arm64]", True),
        ("new cell", "exec[5.4-arm64]", True),
        ("gone cell", "oom[5.4-arm64]", False),
        ("new cell", ONE, False),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (record(), record(started="2026-11-25T00:00:00Z", timings={"total": 9.0}, reason="said in other words")),
        (red(reason="map at 0xffff888012345678 of pid 1234"), red(reason="map at 0xffff8880abcdef00 of pid 99999")),
        (
            red(reason="words", causes=[cause("address 0xffff888012345678")]),
            red(reason="others", causes=[cause("address 0xffff8880abcdef00")]),
        ),
    ],
)
def test_what_differs_from_run_to_run_is_no_change(before: Record, after: Record) -> None:
    assert kinds(compare([before], [after])) == []


def test_where_the_machines_failed_nothing_is_known() -> None:
    found = compare([record(), record("dns", failure="infra", ok=False)], [record(ok=False, failure="infra"), record("dns")])
    assert kinds(found) == []
    assert found.not_known == ["dns[5.4-arm64]", ONE]


def test_targets_that_were_not_run_are_no_loss() -> None:
    found = compare([record(), record(kernel="6.1")], [record()])
    assert kinds(found) == []
    assert found.not_compared == ["6.1-arm64"]
    assert found.compared == 1


# -- the command -------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def against(before: list[Record], now: list[Record], *arguments: str) -> Result:
    for name, records in (("main", before), ("pr", now)):
        for each in records:
            cell_records.write(each, Path(name))
    return CliRunner().invoke(cli, ["report", "pr", "--against", "main", *arguments])


SAME = [record(name, kernel=kernel) for name in ("dns", "oom") for kernel in ("5.4", "6.1")]


def test_a_changed_verdict_is_all_that_is_shown() -> None:
    done = against([*SAME, record()], [*SAME, red(reproduce="pytest here")])
    assert done.exit_code == 1
    assert done.stdout == (
        "1 cell changed, for the worse (5 compared), against main\n\n"
        "new red (worse): as promised there, and not here\n"
        "  openat[5.4-arm64]: was partial, is ✗ partial→refusal\n"
        "      load: the kernel refused program enter\n"
        "      reproduce: pytest here\n"
    )
    assert "dns" not in done.stdout


def test_nothing_changed_is_one_line_and_a_red_that_was_red_is_no_failure() -> None:
    done = against([*SAME, red()], [*SAME, red()])
    assert (done.exit_code, done.stdout) == (0, "no change: 5 cells compared, against main\n")


def test_the_machines_failure_is_an_exit_status_of_its_own() -> None:
    done = against(SAME, [*SAME[:-1], record("oom", kernel="6.1", ok=False, failure="infra", observed=None)])
    assert done.exit_code == 3
    assert "nothing is known of these, where the machines failed here or there: oom[6.1-arm64]" in done.stdout


def test_cells_that_changed_alike_are_told_once_with_the_line_of_source() -> None:
    bad = [red(kernel=kernel, causes=[cause("helper bpf_loop, since 5.17")]) for kernel in ("5.4", "5.10")]
    done = against([record(), record(kernel="5.10")], bad)
    assert "openat on 5.4-arm64 5.10-arm64 (2 cells): was partial" in done.stdout
    assert "at x = f(); @ a.bpf.c:7" in done.stdout
    assert done.stdout.count("bpf_loop") == 1


def test_other_kernels_and_versions_are_said() -> None:
    before = record(versions={"release": "5.4.1", "kmatrix": "0.1.0"})
    done = against([before], [record(versions={"release": "5.4.2", "kmatrix": "0.2.0"})])
    assert done.exit_code == 0
    assert "5.4-arm64: the kernel is 5.4.2; in main it was 5.4.1" in done.stdout
    assert "the records of main are by kmatrix 0.1.0, these by 0.2.0" in done.stdout


def test_markdown_is_a_comment_that_a_bot_finds_again() -> None:
    done = against([*SAME, record()], [*SAME, red(reason="a|b <script> `x`")], "--format", "markdown")
    lines = done.stdout.splitlines()
    assert lines[0] == "<!-- kmatrix: changes -->"
    assert lines[1] == "### kmatrix: 1 cell changed, for the worse (5 compared)"
    assert lines[3].startswith("| change | cells |")
    assert lines[5].count("|") - lines[5].count("\\|") == 6
    assert "| ❌ new red | openat\\[5.4-arm64\\] | partial |" in lines[5]
    assert "<script>" not in lines[5]
    assert "<details><summary><b>openat[5.4-arm64]</b>" in done.stdout


def test_json() -> None:
    done = against([record()], [red(causes=[cause("helper bpf_loop, since 5.17")])], "--format", "json")
    said = json.loads(done.stdout)
    assert (said["worse"], said["compared"]) == (True, 1)
    (change,) = said["changes"]
    assert (change["kind"], change["cell"], change["worse"]) == ("new red", ONE, True)
    assert (change["was"]["ok"], change["is"]["failure"]) == (True, "load")
    assert change["is"]["causes"][0]["headline"] == "helper bpf_loop, since 5.17"


@pytest.mark.parametrize(
    ("before", "arguments", "says"),
    [
        ([], [], "--against: main: there are no records"),
        ([record()], ["--format", "html"], "--against has no format html"),
        ([record(schema="kmatrix.cell/9")], [], "main/cells/openat@5.4-arm64.json: schema 'kmatrix.cell/9'"),
    ],
)
def test_wrong_input_is_one_error(before: list[Record], arguments: list[str], says: str) -> None:
    done = against(before, [record()], *arguments)
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
