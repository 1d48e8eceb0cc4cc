"""`kmatrix test` and [test] on booted guests: sub-tests, endings, what comes back, and pytest's results for each sub-test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import KMATRIX

X86 = ["--kernels=6.1", "--arch=x86_64"]
Kmatrix = Callable[..., "subprocess.CompletedProcess[str]"]

TAP = """#!/bin/sh
echo "1..4"
echo "ok 1 - loads"
test -d /sys/fs/cgroup || echo "# no cgroup"
case $(uname -r) in 6.1.*) echo "ok 2 - newer" ;; *) echo "not ok 2 - newer"; echo "# only 6.1 has it, this is $(uname -m)" ;; esac
echo "ok 3 - other # SKIP no hardware"
cat data/words
"""


@pytest.fixture
def kmatrix(tmp_path: Path) -> Kmatrix:
    def call(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*KMATRIX, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False, **more
        )

    return call


@pytest.fixture
def program(tmp_path: Path) -> None:
    path = tmp_path / "suite.sh"
    path.write_text(TAP)
    path.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "words").write_text("ok 4 - has its data\n")


@pytest.mark.usefixtures("program")
def test_a_table_a_record_and_junit(kmatrix: Kmatrix, tmp_path: Path) -> None:
    """Two kernels × two arches: what differs is a row, told once with its targets; JUnit has a suite a target."""
    done = kmatrix("test", "--kernels=5.10,6.1", "--dir=data", "--junit=out.xml", "--", "./suite.sh", "--json")
    assert done.returncode == 1, done.stderr
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line.startswith("│")]
    assert ["newer", "✗ failed", "passed", "✗ failed", "passed"] in lines
    assert ["4 sub-tests", "2 ✓ 1 ✗ 1 –", "3 ✓ 1 –", "2 ✓ 1 ✗ 1 –", "3 ✓ 1 –"] in lines
    assert "newer on 5.10-x86_64  failed: only 6.1 has it, this is x86_64" in done.stdout
    assert "newer on 5.10-arm64  failed: only 6.1 has it, this is aarch64" in done.stdout
    assert "reproduce: kmatrix exec --dir=data 5.10-arm64 -- ./suite.sh --json" in done.stdout
    assert "other: no hardware" in done.stdout
    suites = ET.parse(tmp_path / "out.xml").getroot().findall("testsuite")
    assert [(each.get("name"), each.get("tests"), each.get("failures"), each.get("skipped")) for each in suites] == [
        ("5.10-x86_64", "4", "1", "1"),
        ("6.1-x86_64", "4", "0", "1"),
        ("5.10-arm64", "4", "1", "1"),
        ("6.1-arm64", "4", "0", "1"),
    ]
    record = json.loads((tmp_path / ".kmatrix" / "tests" / "suite.sh@5.10-arm64.json").read_text())
    assert (record["ok"], record["failure"], record["reason"]) == (False, "test", "1 of 4 sub-tests failed: newer (exit status 0)")
    assert record["versions"]["release"].startswith("5.10.")


@pytest.mark.parametrize(
    ("script", "failure", "reason"),
    [
        ("exit 0", None, "exit status 0; its output names no sub-tests"),
        ("echo to stdout; echo to stderr >&2; exit 3", "test", "exit status 3"),
        ("echo 1..2; echo ok 1 - a; kill -SEGV $$", "crash", "ended by SIGSEGV (signal 11)"),
        ("echo '=== RUN   TestHang'; sleep 100", "hang", "still at work after 2 s, while TestHang was at work"),
        ("echo '=== RUN   TestPanic'; echo c > /proc/sysrq-trigger; sleep 9", "kernel", "panic"),
        ("echo PASS; echo 'testing: warning: no tests to run' >&2", "empty", "correct the pattern of -test.run"),
        ("head -c 400M /dev/zero > /tmp/big", "test", "/tmp was full"),
    ],
)
def test_how_a_command_ends(kmatrix: Kmatrix, tmp_path: Path, script: str, failure: str | None, reason: str) -> None:
    # With the usual memory, a full /tmp leaves the guest so little that it takes a minute to fill.
    more = ("--memory=512",) if "/tmp" in script else ()
    timeout = "--timeout=2" if "Hang" in script else "--timeout=60"
    done = kmatrix("test", *X86, timeout, *more, "--json", "--", "sh", "-c", script)
    assert done.returncode == (0 if failure is None else 1), done.stderr
    (record,) = json.loads(done.stdout)["tests"]
    assert record["failure"] == failure
    assert reason in record["reason"]
    if failure == "kernel":
        assert record["console"] == "console/test:sh@6.1-x86_64.log"
        assert "Kernel panic" in (tmp_path / ".kmatrix" / record["console"]).read_text()
    if "to stderr" in script:
        assert (record["output"], record["errors"]) == ("to stdout", "to stderr")


def test_an_interrupt_ends_the_commands_on_all_targets(tmp_path: Path) -> None:
    """It reaches the main thread alone, and the commands run in others. There is no record: nothing was found out."""
    words = ["test", "--kernels=6.1", "--stream", "--", "sh", "-c", "echo begun; exec sleep 300"]
    process = subprocess.Popen([*KMATRIX, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = (line for line in process.stderr if "begun" in line)
    begun = [next(said), next(said)]
    assert sorted(begun) == ["6.1-arm64  begun\n", "6.1-x86_64  begun\n"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list((tmp_path / ".kmatrix").glob("tests/*")) == []


@pytest.mark.usefixtures("program")
def test_what_does_not_count_on_a_target(kmatrix: Kmatrix) -> None:
    skip = "--skip=new*=attach:tcx_ingress"
    done = kmatrix("test", "--kernels=5.10", "--arch=x86_64", "--dir=data", skip, "--skip=nothere*=ringbuf", "--", "./suite.sh")
    assert done.returncode == 0, done.stdout
    assert "warning: --skip 'nothere*' matches no sub-test on any target" in done.stderr
    assert done.stderr.count("warning: --skip") == 1
    assert "newer: failed, does not count: needs attach:tcx_ingress" in done.stdout


def test_a_file_that_was_not_brought(kmatrix: Kmatrix, tmp_path: Path) -> None:
    program = tmp_path / "t.py"
    (tmp_path / "words").write_text("x")
    program.write_text(
        "#!/usr/bin/env python3\nprint('=== RUN   TestRead')\ntry:\n    open('words')\nexcept OSError as e:\n"
        "    print('    a_test.go:1:', f'open words: {e.strerror.lower()}')\nprint('--- FAIL: TestRead (0.00s)')\n"
    )
    program.chmod(0o755)
    done = kmatrix("test", *X86, "--", "./t.py")
    assert "open words: no such file or directory (the host has it: bring it with --file=words)" in done.stdout
    again = kmatrix("test", *X86, "--file=words", "--json", "--", "./t.py")
    (record,) = json.loads(again.stdout)["tests"]
    assert record["subtests"][0]["message"] == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kernels=6.1", "--", "./nothing-here"], "nothing-here"),
        (["--kernels=6.1", "--name=a/b", "--", "true"], "is no name for a test"),
        (["--kernels=6.1", "--skip=TestA=rinbuf", "--", "true"], "did you mean ringbuf"),
        (["--kernels=6.1", "--skip=TestA", "--", "true"], "is not PATTERN=FEATURE"),
        (["--kernels=6.1", "--file=none", "--", "true"], "there is no file"),
        (["--kernels=6.2", "--", "true"], "unknown kernel"),
    ],
)
def test_wrong_input(kmatrix: Kmatrix, arguments: list[str], said: str) -> None:
    done = kmatrix("test", "--arch=x86_64", *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


GO = """package a
import ("os"; "testing")
func TestKernel(t *testing.T) {
    t.Run("arch", func(t *testing.T) { if os.Getenv("WANT") != "" { t.Fatalf("wanted %s", os.Getenv("WANT")) } })
    t.Run("tracefs", func(t *testing.T) { if _, e := os.Stat("/sys/kernel/tracing/events/sched"); e != nil { t.Fatal(e) } })
}
func TestData(t *testing.T) { if _, e := os.Stat("testdata/x"); e != nil { t.Fatal(e) } }
"""


@pytest.fixture(scope="module")
def go_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("there is no go to build a test program with: apt-get install golang-go")
    folder = tmp_path_factory.mktemp("gotests")
    (folder / "a_test.go").write_text(GO)
    (folder / "go.mod").write_text("module a\ngo 1.19\n")
    (folder / "testdata").mkdir()
    (folder / "testdata" / "x").touch()
    for arch in ("amd64", "arm64"):
        environment = os.environ | {"CGO_ENABLED": "0", "GOARCH": arch, "GOFLAGS": "-mod=mod"}
        subprocess.run(["go", "test", "-c", "-o", f"a-{arch}.test", "."], cwd=folder, env=environment, check=True, timeout=300)
    return folder


def test_a_go_test_program_of_each_arch(go_tests: Path) -> None:
    done = subprocess.run(
        [*KMATRIX, "test", "--kernels=6.1", "--json", "--", "./a-{goarch}.test", "-test.v"],
        cwd=go_tests, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads(done.stdout)["tests"]
    assert [(record["test"], record["arch"], record["format"]) for record in records] == [
        ("a.test", "x86_64", "go test"),
        ("a.test", "arm64", "go test"),
    ]
    assert [each["name"] for each in records[1]["subtests"]] == ["TestKernel", "TestKernel/arch", "TestKernel/tracefs", "TestData"]


def test_a_program_that_is_built_for_one_arch_alone(kmatrix: Kmatrix, go_tests: Path, tmp_path: Path) -> None:
    """The arch of the file that is there is offered, and no VM runs."""
    shutil.copy(go_tests / "a-amd64.test", tmp_path / "b-amd64.test")
    done = kmatrix("test", "--kernels=6.1", "--", "./b-{goarch}.test")
    assert done.returncode == 2
    assert "./b-arm64.test: there is no such file" in done.stderr
    assert "build it for arm64, correct the path, or test x86_64 alone: --arch=x86_64" in done.stderr


def test_a_program_of_one_arch_leaves_the_other_out(go_tests: Path) -> None:
    done = subprocess.run(
        [*KMATRIX, "test", "--kernels=6.1", "--json", "--", "./a-amd64.test"],
        cwd=go_tests, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [record["arch"] for record in found["tests"]] == ["x86_64"]
    assert "write {goarch}, {arch} or {machine}" in found["not_run"]["6.1-arm64"]


MANIFEST = """schema = 1
[collector]
name = "gotests"
[test]
command = ["./a-{goarch}.test", "-test.v"]
env = { WANT = "more" }
timeout = 120
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_manifests_test_is_an_item_a_target_and_a_result_a_subtest(go_tests: Path, tmp_path: Path, workers: str) -> None:
    (go_tests / "collector.toml").write_text(MANIFEST)
    options = ["--kernels=6.1", f"-n{workers}", "-v", "-p", "no:cacheprovider", f"--junitxml={tmp_path}/out.xml"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--kmatrix-dir={tmp_path}/records", "."],
        cwd=go_tests, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "4 failed, 4 passed" in done.stdout
    assert "test: 1 of 3 sub-tests failed: TestKernel/arch" in done.stdout
    assert "a_test.go:4: wanted more" in done.stdout
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "out.xml").getroot().iter("testcase")}
    assert {name for name, case in cases.items() if case.find("failure") is not None} == {
        "test:gotests[6.1-x86_64]",
        "TestKernel/arch[6.1-x86_64]",
        "test:gotests[6.1-arm64]",
        "TestKernel/arch[6.1-arm64]",
    }
    assert "reproduce: kmatrix exec --env=WANT=more 6.1-arm64 -- ./a-arm64.test -test.v" in done.stdout
