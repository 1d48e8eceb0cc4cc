"""What is written is there whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.host import paths


def test_write_whole(tmp_path: Path) -> None:
    path = tmp_path / "new/file.json"
    paths.write_whole(path, "é")
    seen = path.open("rb")
    paths.write_whole(path, b"another", mode=0o600)
    assert seen.read() == "é".encode()  # who had it open reads what was there: the file was not written over
    assert path.read_bytes() == b"another"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "folder/inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        paths.write_whole(tmp_path / "folder", "text")
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "new"]


def test_two_scratch_consoles_of_one_name_are_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kmatrix run` tries two objects on one target side by side."""
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    with paths.scratch_console("run-6.1-arm64") as one, paths.scratch_console("run-6.1-arm64") as other:
        one.write_text("")
        assert one != other
    assert list((tmp_path / "consoles").iterdir()) == []
