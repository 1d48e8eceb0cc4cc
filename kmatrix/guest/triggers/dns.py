"""The trigger on DNS."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Mapping

from ..child import Child, Pipes
from .actor import own_pid
from .kind import Kind, Spec, become_someone, name_thread
from .sockets import receive

_name_servers = itertools.count(1)
_IDENT, _QUERY_FLAGS, _ANSWERED = 0x4B4D, 0x0100, {"noerror": 0x8180, "nxdomain": 0x8183}


def _dns(spec: Spec) -> Child:
    """Ask a name server on loopback, which answers. Both are the same process: what it sends itself waits in the sockets' queues."""
    server = (f"127.0.53.{next(_name_servers) % 250 + 1}", 53)
    over_tcp, rcode = spec.get("transport") == "tcp", str(spec.get("rcode") or "noerror")
    question = b"\x07kmatrix\x04test\0" + struct.pack(">HH", 1, 1)  # A, IN
    query = struct.pack(">HHHHHH", _IDENT, _QUERY_FLAGS, 1, 0, 0, 0) + question
    answer = struct.pack(">HHHHHH", _IDENT, _ANSWERED[rcode], 1, rcode == "noerror", 0, 0) + question
    if rcode == "noerror":
        answer += struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes((192, 0, 2, 1)))  # of the name at offset 12, for a minute

    def action(pipes: Pipes) -> int:
        name_thread("kmatrix-dns")
        kind = socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM
        listener, asker = (socket.socket(socket.AF_INET, kind) for _ in range(2))
        listener.bind(server)  # a port for root
        asker.bind(("127.0.0.1", 0))
        for sock in (listener, asker):
            sock.settimeout(2)
        address, port = asker.getsockname()
        pid = own_pid()
        pipes.say(become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-dns"})
        pipes.say({"saddr": address, "sport": port, "daddr": server[0], "dport": server[1]})
        name = question[: question.index(0)].decode("ascii")
        flags = {"query_flags": _QUERY_FLAGS, "answer_flags": _ANSWERED[rcode]}
        pipes.say({"query_id": _IDENT, **flags, "question": name, "query_len": len(query), "answer_len": len(answer)})
        if over_tcp:
            listener.listen(1)
        pipes.ready()
        exchanged = _over_tcp(listener, asker, query, answer) if over_tcp else _over_udp(listener, asker, query, answer)
        if exchanged != (query, answer):
            raise ValueError("a packet on loopback was changed")
        pipes.say({"done": True})
        return pipes.rest()

    return Child("dns", action)


def _over_udp(listener: socket.socket, asker: socket.socket, query: bytes, answer: bytes) -> tuple[bytes, bytes]:
    """What the server and the asker receive."""
    asker.sendto(query, listener.getsockname())
    asked, whom = listener.recvfrom(512)
    listener.sendto(answer, whom)
    return asked, asker.recv(512)


def _over_tcp(listener: socket.socket, asker: socket.socket, query: bytes, answer: bytes) -> tuple[bytes, bytes]:
    """The same over TCP, where two bytes of length come before each message (RFC 1035, 4.2.2)."""
    asker.connect(listener.getsockname())
    served, _ = listener.accept()
    received = []
    for sender, receiver, message in (asker, served, query), (served, asker, answer):
        sender.sendall(struct.pack(">H", len(message)) + message)
        (size,) = struct.unpack(">H", receive(receiver, 2))
        received.append(receive(receiver, size))
    return received[0], received[1]


KINDS: Mapping[str, Kind] = {
    "dns": Kind(
        _dns,
        {
            "pid": "the process that asks",
            "tgid": "the same",
            "comm": "its name",
            "saddr": "the asker's address, as text",
            "daddr": "the name server's address, as text",
            "sport": "the asker's port",
            "dport": "53",
            "query_id": "of query and answer",
            "query_flags": "0x0100: a query, recursion desired",
            "answer_flags": '0x8180: an answer, without error; 0x8183 with rcode = "nxdomain"',
            "question": "the name asked for as it stands in the packet, as text up to the end of the name",
            "query_len": "bytes of the query; over TCP two bytes of length are sent before them, in the same call",
            "answer_len": "bytes of the answer, likewise",
        },
        options={"transport": ("udp", "tcp"), "rcode": ("noerror", "nxdomain")},
        prepared=True,
    ),
}
