from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.host.errors import InputError
from kmatrix.vm import image_recipe
from kmatrix.vm.guest_image import ImageStore
from kmatrix.vm.image_build import _merged, _parse_packages
from kmatrix.vm.image_recipe import Recipe


def edit(folder: Path, old: str, new: str) -> Recipe:
    file = folder / "image.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return Recipe.load(folder)


def test_the_shipped_recipe_is_sound() -> None:
    recipe = Recipe.load()
    assert recipe.data.suite
    assert {"etc/passwd", "etc/group", "etc/shadow", "usr/sbin/kmatrix-init"} <= recipe.files.keys()
    assert set(recipe.data.modes) <= recipe.files.keys()
    for path in [*recipe.data.remove, *recipe.data.keep, *recipe.data.directories, *recipe.data.symlinks, *recipe.data.modes]:
        assert not path.startswith("/")


def test_the_shipped_recipe_takes_what_guests_need_and_leaves_the_rest() -> None:
    recipe = Recipe.load()
    for path in ("usr/bin/python3.13", "usr/lib/x86_64-linux-gnu/libbpf.so.1.5.0", "usr/sbin/bpftool", "usr/sbin/sshd",
                 "usr/lib/openssh/sshd-session", "usr/bin/bash", "usr/bin/chgrp", "usr/bin/who", "usr/sbin/sysctl", "usr/bin/users"):  # fmt: skip
        assert recipe.wants(path), path
    for path in ("etc/passwd", "usr/share/doc/x", "usr/lib/python3.13/test/x.py", "usr/bin/perl", "usr/lib/systemd/systemd",
                 "usr/sbin/useradd", "var/lib/dpkg/status"):  # fmt: skip
        assert not recipe.wants(path), path


def test_keep_is_stronger_than_remove(recipe_folder: Path) -> None:
    recipe = Recipe.load(recipe_folder)
    assert recipe.wants("usr/share/kept")
    assert not recipe.wants("usr/share/deep/er")
    assert recipe.wants("usr/bin/share")


def test_every_part_of_a_recipe_makes_another_image(recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(recipe: Recipe) -> str:
        return ImageStore(tmp_path, recipe).key("arm64")

    keys = [key(Recipe.load(recipe_folder))]
    keys.append(key(edit(recipe_folder, "1000000000", "1000000001")))
    keys.append(key(edit(recipe_folder, '["vi"]', '["vi", "ed"]')))
    (recipe_folder / "rootfs/etc/shadow").write_text("root:!:20000::::::\n")
    keys.append(key(Recipe.load(recipe_folder)))
    (recipe_folder / "rootfs/etc/shadow").rename(recipe_folder / "rootfs/etc/shadow-")
    keys.append(key(Recipe.load(recipe_folder)))
    init = tmp_path / "init.py"
    init.write_text("another")
    monkeypatch.setattr(image_recipe, "_INIT", init)
    keys.append(key(Recipe.load(recipe_folder)))
    monkeypatch.setattr(image_recipe, "_FORMAT", 0)
    keys.append(key(Recipe.load(recipe_folder)))
    keys.append(ImageStore(tmp_path, Recipe.load(recipe_folder)).key("x86_64"))
    assert len(set(keys)) == len(keys)


def test_a_comment_makes_no_other_image(recipe_folder: Path) -> None:
    before = Recipe.load(recipe_folder).digest
    assert edit(recipe_folder, "schema = 1", "# said better\nschema = 1").digest == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("suite =", "sute =", "unknown key"),
        ('packages = ["small"]', 'packages = "small"', "packages"),
        ("schema = 1", "schema = 2", "schema"),
        ("schema = 1", "schema = = 1", "not TOML"),
    ],
)
def test_a_wrong_recipe_is_an_input_error(recipe_folder: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        edit(recipe_folder, old, new)
    assert str(recipe_folder / "image.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lib/x/y.so", "usr/lib/x/y.so"),
        ("lib64/ld.so", "usr/lib64/ld.so"),
        ("usr/lib/x", "usr/lib/x"),
        ("bin", "bin"),
        ("library/x", "library/x"),
        ("etc/bin/x", "etc/bin/x"),
    ],
)
def test_paths_are_merged_into_usr(name: str, path: str) -> None:
    assert _merged(name) == path


@given(st.lists(st.from_regex(r"[a-z][a-z0-9+.-]{1,8}", fullmatch=True), min_size=1, max_size=4))
def test_no_path_is_merged_twice(parts: list[str]) -> None:
    once = _merged("/".join(parts))
    assert _merged(once) == once


def test_packages_are_read_from_the_names_of_their_files() -> None:
    sums = "ab12  openssh-server_1%3a10.0p1-7_arm64.deb\ncd34  zlib1g_1%3a1.3.dfsg+really1.3.1-1+b1_arm64.deb\n"
    assert _parse_packages(sums) == [
        {"name": "openssh-server", "version": "1:10.0p1-7", "sha256": "ab12"},
        {"name": "zlib1g", "version": "1:1.3.dfsg+really1.3.1-1+b1", "sha256": "cd34"},
    ]
