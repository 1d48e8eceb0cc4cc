"""The steps of action.yml and the jobs of ci/gitlab.yml, run as a runner runs them: inputs put in, in a shell, one after another."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.docs.console import ROOT

AMBIENT = ("PYTEST", "CI", "BUILD_NUMBER", "GITHUB")
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


def load(path: Path) -> dict[str, Any]:
    """The YAML file."""
    found: dict[str, Any] = YAML(typ="safe").load(path)
    return found


@dataclass
class Runner:
    """What GitHub's runner does with a composite action: expressions, `if`, the files that steps write to."""

    workspace: Path
    temp: Path
    inputs: Mapping[str, str]
    environment: Mapping[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The other actions that would have been used, each with what it was given."""
    log: list[subprocess.CompletedProcess[str]] = field(default_factory=list)

    def run(self, *names: str) -> int:
        """Run the steps (those of these names); returns the status of the first that failed, else 0.

        Once one failed, others run only if they ask for it.
        """
        action = load(ROOT / "action.yml")
        given = {name: str(value.get("default", "")) for name, value in action["inputs"].items()} | dict(self.inputs)
        failed = 0
        for step in action["runs"]["steps"]:
            if names and step["name"] not in names:
                continue
            condition = str(step.get("if", "true"))
            wanted = self._value(condition.removeprefix("${{").removesuffix("}}"), given) not in ("", "false")
            if not wanted or (failed and "cancelled()" not in condition):
                continue
            if "uses" in step:
                self.used.append((step["uses"], {name: self._put(str(value), given) for name, value in step["with"].items()}))
                continue
            failed = self._step(step, given) or failed
        return failed

    @property
    def summary(self) -> str:
        """What stands on the job's summary page."""
        return (self.temp / "summary").read_text()

    def _step(self, step: Mapping[str, Any], given: Mapping[str, str]) -> int:
        files = {name: self.temp / name.lower() for name in ("OUTPUT", "PATH")}
        for file in files.values():
            file.write_text("")
        added = self.outputs.get("PATH", {}).get("added", "")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)} | dict(self.environment)
        environment |= {
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(files["OUTPUT"]),
            "GITHUB_PATH": str(files["PATH"]),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            "RUNNER_TEMP": str(self.temp),
            "PATH": added + environment["PATH"],
        }
        environment |= {name: self._put(str(value), given) for name, value in step.get("env", {}).items()}
        at = self.workspace / self._put(str(step.get("working-directory", ".")), given)
        script = self.temp / "step.sh"
        script.write_text(step["run"])
        # As `shell: bash` is defined for actions.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, timeout=900, check=False)
        self.log.append(done)
        self.outputs[step.get("id", step["name"])] = _read_outputs(files["OUTPUT"].read_text())
        for line in files["PATH"].read_text().splitlines():
            self.outputs["PATH"] = {"added": f"{line}:{added}"}
        return done.returncode

    def _put(self, text: str, given: Mapping[str, str]) -> str:
        return _EXPRESSION.sub(lambda match: self._value(match[1], given), text)

    def _value(self, expression: str, given: Mapping[str, str]) -> str:
        """The value of an expression, as far as action.yml uses them: `||`, `&&`, `==`, `!=`, `!cancelled()`, inputs and outputs."""
        expression = expression.strip()
        for sign in ("||", "&&"):
            if sign in expression:
                values = [self._value(part, given) for part in expression.split(sign)]
                decides = [value for value in values if (value not in ("", "false")) == (sign == "||")]
                return decides[0] if decides else values[-1]
        for sign in ("==", "!="):
            if sign in expression:
                left, right = (self._value(part, given) for part in expression.split(sign))
                return str((left == right) == (sign == "==")).lower()
        if expression.startswith("'"):
            return expression.strip("'")
        if expression in ("true", "!cancelled()"):
            return "true"
        kind, _, rest = expression.partition(".")
        if kind == "inputs":
            return given[rest]
        assert kind == "steps", f"an expression that the tests do not know: {expression}"
        step, _, name = rest.partition(".outputs.")
        return self.outputs.get(step, {}).get(name, "")


def _read_outputs(text: str) -> dict[str, str]:
    """`name=value` lines, and `name<<END` … `END`."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, sign, end = line.partition("<<")
        if sign and "=" not in name:
            body = []
            for inner in lines:
                if inner == end:
                    break
                body.append(inner)
            found[name] = "\n".join(body)
        else:
            name, _, value = line.partition("=")
            found[name] = value
    return found
