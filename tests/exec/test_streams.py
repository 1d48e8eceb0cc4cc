"""A program in a guest with the host's streams: one guest for all of a target's questions."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from kmatrix.matrix.load import load_matrix
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.vm import Machine
from kmatrix.vm.errors import GuestError
from kmatrix.vm.stream import Conversation, Ended, run

TARGETS = ("6.1-x86_64", "6.1-arm64", "5.4-x86_64", "4.14-arm64")


@pytest.fixture(scope="module", params=TARGETS)
def vm(request: pytest.FixtureRequest, need: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    need(request.param)
    room = MachineRoom(load_matrix(), accel="tcg")
    console = tmp_path_factory.mktemp("consoles") / f"{request.param}.log"
    with room.machine(room.matrix.target(request.param), console) as (machine, _):
        yield machine


class Ran:
    """What a program wrote and how it ended."""

    def __init__(self, vm: Machine, *argv: str, stdin: bytes | None = None, timeout: float = 120, **more: object) -> None:
        out, err = bytearray(), bytearray()
        given = None
        if stdin is not None:
            given, write = os.pipe()
            threading.Thread(target=_write, args=(write, stdin)).start()
        try:
            talk = Conversation(out.extend, err.extend, stdin=given, timeout=timeout)
            self.ended: Ended = run(vm, argv, talk, **more)  # type: ignore[arg-type]
        finally:
            if given is not None:
                os.close(given)
        self.out, self.err = bytes(out), bytes(err)


def _write(fd: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(fd, "wb") as pipe:
        pipe.write(data)


def sh(script: str) -> tuple[str, str, str]:
    return ("sh", "-c", script)


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_exit_status_is_the_programs(vm: Machine, status: int) -> None:
    ran = Ran(vm, *sh(f"echo out; echo err >&2; exit {status}"))
    assert (ran.ended.exit, ran.ended.signal, ran.ended.timed_out) == (status, None, False)
    assert (ran.out, ran.err) == (b"out\n", b"err\n")


def test_a_signal_that_ends_it_is_told(vm: Machine) -> None:
    ended = Ran(vm, *sh("kill -SEGV $$")).ended
    assert (ended.exit, ended.signal, ended.core) == (None, 11, False)


def test_a_program_that_hangs_is_killed_with_what_it_started(vm: Machine) -> None:
    start = time.monotonic()
    ran = Ran(vm, *sh("sleep 3333 & echo before; sleep 3333"), timeout=5)
    assert ran.ended.timed_out
    assert ran.out == b"before\n"
    assert time.monotonic() - start < 30
    assert b"3333" not in Ran(vm, "ps", "ax").out


def test_what_a_program_leaves_running_keeps_nobody_waiting(vm: Machine) -> None:
    assert Ran(vm, *sh("sleep 3333 & echo started")).out == b"started\n"
    assert b"3333" not in Ran(vm, "ps", "ax").out


def test_a_program_that_closes_its_outputs_is_waited_for(vm: Machine) -> None:
    assert Ran(vm, *sh("exec >&- 2>&-; sleep 1; exit 6")).ended.exit == 6


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_input_comes_whole(vm: Machine, size: int) -> None:
    data = os.urandom(size)
    ran = Ran(vm, "md5sum", stdin=data)
    assert ran.out.split()[0].decode() == hashlib.md5(data).hexdigest()


def test_input_that_nobody_reads_keeps_nobody_waiting(vm: Machine) -> None:
    ran = Ran(vm, *sh("exec <&-; echo done"), stdin=bytes(100_000))
    assert (ran.ended.exit, ran.out) == (0, b"done\n")
    assert Ran(vm, *sh("head -c 3"), stdin=b"abc\n" * 100_000).out == b"abc"
    assert Ran(vm, "cat", stdin=b"next").out == b"next"


def test_much_output_comes_whole_while_the_guests_memory_stays_as_it_is(vm: Machine) -> None:
    size = (100 if vm.spec.arch == "x86_64" and vm.spec.kernel.release.startswith("6.") else 30) << 20
    free = [_free(vm)]
    digest = hashlib.md5()
    counted = 0

    def take(data: bytes) -> None:
        nonlocal counted
        digest.update(data)
        counted += len(data)

    ended = run(vm, sh(f"head -c {size} /dev/zero; grep MemFree: /proc/meminfo >&2"), Conversation(take, take_free(free)))
    assert ended.exit == 0
    assert counted == size
    assert digest.hexdigest() == hashlib.md5(bytes(size)).hexdigest()
    assert min(free) > free[0] - (24 << 10), "KiB; the output is 30 MiB or more"


def _free(vm: Machine) -> int:
    return _kib(Ran(vm, "grep", "MemFree:", "/proc/meminfo").out)


def _kib(line: bytes) -> int:
    found = re.search(rb"(\d+) kB", line)
    assert found is not None
    return int(found[1])


def take_free(seen: list[int]) -> Callable[[bytes], None]:
    return lambda line: seen.append(_kib(line))


def test_signals_reach_the_process_group(vm: Machine) -> None:
    read, write = os.pipe()
    out = bytearray()

    def take(data: bytes) -> None:
        out.extend(data)
        if b"up" in data:
            os.write(write, bytes([2]))

    try:
        script = "trap 'echo got; exit 9' INT; sh -c 'trap \"echo too; exit\" INT; echo up; while :; do sleep 0.1; done'; sleep 9"
        ended = run(vm, sh(script), Conversation(take, take, signals=read, timeout=60))
    finally:
        os.close(read)
        os.close(write)
    assert ended.exit == 9
    assert sorted(bytes(out).split()) == [b"got", b"too", b"up"]


def test_what_cannot_be_started_says_why(vm: Machine) -> None:
    missing = Ran(vm, "nosuch", stdin=b"never read").ended
    assert (missing.exit, missing.error) == (127, "No such file or directory: nosuch")
    assert Ran(vm, "/etc/passwd").ended.exit == 126
    assert Ran(vm, "echo", "still there").out == b"still there\n"


def test_it_runs_as_a_user_with_the_capabilities_that_are_left(vm: Machine) -> None:
    script = "id -un; id -g; grep -E 'CapEff|CapBnd' /proc/self/status; echo $HOME"
    name, group, effective, bounding, home = (
        Ran(vm, *sh(script), user="nobody", caps=["cap_net_admin", "CHOWN"]).out.decode().splitlines()
    )
    assert (name, group, home) == ("nobody", "65534", "/nonexistent")
    assert [int(line.split()[1], 16) for line in (effective, bounding)] == [1 << 12 | 1] * 2
    assert b"CapEff:\t0000000000000000" in Ran(vm, "cat", "/proc/self/status", caps=[]).out
    assert Ran(vm, *sh("id -u; id -g"), user="1000:7").out == b"1000\n7\n"


def test_a_user_or_capability_that_the_guest_does_not_know_is_named(vm: Machine) -> None:
    with pytest.raises(GuestError, match="no user 'jane'; it knows root, sshd, nobody"):
        Ran(vm, "true", user="jane")
    with pytest.raises(GuestError, match="'cap_fly' is no capability"):
        Ran(vm, "true", caps=["cap_fly"])
    if vm.spec.kernel.release.startswith(("4.14", "5.4")):
        with pytest.raises(GuestError, match=r"this kernel has no CAP_BPF \(its last is CAP_AUDIT_READ\)"):
            Ran(vm, "true", caps=["cap_bpf"])


def test_the_agent_is_as_before(vm: Machine) -> None:
    assert vm.run(["cat", "/proc/self/oom_score_adj"]).stdout == b"0\n"
    assert Ran(vm, "cat", "/proc/self/oom_score_adj").out == b"0\n"


def test_a_full_file_system_is_noticed(vm: Machine) -> None:
    assert Ran(vm, *sh("head -c 100K /dev/zero > /tmp/x")).ended.full == ()
    vm.run(["mount", "-t", "tmpfs", "-o", "size=1M", "small", "/dev/shm"])
    ran = Ran(vm, *sh("cat /dev/zero > /dev/shm/x"))
    assert (ran.ended.exit, ran.ended.full) == (1, ("/dev/shm",))
