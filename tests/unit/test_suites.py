"""Sub-tests read from what test programs print. suite_outputs/ holds outputs of real programs (go 1.19, rustc 1.95, bats 1.8, pytest 9, gtest 1.12).

kselftest.txt, test_progs.txt and go-test2json.txt are written after the formats' descriptions.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.verdict.suites.read import FORMATS, Reader, Suite
from kmatrix.verdict.suites.subtest import KEPT_LINES

OUTPUTS = Path(__file__).parent / "suite_outputs"
GO = {
    "TestPass": ("passed", ""),
    "TestFail": ("failed", "a_test.go:4: map create: invalid argument"),
    "TestSkip": ("skipped", "a_test.go:5: needs 5.8"),
    "TestSub": ("failed", ""),
    "TestSub/one": ("failed", "a_test.go:6: bad"),
    "TestSub/two_three": ("passed", ""),
    "TestZPanic": ("passed", ""),
    "TestZLast": ("passed", ""),
}
RUST = {
    "tests::panics": ("passed", ""),
    "tests::fails": ("failed", "src/lib.rs:4:46: assertion `left == right` failed: load: EINVAL"),
    "tests::skipped": ("skipped", "needs 5.8"),
    "tests::passes": ("passed", ""),
}
PYTEST = {
    "test_a.py::test_pass": ("passed", ""),
    "test_a.py::test_fail": ("failed", "AssertionError: load failed"),
    "test_a.py::test_skip": ("skipped", "no ringbuf"),
    "test_a.py::test_error": ("failed", "RuntimeError: x"),
    "test_a.py::test_p[a b]": ("passed", ""),
    "test_a.py::test_p[1]": ("passed", ""),
}
GTEST = {"Ring.Loads": ("passed", ""), "Ring.Fails": ("failed", "g.cc:3: Failure"), "Ring.Skips": ("skipped", "g.cc:4: Skipped")}
EXPECTED = {
    "go-v": ("go test", GO),
    "go-test2json": ("go test", GO),
    "go-json": ("go test -json", GO),
    "go": ("go test", {name: GO[name] for name in ("TestFail", "TestSub", "TestSub/one")}),
    "go-panic": ("go test", {"TestZPanic": ("failed", "")}),
    "libtest": ("libtest", RUST),
    "libtest-nocapture": ("libtest", RUST | {"tests::fails": ("failed", "before")}),
    "bats": (
        "TAP",
        {
            "adds up": ("passed", ""),
            "fails here": ("failed", '`@test "fails here" { echo "some output"; false; }\' failed'),
            "is skipped": ("skipped", "no ringbuf"),
        },
    ),
    "kselftest": (
        "TAP",
        {
            "selftests: bpf: test_verifier_log / good": ("passed", ""),
            "selftests: bpf: test_verifier_log / bad": ("failed", ""),
            "selftests: bpf: test_verifier_log": ("failed", "exit=1"),
            "selftests: bpf: test_lpm": ("skipped", "skip"),
        },
    ),
    "pytest-v": ("pytest", PYTEST),
    "pytest": (
        "pytest",
        {name: PYTEST[name] for name in ("test_a.py::test_fail", "test_a.py::test_error")}
        | {f"(passed, not named: {n})": ("passed", "") for n in (1, 2, 3)}
        | {"(skipped, not named: 1)": ("skipped", "")},
    ),
    "gtest": ("GoogleTest", GTEST),
    "gtest-crash": ("GoogleTest", GTEST | {"Ring.Crashes": ("unfinished", "")}),
    "test_progs": (
        "test_progs",
        {
            "#1/1 align/mov": ("passed", ""),
            "#1 align": ("passed", ""),
            "#2 ringbuf": ("failed", "test_ringbuf:FAIL:load unexpected error: -22 (errno 22)"),
            "#3 tcx": ("skipped", ""),
        },
    ),
}


def read(data: bytes, size: int = 1 << 16, only: str | None = None) -> Suite:
    reader = Reader(only)
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    return reader.end()


@pytest.mark.parametrize("size", [7, 1 << 16])
@pytest.mark.parametrize("name", [path.stem for path in sorted(OUTPUTS.glob("*.txt"))])
def test_a_real_output(name: str, size: int) -> None:
    suite = read((OUTPUTS / f"{name}.txt").read_bytes(), size)
    assert (suite.format, {each.name: (each.ending, each.message) for each in suite.subtests}) == EXPECTED[name]
    assert all(not each.output for each in suite.subtests if each.ending == "passed")


def test_what_a_failed_one_printed() -> None:
    by_name = {each.name: each for each in read((OUTPUTS / "go-v.txt").read_bytes()).subtests}
    assert by_name["TestFail"].output == "a_test.go:4: a log\na_test.go:4: map create: invalid argument"
    assert by_name["TestSub/one"].output.startswith("no newline")
    assert by_name["TestFail"].seconds == 0.0
    rust = {each.name: each for each in read((OUTPUTS / "libtest.txt").read_bytes()).subtests}["tests::fails"]
    assert rust.output.splitlines()[0] == "before"
    assert "right: 2" in rust.output


def test_what_began_and_did_not_end() -> None:
    (only,) = read(b"=== RUN   TestHang\nwaiting\n").subtests
    assert (only.name, only.ending, only.output) == ("TestHang", "unfinished", "waiting")
    planned = read(b"TAP version 13\n1..3\nok 1 - a\nBail out! no bpffs\n").subtests
    assert [(each.name, each.ending, each.message) for each in planned] == [
        ("a", "passed", ""),
        ("2", "unfinished", "the program gave up: no bpffs"),
        ("3", "unfinished", "the program gave up: no bpffs"),
    ]
    (died,) = read(b"running 1 test\ntest tests::a ... ").subtests
    assert died.ending == "unfinished"


def test_a_result_at_the_end_of_a_tests_own_line() -> None:
    """`cargo test -- --nocapture` of a test that prints without a newline: the summary decides."""
    text = "running 2 tests\ntest a ... dook\ntest b ... doFAILED\n\nfailures:\n\nfailures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n"
    assert {each.name: each.ending for each in read(text.encode()).subtests} == {"a": "passed", "b": "failed"}


NOTHING = "testing: warning: no tests to run"
JSON = '{"Action":"output","Package":"%s","Output":"testing: warning: no tests to run\\n"}\n{"Action":"%s","Package":"%s"}\n'


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        (f"{NOTHING}\nPASS\n", "go test", NOTHING),
        (f"{NOTHING}\nPASS\nPASS\n", "go test", ""),  # a second program ran something, without -v
        (f"{NOTHING}\nPASS\n=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n", "go test", ""),
        ("ok  \ta\t0.001s [no tests to run]\n?   \ta/c\t[no test files]\n", "go test", NOTHING),
        (f"{NOTHING}\nPASS\nok  \ta\t0.001s [no tests to run]\n", "go test", NOTHING),
        ("ok  \ta\t0.001s [no tests to run]\nok  \ta/b\t0.001s\n", "go test", ""),
        (JSON % ("p/a", "pass", "p/a"), "go test -json", NOTHING),
        (JSON % ("p/a", "pass", "p/b"), "go test -json", ""),
        (
            "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n",
            "libtest",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out",
        ),
        ("running 2 tests\n..\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n", "libtest", ""),
        ("1..0\n", "TAP", "1..0"),
        ("1..0 # SKIP no hardware\n", "TAP", ""),
        ("1..0\nBail out! no bpffs\n", "TAP", ""),
        ("1..1\nok 1 - a\n", "TAP", ""),
        (
            "===== test session starts =====\ncollected 0 items\n\n===== no tests ran in 0.01s =====\n",
            "pytest",
            "no tests ran",
        ),
        ("\n3 deselected in 0.01s\n", "pytest", "3 deselected"),
        ("===== test session starts =====\ncollected 0 items / 1 skipped\n\n===== 1 skipped in 0.01s =====\n", "pytest", ""),
        (
            "[==========] Running 0 tests from 0 test suites.\n[==========] 0 tests from 0 test suites ran. (0 ms total)\n[  PASSED  ] 0 tests.\n",
            "GoogleTest",
            "[==========] 0 tests from 0 test suites ran. (0 ms total)",
        ),
        ("[==========] 0 tests from 0 test suites ran. (0 ms total)\n\n  YOU HAVE 1 DISABLED TEST\n", "GoogleTest", ""),
        ("[==========] ring: 0 test(s) run.\n", "GoogleTest", "[==========] ring: 0 test(s) run."),
        ("[==========] 2 tests from 1 test suite ran. (0 ms total)\n", "GoogleTest", ""),  # --gtest_brief=1
        ("Summary: 0/0 PASSED, 0 SKIPPED, 0 FAILED\n", "test_progs", "Summary: 0/0 PASSED, 0 SKIPPED, 0 FAILED"),
        ("Summary: 0/0 PASSED, 1 SKIPPED, 0 FAILED\n", "test_progs", ""),
    ],
)
def test_that_no_test_was_run(text: str, form: str, said: str) -> None:
    suite = read(text.encode())
    assert (suite.format, suite.nothing) == (form, said)


def test_that_no_test_was_run_is_read_of_standard_error() -> None:
    reader = Reader()
    reader.feed(b"PASS\n")
    reader.aside("some warning")
    reader.aside(NOTHING)
    suite = reader.end()
    assert (suite.format, suite.nothing) == ("go test", NOTHING)


def test_several_packages() -> None:
    lines = [
        f'{{"Action":"{action}","Package":"{package}","Test":"TestA"}}\n'
        for package in ("p/a", "p/b")
        for action in ("run", "pass")
    ]
    assert [each.name for each in read("".join(lines).encode()).subtests] == ["p/a.TestA", "p/b.TestA"]


@pytest.mark.parametrize("text", ["", "hello\nok then\n", "not okay\n", '{"level": "info"}\n', "1..\n", "PASS\n"])
def test_what_is_no_test_programs_output(text: str) -> None:
    suite = read(text.encode())
    assert (suite.format, suite.subtests) == (None, ())
    assert suite.tail == text.strip()


def test_colours_carriage_returns_and_bytes_that_are_no_text() -> None:
    suite = read(b"\x1b[1m=== RUN   TestA\x1b[0m\r\n\xff\xfe\r\n--- FAIL: TestA (1.50s)\r\n    a_test.go:1: \xff\r\n")
    (only,) = suite.subtests
    assert (only.name, only.seconds, only.message) == ("TestA", 1.5, "a_test.go:1: \ufffd")


def test_the_memory_it_takes_does_not_grow_with_the_output() -> None:
    """A hundred thousand lines, and a line that never ends."""
    reader = Reader()
    reader.feed(b"=== RUN   TestLoud\n")
    for number in range(100_000):
        reader.feed(b"line %d\n" % number)
    reader.feed(b"x" * (5 << 20))
    reader.feed(b"\n--- FAIL: TestLoud (9.00s)\n")
    suite = reader.end()
    (only,) = suite.subtests
    assert len(only.output.splitlines()) <= KEPT_LINES
    assert len(only.output) + len(suite.tail) < 2 << 20
    assert only.ending == "failed"


def test_one_format_asked_for() -> None:
    assert read(b"ok 1 - a\n", only="go").format is None
    assert read(b"ok 1 - a\n", only="tap").format == "TAP"
    assert set(FORMATS) == {"go", "go-json", "libtest", "tap", "pytest", "gtest", "test_progs"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            '    perf_event_test.go:32:\n        error:\n          got non-nil error\n        got:\n          e"no such file"\n'
            "        stack:\n          /src/link/perf_event_test.go:32\n            <cannot parse>\n",
            'perf_event_test.go:32: error: got non-nil error; got: e"no such file"',
        ),
        (
            "    a_test.go:9: \n        \tError Trace:\t/src/a_test.go:9\n        \tError:      \tNot equal: \n        \t            \texpected: 1\n"
            "        \tTest:       \tTestA\n",
            "a_test.go:9: Error: Not equal: expected: 1",
        ),
    ],
)
def test_what_assertion_libraries_write_below_the_place(said: str, message: str) -> None:
    """quicktest and testify."""
    (only,) = read(f"=== RUN   TestA\n{said}--- FAIL: TestA (0.00s)\n".encode()).subtests
    assert only.message == message
