"""The trigger on packets that go out and come in at an interface."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from .. import netdev
from ..child import Child, Known, Pipes
from .actor import Peer, by_second_thread
from .kind import Kind, Spec, become_someone
from .sockets import ACTOR, ENDS, FAMILIES, PEER, answer, ends

PAYLOAD = b"kmatrix asks over its veth pair."
REPLY = b"kmatrix answers, with eight bytes more.."
FAR_PORT = 4242
_WARM_UP = b"kmatrix looks for its neighbour"
_HEADERS = {"ipv4": 14 + 20 + 8, "ipv6": 14 + 40 + 8}
"""Bytes before a UDP datagram's payload: Ethernet, IP, UDP."""


def _packets(spec: Spec) -> Child:
    """Exchange two UDP datagrams across the veth pair, with a process in the network namespace of its far end."""
    family = str(spec.get("family") or FAMILIES[0])
    index = netdev.use_pair()
    kind, (near, far) = (socket.AF_INET6 if family == "ipv6" else socket.AF_INET), netdev.ADDRESSES[family]

    def action(pipes: Pipes) -> int:
        def make() -> Callable[[], Known]:
            netdev.enter_namespace()
            become_someone()
            server = socket.socket(kind, socket.SOCK_DGRAM)
            server.bind((far, FAR_PORT))
            return lambda: _serve(server)

        peer = Peer(make)  # while it may still go to another namespace
        pipes.say(become_someone())
        sock = socket.socket(kind, socket.SOCK_DGRAM)
        sock.bind((near, 0))
        sock.connect((far, FAR_PORT))
        peer.go()
        _find_neighbour(sock)

        def act() -> Known:
            ret = answer("send", lambda: sock.send(PAYLOAD))
            if sock.recv(2048) != REPLY:
                raise ValueError("a packet on the veth pair was changed")
            peer.answer()
            known = ends(sock) | peer.known | {"ifindex": index, "ifname": netdev.NEAR, "ret": ret}
            for name, data in ("", PAYLOAD), ("reply_", REPLY):
                known |= {
                    f"{name}payload": data.decode(),
                    f"{name}bytes": len(data),
                    f"{name}frame_bytes": _HEADERS[family] + len(data),
                }
            return known

        by_second_thread(pipes, "kmatrix-packets", act)

    return Child("packets", action)


def _serve(server: socket.socket) -> Known:
    """Send back what is for warming up, and reply to what is not."""
    while True:
        data, whom = server.recvfrom(2048)
        server.sendto(data if data == _WARM_UP else REPLY, whom)
        if data != _WARM_UP:
            return {}


def _find_neighbour(sock: socket.socket) -> None:
    """Have ARP or neighbour discovery done before anything watches: an interface that has just come up may take a moment."""
    sock.settimeout(0.2)
    for _ in range(50):
        with suppress(OSError):
            sock.send(_WARM_UP)
            sock.recv(2048)
            break
    else:
        raise TimeoutError("nothing comes back over the veth pair")
    with suppress(TimeoutError):
        while sock.recv(2048):  # a late answer to an earlier try
            sock.settimeout(0.05)
    sock.settimeout(None)


KINDS: Mapping[str, Kind] = {
    "packets": Kind(
        _packets,
        {
            **ACTOR,
            **ENDS,
            **PEER,
            "ifindex": "the index of the near end, kmatrix0",
            "ifname": "its name",
            "ret": "what send(2) returns: bytes",
            "payload": "of the datagram from kmatrix0 to the far end, as text",
            "bytes": "its length",
            "frame_bytes": "the length of its frame, from the Ethernet header on",
            "reply_payload": "of the datagram that comes back, as text",
            "reply_bytes": "its length",
            "reply_frame_bytes": "the length of its frame",
        },
        options={"family": FAMILIES},
        at_home=True,
    ),
}
