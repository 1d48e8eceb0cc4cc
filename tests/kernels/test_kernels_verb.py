"""`kmatrix kernels …`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kmatrix.cli.kernels import group
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.kernels.sources import debian as sources_debian
from kmatrix.kernels.sources.debian import DebianSource
from kmatrix.kernels.store import KernelStore

from .fabricate import bzimage

MATRIX = """schema = 1
extends = false
[kernels."5.4"]
version = "5.4"
features = { btf = true }
sources = [{ kind = "import" }, { kind = "build" }]
[kernels."6.1"]
version = "6.1"
sources = [{ kind = "debian", suite = "bookworm", series = "6.1" }]
[kernels."6.12"]
version = "6.12"
sources = [{ kind = "debian", suite = "trixie", series = "6.12" }]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernels.toml").write_text(MATRIX)
    (tmp_path / "bzImage").write_bytes(bzimage("5.4.286"))

    def invoke(*arguments: str, error: type[KmatrixError] | None = None) -> Result:
        result = CliRunner().invoke(group, arguments)
        if error is None and result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert error is None or isinstance(result.exception, error), result.output
        return result

    return invoke


IMPORT = ("import", "5.4", "--arch", "amd64", "--image", "bzImage")


def test_list_says_how_to_get_what_is_not_there(run) -> None:  # type: ignore[no-untyped-def]
    _, _, lacking = run("list").stdout.partition("Not on this machine:")
    lines = [line.split("  ") for line in lacking.splitlines()]
    [how] = [line for line in lines if line[0] == "6.1"]
    assert [word.strip() for word in how if word.strip()] == [
        "6.1",
        "x86_64, arm64",
        "yes",
        "kmatrix kernels fetch 6.1 --arch ARCH",
    ]
    assert "kmatrix kernels build 5.4 --arch ARCH --tree DIR" in lacking
    alone = run("list", "--arch", "arm64").stdout
    assert "kmatrix kernels fetch 6.1 --arch arm64" in alone


def test_list_shows_what_is_there_first(run) -> None:  # type: ignore[no-untyped-def]
    run(*IMPORT)
    here, _, lacking = run("list").stdout.partition("Not on this machine:")
    assert [line.split()[:3] for line in here.splitlines()[2:] if line[:1].strip()] == [["5.4", "x86_64", "5.4.286"]]
    assert any(line.split()[:2] == ["5.4", "arm64"] for line in lacking.splitlines())


def test_list_says_what_has_been_run(run) -> None:  # type: ignore[no-untyped-def]
    Path("kernels.toml").write_text(
        MATRIX + '[kernels."6.6"]\nversion = "6.6"\n'
        'sources = [{ kind = "oci", ref = "quay.io/x:6.6", trust = "first-use", untried = true }, { kind = "import" }]\n'
    )
    rows = {(row["kernel"], row["arch"]): row["sources_tried"] for row in json.loads(run("list", "--json").stdout)}
    assert {name: rows[name, "arm64"] for name in ("5.4", "6.1", "6.6")} == {"5.4": None, "6.1": True, "6.6": False}
    said = run("list").stdout
    assert "sources tried" in said.splitlines()[2]
    assert any(line.split()[:3] == ["6.6", "x86_64,", "arm64"] and " not yet " in line for line in said.splitlines())
    assert "\nsources tried: whether the sources that kernels.toml names" in said  # the column is explained under the table


def test_a_kernel_that_is_nowhere_declared_can_be_declared(run) -> None:  # type: ignore[no-untyped-def]
    error = run("import", "mine", "--arch", "amd64", "--image", "bzImage", error=InputError).exception
    assert "unknown kernel 'mine'" in str(error)
    assert 'declare it in a kernels.toml of your own: [kernels."mine"] version = "MAJOR.MINOR"' in str(error)
    whole = run("import", "5.4-amd64", "--arch", "amd64", "--image", "bzImage", error=InputError).exception
    assert "is a target" in str(whole)
    assert "fix: write 5.4 --arch=x86_64" in str(whole)


def test_import_list_verify_remove(run) -> None:  # type: ignore[no-untyped-def]
    assert "5.4.286" in run(*IMPORT).stdout
    rows = {(row["kernel"], row["arch"]): row for row in json.loads(run("list", "--json").stdout)}
    assert len(rows) == 6
    row = rows["5.4", "x86_64"]
    assert (row["present"], row["release"], row["btf"], row["modules"]) == (True, "5.4.286", True, False)
    assert Path(row["image"]).is_file()
    assert not rows["5.4", "arm64"]["present"]
    assert json.loads(run("verify", "--json").stdout) == [{"kernel": "5.4", "arch": "x86_64", "ok": True, "problems": []}]
    assert run("remove", "5.4", "--arch", "x86_64").stdout == "removed 5.4-x86_64\n"
    assert "not in the kernel store" in str(run("remove", "5.4", error=InputError).exception)
    assert json.loads(run("verify", "--json").stdout) == []


def test_import_twice(run) -> None:  # type: ignore[no-untyped-def]
    run(*IMPORT)
    assert "has one already: 5.4.286" in str(run(*IMPORT, error=InputError).exception)
    Path("bzImage").write_bytes(bzimage("5.4.287"))
    assert json.loads(run(*IMPORT, "--replace", "--json").stdout)["release"] == "5.4.287"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "5.5", "--arch", "x86_64", "--image", "bzImage"), "unknown kernel '5.5'"),
        (("import", "6.1", "--arch", "x86_64", "--image", "bzImage"), "the kernel is 5.4.286"),
        (("import", "5.4", "--arch", "riscv", "--image", "bzImage"), "unknown arch"),
        (("import", "5.4", "--arch", "x86_64"), "one of --image and --from"),
        (("import", "5.4", "--arch", "x86_64", "--from", ".", "--config", "x"), "go with --image"),
        (("import", "5.4", "--arch", "arm64", "--image", "bzImage"), "for x86_64, and arm64"),
        (("import", "5.4", "--arch", "x86_64", "--image", "nothing"), "No such file"),
        (("build", "5.4", "--arch", "x86_64"), "which source tree"),
        (("build", "5.4", "--arch", "x86_64", "--tree", "."), "not a kernel source tree"),
        (("fetch", "9.9"), "unknown kernel"),
        (("import", "5.4", "--arch", "all", "--image", "bzImage"), "fix: use one of: x86_64, arm64$"),
        (("fetch", "5.4-x86_64-foo"), "KERNEL: unknown kernel '5.4-x86_64-foo'"),
        (("fetch", "5.5-amd64"), "KERNEL: unknown kernel '5.5'"),
        (("fetch", "5.4", "--arch", "riscv"), r"\(or all\)"),
        (("remove", "5.4"), "not in the kernel store"),
    ],
)
def test_wrong_input(run, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    assert re.search(message, str(run(*arguments, error=InputError).exception))
    assert KernelStore().refs() == []


def test_verify_of_a_damaged_one(run) -> None:  # type: ignore[no-untyped-def]
    run(*IMPORT)
    entry = KernelStore().find("5.4", "x86_64")
    assert entry is not None
    entry.image.unlink()
    result = run("verify")
    assert result.exit_code == 1
    assert "boot/vmlinuz-5.4.286: is missing" in result.stdout
    assert "kmatrix kernels remove 5.4 --arch x86_64" in result.stdout
    assert "damaged" in json.loads(run("list", "--json").stdout)[0]["reason"]


def test_fetch(run, apt_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sources_debian, "DebianSource", lambda mirror: DebianSource(mirror, root=apt_config))
    result = run("fetch", "6.1-amd64")
    assert result.exit_code == 0
    assert "6.1.0-9-amd64" in result.stdout
    result = run("fetch", "6.1", "6.12", "--arch", "x86_64", "--json")
    assert result.exit_code == 3  # 6.12's suite is not there, and 6.1 is in the store all the same
    assert [row["present"] for row in json.loads(result.stdout)] == [True, False]
    assert "6.12-x86_64" in result.stderr
    assert "404" in result.stderr


def test_fetch_without_names_takes_what_can_be_had(run, apt_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sources_debian, "DebianSource", lambda mirror: DebianSource(mirror, root=apt_config))
    rows = json.loads(run("fetch", "--json", "--arch", "x86_64").stdout)
    assert [row["kernel"] for row in rows] == ["6.1", "6.12"]  # 5.4 has no source that fetches
