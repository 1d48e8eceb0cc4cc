"""Records and the table made of them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from kmatrix.host.errors import InfraError, InputError
from kmatrix.plugin import workers
from kmatrix.report import explain, table
from kmatrix.runs import cell_records, record_files
from kmatrix.runs.cell_records import Record
from tests.unit.facts import record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = cell_records.write(record(), tmp_path)
    assert path == tmp_path / "cells" / "openat@5.4-arm64.json"
    assert cell_records.read(path) == record()
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file
    assert set(json.loads(path.read_text())) >= {
        "schema", "cell", "collector", "kernel", "arch", "expected", "observed", "ok", "failure", "reason",
        "facts", "probe", "timings", "console", "versions",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free space there, or choose another folder with --kmatrix-dir"),
        (errno.EROFS, "mount it writable, or choose another folder with --kmatrix-dir"),
        (errno.ENOENT, "choose another folder with --kmatrix-dir"),
    ],
)
def test_records_that_cannot_be_written_are_an_error_with_the_fix_for_why(
    number: int, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InfraError, match=os.strerror(number)) as error:
        record_files.check_directory(tmp_path / "records")
    assert error.value.fix == fix


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "kmatrix.cell/2"}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError):
        cell_records.read(tmp_path / "x.json")


def render(*records: Record, width: int = 200, colour: bool = False, missing: dict[str, str] | None = None) -> str:
    return table.render(records, missing or {}, colour=colour, width=width)


def test_collectors_down_targets_across_kernels_by_number() -> None:
    text = render(record(kernel="5.10"), record(kernel="5.4"), record(kernel="5.4", arch="x86_64"), record("dns"))
    lines = text.splitlines()
    assert lines[1].split() == ["│", "collector", "│", "5.4", "│", "5.4", "│", "5.10", "│"]
    assert lines[2].split() == ["│", "│", "x86_64", "│", "arm64", "│", "arm64", "│"]
    assert lines[4].split()[1] == "dns"


def test_a_narrow_terminal_gets_a_table_an_arch() -> None:
    text = render(record(), record(arch="x86_64"), width=30)
    assert text.count("collector") == 2
    assert all(len(line) <= 30 for table in text.split("\n\n")[:2] for line in table.splitlines())


def test_a_failed_cell_shows_expected_and_observed_class_reason_and_reproduction() -> None:
    bad = record(ok=False, observed="fallback", failure="worse", reason="because")
    silent = record("dns", ok=False, observed=None, failure="silent", reason="no event")
    left = record("tcp", ok=False, failure="leftover", reason="map m")
    text = render(bad, silent, left)
    assert "✗ partial→fallback" in text
    assert "✗ partial→silent" in text
    assert "✗ partial→leftover" in text
    assert "openat[5.4-arm64]  worse: because\n  reproduce: pytest …" in text


def test_colour_only_where_asked_for() -> None:
    assert "\x1b[" not in render(record())
    assert "\x1b[32mpartial\x1b[0m" in render(record(), colour=True)


def test_what_could_not_be_had_is_listed_with_its_reason() -> None:
    text = render(
        record(),
        missing={"4.14-arm64": "import --arch arm64", "4.14-x86_64": "import --arch x86_64", "5.4-arm64": "get --arch arm64"},
    )
    assert "  4.14 (arm64, x86_64): import --arch ARCH" in text
    assert "  5.4 (arm64): get --arch arm64" in text


def test_what_was_skipped_is_in_the_table_with_its_reason_and_is_not_green() -> None:
    skipped = {("sched", "5.4-arm64"): "no variant", ("openat", "6.1-arm64"): "because"}
    lines = table.render([record()], {}, skipped=skipped, colour=False, width=200).splitlines()
    assert [word for word in lines[4].split() if word != "│"] == ["openat", "partial", "skipped"]
    assert [word for word in lines[5].split() if word != "│"] == ["sched", "skipped"]
    assert lines[-2].split() == ["sched", "skipped", "5.4-arm64", "no", "variant"]
    assert "\x1b[32mskipped" not in table.render([], {}, skipped=skipped, colour=True, width=200)


def test_errors_survive_the_way_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(InfraError("m", fix="f", where="w")))
    assert (error.message, error.fix, error.where) == ("m", "f", "w")


@pytest.mark.parametrize(("cores", "mib", "count"), [(2, 8000, 2), (8, 1000, 4), (8, 2048, 8), (4, 100, 1), (16, 100_000, 16)])
def test_as_many_workers_as_cores_and_memory_allow(cores: int, mib: int, count: int) -> None:
    assert workers(cores, mib) == count


@pytest.mark.parametrize(("name", "there", "written"), [(".kmatrix", True, True), ("mine", False, True), ("mine", True, False)])
def test_git_leaves_the_records_alone_and_nothing_else(name: str, there: bool, written: bool, tmp_path: Path) -> None:
    folder = tmp_path / name
    if there:
        folder.mkdir()
    for _ in range(2):
        record_files.check_directory(folder)
    assert (folder / ".gitignore").exists() is written
    assert not written or (folder / ".gitignore").read_text().endswith("\n*\n")


def test_a_gitignore_that_somebody_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / ".kmatrix").mkdir()
    (tmp_path / ".kmatrix" / ".gitignore").write_text("console/\n")
    record_files.check_directory(tmp_path / ".kmatrix")
    assert (tmp_path / ".kmatrix" / ".gitignore").read_text() == "console/\n"


def test_what_a_command_trigger_said_is_shown(tmp_path: Path) -> None:
    facts = {"attempts": [], "trigger": {"ok": True, "exit": 0, "stdout": "", "stderr": "".join(f"line {n}\n" for n in range(20))}}
    text = explain.explain(record(ok=False, observed=None, failure="silent", reason="no event", facts=facts), tmp_path)
    assert "trigger   exit status 0; the end of its standard error:\n      line 10\n" in text
    assert text.count("line 9\n") == 0
