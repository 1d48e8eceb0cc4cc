"""QEMU's monitor protocol on a socket that QEMU inherited: as much of it as a snapshot and a port forward need."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterable
from typing import Any

from kmatrix.host.errors import InfraError


class QmpError(InfraError):
    """QEMU refused a command, or its monitor did not answer."""


class Qmp:
    """The host's end. Commands may be written before QEMU runs: it takes them in order, so a restore needs no round trip."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._ahead = 0  # answers that nobody has read yet
        self.post([("qmp_capabilities", {})])

    def post(self, commands: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Send commands without waiting; their answers are checked by the next `call`."""
        for name, arguments in commands:
            self._sock.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            self._ahead += 1

    def call(self, name: str, *, timeout: float = 10.0, **arguments: Any) -> Any:
        """Run one command and return what QEMU answers; raises QmpError on a refusal, silence or end."""
        self.post([(name, arguments)])
        return self._answer(name, timeout)

    def give(self, name: str, fd: int, *, timeout: float = 10.0) -> None:
        """Hand QEMU a descriptor that commands can then mean by `fd:NAME`."""
        command = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode() + b"\n"
        socket.send_fds(self._sock, [command], [fd])
        self._ahead += 1
        self._answer("getfd", timeout)

    def _answer(self, name: str, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            message = self._receive(deadline)
            if "return" not in message and "error" not in message:
                continue  # the greeting, an event
            self._ahead -= 1
            if "error" in message:
                raise QmpError(f"QEMU's monitor: {message['error'].get('desc', message['error'])}", where=name)
            if not self._ahead:
                return message["return"]

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """Run a command of the human monitor; its output, where an empty one is its way to say yes."""
        return str(self.call("human-monitor-command", timeout=timeout, **{"command-line": command}))

    def close(self) -> None:
        """Close the socket; QEMU does not mind."""
        self._sock.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise QmpError("QEMU's monitor does not answer")
            try:
                chunk = self._sock.recv(65536)
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise QmpError("QEMU ended")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message
