"""What booted guests reported of programs and maps that failed, and the cause that each has; and that no row of the table is without such a log.

diagnosis_logs.json: `on` names the kernel (Debian's 5.10, 6.1, 6.12 and 6.18, 5.4.286 as built), the rest is the guest's report, the log cut
to its last lines. The objects were small ones of our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kmatrix.verdict.diagnosis import CLASSES, Failing, explain
from kmatrix.verdict.diagnosis.rows import ROWS
from tests.unit.test_diagnosis import ROWS as BY_HAND

LOGS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("diagnosis_logs.json").read_text())
DOCS = Path(__file__).parents[2] / "docs/diagnosis.md"


def name(case: Mapping[str, Any]) -> str:
    return f"{case['on']}-{case.get('program') or case['map']}"


def failing(case: Mapping[str, Any]) -> Failing:
    kernel, _, arch = case["on"].rpartition("-")
    major, minor = map(int, kernel.split("."))
    return Failing(
        "attach" if case.get("loaded") else "load",
        case["error"],
        (major, minor),
        arch,
        errno=case.get("errno"),
        log=case.get("log", ""),
        section=case.get("section", ""),
        name=name(case),
        wants=case.get("wants") or {},
        btf=case.get("btf") or {},
    )


@pytest.mark.parametrize("case", LOGS, ids=name)
def test_a_real_log_has_its_cause(case: Mapping[str, Any]) -> None:
    given = failing(case)
    programs = {case["program"]: case} if "program" in case else {}
    maps = {case["map"]: case} if "map" in case else {}
    found_programs, found_maps = explain(programs, maps, given.version, given.arch)
    (found,) = [*found_programs.values(), *found_maps.values()]
    assert {key: found["diagnosis"][key] for key in ("kind", "what", "since")} == case["expect"]
    assert found["diagnosis"]["fix"]


def first_row(given: Failing) -> int | None:
    """The row that knows the failure."""
    text = f"{given.error}\n{given.log}"
    matches = ((index, row, re.search(pattern, text)) for index, (pattern, row) in enumerate(ROWS))
    return next((index for index, row, match in matches if match and row(given, match) is not None), None)


def test_every_row_has_a_log() -> None:
    seen = {first_row(failing(case)) for case in LOGS if "program" in case}
    seen |= {first_row(given) for given, _, _ in BY_HAND.values()}
    assert [pattern for index, (pattern, _) in enumerate(ROWS) if index not in seen] == []


def test_every_class_is_documented() -> None:
    assert set(re.findall(r"^### ([\w-]+)$", DOCS.read_text(), re.M)) == set(CLASSES)
