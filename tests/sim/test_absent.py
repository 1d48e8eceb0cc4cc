"""What the guest hides of functions and tracepoints, by the host's list; and one object on simulated kernels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.guest.absent import NAME_SIZE, Absent, text_at
from kmatrix.guest.past import Past
from kmatrix.guest.table_uapi import RAW_TRACEPOINT_OPEN
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.objects.compiled import inspect
from kmatrix.predict import simulated, store
from kmatrix.predict.simulated import Difference
from kmatrix.runs import object_run
from kmatrix.runs.machine_room import MachineRoom
from tests.predict.kernels import HEAD, compiled

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT)
HIDDEN = {"symbols": ("newer",), "untraceable": ("notrace",), "tracepoints": ("new/a", "new/b", "old/c"), "raw_tracepoints": ("a",)}
LACKING = {
    "symbols": frozenset({"older"}),
    "untraceable": frozenset({"shy"}),
    "tracepoints": frozenset({"old/d"}),
    "raw_tracepoints": frozenset({"d"}),
}
DIFFERENCE = Difference("6.1-x86_64", "5.4-x86_64", HIDDEN, LACKING)
PAST = Past({"as_of": [5, 4], "absent": DIFFERENCE.packed()})


def memory(at: int, text: bytes, end: int) -> bytes:
    """A process's memory in which the text stands at an address, and nothing from `end` on."""
    return b"\xff" * at + (text + b"\0").ljust(end - at, b"\xff")


def reader(data: bytes):  # type: ignore[no-untyped-def]
    def read(address: int, size: int) -> bytes:
        if address + size > len(data):
            raise OSError(14, "not there")
        return data[address : address + size]

    return read


@pytest.mark.parametrize(("name", "code"), [("newer", 2), ("notrace", 22), ("older", 0), ("newe", 0)])
def test_a_kprobe_is_refused_as_the_real_kernel_does(name: str, code: int) -> None:
    data = memory(0x100, name.encode(), 0x1000)
    attr = struct.pack("=I52xQ", 6, 0x100)
    assert PAST.absent.of_kprobe(attr, reader(data)) == code
    assert Absent().of_kprobe(attr, reader(data)) == 0
    assert PAST.absent.of_kprobe(struct.pack("=I52xQ", 6, 0), reader(data)) == 0  # at an address


def test_a_raw_tracepoint_is_refused_by_name() -> None:
    read = reader(memory(0x100, b"a", 0x1000))
    assert RAW_TRACEPOINT_OPEN in PAST.answered
    assert PAST.answer(RAW_TRACEPOINT_OPEN, struct.pack("=QI", 0x100, 3), read)[0] == 2
    assert PAST.answer(RAW_TRACEPOINT_OPEN, struct.pack("=QI", 0x101, 3), read)[0] == 0
    assert RAW_TRACEPOINT_OPEN not in Past({"as_of": [5, 4]}).answered


def test_a_name_is_read_up_to_the_end_of_its_page() -> None:
    assert text_at(0xFFC, reader(memory(0xFFC, b"abc", 0x1000))) == "abc"
    assert text_at(0xFFC, reader(memory(0xFFC, b"abcdefgh", 0x2000))) == "abcdefgh"
    assert len(text_at(0x10, reader(memory(0x10, b"x" * 500, 0x1000)))) == NAME_SIZE


def test_the_folders_to_cover_are_groups_and_single_tracepoints(tmp_path: Path) -> None:
    for each in ("new/a", "new/b", "old/c", "old/kept"):
        (tmp_path / each).mkdir(parents=True)
        (tmp_path / each.partition("/")[0] / "enable").touch()
    assert PAST.absent.folders(str(tmp_path)) == [f"{tmp_path}/new", f"{tmp_path}/old/c"]


def test_the_kernels_types_do_not_name_what_is_hidden() -> None:
    types = (
        b"\0\xff\0BPF_FUNC_ringbuf_output\0BPF_FUNC_map_lookup_elem\0BPF_FUNC_check_mtu\0BPF_MAP_TYPE_RINGBUF\0BPF_MAP_TYPE_HASH\0"
    )
    seen = PAST.without_names(types)
    assert seen.split(b"\0") == types.replace(b"BPF_FUNC_ring", b"GONEFUNC_ring").replace(b"BPF_FUNC_ch", b"GONEFUNC_ch").replace(
        b"BPF_MAP_TYPE_RING", b"GONEMAP_TYPE_RING"
    ).split(b"\0")
    assert Past({}).without_names(types) == types


def _failed(section: str, kind: str) -> dict[str, object]:
    return {"section": section, "diagnosis": {"kind": kind, "where": "x @ y.c:1"}}


@pytest.mark.parametrize(
    ("section", "kind", "differs"),
    [
        ("kprobe/older", "symbol", "symbol older"),
        ("?kretprobe/older+8", "symbol", "symbol older"),
        ("tp/old/d", "tracepoint", "tracepoint old/d"),
        ("raw_tp/d", "tracepoint", "tracepoint d"),
        ("kprobe/shy", "symbol", "symbol shy"),
        ("kprobe/older", "helper", None),
        ("kprobe/newer", "symbol", None),
        ("uprobe/older", "symbol", None),
    ],
)
def test_what_only_the_real_kernel_has_is_said_to_differ(section: str, kind: str, differs: str | None) -> None:
    found = DIFFERENCE.marked({"program": _failed(section, kind)})["program"]["diagnosis"]
    if differs is None:
        assert found["kind"] == kind
        return
    assert (found["kind"], found["where"]) == ("simulation", "x @ y.c:1")
    matter = "takes no probe there" if "shy" in section else "lacks it"
    assert found["what"] == f"{differs}: 5.4 has it, and the base 6.1 {matter}: the simulation cannot show it"


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_the_shipped_profiles_are_compared(arch: str) -> None:
    found = simulated.between(store.named(f"6.1-{arch}"), store.named(f"5.4-{arch}"))
    assert {"blk_account_io_merge_bio", "sock_do_ioctl"} & set(found.hidden["symbols"])
    assert "writeback/writeback_dirty_folio" in found.hidden["tracepoints"]
    assert "writeback_dirty_folio" in found.hidden["raw_tracepoints"]
    assert "writeback/writeback_dirty_page" in found.lacking["tracepoints"]
    assert "account_page_dirtied" in found.lacking["symbols"]
    for part in ("symbols", "tracepoints", "raw_tracepoints"):
        assert not set(found.hidden[part]) & found.lacking[part]
    assert "do_unlinkat" not in found.hidden["symbols"]
    assert "sched/sched_switch" not in found.hidden["tracepoints"]


def test_only_a_release_with_a_profile_has_a_list() -> None:
    asked = simulated.request(Target(MATRIX.kernel("5.4-sim"), "x86_64"))
    assert asked is not None
    assert len(str(asked["absent"])) < 300_000
    for name in ("4.9-sim", "6.1-nobtf"):
        without = simulated.request(Target(MATRIX.kernel(name), "x86_64"))
        assert without is not None
        assert "absent" not in without
    assert simulated.request(Target(MATRIX.kernel("6.1"), "x86_64")) is None


PROGRAMS = {
    "there": "kprobe/do_unlinkat",
    "newer": "kprobe/sock_do_ioctl",
    "older": "kprobe/account_page_dirtied",
    "tp_there": "tp/sched/sched_switch",
    "tp_newer": "tp/writeback/writeback_dirty_folio",
    "tp_older": "tp/writeback/writeback_dirty_page",
    "raw_there": "raw_tp/sched_switch",
    "raw_newer": "raw_tp/writeback_dirty_folio",
}


def test_functions_and_tracepoints_are_those_of_the_real_kernel(need: Callable[[str], None], tmp_path: Path) -> None:
    need("6.1-x86_64")
    code = HEAD + "".join(f'SEC("{section}") int {name}(void *ctx) {{ return 0; }}\n' for name, section in PROGRAMS.items())
    targets = [Target(MATRIX.kernel(name), "x86_64") for name in ("5.4-sim", "4.14-sim")]
    info = inspect(compiled(tmp_path, "hooks", code))
    outcomes = {each.target: each for each in object_run.run([info], targets, MachineRoom(MATRIX))[info.path]}
    new = {name: object_run.state(program) for name, program in outcomes["5.4-sim-x86_64"].programs.items()}
    old = {name: object_run.state(program) for name, program in outcomes["4.14-sim-x86_64"].programs.items()}
    good = dict.fromkeys(("there", "tp_there", "raw_there"), "attached")
    bad = dict.fromkeys(("newer", "tp_newer", "raw_newer"), "not attached")
    assert new == good | bad | {"older": "differs", "tp_older": "differs"}
    # 4.14 has no raw tracepoints, and its kprobes are defined through tracefs.
    assert old == new | {"raw_there": "not loaded", "raw_newer": "not loaded"}
    found = outcomes["5.4-sim-x86_64"].programs
    assert found["newer"]["error"].endswith("failed to create kprobe 'sock_do_ioctl+0x0' perf event: No such file or directory")
    assert found["newer"]["diagnosis"]["kind"] == "symbol"
    assert found["tp_newer"]["diagnosis"]["kind"] == found["raw_newer"]["diagnosis"]["kind"] == "tracepoint"
    assert "the simulation cannot show it" in found["older"]["diagnosis"]["what"]
