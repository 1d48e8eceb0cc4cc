"""action.yml and ci/: the files are what GitHub, GitLab and builders of images read, and every option in them exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from conftest import need_programs
from kmatrix.cli import cli
from kmatrix.plugin import options
from kmatrix.runs import doctor
from tests.ci.steps import load
from tests.docs.console import ROOT

ACTION, GITLAB, CONTAINERFILE = ROOT / "action.yml", ROOT / "ci" / "gitlab.yml", ROOT / "ci" / "Containerfile"
HOW_TO = ROOT / "docs" / "how-to" / "ci.md"


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load(ACTION)["runs"]["steps"]
    return found


def scripts() -> list[tuple[str, str]]:
    """Every script in the two files, with where it is from."""
    found = [(f"action.yml: {step['name']}", step["run"]) for step in steps() if "run" in step]
    for name, job in load(GITLAB).items():
        found += [(f"gitlab.yml: {name}", line) for line in (job.get("script", []) if isinstance(job, dict) else [])]
    return found


def test_github_s_schema_holds(tmp_path: Path) -> None:
    done = check("--builtin-schema", "vendor.github-actions", ACTION)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "action.yml"
    wrong.write_text(ACTION.read_text().replace("using: composite", "using: magic"))
    assert check("--builtin-schema", "vendor.github-actions", wrong).returncode == 1


def test_gitlab_s_schema_holds(tmp_path: Path) -> None:
    asked = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    done = check(*asked, GITLAB)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "gitlab.yml"
    wrong.write_text(GITLAB.read_text().replace("parallel: 2", "parallel: many"))
    assert check(*asked, wrong).returncode == 1


def test_no_input_is_put_into_a_script() -> None:
    """It would be run as part of the script: inputs come in by the environment."""
    for where, script in scripts():
        assert "${{" not in script, where


def test_every_input_and_output_is_used_and_every_one_used_is_there() -> None:
    text, action = ACTION.read_text(), load(ACTION)
    assert set(re.findall(r"\binputs\.([a-z-]+)", text)) == set(action["inputs"])
    ids = {step["id"] for step in steps() if "id" in step}
    assert set(re.findall(r"\bsteps\.([a-z-]+)\.", text)) == ids


@pytest.mark.parametrize(
    ("where", "script"), scripts(), ids=lambda value: value if ": " in value[:30] and "\n" not in value else ""
)
def test_scripts_are_bash_and_options_of_kmatrix_exist(where: str, script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {done.stderr}"
    for line in script.replace("\\\n", " ").splitlines():
        for program, rest in re.findall(r"(?:^|\s)(kmatrix|pytest) ([^|>;]*)", line.partition(" #")[0]):
            for option in re.findall(r"(?<![\w-])--([a-z-]+)", rest):
                known = _of_verb(shlex.split(rest, posix=False)) if program == "kmatrix" else _of_pytest()
                assert f"--{option}" in known, f"{where}: {program} has no --{option}"


def _of_verb(words: list[str]) -> set[str]:
    at: click.Command = cli
    for word in words:
        found = at.get_command(click.Context(at), word) if isinstance(at, click.Group) else None
        at = found or at
    return {name for each in at.params for name in each.opts}


def _of_pytest() -> set[str]:
    return {*options._SHORT, "--kmatrix-dir", "--junitxml"}


def test_scripts_pass_shellcheck(tmp_path: Path) -> None:
    need_programs("shellcheck")
    for number, (where, script) in enumerate(scripts()):
        if not where.startswith("action.yml"):
            continue
        path = tmp_path / f"{number}.sh"
        path.write_text(f"#!/bin/bash\n{script}")
        done = subprocess.run(["shellcheck", "--shell=bash", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{where}\n{done.stdout}"


def test_all_install_what_the_doctor_asks_for() -> None:
    """What he says is lacking, where it is not there, is what the action, the image and the Makefile install."""
    asked = {tool.package for tool in doctor._TOOLS if tool.level == "lacks"} - {"util-linux"}  # which Debian always has
    for path in (ACTION, CONTAINERFILE, ROOT / "Makefile", HOW_TO):
        missing = {package for package in asked if package not in path.read_text()}
        assert not missing, f"{path.name} does not install {missing}"


def test_workflows_of_the_how_to_hold_github_s_schema_and_give_inputs_that_the_action_has(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", HOW_TO.read_text(), re.M | re.S)
    workflows = [block for block in blocks if re.search(r"^jobs:", block, re.M)]
    assert len(workflows) >= 2
    for number, block in enumerate(workflows):
        path = tmp_path / f"{number}.yml"
        path.write_text(block)
        done = check("--builtin-schema", "vendor.github-workflows", path)
        assert done.returncode == 0, f"{block}\n{done.stdout}"
        for job in load(path)["jobs"].values():
            for step in job["steps"]:
                if "/kmatrix@" in step.get("uses", ""):
                    assert set(step.get("with", {})) <= set(load(ACTION)["inputs"]), block


def test_nothing_names_a_registry_or_a_mirror() -> None:
    for path in (ACTION, GITLAB, CONTAINERFILE):
        text = path.read_text()
        hosts = re.findall(r"\b[\w.-]+\.(?:io|org|com|net|dev)\b", text)
        assert not hosts, f"{path.name}: {hosts}"
    assert re.findall(r"^FROM (.*)$", CONTAINERFILE.read_text(), re.M) == ["debian:trixie-slim"]
