"""Signals of this process as something to poll: while a command runs in a guest they are for the command."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Signals:
    """While entered, the numbers of signals that come can be read from the descriptor that entering gives, one byte each.

    Outside of that they do what they always do. To be entered by the main thread.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before: dict[signal.Signals, _Handler] = {}
        self._former = -1

    def __enter__(self) -> int:
        self._before = {number: signal.signal(number, lambda *_: None) for number in PASSED}
        self._former = signal.set_wakeup_fd(self._write)
        return self._read

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._former)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def writer(self, fd: int) -> Callable[[bytes], None]:
        """Writes all to `fd`. Where a signal comes while nobody reads there, KeyboardInterrupt is raised: nothing else would end it."""

        def write(data: bytes) -> None:
            view = memoryview(data)
            while view:
                came, writable, _ = select.select([self._read], [fd], [])
                if writable:
                    view = view[os.write(fd, view[:4096]) :]
                elif came:
                    raise KeyboardInterrupt

        return write

    def close(self) -> None:
        """Let go of the descriptors."""
        os.close(self._read)
        os.close(self._write)
