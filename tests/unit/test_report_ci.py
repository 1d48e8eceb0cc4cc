"""What `kmatrix report` makes for a CI and for readers elsewhere: JUnit, GitHub's annotations, the badge, the support page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kmatrix.cli import cli
from kmatrix.report import badge, changes, github, html, junit, markdown, support
from kmatrix.runs import cell_records
from kmatrix.runs.cell_records import Record
from tests.unit.facts import record

SOURCE = "#include <x.h>\n\nint enter(void *ctx)\n{\n\treturn *id;\n}\n"


def red(collector: str = "openat", kernel: str = "5.4", **changes: Any) -> Record:
    changes = {
        "ok": False, "observed": "refusal", "failure": "load", "reason": "program enter\nwas refused",
        "reproduce": f"pytest 'col/{collector}/collector.toml::{collector}[{kernel}-arm64]' --kernels={kernel}",
    } | changes  # fmt: skip
    return record(collector, kernel, **changes)


def cause(*places: str) -> dict[str, Any]:
    return {
        "variant": "core", "stage": "load", "programs": ["enter"], "maps": [], "kind": "helper", "what": "helper bpf_loop", "since": "5.17",
        "headline": "helper bpf_loop, since 5.17", "fix": "use 100%, or less", "see": "docs/diagnosis.md",
        "where": {f"enter{number}": place for number, place in enumerate(places)}, "said": "",
    }  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with two files of the same name, of which one is compiled into openat."""
    for name, text in (("openat/x.bpf.c", SOURCE), ("a_copy/x.bpf.c", "int other;\n"), ("openat/collector.toml", "")):
        path = tmp_path / "col" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


# -- GitHub ------------------------------------------------------------------------------------------------------------------


def test_an_annotation_stands_at_the_line_of_source(project: Path) -> None:
    said = github.render([red(causes=[cause("return *id; @ x.bpf.c:5")])], project)
    assert said == (
        "::error file=col/openat/x.bpf.c,line=5,title=openat[5.4-arm64]::helper: helper bpf_loop, since 5.17%0Aof program enter%0A"
        "fix: use 100%25, or less%0Areproduce: pytest 'col/openat/collector.toml::openat[5.4-arm64]' --kernels=5.4\n"
    )


def test_what_was_found_is_said_beside_a_cause_that_does_not_say_it(project: Path) -> None:
    wrong = red(failure="wrong-data", reason="uid is 4202, should be 4201", causes=[cause("return *id; @ x.bpf.c:5")])
    at_the_line, at_the_manifest = github.render([wrong], project).splitlines()
    assert "file=col/openat/x.bpf.c,line=5," in at_the_line
    assert "file=col/openat/collector.toml," in at_the_manifest
    assert "uid is 4202, should be 4201" in at_the_manifest


@pytest.mark.parametrize("place", ["return *other; @ x.bpf.c:5", "return *id; @ x.bpf.c:500", "y.bpf.c:5", "nonsense"])
def test_where_the_source_is_another_it_stands_at_the_manifest(project: Path, place: str) -> None:
    said = github.render([red(causes=[cause(place)])], project)
    assert said.startswith(
        "::error file=col/openat/collector.toml,title=openat[5.4-arm64]::load: program enter%0Ahelper: helper bpf_loop"
    )


def test_files_are_named_from_the_top_of_the_repository(project: Path) -> None:
    there = red(causes=[cause("return *id; @ x.bpf.c:5")], reproduce="pytest 'openat/collector.toml::openat[5.4-arm64]'")
    assert "file=col/openat/x.bpf.c,line=5," in github.render([there], project, project / "col")


def test_a_file_of_a_shared_folder_is_found(project: Path) -> None:
    (project / "shared").mkdir()
    (project / "shared" / "s.h").write_text("one\ntwo\n")
    assert "file=shared/s.h,line=2," in github.render([red(causes=[cause("two @ s.h:2")])], project)


def test_cells_that_fail_alike_are_one_annotation_and_the_machines_failure_is_a_warning(project: Path) -> None:
    alike = [red(kernel=kernel, causes=[cause("return *id; @ x.bpf.c:5")]) for kernel in ("5.4", "5.10")]
    said = github.render([*alike, red("dns", failure="infra", reason="QEMU died, at once", observed=None), record("oom")], project)
    lines = said.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("::warning title=dns[5.4-arm64]::infra: QEMU died, at once")
    assert "title=openat on 5.4-arm64 5.10-arm64 (2 cells)::" in lines[1]


def test_nothing_red_is_nothing_said(project: Path) -> None:
    assert github.render([record()], project) == ""


# -- JUnit -------------------------------------------------------------------------------------------------------------------


def test_junit_has_a_suite_for_each_target(tmp_path: Path) -> None:
    records = [
        record(timings={"total": 1.5}, started="2026-11-24T23:59:59Z", versions={"kernel": "abc", "release": "5.4.286"}),
        red("dns", reason="bad \x00 <byte>"),
        record(kernel="5.10"),
        record("oom", kernel="5.10", ok=False, failure="infra", observed=None, reason="QEMU died"),
    ]
    root = ElementTree.fromstring(junit.render(records, [], tmp_path))
    assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {"tests": "4", "failures": "1", "errors": "1"}
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["5.4-arm64", "5.10-arm64"]
    cases = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert cases == [
        ("5.4-arm64", "dns[5.4-arm64]"),
        ("5.4-arm64", "openat[5.4-arm64]"),
        ("5.10-arm64", "oom[5.10-arm64]"),
        ("5.10-arm64", "openat[5.10-arm64]"),
    ]
    dns, openat = suites[0].findall("testcase")
    failure = dns.find("failure")
    assert failure is not None
    assert (failure.get("type"), dns.get("file")) == ("load", "col/dns/collector.toml")
    assert "partial was promised: bad \ufffd <byte>" in (failure.get("message") or "")
    assert "reproduce pytest" in (failure.text or "")
    assert openat.get("time") == "1.5"
    properties = {each.get("name"): each.get("value") for each in suites[0].iter("property")}
    assert suites[1].find("testcase/error") is not None
    assert len(list(suites[0].iter("property"))) == len(properties)


# -- the badge ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "says", "colour"),
    [
        ([record(), record(kernel="5.10", arch="x86_64")], "5.4 – 5.10 · x86_64 + arm64", "#1a7f37"),
        ([record(), record(kernel="4.9-sim", simulated={"base": "6.1"})], "5.4 · arm64", "#1a7f37"),
        ([record(), red("dns")], "1 of 2 cells not as promised", "#cf222e"),
        ([record(), record("dns", ok=False, failure="infra")], "1 of 2 cells not known", "#9a6700"),
        ([record(ok=False, failure="infra")], "1 of 1 cells not known", "#9a6700"),
    ],
)
def test_the_badge_says_it_in_words_and_colour(records: list[Record], says: str, colour: str) -> None:
    root = ElementTree.fromstring(badge.render(records))
    assert root.get("aria-label") == f"kernels: {says}"
    assert says in [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert colour in badge.render(records)
    parts = [float(each.get("width", 0)) for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert parts[0] == parts[1] + parts[2] == float(root.get("width", 0))


# -- the support page --------------------------------------------------------------------------------------------------------


def test_the_support_page_is_for_readers_elsewhere() -> None:
    records = [
        record("dns", "6.1", expected="full", observed="full", started="2026-11-24T23:59:59Z", versions={"release": "6.1.0-50", "kmatrix": "0.2.0", "host": "secret-host"}),
        record("dns", reason="ringbuf needs ringbuf; perf has all it needs", console="/home/me/x.log"),
        red("oom"),
        red("tcp", failure="worse", observed="fallback", reason="less than promised"),
        record("late", ok=False, failure="infra", observed=None, reason="QEMU died on secret-host"),
        record("dns", "4.9-sim", observed="refusal", expected="refusal", simulated={"base": "6.1", "as_of": "4.9", "hidden": ["btf"]}),
    ]  # fmt: skip
    page = support.render(records)
    assert "on a booted kernel, on 2026-11-24, with kmatrix 0.2.0." in page
    assert "| collector | \\~4.9-sim | 5.4 | 6.1 |" in page
    table = page.partition("## arm64")[2].partition("| word")[0]
    assert re.findall(r"\| (\w+) \| (.*) \|", table)[1:] == [
        ("dns", "refusal | partial | full"),
        ("late", " | not known | "),
        ("oom", " | fails | "),
        ("tcp", " | fallback | "),
    ]
    assert "| dns | partial | 5.4-arm64 | ringbuf needs ringbuf; perf has all it needs |" in page
    assert "| 6.1 | 6.1.0-50 |" in page
    assert "simulated: 6.1, with what it got after 4.9 hidden" in page
    for private in ("secret-host", "/home/me", "pytest"):
        assert private not in page


@pytest.mark.parametrize("form", ["junit", "github", "badge", "support"])
def test_the_command_makes_them_and_its_exit_status_is_that_of_the_records(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cell_records.write(record(), Path("good"))
    cell_records.write(red(), Path("bad"))
    good, bad = (CliRunner().invoke(cli, ["report", folder, "--format", form]) for folder in ("good", "bad"))
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert bad.stdout.endswith("\n")
    assert good.stdout != bad.stdout


# -- warnings of kernels that move on ------------------------------------------------------------------------------------------


def warned(**changes: Any) -> Record:
    return red("openat", "latest", warning=True, **changes)


def test_a_warning_is_shown_by_each_form_and_fails_none(project: Path) -> None:
    assert github.render([warned()], project).startswith("::warning ")
    case = ElementTree.fromstring(junit.render([warned()], [], project)).find("testsuite/testcase")
    assert case is not None
    skipped = case.find("skipped")
    assert skipped is not None
    assert skipped.get("message", "").startswith("warning: partial was promised: load: ")
    assert case.find("failure") is None
    assert "5.4 · arm64" in badge.render([record("openat", "5.4"), warned()])
    assert "2 warnings of what comes" in badge.render([warned(), warned()])
    page = html.render([record("openat", "5.4"), warned()], project)
    assert "1 of 2 cells as promised; 1 is a warning of what comes" in page
    text = markdown.render([record("openat", "5.4"), warned()], project)
    assert "⚠️ partial→refusal" in text
    assert "Warnings, of latest: it moves on" in text


def test_a_warning_is_no_change_for_the_worse() -> None:
    good, bad = record("openat", "latest"), warned()
    changed = changes.compare([good], [bad])
    assert [(change.kind, change.worse) for change in changed.changes] == [("new warning", False)]
    assert changes.compare([bad], [bad]).changes == []
    assert [change.kind for change in changes.compare([bad], [good]).changes] == ["now green"]
