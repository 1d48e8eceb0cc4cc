from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kmatrix.host import ext4
from kmatrix.host.errors import InfraError
from tests.images import inspect

UUID = "6b6d6174-7269-7801-8000-000000000001"
EPOCH = 1_000_000_000


def plant(tree: Path, *, order: int = 1) -> Path:
    """A tree with one of everything; `order` -1 makes it the other way round."""
    tree.mkdir()
    steps = [
        lambda: (tree / "folder/inner").mkdir(parents=True),
        lambda: (tree / "big").write_bytes(os.urandom(0) + b"x" * 3_000_000),
        lambda: (tree / "empty").touch(),
        lambda: (tree / "program").write_text("#!/bin/sh\n"),
        lambda: (tree / "Upper").write_text("sorts before lower case"),
        lambda: (tree / "link").symlink_to("big"),
        lambda: (tree / "far").symlink_to("/" + "long/" * 40),
        *(lambda number=number: (tree / f"many{number:03}").write_text(str(number)) for number in range(200)),
    ]
    for step in steps[::order]:
        step()
    os.link(tree / "program", tree / "program-too")
    (tree / "program").chmod(0o755)
    (tree / "empty").chmod(0o600)
    return tree


def make(tree: Path, image: Path) -> Path:
    ext4.make(tree, image, uuid=UUID, epoch=EPOCH, label="test", devices={"folder/null": (1, 3)})
    return image


def test_everything_is_roots_and_of_one_moment(tmp_path: Path) -> None:
    found = inspect.inodes(make(plant(tmp_path / "tree"), tmp_path / "image"))
    assert len(found) == 1 + 1 + 2 + 6 + 200 + 1  # root, lost+found, folders, files and links (a hard link is none), many, device
    assert {inode.owner for inode in found.values()} == {(0, 0)}
    assert set().union(*(inode.times for inode in found.values())) == {EPOCH}


def test_content_modes_links_and_devices_arrive(tmp_path: Path) -> None:
    image = make(plant(tmp_path / "tree"), tmp_path / "image")
    assert inspect.cat(image, "/big") == b"x" * 3_000_000
    assert "Mode:  0755" in inspect.stat(image, "/program")
    assert "Links: 2" in inspect.stat(image, "/program-too")
    assert "Mode:  0600" in inspect.stat(image, "/empty")
    assert 'Fast link dest: "big"' in inspect.stat(image, "/link")
    assert "character special" in inspect.stat(image, "/folder/null")
    assert "01:03" in inspect.stat(image, "/folder/null")


def test_the_file_system_is_sound(tmp_path: Path) -> None:
    image = make(plant(tmp_path / "tree"), tmp_path / "image")
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    one = plant(tmp_path / "one")
    two = plant(tmp_path / "a much longer name", order=-1)
    os.utime(two / "big", (1, 1))
    assert make(one, tmp_path / "1").read_bytes() == make(two, tmp_path / "2").read_bytes()


def test_a_different_tree_gives_different_bytes(tmp_path: Path) -> None:
    one, two = plant(tmp_path / "one"), plant(tmp_path / "two")
    (two / "empty").chmod(0o644)
    assert make(one, tmp_path / "1").read_bytes() != make(two, tmp_path / "2").read_bytes()


def test_names_are_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    found = inspect.names(make(plant(tmp_path / "tree"), tmp_path / "image"), "/")
    assert found[:3] == [".", "..", "lost+found"]
    assert found[3:] == sorted(found[3:])
    assert "Upper" in found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_an_ordinary_users_image_is_the_same(tmp_path: Path, as_nobody: Path) -> None:
    mine = make(plant(tmp_path / "tree"), tmp_path / "mine")
    theirs = as_nobody / "image"
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            make(plant(as_nobody / "tree"), theirs)
            for path in (as_nobody / "tree").rglob("*"):
                assert path.lstat().st_uid == 65534
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert theirs.read_bytes() == mine.read_bytes()


def test_a_failure_of_mke2fs_is_said(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="mke2fs failed"):
        ext4.make(plant(tmp_path / "tree"), tmp_path / "image", uuid="not a uuid", epoch=EPOCH)


def test_a_failure_of_debugfs_is_said(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="debugfs failed"):
        ext4.make(plant(tmp_path / "tree"), tmp_path / "image", uuid=UUID, epoch=EPOCH, devices={"nowhere/null": (1, 3)})


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ext4, "_SEARCH", str(tmp_path))
    assert ext4.missing_programs() == ["mke2fs", "debugfs"]
    with pytest.raises(InfraError, match="not installed") as caught:
        ext4.make(tmp_path, tmp_path / "image", uuid=UUID, epoch=EPOCH)
    assert caught.value.fix is not None
    assert "e2fsprogs" in caught.value.fix
