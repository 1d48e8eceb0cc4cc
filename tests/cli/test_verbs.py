"""The table of verbs, from which the help is made without importing any of them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from conftest import KMATRIX
from kmatrix.cli import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_where_the_table_says_and_says_what_it_says(verb: str) -> None:
    where, line = VERBS[verb]
    module, _, name = where.partition(":")
    assert getattr(importlib.import_module(f"kmatrix.cli.{module}"), name).get_short_help_str(120) == line


def test_asking_for_the_version_or_the_help_imports_no_verb() -> None:
    script = (
        "import sys; from kmatrix.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted(n for n in sys.modules if n.partition('.')[0] in ('pydantic', 'requests', 'rich', 'elftools')))"
    )
    for argument in ("--version", "--help"):
        done = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == ""


def test_a_verb_that_is_not_there() -> None:
    done = subprocess.run([*KMATRIX, "rnu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no verb 'rnu'; did you mean run?" in done.stderr
