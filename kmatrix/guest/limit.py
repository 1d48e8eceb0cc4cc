"""A limit for the verifier: a program that it is still at work on after so many seconds is interrupted, and what it wrote last is kept.

The verifier looks for pending signals (c3494801cd17, 5.0) and then returns EAGAIN. Before 5.0 it cannot be interrupted; it ends by itself,
since it looks at no more than 131,072 instructions there.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 30.0
"""How long the verifier may be at work on one program, unless the host says another time."""
AT_MOST = 3
"""How many times as long by the clock, where the host is crowded and the guest's own time passes slowly."""
LISTENING = 2.0
"""Seconds that the verifier goes on with a log, so that there is a last state to show."""
TICK = 0.25
"""Seconds between two looks."""
TICKS = os.sysconf("SC_CLK_TCK")
SIGNAL = signal.SIGUSR1


def prepare() -> None:
    """Have the signal end system calls and do nothing else; in the main thread, once."""
    signal.signal(SIGNAL, lambda *_: None)


class Watch:
    """One load that is watched. The thread that loads makes it."""

    def __init__(self, seconds: float, log: mmap.mmap, progress: Callable[[], int]) -> None:
        self._seconds, self._log, self._progress = seconds, log, progress
        self._loader, self._thread_id = threading.get_ident(), threading.get_native_id()
        self._over = threading.Event()
        self._signals = threading.Lock()
        self._seen, self._since, self._used = -1, 0.0, 0.0
        self.after: float | None = None
        """The limit, where it was reached."""
        self.words = b""
        """The verifier's log when it was interrupted; empty where it had written none."""

    def look(self) -> None:
        """See whether the load has come further; interrupt it where it has not for too long."""
        with self._signals:  # after the load, what `progress` counts may be gone
            if self._over.is_set():
                return
            now = self._progress()
        if now != self._seen:
            self._seen, self._since, self._used = now, time.monotonic(), self._in_the_kernel()
        elif self._in_the_kernel() - self._used >= self._seconds or time.monotonic() - self._since >= AT_MOST * self._seconds:
            self.after = self._seconds
            self._interrupt()

    def _in_the_kernel(self) -> float:
        """Seconds of CPU that the loading thread has used in the kernel: the verifier's, but not those in which libbpf reads BTF."""
        with open(f"/proc/self/task/{self._thread_id}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[12]) / TICKS  # stime (proc_pid_stat(5))

    def _interrupt(self) -> None:
        """Interrupt until libbpf gives up: it tries five times without a log, and five times with one."""
        while not self._over.is_set():
            if self._log[0:1] != b"\0" and not self.words:
                self._over.wait(LISTENING)
                self.words = written(self._log)
            with self._signals:  # none comes after the load: it would interrupt what the thread does next
                if not self._over.is_set():
                    signal.pthread_kill(self._loader, SIGNAL)
            self._over.wait(0.02)

    def close(self) -> None:
        """The load is over."""
        with self._signals:
            self._over.set()


class _Watcher:
    """The thread that looks at loads. It is started with the first one and stays: starting a thread costs an emulated CPU some ten milliseconds."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None

    def begin(self, watch: Watch) -> None:
        """Look at this load from now on."""
        self._watch = watch
        if self._thread is None or not self._thread.is_alive():  # also in a process that was forked off: threads stay behind
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def end(self, watch: Watch) -> None:
        """Look at it no more."""
        watch.close()
        self._watch = None

    def _look(self) -> None:
        while True:
            time.sleep(TICK)
            if (watch := self._watch) is not None:
                watch.look()


_watcher = _Watcher()


def written(log: mmap.mmap) -> bytes:
    """What stands in the log up to its end."""
    return log[: max(log.find(b"\0"), 0)]


@contextmanager
def watching(seconds: float, log: mmap.mmap, progress: Callable[[], int]) -> Iterator[Watch]:
    """Limit what this thread does inside; `progress` counts what is done, and each step has `seconds` for itself."""
    watch = Watch(seconds, log, progress)
    _watcher.begin(watch)
    try:
        yield watch
    finally:
        _watcher.end(watch)
