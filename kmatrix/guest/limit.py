"""A limit for the verifier: a program that it is still at work on after so many seconds is interrupted, and what it wrote last is kept.

The verifier looks for pending signals (c3494801cd17, 5.0) and then returns EAGAIN. Before 5.0 it cannot be interrupted; it ends by itself,
since it looks at no more than 131,072 instructions there.
"""

from __future__ import annotations

import mmap
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 30.0
"""How long the verifier may be at work on one program, unless the host says another time."""
LISTENING = 2.0
"""Seconds that the verifier goes on with a log, so that there is a last state to show."""
TICK = 0.25
"""Seconds between two looks."""
SIGNAL = signal.SIGUSR1


def prepare() -> None:
    """Have the signal end system calls and do nothing else; in the main thread, once."""
    signal.signal(SIGNAL, lambda *_: None)


class Watch:
    """Watches one load, made by the thread that watches it from `over`."""

    def __init__(self, seconds: float, log: mmap.mmap, progress: Callable[[], int]) -> None:
        self._seconds, self._log, self._progress = seconds, log, progress
        self._loader = threading.get_ident()
        self._done = threading.Event()
        self.after: float | None = None
        """The limit, where it was reached."""
        self.words = b""
        """The verifier's log when it was interrupted; empty where it had written none."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        seen, since = self._progress(), time.monotonic()
        while not self._done.wait(TICK):
            if (now := self._progress()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= self._seconds:
                self.after = self._seconds
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Interrupt until libbpf gives up: it tries five times without a log, and five times with one."""
        while not self._done.is_set():
            if self._log[0:1] != b"\0" and not self.words:
                self._done.wait(LISTENING)
                self.words = written(self._log)
            signal.pthread_kill(self._loader, SIGNAL)
            self._done.wait(0.02)

    def close(self) -> None:
        """The load is over."""
        self._done.set()
        self._thread.join()


def written(log: mmap.mmap) -> bytes:
    """What stands in the log up to its end."""
    return log[: max(log.find(b"\0"), 0)]


@contextmanager
def watching(seconds: float, log: mmap.mmap, progress: Callable[[], int]) -> Iterator[Watch]:
    """Limit what this thread does inside; `progress` counts what is done, and each step has `seconds` for itself."""
    watch = Watch(seconds, log, progress)
    try:
        yield watch
    finally:
        watch.close()
