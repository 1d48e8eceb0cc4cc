"""A program in the guest whose streams are the host's: output as it comes, input as the guest takes it, signals, a time limit.

What the guest holds of either is bounded: its program waits while the host does not read, and the host sends no more input than the
guest has room for (kmatrix/guest/stream.py).
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmatrix.vm.machine import Machine
from kmatrix.vm.parts import Send

Sink = Callable[[bytes], object]
"""Takes output as it comes. The guest's program waits until it returns."""

WINDOW = 256 << 10
"""Bytes of input on their way that the program has not read."""
_INSISTENT = 3
"""The signal that is turned into SIGKILL: the program did not end at those before."""
_GRACE = 15.0
"""Seconds in which a guest that was told to kill its program must say that it has."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    exit: int | None
    """The exit status; None where a signal ended it."""
    signal: int | None
    core: bool
    """It left a core dump."""
    timed_out: bool
    error: str | None
    """Why it could not be started (`exit` is 126 or 127 then)."""
    full: tuple[str, ...]
    """File systems of the guest that had no room left while it ran."""


class Conversation:
    """The host's side of the op `stream` (kmatrix.vm.machine.Talk)."""

    def __init__(
        self, stdout: Sink, stderr: Sink, *, stdin: int | None = None, signals: int | None = None, timeout: float = math.inf
    ) -> None:
        self._sinks = {"stdout": stdout, "stderr": stderr}
        self._stdin = stdin
        self._signals = signals
        self._credit = WINDOW
        self._start = time.monotonic()
        self._deadline = self._start + timeout
        self._asked = 0
        self._killed_at: float | None = None
        self._end: float | None = None
        self.timed_out = False
        self.ended: Mapping[str, Any] | None = None
        """What the guest said of the program's end."""

    @property
    def seconds(self) -> float:
        """Until now, or to the program's end."""
        return (self._end or time.monotonic()) - self._start

    def sources(self) -> list[int]:
        """Standard input while the guest has room for it, and the signals."""
        fds = [self._signals] if self._signals is not None else []
        if self._stdin is not None and self._credit > 0:
            fds.append(self._stdin)
        return fds

    def pause(self) -> float:
        """Until the time limit."""
        return max(0.0, self._deadline - time.monotonic()) if self._killed_at is None else _GRACE

    def patience(self) -> float:
        """Without end, until the program was to be killed."""
        return math.inf if self._killed_at is None else self._killed_at + _GRACE - time.monotonic()

    def turn(self, ready: Collection[int], send: Send) -> None:
        """Pass on input and signals; end the program when its time is over."""
        if self._signals is not None and self._signals in ready:
            for number in os.read(self._signals, 64):
                self._asked += 1
                if self._asked >= _INSISTENT and self._killed_at is None:
                    number, self._killed_at = int(signal.SIGKILL), time.monotonic()
                send({"signal": number})
        if self._stdin is not None and self._stdin in ready:
            data = os.read(self._stdin, min(self._credit, 1 << 16))
            self._credit -= len(data)
            send({"stdin": bool(data)}, data)
            if not data:
                self._stdin = None
        if self._killed_at is None and time.monotonic() >= self._deadline:
            self.timed_out, self._killed_at = True, time.monotonic()
            send({"signal": int(signal.SIGKILL)})

    def take(self, message: dict[str, Any], send: Send) -> None:
        """Output goes to its sink; the program's end is acknowledged, so that no input follows it."""
        if (name := message.get("stream")) is not None:
            self._sinks[name](message["data"])
        self._credit += message.get("took", 0)
        if message.get("deaf"):
            self._stdin = None
        if "ended" in message:
            self._end = time.monotonic()
            self.ended, self._stdin, self._signals = message["ended"], None, None
            self._deadline = math.inf
            send({"close": True})


def run(
    machine: Machine,
    argv: Sequence[str],
    talk: Conversation,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    caps: Sequence[str] | None = None,
    core: int = 0,
) -> Ended:
    """Run a program in the guest with the streams of `talk`. What it started is killed when it has ended.

    `user` is a name of the guest's, or UID[:GID]. `caps` are the capabilities that it keeps (None: all that the user has). `core` is how
    large a core dump may be, in bytes. Raises what `Machine.call` raises: KernelDied where the kernel panics.
    """
    params = {
        "argv": list(argv),
        "env": dict(env or {}),
        "cwd": cwd,
        "user": user,
        "caps": None if caps is None else list(caps),
        "core": core,
        "stdin": talk._stdin is not None,
        "window": WINDOW,
    }
    answer = machine.converse("stream", params, talk)
    return Ended(answer["exit"], answer["signal"], answer["core"], talk.timed_out, answer["error"], tuple(answer["full"]))
