"""The wire to the agent: one JSON object a line, bytes as base64. No waiting here: `Machine` polls, this packs and unpacks.

A line with "raw" is followed by so many bytes as they are: the output of a program, and its input.
"""

from __future__ import annotations

import base64
import json
import socket
from typing import Any


def pack(data: bytes) -> str:
    """Bytes as they go over the wire."""
    return base64.b64encode(data).decode("ascii")


def unpack(text: str) -> bytes:
    """Bytes as they came over the wire."""
    return base64.b64decode(text)


_ENOUGH = 8 << 20
"""Bytes taken in at once."""


class Channel:
    """The host's end of the virtio-serial port: a non-blocking socket with a buffer either way."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._in = bytearray()
        self._seen = 0  # bytes of _in known to hold no newline: a long answer is not searched again and again
        self._head: dict[str, Any] | None = None  # a message whose raw bytes are not all there yet
        self._out = memoryview(b"")
        self.ended = False
        """QEMU's end is closed."""

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._sock.fileno()

    @property
    def sending(self) -> bool:
        """Whether there is something left to send: poll for writing."""
        return len(self._out) > 0

    def send(self, message: dict[str, Any], raw: bytes = b"") -> None:
        """Queue one message, with `raw` behind it where there is any, and send what fits."""
        if raw:
            message = {**message, "raw": len(raw)}
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n" + raw
        self._out = memoryview(bytes(self._out) + line)
        self.flush()

    def flush(self) -> None:
        """Send what fits of what is queued."""
        while len(self._out):
            try:
                sent = self._sock.send(self._out[: 1 << 20])
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
                self._out = memoryview(b"")
                return
            self._out = self._out[sent:]

    def fill(self) -> None:
        """Take in what has arrived; of very much, a part, so that a guest that never stops is no reason to hold it all."""
        enough = len(self._in) + _ENOUGH
        while not self.ended and len(self._in) < enough:
            try:
                chunk = self._sock.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            if not chunk:
                self.ended = True
            self._in += chunk

    def take(self) -> dict[str, Any] | None:
        """The next whole message, or None; raw bytes stand in it as "data". Raises ValueError for a line that is not a JSON object."""
        if self._head is None:
            end = self._in.find(b"\n", self._seen)
            if end < 0:
                self._seen = len(self._in)
                return None
            message = json.loads(bytes(self._in[:end]))
            del self._in[: end + 1]
            self._seen = 0
            if not isinstance(message, dict):
                raise ValueError(f"not an object: {message!r:.80}")
            self._head = message
        size = self._head.get("raw")
        if isinstance(size, int):
            if len(self._in) < size:
                return None
            self._head["data"] = bytes(self._in[:size])
            del self._in[:size]
        message, self._head = self._head, None
        return message

    def close(self) -> None:
        """Close the socket: the agent sees its port's other end go away."""
        self._sock.close()
