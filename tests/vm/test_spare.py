"""The machine for the next cell, restored while another is at work."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host import memory, paths
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import spare
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm import VmSpec


@pytest.fixture
def target(native_spec: VmSpec) -> Target:
    return load_matrix().target(f"6.1-{native_spec.arch}")


@pytest.fixture
def room() -> MachineRoom:
    return MachineRoom(load_matrix(), accel="tcg")


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def pending(room: MachineRoom) -> Any:
    assert room._spare._machine is not None, "a spare is being restored"
    return room._spare._machine.result()[0]


def consoles() -> set[str]:
    return {path.name for path in paths.cache_dir("consoles").glob("spare-*")}


def test_the_next_machine_is_the_spare_and_its_console_gets_its_place(room: MachineRoom, target: Target, tmp_path: Path) -> None:
    there = consoles()
    room.spec(target)
    room.expect(target)
    with room.machine(target, tmp_path / "first.log"):
        waiting = pending(room)
    with room.machine(target, tmp_path / "second.log") as (vm, probe):
        assert vm is waiting
        assert probe["features"]["ringbuf"] is True
        assert abs(vm.call("time", now=time.time())["now"] - time.time()) < 60
        vm.run(["sh", "-c", "echo told-by-the-spare > /dev/kmsg; echo '<3>told-by-the-spare' > /dev/kmsg"])
        assert room._spare._machine is None, "nothing was expected after it"
    assert "told-by-the-spare" in (tmp_path / "second.log").read_text()
    assert not runs(vm.pid)
    room.close()
    assert consoles() == there


def test_a_spare_that_is_not_wanted_is_ended(room: MachineRoom, target: Target, tmp_path: Path) -> None:
    there = consoles()
    room.spec(target)
    room.expect(target)
    with room.machine(target, tmp_path / "first.log"):
        unwanted = pending(room)
        assert runs(unwanted.pid)
    room.close()
    assert not runs(unwanted.pid)
    room.expect(target)
    with room.machine(target, tmp_path / "first.log"):
        other = pending(room)
        room.expect(target)
        with room.machine(target, tmp_path / "with-memory.log", room_for=300 << 20) as (vm, _):
            assert vm is not other
            assert not runs(other.pid), "a new one is begun in its place"
    room.close()
    assert consoles() == there


def test_a_spare_that_died_meanwhile_is_no_trouble(room: MachineRoom, target: Target, tmp_path: Path) -> None:
    room.spec(target)
    room.expect(target)
    with room.machine(target, tmp_path / "first.log"):
        pending(room).kill()
    with room.machine(target, tmp_path / "second.log") as (vm, _):
        assert vm.run(["true"]).exit == 0


def test_nothing_is_expected_where_there_is_no_room_for_it(
    room: MachineRoom, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "available_mib", lambda: 256)
    room.spec(target)
    room.expect(target)
    with room.machine(target, tmp_path / "first.log"):
        assert room._spare._machine is None


def test_a_core_for_each_worker_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert spare.allowed(1)
    assert not spare.allowed(2)


def test_the_kernel_says_what_memory_can_be_had() -> None:
    available = memory.available_mib()
    assert available is not None
    assert 0 < available <= os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
