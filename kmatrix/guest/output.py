"""What an agent writes: kept within bounds, and its lines as a stream of events."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable

HEAD, TAIL, LINES_KEPT, LONGEST_LINE = 16 << 10, 48 << 10, 4096, 1 << 16


class Output:
    """What comes out of a pipe: its beginning and end, and its lines. Read by a thread, so that nobody who writes ever waits."""

    def __init__(self, fd: int, news: threading.Condition, ready: re.Pattern[str] | None, *, keep: bool) -> None:
        self.ended = self.matched = False
        self.lines: deque[bytes] = deque()
        self.lost = 0
        self._fd, self._news, self._ready, self._keep = fd, news, ready, keep
        self._head, self._tail, self._size, self._part = b"", b"", 0, b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def text(self) -> str:
        """What was written; where that is much, its beginning and end."""
        cut = self._size - len(self._head) - len(self._tail)
        middle = f"\n[… {cut} bytes …]\n".encode() if cut > 0 else b""
        return (self._head + middle + self._tail).decode("utf-8", "replace")

    def _read(self) -> None:
        while data := os.read(self._fd, 1 << 16):
            with self._news:
                self._take(data)
                self._news.notify_all()
        with self._news:
            if self._part:
                self._whole(self._part)
            self.ended = True
            self._news.notify_all()
        os.close(self._fd)

    def _take(self, data: bytes) -> None:
        self._size += len(data)
        room = HEAD - len(self._head)
        self._head, rest = self._head + data[:room], data[room:]
        self._tail = (self._tail + rest)[-TAIL:]
        if not self._keep and (self._ready is None or self.matched):
            return
        block, newline, part = (self._part + data).rpartition(b"\n")
        self._part = part[:LONGEST_LINE]
        if newline:
            self._whole(block)

    def _whole(self, block: bytes) -> None:
        """Take in whole lines, all at once: there may be very many."""
        if self._ready is not None and not self.matched:
            self.matched = bool(self._ready.search(block.decode("utf-8", "replace")))
        if self._keep:
            self.lines += [line for line in block.split(b"\n") if line.strip()]
            while len(self.lines) > LINES_KEPT:
                self.lines.popleft()
                self.lost += 1


class LineStream:
    """The agent's lines as a stream of events, in the place of a buffer's consumer."""

    transport = "lines"

    def __init__(self, output: Output, news: threading.Condition, sink: Callable[[bytes], None]) -> None:
        self._output, self._news, self._sink = output, news, sink

    @property
    def lost(self) -> int:
        """Lines that came faster than they were looked at."""
        return self._output.lost

    def poll(self, seconds: float) -> None:
        """Hand over the lines that have come, waiting up to `seconds` for one."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not self._output.lines and (left := deadline - time.monotonic()) > 0:
                self._news.wait(left)
            lines, self._output.lines = self._output.lines, deque()
        for line in lines:
            self._sink(line)
