"""A child of the agent that has prepared something and waits for the word to do it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import bpf
from .cgroup import Cgroup
from .namespaces import NAMESPACES, Surroundings, enter, numbers

Known = dict[str, Any]


@dataclass
class Outcome:
    """What the trigger did."""

    known: Known
    ok: bool = True
    exit: int | None = None
    """Exit status, or minus the signal; None of a child that has not ended yet."""
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipes:
    """The child's ends: it reads the word to go from one and writes JSON lines to the other."""

    go: int
    say_to: int
    cgroup: str | None = None
    """The path of the child's cgroup."""

    def say(self, known: Known) -> None:
        """Add to what is known."""
        os.write(self.say_to, json.dumps(known).encode() + b"\n")

    def ready(self) -> None:
        """Tell that everything is prepared, and wait for the word."""
        self.say({"ready": True})
        if not os.read(self.go, 1):
            os._exit(0)  # the agent is gone

    def rest(self) -> NoReturn:
        """Do nothing more until killed: an interpreter's exit would be paid for by the cell, its killing comes after."""
        while True:
            signal.pause()


class Child:
    """A process of its own cgroup that has prepared a trigger and waits for the word to pull it.

    `surroundings` are those of the children that are made next: what makes a child for a kind of trigger need not know of them.
    """

    surroundings = Surroundings()

    def __init__(self, kind: str, action: Callable[[Pipes], int]) -> None:
        self.kind = kind
        self.cgroup = Cgroup(self.surroundings.cgroup_depth)
        self.known: Known = {"ppid": os.getpid()}
        # None where cgroup v2 is not in use: the process has no id there that an event could have.
        self.known.update(cgroup_id=self.cgroup.id, cgroup_parent_id=self.cgroup.parent_id, cgroup_path=self.cgroup.path)
        self.title = kind
        self.keep: socket.socket | None = None
        self.outputs: tuple[int, ...] = ()
        self._error: str | None = None
        self._ready = self._reaped = False
        self._said = b""
        go, self._go = os.pipe()
        self._say, say_to = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _live(Pipes(go, say_to, self.cgroup.path), self.cgroup, self.surroundings, action)
        os.close(go)
        os.close(say_to)

    def await_ready(self, deadline: float) -> bool:
        """Wait until the child is prepared; False where it is not by then, or failed."""
        while not self._ready and self._listen(deadline):
            pass
        return self._ready

    def pull(self, timeout: float, *, to_the_end: bool, meanwhile: Callable[[], None] | None = None) -> Outcome:
        """Give the word; returns when the child says it has done it, or (`to_the_end`) has ended. `meanwhile` is called now and then."""
        deadline = time.monotonic() + timeout
        outcome = Outcome(self.known)
        if self.await_ready(deadline):
            os.write(self._go, b"\n")
            while "done" not in self.known and self._listen(deadline, meanwhile):
                pass
        outcome.ok = self._error is None and (to_the_end or self.known.pop("done", False))
        if to_the_end or not outcome.ok:
            outcome.exit = self._reap(deadline)
        outcome.error = self._error
        if self._error is None and to_the_end and outcome.exit is None:
            outcome.ok, outcome.error = False, f"did not end within {timeout:g} s"
        elif not outcome.ok and outcome.error is None:
            outcome.error = f"the child ended with {outcome.exit} before it had done anything"
        return outcome

    def _listen(self, deadline: float, meanwhile: Callable[[], None] | None = None) -> bool:
        """Take in what the child says; False at its end, or at the deadline."""
        patience = max(0.0, deadline - time.monotonic())
        if meanwhile is not None:
            meanwhile()
        if not select.select([self._say], [], [], patience if meanwhile is None else min(patience, _NOW_AND_THEN))[0]:
            return meanwhile is not None and time.monotonic() < deadline
        piece = os.read(self._say, 65536)
        *lines, self._said = (self._said + piece).split(b"\n")
        for line in lines:
            self.known.update(json.loads(line))
        self._ready = bool(self.known.pop("ready", self._ready))
        self._error = self.known.pop("error", self._error)
        return bool(piece)

    def _reap(self, deadline: float) -> int | None:
        """The child's exit status; None where it had to be killed at the deadline."""
        pause = 0.001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._reaped = True
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                self._kill()
                return None
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._reaped = True

    def close(self) -> None:
        """Nothing of the child stays: neither it, nor what it started, nor its cgroup."""
        bpf.close(self._go, self._say)
        if self.keep is not None:
            self.keep.close()
        if not self._reaped:
            self._kill()
        self.cgroup.close()


_NOW_AND_THEN = 0.005
"""Seconds between two looks at what the events do meanwhile."""


def _live(pipes: Pipes, cgroup: Cgroup, surroundings: Surroundings, action: Callable[[Pipes], int]) -> NoReturn:
    """The child's whole life."""
    status = 125
    try:
        cgroup.join()
        if surroundings.namespaces and (parent := enter(surroundings.namespaces)):
            pipes.say({"ppid": parent})
        pipes.say({"ns_pid": os.getpid()} | {f"{name}_ns": number for name, number in numbers(NAMESPACES).items()})
        status = action(pipes)
    except BaseException as error:
        with suppress(OSError):
            pipes.say({"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(status)
