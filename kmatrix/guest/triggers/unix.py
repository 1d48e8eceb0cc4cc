"""Triggers on Unix sockets."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Mapping

from ..child import Child, Known, Pipes
from .actor import by_second_thread
from .kind import WORK, Kind, Spec, become_someone
from .sockets import ACTOR, answer

SENT = 611
"""Bytes of a datagram."""
_TYPES = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET}
_numbers = itertools.count(1)


def _bound(kind: socket.SocketKind) -> tuple[socket.socket, str]:
    """A socket at a path that the trigger's user may connect to; and that path."""
    path = f"{WORK}/socket-{next(_numbers)}"
    os.makedirs(WORK, mode=0o755, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(path)
    os.chmod(path, 0o666)
    return sock, path


def _connect(spec: Spec) -> Child:
    """Connect to a listener at a path, and try to at a path that is not there."""
    kind = _TYPES[str(spec.get("type") or "stream")]
    listener, path = _bound(kind)
    listener.listen(1)
    missing = f"{WORK}/socket-missing"

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        sock, other = (socket.socket(socket.AF_UNIX, kind) for _ in range(2))

        def act() -> Known:
            ret = answer("connect", lambda: sock.connect(path))
            absent = answer("connect to a missing path", lambda: other.connect(missing), -errno.ENOENT)
            return {
                "family": int(socket.AF_UNIX), "type": int(kind), "path": path, "ret": ret, "missing_path": missing, "missing_ret": absent,
            }  # fmt: skip

        by_second_thread(pipes, "kmatrix-unix", act)

    child = Child("unix_connect", action)
    child.keep = listener
    return child


def _send(_spec: Spec) -> Child:
    """Send a datagram to a socket at a path, and try to at a path that is not there."""
    receiver, path = _bound(socket.SOCK_DGRAM)
    missing = f"{WORK}/socket-missing"

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

        def act() -> Known:
            ret = answer("sendto", lambda: sock.sendto(bytes(SENT), path))
            absent = answer("sendto a missing path", lambda: sock.sendto(bytes(SENT), missing), -errno.ENOENT)
            known = {"family": int(socket.AF_UNIX), "type": int(socket.SOCK_DGRAM), "path": path, "bytes": SENT}
            return known | {"ret": ret, "missing_path": missing, "missing_ret": absent}

        by_second_thread(pipes, "kmatrix-unix", act)

    child = Child("unix_send", action)
    child.keep = receiver
    return child


_COMMON: Mapping[str, str] = {
    **ACTOR,
    "family": "AF_UNIX (1)",
    "path": "the socket's path",
    "missing_path": "the path where there is none",
    "missing_ret": "-2: minus ENOENT",
}

KINDS: Mapping[str, Kind] = {
    "unix_connect": Kind(
        _connect,
        {**_COMMON, "type": "SOCK_STREAM (1) or SOCK_SEQPACKET (5)", "ret": "0"},
        options={"type": ("stream", "seqpacket")},
    ),
    "unix_send": Kind(
        _send,
        {**_COMMON, "type": "SOCK_DGRAM (2)", "bytes": "of the datagram", "ret": "what sendto(2) returns: the same"},
    ),
}
