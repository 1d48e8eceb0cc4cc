"""A QEMU never outlives its parent, however that ends. `sleep` stands in for QEMU here; test_leftovers.py has real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kmatrix.host.errors import InfraError
from kmatrix.vm.process import Process

FOREVER = ["sleep", "1000"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_kill_reaps() -> None:
    process = Process(FOREVER, [])
    assert alive(process.pid)
    process.kill()
    assert not Path(f"/proc/{process.pid}").exists()
    assert process.ended().startswith("was killed by signal 9")
    process.close()
    process.close()


def test_its_last_words_are_kept() -> None:
    process = Process(["sh", "-c", "echo cannot open the disk >&2; exit 3"], [])
    assert process.wait(10)
    assert process.ended() == "ended with exit status 3: cannot open the disk"
    process.close()


def test_a_program_that_is_not_there() -> None:
    process = Process(["/nonexistent/qemu"], [])
    assert process.wait(10)
    assert "/nonexistent/qemu" in process.ended()
    process.close()


def test_without_setpriv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InfraError) as caught:
        Process(FOREVER, [])
    assert caught.value.fix == "apt-get install util-linux"


def test_it_is_out_of_the_terminals_reach() -> None:
    process = Process(FOREVER, [])
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    process.close()


def test_it_lives_on_when_the_thread_that_asked_for_it_ends() -> None:
    started: list[Process] = []

    def ask() -> None:
        process = Process(FOREVER, [])
        started.append(process)
        # Only what has set its parent's death signal can get it: wait for the last exec.
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    (process,) = started
    # join() returns before the thread is gone from the kernel, which is when the death signal would be sent.
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10)
    assert process.ended().startswith("was killed by signal 15"), "and not by 9, its parent's death"
    process.close()


def test_an_error_reaches_the_thread_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:  # noqa: ARG001
        raise PermissionError(1, "refused")

    caught: list[BaseException] = []

    def ask() -> None:
        try:
            Process(FOREVER, [])
        except BaseException as error:
            caught.append(error)

    monkeypatch.setattr(subprocess, "Popen", refuse)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert isinstance(caught[0], InfraError)


def test_a_forked_child_can_start_one_from_a_thread() -> None:
    # The parent's starting thread exists in the parent only.
    thread = threading.Thread(target=lambda: Process(["true"], []).close())
    thread.start()
    thread.join()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        inner = threading.Thread(target=lambda: Process(["true"], []).close())
        inner.start()
        inner.join(20)
        os.write(write, b"n" if inner.is_alive() else b"y")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"


PARENT = """
import sys, threading, time
from kmatrix.vm.process import Process
def start():
    print(Process(["sleep", "1000"], []).pid, flush=True)
if "thread" in sys.argv:
    threading.Thread(target=start).start()
else:
    start()
if "exit" not in sys.argv:
    time.sleep(1000)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, None], ids=str)
@pytest.mark.parametrize("where", ["main", "thread"])
def test_it_dies_with_its_parent(how: signal.Signals | None, where: str) -> None:
    arguments = [where, *([] if how else ["exit"])]
    with subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if how:
            assert alive(pid)
            parent.send_signal(how)
        parent.wait()
    assert gone(pid)


def test_it_does_not_start_under_a_parent_that_has_already_died() -> None:
    # The window between fork and prctl, held open: setpriv runs under a parent that is not the one that asked.
    script = """
import os, sys
import kmatrix.vm.process as process
real = os.getpid()
os.getpid = lambda: real + 1
started = process.Process(["sleep", "1000"], [])
sys.exit(0 if started.wait(10) and "status 1" in started.ended() else 1)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
