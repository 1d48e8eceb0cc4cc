"""Loading with the few kernel types that an object's relocations need: the same comes of it as with all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmatrix.matrix.arch import INFO
from kmatrix.objects.compiled import inspect
from kmatrix.runs import core_btf
from kmatrix.vm.channel import pack
from tests.guest.conftest import Guest

COLLECTORS = Path(__file__).parents[2] / "collectors"
NO_TYPES = b"\x9f\xeb\x01\x00" + b"".join(n.to_bytes(4, "little") for n in (24, 0, 16, 16, 5)) + (
    b"\x01\x00\x00\x00\x00\x00\x00\x01\x04\x00\x00\x00\x20\x00\x00\x00\x00int\x00"
)  # fmt: skip
"""BTF of an int, in which no relocation finds anything: a program that is guarded loads with it, as another one."""
UNREADABLE = b"no BTF"


def survey(guest: Guest, path: Path, few: str | None) -> Any:
    """What is said of the object, but for what no two loads have in common."""

    def plain(found: Any) -> Any:
        if isinstance(found, dict):
            return {name: value if name == "tag" else plain(value) for name, value in found.items() if name != "id"}
        if isinstance(found, list):
            return [plain(value) for value in found]
        return re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{16}\b", "ADDRESS", found) if isinstance(found, str) else found

    return plain(guest.call("object", name=path.name, data=pack(path.read_bytes()), core_btf=few))


@pytest.mark.parametrize("name", ["6.1-x86_64", "6.12-arm64"])
def test_programs_are_relocated_as_with_all_types(name: str, boot: Callable[[str], Guest]) -> None:
    guest = boot(name)
    suffix = f"*_{INFO[guest.target.arch].bpf2go}_bpfel.o"
    compared, same_without = [], []
    for path in sorted(COLLECTORS.glob(f"*/build/{suffix}")):
        few = core_btf.minimal(guest.vm, guest.target, inspect(path), "libbpf")
        if few is None:
            assert not inspect(path).uses_core, "what has relocations is loaded with few types"
            continue
        found = survey(guest, path, few)
        assert found == survey(guest, path, None), path.name
        assert all(program["tag"] for program in found["programs"].values()), path.name
        compared.append(path.name)
        if found == survey(guest, path, pack(NO_TYPES)):
            same_without.append(path.name.partition("_")[0])
    assert len(compared) == 9, f"build the collectors first: make collectors (compared: {compared})"
    # The tag is of the relocated instructions. This one does not load without its types, and is then loaded with all.
    assert same_without == ["fentrysched"]


def test_what_fails_with_few_types_is_tried_with_all(boot: Callable[[str], Guest]) -> None:
    guest = boot("6.1-x86_64")
    path = COLLECTORS / "openat" / "build" / "openat_ringbuf_x86_bpfel.o"
    assert survey(guest, path, pack(UNREADABLE)) == survey(guest, path, None)
    programs = ["enter_openat", "exit_openat"]
    facts = guest.cell(path.read_bytes(), programs=programs, variants=[variant(programs, pack(UNREADABLE))])
    assert facts["running"] == "only"
    assert "failed to parse target BTF" not in "".join(facts["attempts"][0]["log"])


def variant(programs: list[str], few: str) -> dict[str, Any]:
    """The variant that a host asks for."""
    each = [{"name": name, "hook": "tracepoint/…", "required": True} for name in programs]
    return {
        "name": "only",
        "object": "o",
        "needs": [],
        "transport": None,
        "buffer": None,
        "programs": each,
        "maps": [],
        "core_btf": few,
    }


def test_what_a_machine_has_not_is_asked_of_the_next(
    boot: Callable[[str], Guest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was booted afresh has no BTF beside it: that is not kept for those that have."""
    guest = boot("6.1-x86_64")
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))  # in which nothing of this is kept yet
    info = replace(inspect(COLLECTORS / "openat" / "build" / "openat_ringbuf_x86_bpfel.o"), core_types=("file", "dentry"))
    has, guest.vm.minimal_btf = guest.vm.minimal_btf, lambda _: None
    assert core_btf.minimal(guest.vm, guest.target, info, "libbpf") is None
    guest.vm.minimal_btf = has
    assert core_btf.minimal(guest.vm, guest.target, info, "libbpf") is not None
    assert core_btf.minimal(guest.vm, guest.target, info, "cilium") is None
    assert core_btf.minimal(guest.vm, guest.target, replace(info, core_types=None), "libbpf") is None
