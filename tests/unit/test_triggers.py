"""The table of triggers: what the guest can do, what a manifest may say of it, and what the reference documents are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmatrix.guest import triggers
from kmatrix.guest.triggers.kind import ALWAYS

DOCUMENT = Path(__file__).parents[2] / "docs/collector-toml.md"
ROWS = {
    match[1]: set(re.findall(r"`([a-z_]+)`", match[2]))
    for match in re.finditer(r"^\| `?(\w+)`? \|[^|]*\|([^|]*)\|$", DOCUMENT.read_text().partition("## Trigger:")[2], re.MULTILINE)
}


@pytest.mark.parametrize("kind", triggers.KINDS)
def test_the_document_has_what_each_knows(kind: str) -> None:
    assert ROWS[kind] == set(triggers.KINDS[kind].known)


def test_the_document_has_what_is_always_known() -> None:
    assert ROWS["all"] == set(ALWAYS)


def test_what_a_command_knows_is_not_known_beforehand() -> None:
    assert triggers.known("command") is None
    assert triggers.known("open") == {*ALWAYS, *triggers.KINDS["open"].known}
