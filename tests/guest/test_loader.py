"""What libbpf says, read; and the two programs that the agent writes itself, checked by another's ELF reader."""

from __future__ import annotations

import platform
from io import BytesIO
from types import SimpleNamespace

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

from kmatrix.guest import bpf, observe, opened, warmup
from kmatrix.guest.libbpf import LibbpfError
from kmatrix.guest.triggers.processes import tiny_program
from kmatrix.objects.btf import Btf

NO_BTF = [
    "kernel BTF is missing at '/sys/kernel/btf/vmlinux', was CONFIG_DEBUG_INFO_BTF enabled?",
    "failed to find valid kernel BTF",
    "Error loading vmlinux BTF: -3",
    "failed to load object 'core-ringbuf'",
]
NO_RINGBUF = ["map 'events': failed to create: Invalid argument(-22)", "failed to load object 'core-ringbuf'"]
REFUSED = [
    "prog 'handle_exec': BPF program load failed: Invalid argument",
    "prog 'handle_exec': failed to load: -22",
    "failed to load object 'plain'",
]


@pytest.mark.parametrize(("lines", "who"), [(NO_BTF, None), (NO_RINGBUF, None), (REFUSED, "handle_exec"), ([], None)])
def test_who_is_to_blame(lines: list[str], who: str | None) -> None:
    assert opened.culprit(lines) == who


def test_which_map_cannot_be_created() -> None:
    assert opened.uncreatable_map(NO_RINGBUF) == "events"
    assert opened.uncreatable_map(REFUSED) is None


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (NO_BTF, "; ".join(NO_BTF[:3])),
        (NO_RINGBUF, NO_RINGBUF[0]),
        (REFUSED, REFUSED[0]),
        ([], "bpf_object__load: Invalid argument"),
    ],
)
def test_failures_in_libbpfs_words(lines: list[str], text: str) -> None:
    assert opened.describe(lines, LibbpfError("bpf_object__load", 22)) == {"errno": 22, "text": text}


def test_errnos_that_only_the_kernel_and_libbpf_have() -> None:
    assert "ENOTSUPP" in str(LibbpfError("attach", 524))
    assert "Unknown error" not in str(LibbpfError("bpf_object__open", 4001))


def _section(elf: ELFFile, name: str) -> Section:
    section = elf.get_section_by_name(name)
    assert section is not None
    return section


def test_the_object_that_does_nothing() -> None:
    elf = ELFFile(BytesIO(warmup.nothing()))
    assert elf["e_machine"] == "EM_BPF"
    code, table = _section(elf, warmup.NOTHING_HOOK), _section(elf, ".symtab")
    assert isinstance(table, SymbolTableSection)
    (symbol,) = [each for each in table.iter_symbols() if each.name]
    assert symbol.name == "nothing"
    assert elf.get_section(symbol["st_shndx"]).name == code.name
    assert symbol["st_size"] == code["sh_size"] == 56  # five instructions of reading nothing, and returning 0
    assert code.data().endswith(bpf.RETURN_0)
    assert [(each.name, each.ref) for each in Btf(_section(elf, ".BTF").data()).types[1:]] == [("int", 4)]
    assert _section(elf, "license").data() == b"GPL\0"


@pytest.mark.parametrize(("machine", "elf_machine"), [("x86_64", "EM_X86_64"), ("aarch64", "EM_AARCH64")])
def test_the_program_that_exits_with_7(machine: str, elf_machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    data = tiny_program()
    elf = ELFFile(BytesIO(data))
    assert elf["e_machine"] == elf_machine
    (segment,) = elf.iter_segments()
    assert segment["p_filesz"] == len(data)
    assert segment["p_vaddr"] < elf["e_entry"] < segment["p_vaddr"] + segment["p_memsz"]


@pytest.mark.parametrize(("freed_after", "waited"), [(0.0, 0.0), (3.0, 3.0), (60.0, 5.0)])
def test_what_is_freed_late_is_waited_for(freed_after: float, waited: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No longer than it takes, and not for ever."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    monkeypatch.setattr(observe, "time", clock)
    empty = {kind: [] for kind in ("programs", "maps", "links", "pins", "kprobe_events")}
    monkeypatch.setattr(observe, "inventory", lambda: empty | {"maps": [{"id": 1}] if now[0] < freed_after else []})
    assert observe.settled(empty)["maps"] == ([{"id": 1}] if freed_after > waited else [])
    assert now[0] == pytest.approx(waited, abs=0.03)
