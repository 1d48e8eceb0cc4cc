"""`kmatrix report --merge`: records of several folders as those of one run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kmatrix.cli import cli
from kmatrix.host.errors import InputError
from kmatrix.runs import cell_records, guest_test_records, shards
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.runs.shards import Item, Shard
from tests.unit.facts import record


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def folder(name: str, *records: Record) -> Path:
    for each in records:
        cell_records.write(each, Path(name))
    return Path(name)


def report(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments])


def test_joined_records_make_the_report_of_one_run() -> None:
    whole = [record(), record("dns"), record("dns", arch="x86_64", ok=False, failure="silent", observed=None)]
    folder("whole", *whole)
    folder("a", whole[0], whole[2])
    folder("b", whole[1])
    one, joined = report("whole"), report("--merge", "a", "b")
    assert joined.output == one.output
    assert (one.exit_code, joined.exit_code) == (1, 1)
    # What was joined stays, for other formats.
    assert report(".kmatrix/merged").output == one.output
    assert Path(".kmatrix/.gitignore").is_file()
    # And how long the cells took is known to later shards.
    folder("c", record(timings={"total": 4.0}))
    assert report("--merge", "c").exit_code == 0
    assert shards.durations() == {"openat[5.4-arm64]": 4.0}


def test_of_a_cell_that_is_there_twice_the_newest_is_taken_and_said() -> None:
    folder("a", record(started="2026-11-25T00:00:00Z"))
    folder("b", record(started="2026-11-24T00:00:00Z", ok=False, failure="silent", observed=None))
    done = report("--merge", "a", "b")
    assert done.exit_code == 0
    assert done.stderr == (
        "kmatrix: openat[5.4-arm64] is in b and in a: the newer record, of 2026-11-25T00:00:00Z, of a is taken\n"
    )


def test_consoles_come_along() -> None:
    (folder("a", record(console="console/x.log")) / "console").mkdir()
    Path("a/console/x.log").write_text("of a")
    folder("b", record("dns", console="console/gone.log"))
    assert report("--merge", "a", "b", "--into", "all").exit_code == 0
    joined = cell_records.read(Path("all/cells/openat@5.4-arm64.json"))
    assert joined.console is not None
    assert (Path("all") / joined.console).read_text() == "of a"


def test_the_records_of_tests_are_joined_too() -> None:
    def tested(folder: str, started: str, *, ok: bool) -> None:
        guest_test_records.write(
            TestRecord(
                test="pkg", kernel="5.4", arch="arm64", command=["./pkg"], ok=ok, failure=None if ok else "test", reason="", exit=int(not ok),
                signal=None, format=None, subtests=[], output="", errors="", timings={"total": 1.0}, console=None, versions={}, started=started,
            ),
            Path(folder),
        )  # fmt: skip

    tested("a", "2026-11-25T00:00:00Z", ok=True)
    tested("b", "2026-11-24T00:00:00Z", ok=False)
    done = report("--merge", "a", "b", "--format", "json")
    assert done.exit_code == 0
    assert [test["ok"] for test in json.loads(done.stdout)["tests"]] == [True]
    assert "test:pkg[5.4-arm64] is in b and in a" in done.stderr
    folder("a", record())
    assert report("--merge", "a", "b").exit_code == 0
    suite = ElementTree.fromstring(report(".kmatrix/merged", "--format", "junit").stdout).find("testsuite")
    assert suite is not None
    assert [case.get("classname") for case in suite.iter("testcase")] == ["5.4-arm64", "5.4-arm64.pkg"]
    assert "pkg" in report(".kmatrix/merged", "--format", "markdown").stdout
    assert "pkg" in report(".kmatrix/merged").stdout
    page = report("b", "--format", "support")
    assert "there are no records of cells" in str(page.exception)


def test_a_folder_of_artifacts_means_those_in_it() -> None:
    folder("artifacts/one", record())
    folder("artifacts/two", record("dns"))
    done = report("--merge", "artifacts", "--format", "json")
    assert [cell["cell"] for cell in json.loads(done.stdout)["cells"]] == ["dns[5.4-arm64]", "openat[5.4-arm64]"]


def test_records_of_another_schema_are_one_error_that_names_the_file() -> None:
    folder("a", record())
    path = cell_records.path_of(folder("b", record("dns")), "dns", "5.4-arm64")
    path.write_text(path.read_text().replace("kmatrix.cell/1", "kmatrix.cell/7"))
    done = report("--merge", "a", "b")
    assert isinstance(done.exception, InputError)
    assert done.exception.where == str(path)
    assert "schema 'kmatrix.cell/7', this kmatrix reads kmatrix.cell/1" in str(done.exception)
    assert not Path(".kmatrix/merged/cells").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--merge"], "no folder to merge is given"),
        (["--merge", "nowhere"], "nowhere: there are no records"),
        (["a", "b"], "--merge joins them"),
        (["--into", "c"], "--into says where --merge puts joined records"),
        (["--merge", "a", "--into", "a"], "cannot be merged into the same folder"),
        (["--merge", "a", "--into", "mine"], "not a folder that an earlier merge made"),
    ],
)
def test_wrong_arguments_are_one_error(arguments: list[str], says: str) -> None:
    folder("a", record())
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("all of it")
    done = report(*arguments)
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
    assert Path("mine/thesis.txt").exists()
    assert Path("a/cells/openat@5.4-arm64.json").exists()


def test_an_earlier_merge_is_made_anew() -> None:
    folder("a", record())
    folder("b", record("dns"))
    assert report("--merge", "a").exit_code == 0
    assert report("--merge", "b").exit_code == 0
    assert [path.name for path in Path(".kmatrix/merged/cells").iterdir()] == ["dns@5.4-arm64.json"]


def test_shards_that_are_missing_or_cut_otherwise_are_said() -> None:
    items = [Item(name, "5.4-arm64", name) for name in ("a", "b", "c")]
    alike, other = shards.cut(items, 3, {}), shards.cut(items[:2], 3, {})
    for number, name in enumerate(("dns", "oom", "openat"), 1):
        shards.write_account(folder(f"s{number}", record(name)), Shard(number, 3), alike)
    assert report("--merge", "s1", "s2", "s3").exit_code == 0
    done = report("--merge", "s1", "s3")
    assert done.stderr == "kmatrix: the records of shard 2/3 are not there\n"
    assert done.exit_code == 2
    shards.write_account(Path("s2"), Shard(2, 3), other)
    done = report("--merge", "s1", "s2", "s3")
    assert "the shards were not cut alike" in done.stderr
    assert other.digest in done.stderr
    assert done.exit_code == 2


def test_a_shard_that_had_nothing_to_do_has_no_records() -> None:
    whole = shards.cut([Item("a", "5.4-arm64", "a")], 2, {})
    full = next(number for number in (1, 2) if whole.parts[number - 1])
    shards.write_account(folder("full", record()), Shard(full, 2), whole)
    shards.write_account(Path("spare"), Shard(3 - full, 2), whole)
    done = report("--merge", "full", "spare")
    assert (done.exit_code, done.stderr) == (0, "")
