"""Cells that fail alike are one finding."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kmatrix.plugin.reds import fold
from kmatrix.report import explain, reds, table
from kmatrix.runs.cell_records import Record
from tests.unit.facts import record

WRONG = {"ok": False, "observed": None, "failure": "wrong-data"}


def bad(
    kernel: str, arch: str = "arm64", reason: str = "event open: uid is 4202, should be 4201 (known.uid)", **more: Any
) -> Record:
    return record(kernel=kernel, arch=arch, reason=reason, **WRONG | more)


def test_the_same_reason_is_one_group_and_what_is_as_promised_is_in_none() -> None:
    groups = reds.alike([bad("5.4"), record(kernel="5.10"), bad("6.1"), bad("6.1", reason="event open: ret is -2, should be -13")])
    assert [[each.kernel for each in group] for group in groups] == [["5.4", "6.1"], ["6.1"]]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("pid is 115, should be 0", "pid is 4711, should be 0", True),
        ("r1 = 0xffff88800e9eec00", "r1 = 0xffff00000e9eed00", True),
        ("needs a kernel from 5.15 on", "needs a kernel from 5.18 on", False),
        ("load failed (-524)", "load failed (-22)", False),
        ("ret is -2", "ret is -13", False),
        ("boot of 5.4-arm64 timed out", "boot of 6.1-arm64 timed out", True),
    ],
)
def test_only_what_differs_from_vm_to_vm_is_passed_over(one: str, other: str, same: bool) -> None:
    assert (len(reds.alike([bad("5.4", reason=one), bad("6.1", reason=other)])) == 1) is same


def test_another_collector_class_or_behaviour_is_another_group() -> None:
    others = [bad("5.4"), bad("5.4", collector="dns"), bad("5.4", failure="silent"), bad("5.4", expected="full")]
    assert len(reds.alike(others)) == 4


def test_a_group_is_one_paragraph_under_the_table() -> None:
    cells = [bad(kernel, arch) for kernel in ("5.4", "6.1", "6.12") for arch in ("x86_64", "arm64")]
    cells.append(bad("5.10"))
    text = table.render(cells, {}, colour=False, width=200)
    assert text.count("uid is 4202") == 1
    assert "openat on 5.4 6.1 6.12 5.10-arm64 (7 cells)  wrong-data: event open: uid is 4202" in text
    brief = table.render([bad("5.4", reason="first\nalso: second")], {}, colour=False, width=200, brief=True)
    assert brief.endswith("openat[5.4-arm64]  wrong-data: first")


def report(of: Record | None, *, name: str = "openat[5.4-arm64]", text: str = "text") -> Any:
    return SimpleNamespace(
        record=of, longrepr=text, nodeid=f"openat/collector.toml::{name}", keywords={"collector": 1, "kernel": 1, "arch": 1}
    )


def folded(stats: dict[str, list[Any]]) -> dict[str, list[Any]]:
    before = fold(stats, lambda each: each.record, Path("/records"))
    assert all(each in before[outcome] for outcome, reports in stats.items() for each in reports)
    return before


def test_pytest_tells_of_the_first_and_names_the_others() -> None:
    stats = {"failed": [report(bad(kernel)) for kernel in ("6.1", "5.4", "6.12")] + [report(None)]}
    stats["failed"][-1].keywords = {}  # a test of the project's own
    before = folded(stats)
    assert [each.record and each.record.kernel for each in stats["failed"]] == ["6.1", None]
    assert str(stats["failed"][0].longrepr).endswith("\n  alike     2 more cells: 5.4-arm64 6.12-arm64")
    assert stats["failed"][1].longrepr == "text"
    assert len(before["failed"]) == 4
    lines = {each.longrepr.reprcrash.message for each in before["failed"][:3]}
    assert lines == {"wrong-data: event open: uid is 4202, should be 4201 (known.uid)"}


def test_cells_that_could_not_run_for_the_same_reason_are_one_error() -> None:
    text = "qemu-system-aarch64 is not installed\n  fix: sudo apt-get install qemu-system-arm"
    stats = {"error": [report(None, name=f"openat[{kernel}-arm64]", text=text) for kernel in ("5.4", "6.1", "6.12")]}
    folded(stats)
    [left] = stats["error"]
    assert str(left.longrepr) == f"{text}\n  alike     openat[6.1-arm64], openat[6.12-arm64]"
    assert left.longrepr.reprcrash.message == "qemu-system-aarch64 is not installed"


@pytest.mark.parametrize(
    ("reproduce", "command"),
    [
        ("pytest 'collector.toml::openat[5.4-arm64]' --kernels=5.4 --arch=arm64", "--collector ."),
        ("pytest 'openat/collector.toml::openat[5.4-arm64]' --kernels=5.4 --arch=arm64", "--collector openat"),
        ("pytest '/a b/c/collector.toml::openat[5.4-arm64]' --kernels=5.4", "--collector '/a b/c'"),
        ("pytest 'collector.toml::openat[5.4-arm64]' --kernels-file=mine.toml", "--collector . --kernels-file mine.toml"),
        ("pytest 'collector.toml::openat[5.4-arm64]' --kmatrix-kernels-file=mine.toml", "--collector . --kernels-file mine.toml"),
        ("", "--collector openat"),
    ],
)
def test_look_in_is_a_command_that_works_where_reproduce_does(reproduce: str, command: str) -> None:
    assert explain.look_in(record(reproduce=reproduce)) == f"kmatrix shell 5.4 --arch arm64 {command}"


def test_warnings_are_no_reds() -> None:
    """They are grouped as reds are, and named with the release that the moving name means."""
    kernel = {"release": "7.2.13"}
    warned = [
        record("openat", "latest", arch, ok=False, failure="silent", warning=True, versions=kernel) for arch in ("x86_64", "arm64")
    ]
    red = record("openat", "6.1", ok=False, failure="silent")
    assert reds.alike([*warned, red]) == [[red]]
    assert reds.warnings([*warned, red]) == [warned]
    assert reds.moving(warned) == "latest (7.2.13)"
