"""Who acts in a trigger: a second thread, whose id is not its process's, and another process at the other end."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from .. import bpf
from ..child import Known, Pipes
from .kind import name_thread

PEER_COMM = "kmatrix-peer"
_PR_SET_PDEATHSIG = 1


def by_second_thread(pipes: Pipes, name: str, act: Callable[[], Known]) -> NoReturn:
    """Have a second thread of that name do it once the word comes, so that pid and tgid differ; what it returns is known."""

    def second() -> None:
        try:
            name_thread(name)
            pipes.say({"pid": own_tid(), "tgid": own_pid(), "comm": name})
            pipes.ready()
            pipes.say(act() | {"done": True})
        except BaseException as error:
            pipes.say({"error": f"{type(error).__name__}: {error}"})
            os._exit(125)

    threading.Thread(target=second).start()
    pipes.rest()


def own_pid() -> int:
    """The calling process's pid as BPF programs see it, also in a pid namespace: as the guest's /proc has it."""
    return int(os.readlink("/proc/self"))


def own_tid() -> int:
    """The same of the calling thread."""
    return int(os.path.basename(os.readlink("/proc/thread-self")))


class Peer:
    """Another process, with a name of its own, that is prepared and waits for its word. It ends with the process that made it."""

    def __init__(self, make: Callable[[], Callable[[], Known]]) -> None:
        """`make` runs in the new process at once; what it returns runs there when the word comes. Raises ChildProcessError."""
        wait, self._go = os.pipe()
        self._said, say_to = os.pipe()
        if os.fork() == 0:
            _live(wait, say_to, make)
        os.close(wait)
        os.close(say_to)
        self._lines = os.fdopen(self._said, "rb")
        self.pid = int(self.answer()["pid"])

    @property
    def known(self) -> Known:
        """What is known of it."""
        return {"peer_pid": self.pid, "peer_comm": PEER_COMM}

    def go(self) -> None:
        """Give the word."""
        os.write(self._go, b"\n")

    def answer(self) -> Known:
        """Wait until it has done its part; what it says of that. Raises ChildProcessError where it failed."""
        said: Known = json.loads(self._lines.readline() or b'{"error": "it ended"}')
        if "error" in said:
            raise ChildProcessError(f"{PEER_COMM}: {said['error']}")
        return said


def _live(wait: int, say_to: int, make: Callable[[], Callable[[], Known]]) -> NoReturn:
    """The peer's whole life. It does not exit when it is done: what it has open stays open until it is killed."""
    try:
        bpf.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        name_thread(PEER_COMM)
        act = make()
        os.write(say_to, b'{"pid": %d}\n' % own_pid())
        if os.read(wait, 1):
            os.write(say_to, json.dumps(act()).encode() + b"\n")
            while True:
                signal.pause()
    except BaseException as error:
        os.write(say_to, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
    finally:
        os._exit(1)
