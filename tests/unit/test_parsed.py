"""What was parsed once: kept by content and code, made anew where it is not fit, and never an obstacle."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest

from kmatrix.host import parsed as module
from kmatrix.host.later import later
from kmatrix.host.parsed import parsed


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> list[int]:
        self.asked += 1
        return [self.asked]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    return tmp_path / "parsed"


@pytest.mark.usefixtures("folder")
def test_the_same_content_is_parsed_once_and_other_content_again() -> None:
    make = Maker()
    assert [parsed("a", [b"x", b"y"], make) for _ in range(3)] == [[1], [1], [1]]
    assert parsed("a", [b"xy"], make) == [2]  # the parts are told apart
    assert parsed("b", [b"x", b"y"], make) == [3]  # and so are the kinds


@pytest.mark.usefixtures("folder")
def test_other_code_parses_again(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    parsed("a", [b"x"], make)
    monkeypatch.setattr(module, "_code", lambda: b"edited")
    assert parsed("a", [b"x"], make) == [2]


def test_what_is_damaged_is_made_again(folder: Path) -> None:
    make = Maker()
    parsed("a", [b"x"], make)
    (entry,) = folder.iterdir()
    for damage in (b"", b"nonsense", entry.read_bytes()[:-3]):
        entry.write_bytes(damage)
        before = make.asked
        assert parsed("a", [b"x"], make) == parsed("a", [b"x"], make) == [before + 1]


class _Runs:
    """A pickle that does something when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("how", ["others may write to it", "another user wrote it"])
def test_a_pickle_that_another_user_can_have_written_is_not_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    make = Maker()
    parsed("a", [b"x"], make)
    (entry,) = folder.iterdir()
    entry.write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    if how == "others may write to it":
        entry.chmod(0o666)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: entry.stat().st_uid + 1)
    assert parsed("a", [b"x"], make) == [2]
    assert not (tmp_path / "ran").exists()


def test_an_error_is_not_kept(folder: Path) -> None:
    def fails() -> int:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        parsed("a", [b"x"], fails)
    assert not folder.exists() or [*folder.iterdir()] == []


def test_without_a_cache_it_is_parsed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "file"))
    assert parsed("a", [b"x"], Maker()) == [1]


def test_what_nobody_asks_for_goes(folder: Path) -> None:
    parsed("a", [b"x"], Maker())
    parsed("a", [b"y"], Maker())
    long_ago = time.time() - 40 * 86400
    for entry in folder.iterdir():
        os.utime(entry, (long_ago, long_ago))
    parsed("a", [b"x"], Maker())  # asked for: its time is now
    parsed("a", [b"z"], Maker())  # written: the others are looked at
    assert len([*folder.iterdir()]) == 2


def test_a_module_is_imported_when_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_later.py").write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\nvalue = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    stands_for = later("imported_later")
    assert not (tmp_path / "imported_later.ran").exists()
    assert stands_for.value == 1
    assert (tmp_path / "imported_later.ran").exists()
    monkeypatch.setattr(stands_for, "value", 2)  # goes to the module itself, where its own functions see it
    import imported_later  # type: ignore[import-not-found]

    assert imported_later.value == 2
    with pytest.raises(ModuleNotFoundError):
        _ = later("there_is_no_such_module").value
