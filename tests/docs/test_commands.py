"""The commands in console blocks of README and docs: verbs and options exist, what needs no VM runs, and the tutorial is walked on guests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from _pytest.mark import ParameterSet

from kmatrix.cli import cli
from tests.docs.console import ROOT, Command, blocks, commands, fence

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"
COMMANDS = [command for page in PAGES for command in commands(page)]


@dataclass
class Shell:
    """What runs a command line as a reader would, with this Python's programs first."""

    at: Path

    def __call__(self, line: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # What an outer pytest or a CI runner sets, an inner pytest would follow.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI", "BUILD_NUMBER"))}
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.at,
            env=environment | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def of(program: str) -> list[ParameterSet]:
    return [pytest.param(each, id=each.id) for each in COMMANDS if each.words[0] == program]


def test_there_are_commands() -> None:
    assert {each.words[0] for each in COMMANDS} >= {"kmatrix", "pytest", "make"}


@pytest.mark.parametrize("command", of("kmatrix"))
def test_verbs_and_options_of_kmatrix_exist(command: Command) -> None:
    """Parsed, and not run."""
    at: click.Command = cli
    context = click.Context(cli, info_name="kmatrix")
    words = list(command.words[1:])
    while isinstance(at, click.Group):
        while words and words[0].startswith("-"):
            assert words[0] in options(at), f"{command.where}: {at.name} has no {words[0]}"
            words.pop(0)
        if not words:
            return
        found = at.get_command(context, words[0])
        assert found is not None, f"{command.where}: no verb {words[0]}"
        at = found
        words.pop(0)
    given = words[: words.index("--")] if "--" in words else words
    for word in given:
        if word.startswith("-"):
            assert word.partition("=")[0] in options(at), f"{command.where}: {at.name} has no {word}"


def options(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {name for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts)}


@pytest.fixture(scope="module")
def pytest_options() -> set[str]:
    text = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    found = set(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", text))
    # Its help shows --junit-xml, and leaves out the same option's other spelling.
    return found | ({"--junitxml"} if "--junit-xml" in found else set())


@pytest.mark.parametrize("command", of("pytest"))
def test_options_of_pytest_exist(command: Command, pytest_options: set[str]) -> None:
    for word in command.words[1:]:
        if word.startswith("-"):
            assert word.partition("=")[0] in pytest_options, f"{command.where}: pytest has no {word}"


@pytest.mark.parametrize("command", of("make"))
def test_targets_of_make_exist(command: Command) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for word in command.words[1:]:
        assert word in targets, f"{command.where}: the Makefile has no {word}"


def without_a_vm() -> list[ParameterSet]:
    """Commands that only look at this machine."""
    looks = (["kernels", "list"], ["doctor"])
    return [pytest.param(each, id=each.id) for each in COMMANDS if each.words[0] == "kmatrix" and list(each.words[1:]) in looks]


@pytest.mark.parametrize("command", without_a_vm())
def test_what_needs_no_vm_runs(command: Command, tmp_path: Path) -> None:
    result = Shell(tmp_path)(command.line)
    # 1 is doctor's answer where something is missing.
    assert result.returncode in ((0, 1) if "doctor" in command.words else (0,)), result.stderr
    assert result.stdout


def test_prose_of_the_readme_fits() -> None:
    wide = [number for number, line in enumerate((ROOT / "README.md").read_text().splitlines(), 1) if len(line) > 100]
    assert not wide, f"README.md: over 100 columns in lines {wide}"


def test_the_tutorial_on_booted_guests(tmp_path: Path, need: Callable[[str], None]) -> None:
    """Each console block in order, in a folder with the files that the tutorial shows; and what it prints is printed."""
    if shutil.which("clang") is None:
        pytest.skip("clang not installed: apt-get install clang libbpf-dev")
    for name in ("6.1-x86_64", "6.1-arm64", "5.4-sim-x86_64"):
        need(name)
    (tmp_path / "opens.bpf.c").write_text(fence(TUTORIAL, "c"))
    (tmp_path / "collector.toml").write_text(fence(TUTORIAL, "toml"))
    shell = Shell(tmp_path)
    for command, printed in blocks(TUTORIAL):
        result = shell(command.line)
        fails = command.comment == "fails"
        assert result.returncode == (1 if fails else 0), f"{command.where}: {command.line}\n{result.stdout}{result.stderr}"
        said = result.stdout.splitlines()
        for line in printed:
            assert line in said, f"{command.where}: not printed: {line}\n{result.stdout}"


def test_a_stale_command_is_found() -> None:
    """The checks above can fail."""
    bad = Command("kmatrix run x.o --kernel=6.1", "", "here", 1)
    with pytest.raises(AssertionError, match="--kernel"):
        test_verbs_and_options_of_kmatrix_exist(bad)
    with pytest.raises(AssertionError, match="no verb"):
        test_verbs_and_options_of_kmatrix_exist(Command("kmatrix kernels got", "", "here", 1))
