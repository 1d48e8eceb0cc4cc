"""Triggers on UDP."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Mapping

from ..child import Child, Known, Pipes
from .actor import Peer, by_second_thread
from .kind import Kind, Spec, become_someone
from .sockets import ACTOR, ENDS, FAMILIES, PEER, Loopback, answer, ends, port

SENT, RECEIVED = 733, 457
"""Bytes of a datagram."""


def _send(spec: Spec) -> Child:
    """Send a datagram to a socket, and another to a port that nobody has: of that, the next sending tells."""
    where = Loopback.of(spec)

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        sock, receiver, lost, gone = (where.new(socket.SOCK_DGRAM) for _ in range(4))
        closed = gone.getsockname()
        for own, other in ((sock, receiver), (lost, gone)):
            own.connect(other.getsockname())
        gone.close()
        to = receiver.getsockname()

        def act() -> Known:
            ret = answer("sendto", lambda: sock.sendto(bytes(SENT), to))
            answer("sendto at a closed port", lambda: lost.sendto(bytes(SENT), closed))
            select.select([lost], [], [], 5)  # readable, for its error: the ICMP message has come
            refused = answer("the next sendto at a closed port", lambda: lost.sendto(bytes(SENT), closed), -errno.ECONNREFUSED)
            known = ends(sock) | {"bytes": SENT, "ret": ret}
            return known | {"closed_sport": port(lost), "closed_dport": closed[1], "closed_ret": refused}

        by_second_thread(pipes, "kmatrix-send", act)

    return Child("udp_send", action)


def _receive(spec: Spec) -> Child:
    """Receive a datagram of another process, and try to where there is none."""
    where = Loopback.of(spec)

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        sock, sender = where.new(socket.SOCK_DGRAM), where.new(socket.SOCK_DGRAM)
        sock.connect(sender.getsockname())

        def make() -> Callable[[], Known]:
            return lambda: {"ret": answer("sendto", lambda: sender.sendto(bytes(RECEIVED), sock.getsockname()))}

        peer = Peer(make)

        def act() -> Known:
            peer.go()
            ret = answer("recvfrom", lambda: len(sock.recvfrom(2048)[0]))
            peer.answer()
            sock.setblocking(False)
            empty = answer("recvfrom without a datagram", lambda: len(sock.recvfrom(2048)[0]), -errno.EAGAIN)
            return ends(sock) | peer.known | {"bytes": RECEIVED, "ret": ret, "empty_ret": empty}

        by_second_thread(pipes, "kmatrix-receive", act)

    return Child("udp_receive", action)


_FAMILY = {"family": FAMILIES}

KINDS: Mapping[str, Kind] = {
    "udp_receive": Kind(
        _receive,
        {
            **ACTOR,
            **ENDS,
            **PEER,
            "bytes": "of the datagram's payload",
            "ret": "what recvfrom(2) returns: the same",
            "empty_ret": "-11: minus EAGAIN, where no datagram waits",
        },
        options=_FAMILY,
    ),
    "udp_send": Kind(
        _send,
        {
            **ACTOR,
            **ENDS,
            "bytes": "of each datagram's payload",
            "ret": "what sendto(2) returns: the same",
            "closed_sport": "the port of a second socket, whose datagrams go where nobody receives",
            "closed_dport": "the port that they go to",
            "closed_ret": "-111: minus ECONNREFUSED, what the second of them is answered",
        },
        options=_FAMILY,
    ),
}
