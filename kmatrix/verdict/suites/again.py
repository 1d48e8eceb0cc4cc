"""The arguments with which a test program runs one of its sub-tests alone: for the command that reproduces a failure."""

from __future__ import annotations

import re
from collections.abc import Sequence


def alone(suite_format: str | None, command: Sequence[str], name: str) -> list[str]:
    """`command` for the sub-test `name`; `command` as it is where the format is none of which that is known."""
    if suite_format == "go test":
        kept = [word for word in _without(command, "-test.run") if not word.startswith("-test.v")]
        pattern = "/".join(f"^{re.escape(part)}$" for part in name.split("/"))
        return [*kept, "-test.v", f"-test.run={pattern}"]
    if suite_format == "libtest":
        return [*command, "--exact", name, "--nocapture"]
    if suite_format == "GoogleTest":
        return [*_without(command, "--gtest_filter"), f"--gtest_filter={name}"]
    if suite_format == "test_progs":
        return [*command, "-v", "-t", name.split(" ", 1)[-1]]
    return list(command)


def _without(command: Sequence[str], option: str) -> list[str]:
    """The command without an option, written with its value in one word or in two."""
    kept: list[str] = []
    drop = False
    for word in command:
        if drop or word.startswith(f"{option}="):
            drop = False
        elif word == option:
            drop = True
        else:
            kept.append(word)
    return kept
