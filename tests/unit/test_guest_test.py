"""A test command: what counts on a target, what its report and JUnit's XML say, its name, and how a sub-test is run alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmatrix.cli.report import command as report
from kmatrix.host.errors import InputError
from kmatrix.manifest.guest_test import filled
from kmatrix.manifest.schema import parse
from kmatrix.report import junit, tests
from kmatrix.runs import guest_test_records
from kmatrix.runs.guest_test import GuestTest, check_name, left_at_home, name_of, of_collector
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.verdict.suites.again import alone
from kmatrix.verdict.suites.judge import Ended, judge
from kmatrix.verdict.suites.read import Suite
from kmatrix.verdict.suites.subtest import Ending, SubTest


def suite(*endings: tuple[str, Ending], form: str | None = "go test") -> Suite:
    return Suite(form, tuple(SubTest(name, ending) for name, ending in endings), "")


PASSED = suite(("TestA", "passed"), ("TestB", "skipped"))
MIXED = suite(("TestA", "passed"), ("TestB", "failed"), ("TestB/one", "failed"), ("TestB/two", "passed"))
EMPTY = Suite("go test", (), "", "no tests to run")
CUT = suite(("TestA", "passed"), ("TestB", "unfinished"))


@pytest.mark.parametrize(
    ("ended", "read", "failure", "reason"),
    [
        (Ended(0), PASSED, None, "1 passed, 1 skipped"),
        (Ended(0), Suite(None, (), ""), None, "exit status 0; its output names no sub-tests"),
        (Ended(0), suite(), None, "exit status 0; its output names no sub-tests"),
        (
            Ended(0),
            EMPTY,
            "empty",
            "no test was run: the program said 'no tests to run'; fix: correct the pattern of -test.run or -test.skip in the command",
        ),
        (
            Ended(5),
            replace(EMPTY, format="pytest"),
            "empty",
            "no test was run: the program said 'no tests to run'; fix: correct the expression of -k or -m, or the paths in the command",
        ),
        (Ended(5), suite(("t.py::test_a", "skipped"), form="pytest"), None, "0 passed, 1 skipped"),
        (Ended(5), suite(("t.py::test_a", "passed"), form="pytest"), "test", "exit status 5, though no sub-test failed"),
        (Ended(1), EMPTY, "test", "exit status 1"),
        (Ended(signal=11), EMPTY, "crash", "ended by SIGSEGV (signal 11)"),
        (Ended(3), Suite(None, (), ""), "test", "exit status 3"),
        (Ended(1), PASSED, "test", "exit status 1, though no sub-test failed"),
        (Ended(1), MIXED, "test", "1 of 3 sub-tests failed: TestB/one"),
        (Ended(0), MIXED, "test", "1 of 3 sub-tests failed: TestB/one (exit status 0)"),
        (Ended(signal=11), CUT, "crash", "ended by SIGSEGV (signal 11), while TestB was at work"),
        (Ended(timed_out=5.0), CUT, "hang", "still at work after 5 s, while TestB was at work"),
        (Ended(timed_out=5.0), PASSED, "hang", "still at work after 5 s"),
    ],
)
def test_what_is_said_of_a_command(ended: Ended, read: Suite, failure: str | None, reason: str) -> None:
    judgement = judge(ended, read, {})
    assert (judgement.ok, judgement.failure, judgement.reason) == (failure is None, failure, reason)


def test_what_the_kernel_complains_of_comes_first() -> None:
    judgement = judge(Ended(0), PASSED, {}, "oops: NULL pointer")
    assert (judgement.ok, judgement.failure, judgement.reason) == (False, "kernel", "oops: NULL pointer")


def test_what_does_not_count() -> None:
    """A pattern takes the sub-tests below with it; another failure counts still, and so does a status that nothing explains."""
    judgement = judge(Ended(1), MIXED, {"TestB": "needs ringbuf"})
    assert judgement.ok
    assert judgement.reason == "2 passed, 1 skipped"
    assert judgement.subtests[2].message == "failed, does not count: needs ringbuf"
    other = judge(Ended(1), suite(("TestB", "failed"), ("TestC", "failed")), {"TestB": "needs ringbuf"})
    assert other.reason == "1 of 2 sub-tests failed: TestC"
    assert not judge(Ended(2), PASSED, {"TestB": "needs ringbuf"}).ok
    assert not judge(Ended(signal=6), MIXED, {"TestB*": "needs ringbuf"}).ok
    assert judge(Ended(0), PASSED, {"TestA": "needs ringbuf"}).subtests == PASSED.subtests, "what passes is not skipped"


def test_a_target_on_which_nothing_has_to_run() -> None:
    """A pattern that takes every name excuses a command that runs nothing; one that takes some names does not."""
    excused = judge(Ended(0), EMPTY, {"Test*": "needs btf", "*": "needs ringbuf"})
    assert (excused.ok, excused.reason) == (True, "no test was run, which does not count: needs ringbuf")
    assert judge(Ended(0), EMPTY, {"Test*": "needs ringbuf"}).failure == "empty"


def test_the_closing_line_of_a_run_of_nothing() -> None:
    assert (
        tests.headline([record("5.4-arm64", EMPTY), record("6.1-arm64", PASSED)])
        == "failed on 1 of 2 targets; no test was run on 1"
    )
    assert tests.headline([record("5.4-arm64", EMPTY)]) == "failed on 1 of 1 target; no test was run on any"


@pytest.mark.parametrize(
    ("form", "command", "name", "expected"),
    [
        ("go test", ["./a.test", "-test.v"], "TestA/two three", ["./a.test", "-test.v", r"-test.run=^TestA$/^two\ three$"]),
        ("go test", ["./a.test", "-test.run", "X", "-test.v=test2json"], "TestA", ["./a.test", "-test.v", "-test.run=^TestA$"]),
        ("libtest", ["./t"], "a::b", ["./t", "--exact", "a::b", "--nocapture"]),
        ("GoogleTest", ["./t", "--gtest_filter=R*"], "R.A", ["./t", "--gtest_filter=R.A"]),
        ("test_progs", ["./test_progs"], "#12 ringbuf", ["./test_progs", "-v", "-t", "ringbuf"]),
        ("TAP", ["./t.sh"], "1", ["./t.sh"]),
        (None, ["./t.sh", "-x"], "t", ["./t.sh", "-x"]),
    ],
)
def test_a_subtest_alone(form: str | None, command: list[str], name: str, expected: list[str]) -> None:
    assert alone(form, command, name) == expected


def test_names() -> None:
    assert name_of(["./pkg.{goarch}.test", "-test.v"]) == "pkg.test"
    assert name_of(["bash", "-c", "true"]) == "bash"
    assert name_of(["/opt/my tests/é!"]) == "test"
    assert check_name("my-tests_1.0") == "my-tests_1.0"
    with pytest.raises(InputError, match="is no name for a test"):
        check_name("../x")


def test_the_targets_names_in_a_word() -> None:
    assert (
        filled("x-{arch}-{goarch}-{machine}-{kernel}-{target}-{other}", "5.4", "arm64")
        == "x-arm64-arm64-aarch64-5.4-5.4-arm64-{other}"
    )
    assert filled("{goarch}", "5.4", "x86_64") == "amd64"


def test_what_found_no_file_names_the_test_data_that_was_not_brought(tmp_path: Path) -> None:
    """Go's Glob names no path where it finds nothing: cilium/ebpf's tests say `No files given`."""
    red = SubTest("TestFreplace", "failed", message="tracing_test.go:14: No files given")
    data = [tmp_path / "testdata"]
    said = "tracing_test.go:14: No files given (the host has ../testdata: bring it with --dir=../testdata)"
    assert left_at_home(red, tmp_path / "link", data).message == said
    assert left_at_home(red, tmp_path / "link") == red
    assert left_at_home(replace(red, ending="skipped"), tmp_path / "link", data).message == red.message
    other = replace(red, message="tracing_test.go:14: no filesystem")
    assert left_at_home(other, tmp_path / "link", data) == other


def test_patterns_that_match_no_sub_test() -> None:
    both = [record("5.4-arm64", PASSED), record("6.1-arm64", MIXED)]
    assert tests.unmatched(both, ["TestA", "TestB/o*", "nothere*", "Test"]) == ["nothere*", "Test"]
    assert tests.unmatched([record("5.4-arm64", MIXED)], ["TestB"]) == [], "it takes TestB/one"
    assert tests.unmatched([record("6.1-arm64", suite(("TestB", "failed")))], ["TestC"]) == [], (
        "without -v only failures have names"
    )
    cut = record("6.1-arm64", CUT, Ended(signal=11))
    assert tests.unmatched([*both, cut], ["TestC"]) == [], "it may have been still to come"
    assert tests.unmatched([record("6.1-arm64", PASSED)], ["*"]) == []


# --- the manifest


def manifest(**test: object) -> dict[str, object]:
    return {"schema": 1, "collector": {"name": "gotests"}, "test": {"command": ["./a.test"], **test}}


def test_a_manifest_that_has_a_test_alone(tmp_path: Path) -> None:
    collector = parse(
        manifest(skip={"TestA": ["ringbuf"], "TestB*": "issue 12"}, memory=512, env={"A": "1"}),
        path=tmp_path / "collector.toml",
        defined={},
    )
    assert collector.test is not None
    assert (collector.variants, collector.programs) == ((), ())
    assert collector.test.not_counted(lambda _: True) == {"TestB*": "issue 12"}
    assert collector.test.not_counted(lambda _: None) == {"TestB*": "issue 12"}
    assert collector.test.not_counted(lambda _: False) == {"TestA": "needs ringbuf", "TestB*": "issue 12"}
    made = of_collector(collector, tmp_path.parent)
    assert made is not None
    assert (made.name, made.folder, made.options.shape.memory_mib) == ("gotests", tmp_path, 512)
    assert made.spelled == ("--env=A=1", "--memory=512")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (manifest(command=[]), "test.command"),
        (manifest(skip={"TestA": ["ringbuff"]}), "ringbuf"),
        (manifest(skip={"TestA": []}), "name the features that the test needs, or say why"),
        (manifest(timeout=0), "test.timeout"),
        (manifest(comand=["x"]), "comand"),
        (manifest(files=["/"]), "is not a path of a file or folder below /"),
        ({"schema": 1, "collector": {"name": "x"}}, "there is no [[variant]]"),
        ({**manifest(), "program": [{"name": "p", "hook": "xdp"}]}, "there is no [[variant]]"),
    ],
)
def test_a_wrong_manifest(data: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(data, path=Path("collector.toml"), defined={})
    assert said in str(caught.value)


def test_an_unknown_format() -> None:
    with pytest.raises(InputError, match="unknown format 'junit'"):
        GuestTest("a", ("x",), Path(), format="junit")


# --- the record and the reports


def record(target: str, read: Suite = MIXED, ended: Ended | None = None, **more: object) -> TestRecord:
    kernel, arch = target.split("-")
    judgement = judge(ended or Ended(1 if any(each.red for each in read.subtests) else 0), read, {})
    made = TestRecord(
        test="a",
        kernel=kernel,
        arch=arch,
        command=["./a.test", "-test.v"],
        ok=judgement.ok,
        failure=judgement.failure,
        reason=judgement.reason,
        exit=1,
        signal=None,
        format=read.format,
        subtests=judgement.subtests,
        output="the last line",
        errors="",
        timings={"total": 1.5},
        console=None,
        versions={"release": "5.4.286"},
        reproduce=f"kmatrix exec --memory=512 {target} -- ./a.test -test.v",
        started="2026-11-28T04:00:00Z",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = record("5.4-arm64")
    path = guest_test_records.write(one, tmp_path)
    assert path == tmp_path / "tests" / "a@5.4-arm64.json"
    assert guest_test_records.read(path) == replace(one, subtests=list(one.subtests))
    path.with_name("b@5.4-arm64.json").write_text('{"schema": "kmatrix.test/9"}')
    bad: list[InputError] = []
    assert len([*guest_test_records.read_all(tmp_path, bad)]) == 1
    assert "schema 'kmatrix.test/9', this kmatrix reads kmatrix.test/1" in str(bad[0])


def test_the_report_names_what_differs() -> None:
    failed = SubTest("TestB/one", "failed", 0.1, "a_test.go:4: load: EINVAL", "a_test.go:3: start\na_test.go:4: load: EINVAL")
    old = record("5.4-x86_64", Suite("go test", (SubTest("TestA", "passed"), SubTest("TestB", "failed"), failed), ""))
    new = record("6.1-x86_64", suite(("TestA", "passed"), ("TestB", "passed"), ("TestB/one", "passed")))
    text = tests.render([new, old], {"4.14-x86_64": "not on this machine"}, colour=False, width=100)
    table = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in table] == [
        ["test", "5.4", "6.1"],
        ["", "x86_64", "x86_64"],
        ["a", "✗ test", "passed"],
        ["2 sub-tests", "1 ✓ 1 ✗", "2 ✓"],
        ["TestB/one", "✗ failed", "passed"],
    ]
    assert "TestB/one on 5.4-x86_64  failed: a_test.go:4: load: EINVAL" in text
    assert "reproduce: kmatrix exec --memory=512 5.4-x86_64 -- ./a.test -test.v '-test.run=^TestB$/^one$'" in text
    assert "4.14 (x86_64): not on this machine" in text
    assert tests.headline([old, new]) == "failed on 1 of 2 targets"


def test_a_command_without_subtests_shows_what_it_printed() -> None:
    text = tests.render([record("5.4-x86_64", Suite(None, (), ""), Ended(3))], {}, colour=False, width=100)
    assert "a on 5.4-x86_64  test: exit status 3\n  | the last line\n  reproduce: kmatrix exec" in text
    assert "sub-tests" not in text


def test_junit_has_a_suite_a_target_and_a_case_a_subtest() -> None:
    loud = Suite("go test", (SubTest("TestA", "failed", 0.2, "\x1b bad \x00", "out\x08"),), "")
    records = [record("6.1-x86_64", loud), record("5.4-x86_64"), record("5.4-arm64", Suite(None, (), ""), Ended(3))]
    root = ET.fromstring(junit.render([], records, Path()))
    suites = root.findall("testsuite")
    assert [each.get("name") for each in suites] == ["5.4-x86_64", "6.1-x86_64", "5.4-arm64"]
    assert [(case.get("classname"), case.get("name")) for case in suites[0].findall("testcase")] == [
        ("5.4-x86_64.a", "TestA"),
        ("5.4-x86_64.a", "TestB/one"),
        ("5.4-x86_64.a", "TestB/two"),
    ]
    assert (root.get("tests"), root.get("failures")) == ("5", "3")
    failure = suites[1].find("testcase/failure")
    assert failure is not None
    assert failure.text == "out\ufffd"
    whole = suites[2].find("testcase/failure")
    assert whole is not None
    assert whole.get("message") == "test: exit status 3"


def test_a_crash_is_a_case_of_its_own() -> None:
    """Its sub-tests say that one did not end, and not why."""
    root = ET.fromstring(junit.render([], [record("5.4-x86_64", CUT, Ended(signal=11))], Path()))
    assert [case.get("name") for case in root.iter("testcase")] == ["TestA", "TestB", "a"]


def test_a_subtest_that_broke_is_what_changed(tmp_path: Path) -> None:
    """`kmatrix report --against`: the sub-test alone is told of, and not the command that fails since it does."""
    main, here = tmp_path / "main", tmp_path / "here"
    passed = suite(("TestA", "passed"), ("TestB", "passed"), ("TestB/one", "passed"), ("TestB/two", "passed"))
    guest_test_records.write(record("5.4-arm64", passed), main)
    guest_test_records.write(record("5.4-arm64"), here)
    runner = CliRunner()
    done = runner.invoke(report, [str(here), "--against", str(main), "--format", "json"])
    assert done.exit_code == 1
    (change,) = json.loads(done.stdout)["changes"]
    assert (change["kind"], change["cell"], change["worse"]) == ("new red", "a: TestB/one[5.4-arm64]", True)
    assert "-test.run=^TestB$/^one$" in change["is"]["reproduce"]
    again = runner.invoke(report, [str(here), "--against", str(here)])
    assert again.exit_code == 0, again.stdout


def test_a_subtest_that_is_skipped_now_is_worse(tmp_path: Path) -> None:
    main, here = tmp_path / "main", tmp_path / "here"
    guest_test_records.write(record("5.4-arm64", suite(("TestA", "passed"))), main)
    guest_test_records.write(record("5.4-arm64", suite(("TestA", "skipped"))), here)
    done = CliRunner().invoke(report, [str(here), "--against", str(main), "--format", "json"])
    changed = {change["cell"]: (change["kind"], change["worse"]) for change in json.loads(done.stdout)["changes"]}
    assert changed == {"a: TestA[5.4-arm64]": ("verdict changed", True)}
    assert done.exit_code == 1
