"""tried.toml: what was tried is written, joined with what others send, and makes sources of kernels.toml tried ones."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kmatrix.cli import cli
from kmatrix.host.errors import InputError
from kmatrix.matrix import tried
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.tried import Tried
from kmatrix.runs.try_sources import trials

SOURCE = "package packages=kernel repository=https://vendor.example/{machine}/"
KERNELS = """
schema = 1
[kernels.theirs]
version = "5.14"
sources = [
  { kind = "package", repository = "https://vendor.example/{machine}/", packages = ["kernel"], trust = "first-use", untried = true },
  { kind = "import" },
]
"""


def row(**changes: Any) -> Tried:
    good = {
        "kernel": "theirs",
        "arch": "x86_64",
        "source": SOURCE,
        "when": "2026-11-28T09:00:00Z",
        "good": True,
        "release": "5.14.0-1.el9",
    }
    return Tried(**(good | changes))


def test_what_is_written_is_read() -> None:
    rows = [
        row(differs={"ringbuf": True}, features=("btf", "ringbuf"), boot_warnings=("NOTICE: x",)),
        row(arch="arm64", good=False, stage="fetch", error='the server says "404"\nand no more', release=None),
    ]
    assert list(tried.parse(tomllib.loads(tried.render(rows)), "tried.toml")) == rows
    with pytest.raises(InputError, match=r"tried\.toml"):
        tried.parse({"schema": 1, "tried": [{"kernel": "6.1"}]}, "tried.toml")
    with pytest.raises(InputError, match="schema"):
        tried.parse({"schema": 2}, "tried.toml")


def test_of_two_rows_the_newer_counts() -> None:
    old, new = row(good=True), row(good=False, when="2026-12-01T00:00:00Z", stage="boot", error="panic")
    assert tried.merged([new], [old]) == [new]
    assert tried.merged([old], [row(kernel="6.1")], [row(kernel="5.4")]) == [row(kernel="5.4"), row(kernel="6.1"), old]


def test_a_password_is_in_no_name() -> None:
    assert (
        tried.source_name("package", {"url": ["https://me:hunter2@vendor.example/k.rpm"], "key": "k"})
        == "package url=https://vendor.example/k.rpm"
    )


def test_a_source_that_was_good_is_untried_no_more(tmp_path: Path) -> None:
    (tmp_path / "kernels.toml").write_text(KERNELS)

    def sources(*rows: Tried) -> list[tuple[tuple[str, ...], bool]]:
        (tmp_path / "tried.toml").write_text(tried.render(rows))
        return [(spec.arches, spec.untried) for spec in load_matrix(tmp_path).kernels["theirs"].sources]

    both, given = ("x86_64", "arm64"), (("x86_64", "arm64"), False)
    assert sources() == [(both, True), given]
    assert sources(row(good=False, stage="boot", error="x")) == [(both, True), given]
    assert sources(row(source="package packages=other")) == [(both, True), given]
    assert sources(row()) == [(("x86_64",), False), (("arm64",), True), given]
    assert sources(row(), row(arch="arm64")) == [(both, False), given]


def test_rows_that_somebody_sent_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kernels.toml").write_text(KERNELS)
    Path("sent.toml").write_text(tried.render([row()]))
    done = CliRunner().invoke(cli, ["kernels", "try", "--merge", "sent.toml"])
    assert (done.exit_code, done.output.strip()) == (0, f"{tmp_path / 'tried.toml'}: 1 rows, 1 of them good")
    assert [spec.untried for spec in load_matrix().kernels["theirs"].sources] == [False, True, False]
    for wrong in ([], ["--all-sources", "--merge", "sent.toml"]):
        assert isinstance(CliRunner().invoke(cli, ["kernels", "try", *wrong]).exception, InputError)


def test_each_source_that_fetches_is_a_trial(tmp_path: Path) -> None:
    (tmp_path / "kernels.toml").write_text(KERNELS)
    targets = load_matrix(tmp_path).targets("theirs,5.15,6.1-cgroup1", "x86_64")
    kinds = {build: [(each.kernel.name, each.source.kind) for each in trials(targets, build=build)] for build in (True, False)}
    assert kinds[True] == [("theirs", "package"), ("5.15", "mainline"), ("5.15", "tarball"), ("5.15", "oci")]
    assert kinds[False] == [("theirs", "package"), ("5.15", "mainline"), ("5.15", "oci")]
