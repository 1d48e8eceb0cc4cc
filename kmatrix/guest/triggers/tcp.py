"""Triggers on TCP."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping

from ..child import Child, Known, Pipes
from .actor import Peer, by_second_thread, own_pid
from .kind import UID, Kind, Spec, become_someone, name_thread
from .sockets import ACTOR, ENDS, FAMILIES, PEER, Loopback, answer, drop_all, drop_nothing, ends, port, receive, tcp_info

SENT, RECEIVED = 1300, 2100
"""Bytes of payload: two numbers, so that an event which mixes them up is wrong."""
BACKLOG = 7
ESTABLISHED, SYN_SENT = 1, 2
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger: close(2) resets the connection at once


def _connect(spec: Spec) -> Child:
    """Connect over loopback to a listening port, or to one where nobody listens."""
    where, closed = Loopback.of(spec), spec.get("port") == "closed"

    def action(pipes: Pipes) -> int:
        name_thread("kmatrix-connect")
        pid, target = own_pid(), where.new() if closed else where.listener()
        address = target.getsockname()
        pipes.say(become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-connect"})
        with where.new(bound=closed) as sock:  # the port is the kernel's to choose, but a refused socket has it no more
            own = sock.getsockname()
            pipes.ready()
            ret = answer("connect", lambda: sock.connect(address), -errno.ECONNREFUSED if closed else 0)
            own = own if closed else sock.getsockname()
            known = {"saddr": where.address, "daddr": where.address, "sport": own[1], "dport": address[1]}
            pipes.say(known | {"family": int(where.family), "ret": ret, "done": True})
            return pipes.rest()

    return Child("tcp_connect", action)


def _listen(spec: Spec) -> Child:
    """Listen, and try to at a port where somebody does."""
    where = Loopback.of(spec)

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        first, second = where.new(bound=False), where.new(bound=False)
        for sock in (first, second):  # as long as nobody listens, both may be bound to it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind((where.address, 0))
        second.bind(first.getsockname())

        def act() -> Known:
            ret = answer("listen", lambda: first.listen(BACKLOG))
            taken = answer("listen at a port that is taken", lambda: second.listen(BACKLOG), -errno.EADDRINUSE)
            known = {"family": int(where.family), "saddr": where.address, "sport": port(first)}
            return known | {"backlog": BACKLOG, "ret": ret, "taken_ret": taken}

        by_second_thread(pipes, "kmatrix-listen", act)

    return Child("tcp_listen", action)


def _accept(spec: Spec) -> Child:
    """Accept a connection of another process, and try to where there is none."""
    where = Loopback.of(spec)

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        listener = where.listener()

        def make() -> Callable[[], Known]:
            client = where.new(bound=False)
            return lambda: {"ret": answer("connect", lambda: client.connect(listener.getsockname()))}

        peer = Peer(make)

        def act() -> Known:
            peer.go()
            accepted, _ = listener.accept()
            peer.answer()
            listener.setblocking(False)
            empty = answer("accept without a connection", lambda: listener.accept()[0].fileno(), -errno.EAGAIN)
            return ends(accepted) | peer.known | {"ret": accepted.detach(), "empty_ret": empty}

        by_second_thread(pipes, "kmatrix-accept", act)

    return Child("tcp_accept", action)


def _close(spec: Spec) -> Child:
    """Connect to another process, send, receive, and close: first this end, then the other."""
    where = Loopback.of(spec)

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        listener = where.listener()

        def serve() -> Known:
            sock, _ = listener.accept()
            got = len(receive(sock, SENT))
            sock.sendall(bytes(RECEIVED))
            got += len(sock.recv(1))  # the end of the stream
            sock.close()
            return {"got": got}

        peer = Peer(lambda: serve)

        def act() -> Known:
            sock = where.new(bound=False)
            peer.go()
            sock.connect(listener.getsockname())
            sock.sendall(bytes(SENT))
            got = len(receive(sock, RECEIVED))
            known, info = ends(sock), tcp_info(sock)
            sock.close()
            if (got, peer.answer()["got"]) != (RECEIVED, SENT):
                raise ValueError("bytes on loopback were lost")
            counts = {"bytes_acked": info.bytes_acked, "bytes_received": info.bytes_received}
            return known | peer.known | counts | {"sent": SENT, "received": RECEIVED}

        by_second_thread(pipes, "kmatrix-close", act)

    return Child("tcp_close", action)


def _retransmit(spec: Spec) -> Child:
    """Send what the receiver's socket filter drops, until the kernel has sent it again; then let it through. A SYN is left dropped."""
    where, syn = Loopback.of(spec), spec.get("segment") == "syn"

    def action(pipes: Pipes) -> int:
        os.seteuid(UID)  # the sockets are the user's, and the filter is root's: since 6.1.y and 6.12.y it takes CAP_NET_ADMIN
        near, far = (where.new(), where.listener()) if syn else where.connection()
        os.seteuid(0)
        drop_all(far)

        def let_through() -> Known:
            drop_nothing(far)
            return {"got": len(receive(far, SENT))}

        peer = Peer(lambda: let_through)
        pipes.say(become_someone())
        near.setblocking(False)

        def act() -> Known:
            known = {"family": int(where.family), "saddr": where.address, "daddr": where.address}
            known |= {
                "sport": port(near),
                "dport": port(far),
                "state": SYN_SENT if syn else ESTABLISHED,
                "sent": 0 if syn else SENT,
            }
            if syn:
                near.connect_ex(far.getsockname())
            else:
                near.send(bytes(SENT))
            while (info := tcp_info(near)).timeouts == 0:  # 0.2 s after data was sent, or 1 s after a SYN
                time.sleep(0.01)
            if not syn:
                peer.go()
                if peer.answer()["got"] != SENT:
                    raise ValueError("bytes on loopback were lost")
            return known | {"retransmits": info.total_retrans}

        by_second_thread(pipes, "kmatrix-retrans", act)

    return Child("tcp_retransmit", action)


def _reset(spec: Spec) -> Child:
    """Reset a connection to another process, or have it reset by that process."""
    where, received = Loopback.of(spec), spec.get("side") == "received"

    def action(pipes: Pipes) -> int:
        pipes.say(become_someone())
        near, far = where.connection()

        def make() -> Callable[[], Known]:
            near.close()
            return lambda: _hit(far) if received else _feel(far)

        peer = Peer(make)
        far.close()

        def act() -> Known:
            known = ends(near) | peer.known
            peer.go()
            mine = _feel(near) if received else _hit(near)
            other = peer.answer()
            return known | {"ret": mine["ret"], "peer_ret": other["ret"]}

        by_second_thread(pipes, "kmatrix-reset", act)

    return Child("tcp_reset", action)


def _hit(sock: socket.socket) -> Known:
    """Close so that the other end is told by an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    return {"ret": answer("close", sock.close)}


def _feel(sock: socket.socket) -> Known:
    """Wait for what comes from the other end."""
    select.select([sock], [], [], 5)
    return {"ret": answer("recv", lambda: len(sock.recv(1)), -errno.ECONNRESET)}


_FAMILY = {"family": FAMILIES}

KINDS: Mapping[str, Kind] = {
    "tcp_accept": Kind(
        _accept,
        {**ACTOR, **ENDS, **PEER, "ret": "the new socket's file descriptor", "empty_ret": "-11: minus EAGAIN, where none connects"},
        options=_FAMILY,
    ),
    "tcp_close": Kind(
        _close,
        {
            **ACTOR,
            **ENDS,
            **PEER,
            "sent": "bytes of payload that the actor sent",
            "received": "bytes of payload that it received",
            "bytes_acked": "what the kernel counts as sent and acknowledged before the close: the payload, and 1 for the SYN",
            "bytes_received": "what it counts as received before the close: the payload",
        },
        options=_FAMILY,
    ),
    "tcp_connect": Kind(
        _connect,
        {
            "pid": "the process that connects",
            "tgid": "the same",
            "comm": "its name",
            "family": 'AF_INET (2), or AF_INET6 (10) with family = "ipv6"',
            "saddr": "its address, as text",
            "daddr": "the listener's address, as text",
            "sport": "its port",
            "dport": 'the listener\'s port, or with port = "closed" that at which nobody listens',
            "ret": '0, or with port = "closed" -111: minus ECONNREFUSED',
        },
        options={**_FAMILY, "port": ("open", "closed")},
        prepared=True,
    ),
    "tcp_listen": Kind(
        _listen,
        {
            **ACTOR,
            **{name: ENDS[name] for name in ("family", "saddr", "sport")},
            "backlog": "of both",
            "ret": "0",
            "taken_ret": "-98: minus EADDRINUSE, of a second socket at the same port",
        },
        options=_FAMILY,
    ),
    "tcp_reset": Kind(
        _reset,
        {
            **ACTOR,
            **ENDS,
            **PEER,
            "ret": 'what the actor\'s close(2) returns, 0, or with side = "received" its recv(2), -104: minus ECONNRESET',
            "peer_ret": "the same of the other end: -104, or 0",
        },
        options={**_FAMILY, "side": ("sent", "received")},
    ),
    "tcp_retransmit": Kind(
        _retransmit,
        {
            **ACTOR,
            **ENDS,
            "sent": 'bytes of payload that are lost at first; 0 with segment = "syn"',
            "state": 'of the socket: TCP_ESTABLISHED (1), or TCP_SYN_SENT (2) with segment = "syn"',
            "retransmits": "how many segments were sent again, loss probes too",
        },
        options={**_FAMILY, "segment": ("data", "syn")},
    ),
}
