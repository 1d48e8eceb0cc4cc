"""The tables of the past, and the answers that follow from them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from kmatrix.guest import bpf
from kmatrix.guest import table_insns as insns_table
from kmatrix.guest import table_uapi as uapi
from kmatrix.guest.fact import Fact, Version, release_of, since
from kmatrix.guest.past import E2BIG, EINVAL, EPERM, Past
from kmatrix.guest.table_helpers import HELPERS
from kmatrix.guest.table_hidden import GONE
from kmatrix.guest.table_types import ATTACH_TYPES, LINK_OF, LINK_TYPES, MAP_TYPES, PROG_TYPES
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Simulation
from kmatrix.matrix.load import load_matrix

TABLES = (uapi.COMMANDS, uapi.MAP_FLAGS, uapi.PROG_FLAGS, uapi.BTF_KINDS)
ROWS = (HELPERS, MAP_TYPES, PROG_TYPES, ATTACH_TYPES)
CODE = 0x1000


def as_of(major: int, minor: int) -> Past:
    base = load_matrix(Path("/")).kernel("6.12")
    return Past(Simulation(base, (major, minor)).request("x86_64"))


def load(kernel: Past, insns: bytes, kind: int = 1, *, name: bytes = b"", flags: int = 0, version: int = 1) -> tuple[int, str]:
    attr = struct.pack("=IIQQIIQII16s", kind, len(insns) // 8, CODE, 0, 0, 0, 0, version, flags, name)
    return kernel.answer(uapi.PROG_LOAD, attr, lambda at, size: insns[at - CODE : at - CODE + size])


def create(kernel: Past, kind: int, *, flags: int = 0, tail: bytes = b"", memlock: int | None = None) -> int:
    attr = struct.pack("=IIIIIII", kind, 4, 8, 4, flags, 0, 0) + tail
    return kernel.answer(uapi.MAP_CREATE, attr, lambda *_: b"", memlock)[0]


@pytest.mark.parametrize("table", TABLES)
def test_numbers_and_releases_rise(table: tuple[tuple[int, Version], ...]) -> None:
    assert list(table) == sorted(table)
    assert [release for _, release in table] == sorted(release for _, release in table)


@pytest.mark.parametrize("rows", ROWS)
def test_releases_rise_with_the_numbers(rows: tuple[Fact, ...]) -> None:
    """Identifiers are only ever appended to: whatever breaks the order is wrong."""
    assert [row.number for row in rows] == list(range(len(rows)))
    assert [row.since for row in rows] == sorted(row.since for row in rows)
    assert len({row.name for row in rows}) == len(rows)


def test_each_attach_type_with_a_link_names_one_of_the_table() -> None:
    assert set(LINK_OF.values()) <= {row.name for row in LINK_TYPES}
    assert max(LINK_OF) < len(ATTACH_TYPES)


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        # How many there are, by include/uapi/linux/bpf.h of each release.
        (MAP_TYPES, {(4, 14): 16, (5, 4): 26, (5, 15): 30, (6, 1): 32}),
        (PROG_TYPES, {(4, 14): 15, (5, 4): 26, (5, 15): 32, (6, 1): 32}),
        (ATTACH_TYPES, {(4, 14): 6, (5, 4): 23, (5, 15): 42, (6, 1): 44}),
        (HELPERS, {(4, 14): 54, (5, 4): 111, (5, 15): 176, (6, 1): 210}),
    ],
)
def test_each_release_has_as_many_as_its_header(rows: tuple[Fact, ...], counts: dict[Version, int]) -> None:
    for release, count in counts.items():
        assert len([row for row in rows if row.since <= release]) == count, release


def test_each_release_has_as_many_commands_and_kinds_of_btf() -> None:
    for release, count in {(4, 14): 16, (5, 4): 24, (5, 15): 36, (6, 1): 36}.items():
        assert len([n for n in range(uapi.COMMAND_COUNT) if since(uapi.COMMANDS, n) <= release]) == count
    for release, count in {(5, 4): 16, (5, 15): 17, (6, 1): 20}.items():
        assert len([n for n in range(20) if since(uapi.BTF_KINDS, n) <= release]) == count


def test_features_and_tables_agree() -> None:
    assert set(GONE) <= set(FEATURES)
    assert release_of(MAP_TYPES, 27) == FEATURES["ringbuf"].since
    assert release_of(HELPERS, 80) == FEATURES["cgroup_id_helper"].since
    assert release_of(HELPERS, 113) == FEATURES["probe_read_kernel"].since
    assert release_of(HELPERS, 158) == FEATURES["current_task_btf"].since
    assert since(uapi.COMMANDS, uapi.LINK_CREATE) == FEATURES["bpf_link"].since
    assert since(uapi.COMMANDS, uapi.BTF_LOAD) == FEATURES["btf_load"].since
    assert insns_table.PSEUDO_CALLS[1] == FEATURES["bpf2bpf"].since
    assert insns_table.PSEUDO_LOADS[2] == FEATURES["global_data"].since


def test_maps() -> None:
    assert create(as_of(5, 4), 27) == EINVAL
    assert create(as_of(5, 8), 27) == 0
    assert create(as_of(4, 14), 1, flags=1 << 7) == EINVAL
    assert create(as_of(4, 14), 1, tail=b"name" + bytes(12)) == EINVAL
    assert create(as_of(4, 14), 1, tail=bytes(16) + bytes(40) + b"\1") == E2BIG
    assert create(as_of(4, 15), 1, tail=b"name" + bytes(12)) == 0


def test_bpf_memory_counts_against_the_limit_before_5_11() -> None:
    assert create(as_of(5, 10), 2, memlock=0) == EPERM
    assert create(as_of(5, 10), 2, memlock=65536) == 0
    assert create(as_of(5, 11), 2, memlock=0) == 0


def test_program_loads() -> None:
    assert load(as_of(4, 14), bpf.RETURN_0) == (0, "")
    assert load(as_of(4, 14), bpf.RETURN_0, name=b"x")[0] == E2BIG
    assert load(as_of(4, 14), bpf.RETURN_0, 17)[0] == EINVAL
    assert load(as_of(4, 14), bpf.RETURN_0, 2, version=0)[0] == EINVAL
    assert load(as_of(5, 0), bpf.RETURN_0, 2, version=0)[0] == 0
    assert load(as_of(5, 1), bpf.MOV_R0_0 * 4096 + bpf.EXIT)[0] == E2BIG
    assert load(as_of(5, 2), bpf.MOV_R0_0 * 4096 + bpf.EXIT)[0] == 0
    assert load(as_of(5, 4), bpf.RETURN_0, flags=1 << 4)[0] == EINVAL


def test_helpers_only_count_where_they_can_be_reached() -> None:
    reserve = bpf.call(131)
    assert load(as_of(5, 4), reserve + bpf.RETURN_0) == (EINVAL, "invalid func unknown#131")
    assert load(as_of(5, 8), reserve + bpf.RETURN_0) == (0, "")

    def guarded(there: int) -> bytes:  # what `if (bpf_core_enum_value_exists(…))` becomes
        return bpf.insn(0xB7, dst=1, imm=there) + bpf.insn(0x15, dst=1, imm=0, off=1) + reserve + bpf.RETURN_0

    assert load(as_of(5, 4), guarded(0))[0] == 0
    assert load(as_of(5, 4), guarded(1))[0] == EINVAL
    # Unknown at run time: both ways are looked at.
    either = bpf.insn(0x61, dst=1, src=1) + bpf.insn(0x15, dst=1, imm=0, off=1) + reserve + bpf.RETURN_0
    assert load(as_of(5, 4), either)[0] == EINVAL


def test_the_second_half_of_a_wide_load_is_no_call() -> None:
    # Its first byte is an opcode's place, its immediate the upper half of a constant.
    wide = bpf.insn(0x18, dst=1, imm=1) + struct.pack("=BBhi", 0x85, 0, 0, 131)
    assert load(as_of(5, 4), wide + bpf.RETURN_0)[0] == 0


def test_loops() -> None:
    loop = bpf.MOV_R0_0 + bpf.insn(0x07, imm=1) + bpf.insn(0xA5, imm=4, off=-2) + bpf.EXIT
    assert load(as_of(5, 2), loop)[0] == EINVAL
    assert load(as_of(5, 3), loop)[0] == 0
    only_back = bpf.insn(0x05, off=2) + bpf.MOV_R0_0 + bpf.EXIT + bpf.insn(0x05, off=-3)
    assert load(as_of(5, 2), only_back)[0] == 0


def test_instructions() -> None:
    assert load(as_of(5, 0), bpf.MOV_R0_0 + bpf.insn(0x16, imm=5) + bpf.EXIT)[0] == EINVAL
    assert load(as_of(5, 1), bpf.MOV_R0_0 + bpf.insn(0x16, imm=5) + bpf.EXIT)[0] == 0
    assert load(as_of(5, 1), bpf.insn(0x18, dst=1, src=2) + bpf.insn(0) + bpf.RETURN_0)[0] == EINVAL
    assert load(as_of(4, 15), bpf.insn(0x85, src=1, imm=1) + bpf.EXIT + bpf.RETURN_0)[0] == EINVAL


def test_features_hidden_by_name_leave_the_rest() -> None:
    nobtf: dict[str, Any] = {"as_of": None, "hidden": ["btf", "ringbuf"], "release": None}
    kernel = Past(nobtf)
    assert create(kernel, 27) == EINVAL
    assert create(kernel, 30) == 0
    assert load(kernel, bpf.call(131) + bpf.RETURN_0)[0] == EINVAL
    assert load(kernel, bpf.call(169) + bpf.RETURN_0)[0] == 0
    assert load(kernel, bpf.RETURN_0, 26)[0] == EINVAL
    assert load(kernel, bpf.RETURN_0, name=b"x")[0] == 0
    assert kernel.commands == uapi.COMMAND_COUNT


def test_garbage_is_left_to_the_kernel() -> None:
    def nowhere(_at: int, _size: int) -> bytes:
        raise OSError

    attr = struct.pack("=IIQ", 1, 5, 0).ljust(48, b"\0")
    assert as_of(5, 4).answer(uapi.PROG_LOAD, attr, nowhere) == (0, "")
    assert as_of(5, 4).answer(uapi.BTF_LOAD, bytes(32), nowhere) == (0, "")
    assert load(as_of(5, 4), b"\x05\0\0\x80" * 2 + b"\x85")[0] in (0, EINVAL)
