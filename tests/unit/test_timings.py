"""Where the time of a run went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmatrix.cli.report import command
from kmatrix.report import timings
from kmatrix.runs import cell_records
from tests.unit import facts


def cells() -> list[cell_records.Record]:
    times = [
        {"prepare": 0.0, "restore": 0.1, "load": 0.2, "own_stage": 0.05, "total": 0.5},
        {"prepare": 0.0, "restore": 0.3, "load": 0.4, "total": 0.9},
        {"restore": 2.0, "total": 1.5},
    ]
    return [
        facts.record(collector=f"c{number}", cell=f"c{number}[5.4-arm64]", timings=each, console=None)
        for number, each in enumerate(times)
    ]


def test_stages_come_in_order_with_what_no_stage_accounts_for() -> None:
    found = {each.name: each for each in timings.stages(cells())}
    assert list(found) == ["prepare", "restore", "load", "between", "own_stage"]
    assert (found["restore"].cells, found["restore"].median, found["restore"].where) == (3, 0.3, "host")
    assert found["restore"].ninth_decile == pytest.approx(1.66)
    assert found["restore"].share == pytest.approx(2.4 / 2.9)
    assert (found["load"].cells, found["load"].where, found["own_stage"].where) == (2, "guest", "guest")
    assert found["between"].sum == pytest.approx(0.15 + 0.2 + 0.0), "and never less than nothing"


def test_one_cell_is_its_own_decile() -> None:
    [*_, load, _, _] = timings.stages(cells()[:1])
    assert (load.name, load.median, load.ninth_decile) == ("load", 0.2, 0.2)


def test_the_slowest_come_first() -> None:
    assert [record.cell for record in timings.slowest(cells())] == ["c2[5.4-arm64]", "c1[5.4-arm64]", "c0[5.4-arm64]"]
    text = timings.render(cells(), width=120)
    assert "3 cells took 2.9 s together, and 0.90 s each (median)." in text
    assert "load 400 ms, restore 300 ms, between 200 ms" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for record in cells():
        cell_records.write(record, tmp_path)
    return tmp_path


def test_as_a_report_it_fails_nothing(records: Path) -> None:
    done = CliRunner().invoke(command, [str(records), "--timings"])
    assert done.exit_code == 0
    assert "what it is" in done.output
    told = json.loads(CliRunner().invoke(command, [str(records), "--timings", "--json"]).output)
    assert told["cells"]["c0[5.4-arm64]"]["load"] == 0.2
    assert [each["name"] for each in told["stages"]][1] == "restore"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "junit"], "--timings has no format junit"),
        (["--against", "."], "--timings and --against are two reports"),
    ],
)
def test_what_does_not_go_together(options: list[str], said: str, records: Path) -> None:
    done = CliRunner().invoke(command, [str(records), "--timings", *options])
    assert done.exit_code != 0
    assert said in (str(done.exception) + done.output)
