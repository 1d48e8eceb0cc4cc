"""`kmatrix cache key`: the same for the same, another where the cache's content would be another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmatrix import __version__
from kmatrix.cli import cli
from kmatrix.host.errors import InputError
from kmatrix.vm import image_recipe

KERNELS = 'schema = 1\n[kernels."3.10-vendor"]\nversion = "3.10"\nsources = [{ kind = "import" }]\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def key(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["cache", "key", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_it_is_one_word_that_a_ci_takes_as_it_is() -> None:
    assert key() == key()
    assert key().startswith(f"kmatrix-{__version__}-all-")
    assert set(key()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._")
    assert key("--arch=arm64").startswith(f"kmatrix-{__version__}-arm64-")


def test_other_kernels_arches_and_shards_have_other_keys() -> None:
    keys = [key(), key("--kernels=6.1"), key("--kernels=6.1,6.12"), key("--arch=arm64"), key("--shard=1/2"), key("--shard=2/2")]
    assert len(set(keys)) == len(keys)
    assert key("--kernels=6.12,6.1") == key("--kernels=6.1,6.12")


def test_kernels_toml_and_the_lock_count() -> None:
    keys = [key("--kernels=6.1")]
    Path("kernels.toml").write_text(KERNELS)
    keys.append(key("--kernels=6.1"))
    Path("kernels.lock").write_text("schema = 1\n")
    keys.append(key("--kernels=6.1"))
    assert len(set(keys)) == 3
    Path("elsewhere.toml").write_text(KERNELS + "# as it is here\n")
    keys.append(key("--kernels=6.1", "--kernels-file=elsewhere.toml"))
    assert len(set(keys)) == 4


def test_the_recipe_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    folder = tmp_path / "images"
    (folder / "rootfs").mkdir(parents=True)
    (folder / "image.toml").write_bytes((image_recipe._RECIPE / "image.toml").read_bytes())
    monkeypatch.setattr(image_recipe, "_RECIPE", folder)
    assert key() != before


def test_json_says_what_it_depends_on() -> None:
    said = json.loads(key("--json", "--arch=x86_64", "--shard=2/4"))
    assert said["key"] == key("--arch=x86_64", "--shard=2/4")
    assert said["key"].startswith(said["restore"])
    assert said["restore"] == f"kmatrix-{__version__}-x86_64-"
    assert (said["parts"]["kmatrix"], said["parts"]["shard"]) == (__version__, "2/4")
    assert said["parts"].keys() >= {"kernels", "arches", "kernels.toml", "own kernels.toml", "lock", "image", "qemu x86_64"}
    assert "qemu arm64" not in said["parts"]


def test_a_wrong_shard_is_one_error() -> None:
    done = CliRunner().invoke(cli, ["cache", "key", "--shard=5/4"])
    assert isinstance(done.exception, InputError)
    assert "'5/4' is not a shard" in str(done.exception)
