"""The options' names: the long ones always work, the short ones where nobody else has them. No VM is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import Shell
from kmatrix.plugin import options
from kmatrix.runs.record_files import DEFAULT_DIRECTORY
from tests.cells import broken

THEIRS = 'def pytest_addoption(parser):\n    parser.addoption("--arch", default="theirs")\n'
USES = 'def test_theirs(request):\n    assert request.config.getoption("--arch") == "mine"\n'


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """A machine on which, offline, nothing can be had."""
    return {"KMATRIX_CACHE": str(tmp_path / "cache")}


def test_the_folder_of_the_records_is_written_down_twice_and_the_same() -> None:
    assert options.DEFAULT_DIRECTORY == DEFAULT_DIRECTORY


def test_a_conftest_with_an_option_of_the_same_name_keeps_it(run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(THEIRS)
    (tmp_path / "test_theirs.py").write_text(USES)
    done = run_in("pytest", "--arch=mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kmatrix" not in done.stdout.replace("plugins: ", "").partition("collected")[2]


def test_a_conftest_further_down_keeps_its_option(run_in: Shell, tmp_path: Path) -> None:
    """pytest reads it when the command line was read already: then its option has its default."""
    (tmp_path / "package/tests").mkdir(parents=True)
    (tmp_path / "package/tests/conftest.py").write_text(THEIRS)
    (tmp_path / "package/tests/test_theirs.py").write_text(USES.replace("mine", "theirs"))
    done = run_in("pytest")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how", ["-p", "entry point"])
def test_another_plugin_with_an_option_of_the_same_name_keeps_it_and_is_named(
    how: str, bare: dict[str, str], run_in: Shell, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text(THEIRS)
    (tmp_path / "test_theirs.py").write_text(USES)
    arguments = ["-p", "other"]
    if how == "entry point":
        (tmp_path / "other-1.dist-info").mkdir()
        (tmp_path / "other-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
        (tmp_path / "other-1.dist-info/entry_points.txt").write_text("[pytest11]\nother = other\n")
        arguments = []
    env = bare | {"PYTHONPATH": str(tmp_path)}
    done = run_in("pytest", *arguments, "--arch=mine", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    broken.write(tmp_path, "sound")
    done = run_in("pytest", *arguments, "--arch=mine", "--offline", env=env)
    assert done.stdout.count("kmatrix: --arch belongs to the plugin other; for kmatrix, write --kmatrix-arch") == 1
    done = run_in("pytest", *arguments, "--arch=mine", "--kmatrix-arch=arm46", "--offline", env=env)
    assert done.returncode == 4
    assert "unknown arch 'arm46'; did you mean arm64" in done.stderr


def test_the_conftest_that_has_the_option_is_named_by_its_path(bare: dict[str, str], run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(THEIRS)
    broken.write(tmp_path, "sound")
    said = run_in("pytest", "--kmatrix-offline", env=bare).stdout
    assert said.count(f"kmatrix: --arch belongs to {tmp_path / 'conftest.py'}; for kmatrix, write --kmatrix-arch") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kmatrix-kernels=6.13"], "unknown kernel '6.13'"),
        (["--kmatrix-arch=arm46"], "unknown arch 'arm46'"),
        (["--kmatrix-collectors=sond"], "unknown collector 'sond'"),
        (["--kmatrix-kernels-file=nowhere.toml", "--kernels=6.1"], "no such file"),
        (["--kmatrix-accel=fast"], "invalid choice: 'fast'"),
        (["--kmatrix-offline", "--kmatrix-cold", "--kmatrix-arch=arm64"], "kmatrix is offline"),
    ],
)
def test_the_long_names_work(arguments: list[str], says: str, bare: dict[str, str], run_in: Shell, tmp_path: Path) -> None:
    broken.write(tmp_path, "sound")
    done = run_in("pytest", *arguments, env=bare | {"KMATRIX_OFFLINE": "1"})
    assert done.returncode == 4
    assert says in done.stderr


def test_the_help_has_both_names(run_in: Shell) -> None:
    said = run_in("pytest", "--help").stdout.split("eBPF collectors over")[1].split("\n\n")[0].splitlines()
    names = {word.partition("=")[0].rstrip(",") for line in said for word in line.split()[:1] if word.startswith("--")}
    short = {
        "--kernels",
        "--arch",
        "--collectors",
        "--loader",
        "--accel",
        "--cold",
        "--offline",
        "--kernels-file",
        "--shard",
        "--shard-durations",
        "--stress",
        "--atlas",
    }
    assert names == short | {options.long(each) for each in short} | {"--kmatrix-dir"}


def test_a_value_that_stands_alone_is_no_path(run_in: Shell, tmp_path: Path) -> None:
    """The conftest of `testpaths` is read only where the command line has no path."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = here\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/conftest.py").write_text('def pytest_addoption(parser):\n    parser.addoption("--theirs")\n')
    (tmp_path / "here/test_plain.py").write_text("def test_plain(): pass\n")
    done = run_in("pytest", "--kernels", "6.1", "--theirs=x", "--collect-only", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "here/test_plain.py::test_plain" in done.stdout


def test_a_conftest_may_name_the_plugin(run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["kmatrix.plugin"]\n')
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = run_in("pytest", "--kernels=6.13", env=env)
    assert "unknown kernel '6.13'" in done.stderr


@pytest.mark.parametrize("text", ['[service]\nname = "otel"\n', "not TOML"])
def test_a_collector_toml_of_another_tool_says_how_to_go_on(text: str, bare: dict[str, str], run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / "otel").mkdir()
    (tmp_path / "otel/collector.toml").write_text(text)
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    said = run_in("pytest", env=bare).stdout
    ignore = f"--ignore={os.path.join('otel', 'collector.toml')}"  # noqa: PTH118
    assert f"If another tool's: pytest {ignore} leaves it out, and pytest -p no:kmatrix runs without kmatrix." in said
    for without in ([ignore], ["-p", "no:kmatrix"]):
        assert "1 passed" in run_in("pytest", *without, env=bare).stdout


def test_a_wrong_manifest_of_kmatrix_is_not_taken_for_another_tools(bare: dict[str, str], run_in: Shell, tmp_path: Path) -> None:
    manifest = broken.write(tmp_path, "sound")
    manifest.write_text(manifest.read_text().replace("timeout", "tiemout"))
    said = run_in("pytest", env=bare).stdout
    assert "tiemout" in said
    assert "another tool" not in said
