"""The HTML report's data: rows of any kind, stories of collectors' cells, texts made small. What a browser makes of it is in tests/page."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from math import dist
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.report import html
from kmatrix.report.page import collectors, data, guest_tests, model, pack
from kmatrix.report.page.model import Bars, Cell, Commands, Finding, Log, Pairs, Row, Say, Step, Table
from kmatrix.runs.cell_records import Record
from kmatrix.verdict.suites.subtest import SubTest
from tests.page import real
from tests.unit.facts import command_record, record

ELSEWHERE = Path("/nowhere")
EVIL = "</script><script>alert('|`*')</script>"


def story(row: Row, target: str) -> dict[str, list[Any]]:
    """The parts of a cell's story, by the title of the step."""
    (cell,) = [cell for cell in row.cells if cell.target == target]
    return {step.title: list(step.parts) for step in cell.story}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    directory = tmp_path_factory.mktemp("real")
    return {row.name: row for row in collectors.rows(real.records(directory), directory)}


def test_a_cell_as_promised_tells_what_it_rests_on(rows: dict[str, Row]) -> None:
    told = story(rows["openat"], "5.4-arm64")
    assert list(told) == [
        "Expected",
        "Observed",
        "Why no earlier variant runs here",
        "What was tried",
        "Logs",
        "Time",
        "Reproduce",
        "Ran on",
    ]
    assert told["Expected"][0] == Say("core-ringbuf needs ringbuf; core-perf has all it needs", "partial", "partial")
    assert told["Expected"][1] == Pairs([("variant", "core-perf"), ("missing here", "ringbuf")])
    tries = {part.title: part for part in told["What was tried"] if isinstance(part, Table)}
    assert list(tries) == ["Variant core-ringbuf fails to load", "Variant core-perf runs", "Events (3 other)"]
    assert [row[:2] for row in tries["Variant core-perf runs"].rows] == [
        ("enter_openat", "attached, ran 6×"),
        ("exit_openat", "attached, ran 5×"),
    ]
    assert not tries["Variant core-ringbuf fails to load"].bad  # it was to fail
    (why,) = told["Why no earlier variant runs here"]
    assert (why.kind, why.headline, why.promised, why.fix) == ("map-type", "map type ringbuf, since 5.8", True, "")


def test_a_red_cell_tells_its_cause_and_its_line_of_source(rows: dict[str, Row]) -> None:
    (cell,) = [cell for cell in rows["lopsided"].cells if cell.target == "6.1-arm64"]
    assert (cell.tone, cell.word) == ("bad", "full→refusal")
    assert cell.because == ["pointer: a number is used as a pointer"]
    told = story(rows["lopsided"], "6.1-arm64")
    assert told["Observed"][1].word == "load"
    (cause,) = told["Diagnosis"]
    assert isinstance(cause, Finding)
    assert (cause.kind, cause.of, cause.promised) == ("pointer", "program enter, variant ring", False)
    assert re.fullmatch(r".+ @ tiny\.bpf\.c:\d+", *cause.places)
    assert cause.fix.startswith("read kernel memory by")
    logs = [part for part in told["Logs"] if isinstance(part, Log)]
    assert [part.title for part in logs] == ["Verifier: enter", "Loader", "Verifier: enter", "Loader"]
    assert "invalid mem access 'scalar'" in logs[0].text
    (time,) = told["Time"]
    assert isinstance(time, Bars)
    assert time.total >= sum(seconds for _, seconds in time.stages) > 0
    (commands,) = told["Reproduce"]
    assert isinstance(commands, Commands)
    assert [text.split()[0] for _, text in commands.commands] == ["pytest", "kmatrix"]


def test_the_console_is_in_the_page_and_may_be_gone(rows: dict[str, Row], tmp_path: Path) -> None:
    (console,) = story(rows["deadly"], "6.1-x86_64")["Logs"]
    assert console.title == "Console"
    assert "sysrq triggered crash" in console.text
    (lost,) = collectors.rows([record(console="console/gone.log")], tmp_path)
    assert "Logs" not in story(lost, "5.4-arm64")


def test_a_record_of_which_little_is_known_has_a_short_story(tmp_path: Path) -> None:
    infra = record("oom", ok=False, failure="infra", observed=None, reason="QEMU died", expectation={}, reproduce="")
    (row,) = collectors.rows([infra], tmp_path)
    assert row.cells[0].tone == "infra"
    told = story(row, "5.4-arm64")
    assert list(told) == ["Expected", "Observed", "Ran on"]
    assert [part.text for part in told["Observed"][:3]] == [
        "none of the four behaviours",
        "the machine room failed; says nothing about the collector",
        "QEMU died",
    ]


def test_a_test_command_has_a_row_and_its_telling_subtests_have_one_each(tmp_path: Path) -> None:
    ring, pin = (
        SubTest("TestRing/wakeup", "failed", 0.2, "ring_test.go:7: EINVAL", "a log\nring_test.go:7: EINVAL"),
        SubTest("TestPin", "passed"),
    )
    commands = [
        command_record("5.4-arm64", [SubTest("TestRing", "failed"), ring, pin], console="console/lost.log"),
        command_record("6.1-arm64", [SubTest("TestRing", "passed"), replace(ring, ending="passed", message=""), pin]),
        command_record("6.1-x86_64", ok=False, failure="infra", reason="QEMU died", exit=None, timings={}, output=""),
    ]
    found = guest_tests.rows(commands, tmp_path)
    assert [(row.id, row.group, row.name) for row in found] == [
        ("test:ring.test", "ring.test", "ring.test"),
        ("test:ring.test:TestRing/wakeup", "ring.test", "TestRing/wakeup"),  # and TestPin is the same everywhere
    ]
    whole, wakeup = found
    assert [(cell.target, cell.tone, cell.word) for cell in whole.cells] == [
        ("6.1-x86_64", "infra", "infra"),
        ("5.4-arm64", "bad", "test"),
        ("6.1-arm64", "pass", "passed"),
    ]
    assert list(story(whole, "5.4-arm64")) == ["How it ended", "Sub-tests", "Output", "Time", "Reproduce", "Ran on"]
    (listed,) = story(whole, "5.4-arm64")["Sub-tests"]
    assert (listed.title, listed.bad) == ("1 passed, 1 failed", [0])
    assert listed.rows[0] == ("TestRing/wakeup", "failed", "0.20", "ring_test.go:7: EINVAL")
    assert list(story(whole, "6.1-x86_64")) == ["How it ended", "Reproduce", "Ran on"]
    (again,) = story(wakeup, "5.4-arm64")["Reproduce"]
    assert again.commands[0][1] == "kmatrix exec 5.4-arm64 -- ./ring.test -test.v '-test.run=^TestRing$/^wakeup$'"
    (said,) = story(wakeup, "5.4-arm64")["Output"]
    assert said.mark == "ring_test.go:7: EINVAL"
    # Told once: the command failed because its sub-test did.
    assert [(entry["text"], entry["cells"]) for entry in model.findings(found)] == [
        ("TestRing/wakeup: ring_test.go:7: EINVAL", ["test:ring.test@5.4-arm64", "test:ring.test:TestRing/wakeup@5.4-arm64"]),
        ("QEMU died", ["test:ring.test@6.1-x86_64"]),
    ]


def cell(target: str, tone: model.Tone = "pass", **changes: Any) -> Cell:
    return replace(
        Cell(target, tone, "passed" if tone == "pass" else "failed", "the reason", [Step("Said", [Say("…")])]), **changes
    )


TESTS = [
    Row(
        "test/b/TestRing", "tests", "TestRing", [cell("6.1-arm64"), cell("5.4-arm64", "bad", why="ring_test.go:7: EINVAL")], "pkg/b"
    ),
    Row("test/a/TestPin", "tests", "TestPin", [cell("5.4-arm64", "skip", word="skipped")], "pkg/a"),
]


def test_rows_of_another_kind_stand_under_their_own_heading(tmp_path: Path) -> None:
    built = data.build([*collectors.rows([record()], tmp_path), *TESTS])
    assert [(row["kind"], row["group"], row["name"]) for row in built["rows"]] == [
        ("collectors", "", "openat"),
        ("tests", "pkg/a", "TestPin"),
        ("tests", "pkg/b", "TestRing"),
    ]
    assert [target["name"] for target in built["targets"]] == ["5.4-arm64", "6.1-arm64"]
    assert [tone for tone, _ in built["tones"]] == ["bad", "partial", "pass", "skip"]
    assert built["findings"] == [{"tone": "bad", "text": "ring_test.go:7: EINVAL", "cells": ["test/b/TestRing@5.4-arm64"]}]


def test_two_rows_with_one_id_are_an_error() -> None:
    with pytest.raises(ValueError, match="same id: test/a/TestPin"):
        data.build([TESTS[1], TESTS[1]])


def test_a_cause_is_told_once_with_the_cells_of_all_rows() -> None:
    missing = {"because": ["helper: bpf_loop, since 5.17", "map-type: ringbuf, since 5.8"]}
    found = model.findings(
        [
            Row("a", "tests", "a", [cell("5.4-arm64", "bad", **missing), cell("5.4-x86_64", "bad", why="other", alike="x")]),
            Row(
                "b",
                "tests",
                "b",
                [cell("5.4-arm64", "bad", because=missing["because"][:1]), cell("6.1-arm64", "infra", because=["lost"])],
            ),
            Row("c", "tests", "c", [cell("5.4-arm64"), cell("6.1-arm64", "bad", why="other", alike="x")]),
        ]
    )
    assert [(entry["tone"], entry["text"], entry["cells"]) for entry in found] == [
        ("bad", "helper: bpf_loop, since 5.17", ["a@5.4-arm64", "b@5.4-arm64"]),
        ("bad", "map-type: ringbuf, since 5.8", ["a@5.4-arm64"]),
        ("bad", "other", ["a@5.4-x86_64"]),  # alike, and of different rows: two findings
        ("bad", "other", ["c@6.1-arm64"]),
        ("infra", "lost", ["b@6.1-arm64"]),
    ]


def test_a_text_is_packed_once_and_read_back() -> None:
    small = pack.Pack()
    texts = ["a log\n", "ungültig \U0001f980 \ud800", "a log\n", "x" * pack.BLOCK, "in the next block"]
    places = [small.add(text) for text in texts]
    assert places[0] == places[2]
    assert places[-1][0] == 1
    blocks = [pack.unpack(block) for block in small.blocks()]
    assert [blocks[block][place] for block, place in places] == [texts[0], "ungültig \U0001f980 ?", texts[0], texts[3], texts[4]]


def test_of_a_log_that_is_too_long_beginning_and_end_are_kept() -> None:
    text = "begin" + "\n" * data.LONGEST + "end"
    built = data.build([Row("a", "tests", "a", [cell("5.4-arm64", story=[Step("Logs", [Log("log", text)])])])])
    (kept,) = pack.unpack(built["logs"][0])
    assert kept.startswith("begin\n")
    assert kept.endswith("\nend")
    assert "… 8 characters are left out here; the record has them …" in kept


class Page(HTMLParser):
    """What is asserted of a page's text: that every tag is closed, and what its scripts are and say."""

    VOID = ("meta", "link", "br", "input", "circle", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        self.outside += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def test_a_page_needs_nothing_beside_it_and_runs_nothing_of_what_was_said(tmp_path: Path) -> None:
    records = [record(reason=EVIL), record("dns", ok=False, failure="load", observed=None, reason=EVIL, reproduce=EVIL)]
    page = Page(html.render(records, tmp_path, [InputError(EVIL, where="x.json")]))
    assert page.open == []
    assert page.outside == []
    early, embedded, script = page.scripts
    assert "alert(" not in early + script
    assert json.loads(embedded)["bad"] == [["x.json", EVIL]]
    assert "<" not in embedded


def test_the_policy_of_a_page_names_its_own_scripts_and_styles_only(tmp_path: Path) -> None:
    text = html.render([record()], tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].replace("&#39;", "'").split("; "))
    assert rules["default-src"] == "'none'"
    early, _, script = Page(text).scripts
    assert rules["script-src"].split() == [html._digest(early), html._digest(script)]
    style = text.split("<style>")[1].split("</style>")[0]
    assert rules["style-src"] == html._digest(style)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([record()], "1 cell, and it is as promised"),
        ([record(), record(arch="x86_64")], "2 cells, each as promised"),
        ([record(), record("dns", ok=False, failure="load", observed=None)], "1 of 2 cells is not as promised"),
    ],
)
def test_the_headline_says_it_in_a_sentence(records: list[Record], said: str, tmp_path: Path) -> None:
    assert f"<title>kmatrix: {said}</title>" in html.render(records, tmp_path)


def test_five_hundred_cells_are_less_than_a_megabyte(tmp_path: Path) -> None:
    records = real.many(tmp_path, 500)
    assert len(records) == 500
    assert len(html.render(records, tmp_path).encode()) < 1_000_000


def test_colours_of_text_are_told_from_their_ground() -> None:
    """WCAG's contrast, 4.5 and more, of each pair in colours.css, light and dark."""
    styles = (Path(html.__file__).parent / "page" / "colours.css").read_text()
    light, dark = styles.split("@media screen")
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", theme))
        pairs = [(name, f"{name}-ink") for name in (*model.TONES, "mark")]
        pairs += [(ground, ink) for ground in ("paper", "raised", "sunk") for ink in ("ink", "quiet", "link")]
        poor = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
        assert {pair: value for pair, value in poor.items() if value < 4.5} == {}


DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
"""What becomes of linear red, green and blue in an eye without the cones for green, and for red (Machado, Oliveira, Fernandes 2009)."""


@pytest.mark.parametrize("eye", [DEUTERANOPIA, PROTANOPIA])
def test_colours_of_cells_are_told_apart_by_a_colour_blind_eye(eye: Sequence[Sequence[float]]) -> None:
    """Ten is far: one sees a difference of two beside each other (CIE 1976). Passed and full are one colour, and never in one row."""
    styles = (Path(html.__file__).parent / "page" / "colours.css").read_text()
    for theme in styles.split("@media screen"):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", theme))
        seen = {tone: lab(eye, colours[tone]) for tone in model.TONES if tone not in ("pass", "skip")}
        near = {(one, other): dist(seen[one], seen[other]) for one in seen for other in seen if one < other}
        assert {pair: distance for pair, distance in near.items() if distance < 10} == {}


def lab(eye: Sequence[Sequence[float]], colour: str) -> tuple[float, float, float]:
    """The colour in CIE's L*, a*, b*, as the eye sees it."""
    linear = linear_rgb(colour)
    red, green, blue = (min(1, max(0, sum(map(operator.mul, row, linear)))) for row in eye)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    return sum(map(operator.mul, (0.2126, 0.7152, 0.0722), linear_rgb(colour)))


def linear_rgb(colour: str) -> list[float]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


@pytest.mark.parametrize(
    ("failure", "warning", "tone"),
    [("load", False, "bad"), ("load", True, "warn"), ("infra", False, "infra"), ("infra", True, "infra")],
)
def test_what_is_not_as_promised_has_one_colour_wherever_it_is_told(failure: str, warning: bool, tone: str) -> None:
    wrong = {"ok": False, "failure": failure, "warning": warning, "reason": "no"}
    (row,) = collectors.rows([record(**wrong)], ELSEWHERE)
    assert row.cells[0].tone == tone
    assert {part.tone for part in story(row, "5.4-arm64")["Observed"] if isinstance(part, Say) and part.word == failure} == {tone}
    (whole,) = guest_tests.rows([command_record("5.4-arm64", **wrong)], ELSEWHERE)
    assert whole.cells[0].tone == tone


def test_a_red_sub_test_of_a_command_that_only_warns_is_a_warning() -> None:
    told = guest_tests.rows([command_record("5.4-arm64", [SubTest("TestRing", "failed")], warning=True)], ELSEWHERE)
    assert [row.cells[0].tone for row in told] == ["warn", "warn"]


def test_warnings_come_after_all_that_is_red() -> None:
    cells = [record(kernel=kernel, ok=False, failure="load", reason="no", warning=True) for kernel in ("latest", "next")]
    cells += [record(ok=False, failure="silent", reason="nothing")]
    assert [entry["tone"] for entry in model.findings(collectors.rows(cells, ELSEWHERE))] == ["bad", "warn"]
