"""Whose a program, map or link is that appears on a real machine (kmatrix.guest.real)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kmatrix.guest import real

NEW = {"map_type": "2", "key_size": "4", "value_size": "8", "max_entries": "1", "map_flags": "0x0", "map_id": "7"}
OLD = {key: value for key, value in NEW.items() if key != "map_id"}
"""A map as /proc tells of it: since 4.19, and on 4.14."""
FORMS = {
    ("maps", 7): ("maps", 2, 4, 8, 1, 0),
    ("maps", 8): ("maps", 2, 4, 16, 1, 0),
    ("programs", 3): ("programs", "tag", "c0ffee"),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[int, Mapping[str, str]]:
    """A process, 99, and what its descriptors are."""
    files: dict[int, Mapping[str, str]] = {}

    monkeypatch.setattr(real, "_held", {})
    monkeypatch.setattr(real, "_pinned", lambda _: set())
    monkeypatch.setattr(real, "bpf_files", lambda _: dict.fromkeys(files, "bpf-map"))
    monkeypatch.setattr(real, "fdinfo", lambda _, fd: files[fd])
    monkeypatch.setattr(real, "held", lambda _, fds: {"maps": [int(files[fd]["map_id"]) for fd in fds if "map_id" in files[fd]]})
    monkeypatch.setattr(real, "_form", lambda *each: FORMS[each])
    monkeypatch.setattr(real, "maps_of", lambda program: [8] if program == 3 else [])
    return files


def test_what_a_process_holds_is_known_by_its_id(machine: dict[int, Mapping[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    machine[4] = NEW
    monkeypatch.setattr(real, "_form", None)  # where the kernel says the id, nothing is asked for its form
    assert real._had_by([99], "/pins", {("maps", 7), ("maps", 8)}) == {("maps", 7)}


def test_where_the_kernel_does_not_say_the_id_it_is_known_by_its_form(machine: dict[int, Mapping[str, str]]) -> None:
    machine[4] = OLD
    assert real._had_by([99], "/pins", {("maps", 7), ("maps", 8)}) == {("maps", 7)}
    machine[4] = OLD | {"value_size": "32"}
    assert real._had_by([99], "/pins", {("maps", 7), ("maps", 8)}) == set()


def test_a_program_is_known_by_its_tag_and_its_maps_with_it(machine: dict[int, Mapping[str, str]]) -> None:
    machine[4] = {"prog_type": "2", "prog_tag": "c0ffee"}
    assert real._had_by([99], "/pins", {("programs", 3), ("maps", 8), ("maps", 7)}) == {("programs", 3), ("maps", 8)}
    del machine[4]
    machine[5] = {"prog_type": "2", "prog_tag": "other"}
    assert real._had_by([99], "/pins", {("programs", 3), ("maps", 8)}) == set()
