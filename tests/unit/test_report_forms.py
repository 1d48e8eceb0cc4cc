"""`kmatrix report`: Markdown, HTML (whose data tests/unit/test_page.py has) and JSON of the records, and what it says of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kmatrix.cli import cli
from kmatrix.host.errors import InputError
from kmatrix.report import html, markdown
from kmatrix.runs import cell_records, guest_test_records
from kmatrix.runs.cell_records import Record
from kmatrix.verdict.suites.subtest import SubTest
from tests.unit.facts import command_record, record

EVIL = "<script>alert('|`*')</script>"
LOG = "0: (79) r1 = *(u64 *)(r1 +0)\n```\nR1 invalid mem access 'scalar' & so on"


def refused(**changes: object) -> Record:
    program = {"error": "Permission denied", "log": LOG, "loaded": False, "attached": False}
    attempt = {"variant": "core", "stage": "load", "error": {"errno": 13, "text": EVIL}, "programs": {"enter": program}, "log": []}
    changes = {"ok": False, "observed": "refusal", "failure": "load", "reason": EVIL, "facts": {"attempts": [attempt]}} | changes
    return record("dns", **changes)


RECORDS = [
    record(timings={"restore": 0.25, "total": 1.5}, started="2026-11-24T23:59:59Z", retried="QEMU <died>"),
    record(arch="x86_64", simulated={"base": "6.1", "as_of": "5.4", "hidden": ["ringbuf"]}),
    refused(),
    record("oom", ok=False, failure="infra", observed=None, reason="QEMU died"),
]


def test_markdown_has_a_table_an_arch_and_failures_folded(tmp_path: Path) -> None:
    lines = markdown.render(RECORDS, tmp_path, [InputError("no record", where="x.json")]).splitlines()
    assert lines[0] == "### kmatrix: 2 of 4 cells are not as promised"
    assert lines[2:5] == [r"| x86\_64 | \~5.4 |", "| --- | --- |", "| openat | partial |"]
    table = lines[6:11]
    assert table == [
        "| arm64 | 5.4 |",
        "| --- | --- |",
        "| dns | ❌ partial→refusal |",
        "| oom | ⚠️ infra |",
        "| openat | partial |",
    ]
    assert r"Not read: x.json: no record" in lines
    assert "<details><summary><b>dns[5.4-arm64]</b> load: &lt;script&gt;alert(&#x27;|`*&#x27;)&lt;/script&gt;</summary>" in lines
    fences = [number for number, line in enumerate(lines) if line == "````"]
    assert fences[0] < lines.index("      ```") < fences[1]  # what was said cannot end its block


def test_markdown_takes_nothing_in_a_table_for_its_own(tmp_path: Path) -> None:
    text = markdown.render([record(reason=EVIL)], tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| openat | partial | 5.4"))
    assert row == r"| openat | partial | 5.4-arm64 | &lt;script&gt;alert('\|\`\*')&lt;/script&gt; |"


def report(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["report", str(folder), *options])


def test_the_command_says_by_its_status_whether_all_is_well(tmp_path: Path) -> None:
    cell_records.write(RECORDS[0], tmp_path)
    green = report(tmp_path)
    assert green.exit_code == 0
    assert "│ openat      │ partial │" in green.stdout
    assert "core-perf has all it needs" in green.stdout
    (tmp_path / "cells" / "bad.json").write_text('{"schema": "kmatrix.cell/1", "cell": 5}')
    half = report(tmp_path, "--format", "json")
    assert half.exit_code == 2
    assert "bad.json: not a whole record (missing or wrong: cell, collector," in half.stderr
    data = json.loads(half.stdout)
    assert (data["ok"], len(data["cells"]), len(data["not_read"])) == (True, 1, 1)
    cell_records.write(refused(), tmp_path)
    red = report(tmp_path, "--format", "html", "--output", str(tmp_path / "new" / "page.html"))
    assert (red.exit_code, red.stdout) == (1, "")
    page = (tmp_path / "new" / "page.html").read_text()
    assert "<title>kmatrix: 1 of 2 cells is not as promised</title>" in page
    assert "bad.json" in page


def test_the_page_has_test_commands_too_also_alone(tmp_path: Path) -> None:
    guest_test_records.write(command_record("5.4-arm64", [SubTest("TestRing", "failed", 0.1, "EINVAL")]), tmp_path)
    red = report(tmp_path, "--format", "html")
    assert red.exit_code == 1
    assert "<title>kmatrix: 2 of 2 cells are not as promised</title>" in red.stdout
    assert "TestRing: EINVAL" in red.stdout


def test_without_records_or_a_place_for_the_file_it_is_wrong_input(tmp_path: Path) -> None:
    assert "there are no records" in str(report(tmp_path).exception)
    cell_records.write(RECORDS[0], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        CliRunner().invoke(
            cli, ["report", str(tmp_path), "-o", str(tmp_path / "file" / "x.html")], catch_exceptions=False, standalone_mode=False
        )


def reds(folder: Path) -> list[Record]:
    """Three cells that fail alike, with their console logs; and one as promised."""
    (folder / "console").mkdir()
    made = []
    for kernel in ("5.4", "6.1", "6.12"):
        log = folder / "console" / f"dns@{kernel}-arm64.log"
        log.write_text("booted\n")
        made.append(
            refused(
                kernel=kernel,
                cell=f"dns[{kernel}-arm64]",
                console=f"console/{log.name}",
                started=f"2026-11-24T23:5{kernel[-1]}:00Z",
                versions={"kmatrix": "0.2.0", "host": "builder (x86_64, 2 CPUs)", "accel": "tcg (as asked)", "qemu": "7.2"},
            )
        )
    return [*made, RECORDS[0]]


def test_a_page_says_when_where_and_with_what(tmp_path: Path) -> None:
    text = html.render(reds(tmp_path), tmp_path)
    for name, said in (
        ("cells begun", "2026-11-24T23:51:00Z to 2026-11-24T23:59:59Z"),
        ("host", "builder (x86_64, 2 CPUs)"),
        ("kmatrix", "0.2.0"),
        ("VMs run by", "tcg (as asked)"),
    ):
        assert f'["{name}","{said}"]' in text
    assert '["host",' not in html.render(RECORDS, tmp_path)  # records of before say nothing of it


def test_markdown_folds_cells_that_fail_alike_into_one(tmp_path: Path) -> None:
    text = markdown.render(reds(tmp_path), tmp_path)
    assert text.count("<details>") == 2  # the reds, and why the green one is what it is
    assert "<summary><b>dns on 5.4-arm64 6.1-arm64 6.12-arm64 (3 cells)</b> load: &lt;script" in text
    assert "  alike     2 more cells: 6.1-arm64 6.12-arm64" in text
