"""The table of triggers: what the guest can do, what a manifest may say of it, and what the reference documents are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmatrix.guest import triggers
from kmatrix.guest.triggers.kind import ALWAYS

DOCUMENT = Path(__file__).parents[2] / "docs/triggers.md"
ROWS = {
    match["kind"]: match
    for match in re.finditer(
        r"^\| `?(?P<kind>\w+)`? \|[^|]*\|(?P<options>[^|]*)\|(?P<known>[^|]*)\|$", DOCUMENT.read_text(), re.MULTILINE
    )
    if match["kind"] != "kind"
}


@pytest.mark.parametrize("kind", triggers.KINDS)
def test_the_document_has_what_each_knows(kind: str) -> None:
    assert _names(ROWS[kind]["known"]) == set(triggers.KINDS[kind].known)


@pytest.mark.parametrize("kind", triggers.KINDS)
def test_the_document_has_the_options_of_each(kind: str) -> None:
    """`family = "ipv4"`, `"ipv6"`; `transport = …`: of an option, all values in the order of the row."""
    options: dict[str, list[str]] = {}
    for name, value in re.findall(r'`(?:([a-z_]+))?(?: = )?("[^"`]+")?`', ROWS[kind]["options"]):
        options.setdefault(name or list(options)[-1], []).extend([value.strip('"')] * bool(value))
    assert options == {name: list(values) for name, values in triggers.KINDS[kind].options.items()}


def test_the_document_has_no_other_kinds() -> None:
    assert set(ROWS) == {"all", *triggers.KINDS}


def test_the_document_has_what_is_always_known() -> None:
    assert _names(ROWS["all"]["known"]) == set(ALWAYS)


def test_only_what_most_collectors_use_waits_in_the_snapshot() -> None:
    """Each that does is a process in the memory of every VM."""
    assert {kind for kind, row in triggers.KINDS.items() if row.prepared} == {"open", "exec", "tcp_connect", "dns", "oom"}


def _names(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", cell))


def test_what_a_command_knows_is_not_known_beforehand() -> None:
    assert triggers.known("command") is None
    assert triggers.known("open") == {*ALWAYS, *triggers.KINDS["open"].known}
