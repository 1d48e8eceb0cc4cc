"""`--json`: each verb that prints a table or a result also prints it for programs."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kmatrix.cli import cli

WITHOUT = {"shell", "exec", "completion", "profiles script", "profiles vmlinux-h"}
"""What they print is somebody else's: the guest's, the shell's, or a file's for another program."""


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        return [(path, command)]
    with click.Context(command) as context:
        names = command.list_commands(context)
        found = [(name, command.get_command(context, name)) for name in names]
    return [leaf for name, each in found if each is not None for leaf in leaves(each, (*path, name))]


@pytest.mark.parametrize(("path", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves(cli)])
def test_each_verb_has_json(path: tuple[str, ...], command: click.Command) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) is (" ".join(path) not in WITHOUT)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str, status: int = 0) -> object:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    return invoke


def test_the_lock_of_a_store_with_nothing_in_it(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "kernels.toml").write_text(
        'schema = 1\nextends = false\n[sets]\ndefault = ["5.4"]\n[kernels."5.4"]\nversion = "5.4"\nsources = [{ kind = "import" }]\n'
    )
    path = str(tmp_path / "kernels.lock")
    assert run("kernels", "lock", "--json") == {"lock": path, "wrote": True, "changes": []}
    assert run("kernels", "lock", "--json") == {"lock": path, "wrote": False, "changes": []}
    assert run("kernels", "lock", "--check", "--json") == {"lock": path, "up_to_date": True, "problems": []}


def test_gc(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    left = tmp_path / "cache" / "snapshots" / "stale"
    left.mkdir(parents=True)
    found = run("kernels", "gc", "--days", "0", "--dry-run", "--json")
    assert found["dry_run"] is True
    assert all(item["done"] == "would remove" for item in found["items"])
    assert left.is_dir()


def test_report_and_lint_have_it_as_a_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.h").write_text("")
    for word in ("--json", "--format=json"):
        assert json.loads(CliRunner().invoke(cli, ["lint", "x.h", word]).stdout)["findings"] == []
    assert "0 findings" not in CliRunner().invoke(cli, ["lint", "x.h", "--json"]).stdout
    assert not CliRunner().invoke(cli, ["lint", "x.h"]).stdout.startswith("{")
