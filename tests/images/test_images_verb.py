from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kmatrix.cli.images import group
from kmatrix.host.errors import InfraError, InputError
from tests.images.conftest import Fake

pytestmark = pytest.mark.usefixtures("fake")


@pytest.fixture(autouse=True)
def small_world(recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kmatrix.vm.image_recipe._RECIPE", recipe_folder)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, list(arguments), catch_exceptions=True)


def rows(*arguments: str) -> list[dict[str, object]]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_build_makes_both_arches_and_says_where_they_are(fake: Fake) -> None:
    images = rows("build")
    assert [image["arch"] for image in images] == ["x86_64", "arm64"]
    for image in images:
        assert Path(str(image["path"])).is_file()
        assert Path(str(image["busybox_path"])).is_file()
        assert image["in_use"] is True
    assert rows("list") == sorted(images, key=lambda image: str(image["path"]))
    assert fake.calls == 2


def test_build_of_one_arch_by_its_other_name() -> None:
    assert [image["arch"] for image in rows("build", "--arch", "aarch64")] == ["arm64"]


def test_build_builds_once_unless_forced(fake: Fake) -> None:
    rows("build", "--arch", "arm64")
    rows("build", "--arch", "arm64")
    assert fake.calls == 1
    rows("build", "--arch", "arm64", "--force")
    assert fake.calls == 2


def test_the_table_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run("build", "--arch", "arm64")
    done = run("list")
    assert "arm64" in done.stdout
    assert "trixie, 1 packages" in done.stdout
    assert "yes" in done.stdout


def test_a_failed_build_is_an_error_and_lists_nothing(fake: Fake) -> None:
    fake.mood = "fail"
    done = run("build")
    assert isinstance(done.exception, InfraError)
    assert rows("list") == []


def test_an_unknown_arch_is_an_input_error(fake: Fake) -> None:
    assert isinstance(run("build", "--arch", "riscv").exception, InputError)
    assert fake.calls == 0


def test_remove_takes_what_was_asked_for() -> None:
    rows("build")
    assert len(rows("remove", "--arch", "arm64")) == 1
    assert [image["arch"] for image in rows("list")] == ["x86_64"]
    assert isinstance(run("remove", "--arch", "arm64").exception, InputError)


def test_remove_unused_leaves_what_is_in_use(recipe_folder: Path) -> None:
    rows("build", "--arch", "arm64")
    (recipe_folder / "rootfs/etc/motd").write_text("changed")
    assert [image["in_use"] for image in rows("list")] == [False]
    rows("build", "--arch", "arm64")
    assert len(rows("remove", "--unused")) == 1
    assert [image["in_use"] for image in rows("list")] == [True]
    assert rows("remove", "--unused") == []
