"""Suppressions: where they count, that they have a reason, and that they are still needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.lint.engine import Options, lint
from kmatrix.lint.fix import fix
from kmatrix.lint.rules import matching
from tests.lint import samples
from tests.lint.samples import TASK, body

OPTIONS = Options(includes=(samples.INCLUDE,))
READ = "\treturn task->pid;"


def found(folder: Path, statements: str, options: Options = OPTIONS) -> tuple[list[str], int]:
    path = folder / "sample.bpf.c"
    path.write_text(samples.whole(body(TASK + statements)))
    report = lint([path], options)
    return [finding.code for finding in report.findings], report.suppressed


@pytest.mark.parametrize(
    "comment",
    [
        "/* kmatrix: noqa KM201: the test wants it refused */",
        "// kmatrix: noqa KM201: the test wants it refused",
        "/* kmatrix:noqa KM201 : why */",
        "// kmatrix: noqa km201: lower case is fine",
    ],
)
def test_on_the_line(comment: str, tmp_path: Path) -> None:
    assert found(tmp_path, f"{READ} {comment}") == ([], 1)


def test_on_the_line_before(tmp_path: Path) -> None:
    assert found(tmp_path, f"\t/* kmatrix: noqa KM201: why,\n\t * at length */\n{READ}") == ([], 1)


def test_two_codes(tmp_path: Path) -> None:
    both = "\tif (bpf_core_field_exists(task->pid))\n\t\treturn task->tgid;"
    assert found(tmp_path, both)[0] == ["KM206", "KM201"]
    marked = "\t/* kmatrix: noqa KM201, KM206: both on purpose */\n\tif (bpf_core_field_exists(task->pid)) return task->tgid;"
    assert found(tmp_path, marked) == ([], 2)


def test_for_the_file(tmp_path: Path) -> None:
    assert found(tmp_path, f"{READ}\n}}\n/* kmatrix: noqa-file KM201: a sample */\nint after(void)\n{{") == ([], 1)


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ("/* kmatrix: noqa KM201 */", "no reason"),
        ("/* kmatrix: noqa KM201: */", "no reason"),
        ("/* kmatrix: noqa */", "no code"),
        ("/* kmatrix: noqa: why */", "no code"),
        ("/* kmatrix: noqa KM999: why */", "KM999 is no code"),
        ("/* kmatrix: noqa KM001: why */", "cannot be suppressed"),
    ],
)
def test_one_that_says_too_little_suppresses_nothing(comment: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "sample.bpf.c"
    path.write_text(samples.whole(body(TASK + f"{READ} {comment}")))
    report = lint([path], OPTIONS)
    assert sorted(f.code for f in report.findings) == ["KM002", "KM201"]
    assert says in next(f.message for f in report.findings if f.code == "KM002")


def test_another_line_or_code_is_not_suppressed(tmp_path: Path) -> None:
    assert found(tmp_path, f"\t(void)task; /* kmatrix: noqa KM201: the line before, with code */\n{READ}") == (
        ["KM003", "KM201"],
        0,
    )
    assert found(tmp_path, f"{READ} /* kmatrix: noqa KM204: another */") == (["KM201", "KM003"], 0)


def test_one_that_is_not_looked_for_is_not_called_unused(tmp_path: Path) -> None:
    line = f"{READ} /* kmatrix: noqa KM201: why */"
    assert found(tmp_path, line, Options(select=matching(["KM3", "KM003"]), includes=OPTIONS.includes)) == ([], 0)


def test_fix_removes_an_unused_one(tmp_path: Path) -> None:
    path = tmp_path / "sample.bpf.c"
    path.write_text(samples.whole(body("\treturn 0; /* kmatrix: noqa KM201: once */")))
    report, mended = fix([path], OPTIONS)
    assert (report.findings, mended) == ([], 1)
    assert "noqa" not in path.read_text()


def test_in_generate_go(tmp_path: Path) -> None:
    (tmp_path / "p.bpf.c").write_text(samples.whole(samples.LICENSE))
    path = tmp_path / "generate.go"
    line = "//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64 p p.bpf.c -- -g -O2 -Wall -Wextra\n"
    path.write_text(f"package agent\n\n// kmatrix: noqa KM601: x86_64 machines only\n{line}")
    report = lint([path])
    assert (report.findings, report.suppressed) == ([], 1)
