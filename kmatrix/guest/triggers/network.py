"""Triggers on the network."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Mapping

from ..child import Child, Pipes
from .kind import Kind, Spec, become_someone, name_thread


def _tcp_connect(spec: Spec) -> Child:
    """Connect over loopback to a listening port; `family` is 4 (the default) or 6."""
    six = int(spec.get("family", 4)) == 6
    family, address = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(1)
    port = listener.getsockname()[1]

    def action(pipes: Pipes) -> int:
        name_thread("kmatrix-connect")
        pid = os.getpid()
        pipes.say(become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-connect"})
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            pipes.ready()
            sock.connect((address, port))
            ends = {"saddr": address, "daddr": address, "sport": sock.getsockname()[1], "dport": port}
            pipes.say(ends | {"family": int(family), "done": True})
            return pipes.rest()

    child = Child("tcp_connect", action)
    child.keep = listener
    return child


_name_servers = itertools.count(1)


def _dns(_spec: Spec) -> Child:
    """Ask a name server on loopback, which answers. Both are the same process: what it sends itself waits in the sockets' queues."""
    server = (f"127.0.53.{next(_name_servers) % 250 + 1}", 53)
    ident, flags, answered = 0x4B4D, 0x0100, 0x8180
    question = b"\x07kmatrix\x04test\0" + struct.pack(">HH", 1, 1)  # A, IN
    query = struct.pack(">HHHHHH", ident, flags, 1, 0, 0, 0) + question
    answer = struct.pack(">HHHHHH", ident, answered, 1, 1, 0, 0) + question
    answer += struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes((192, 0, 2, 1)))  # of the name at offset 12, for a minute

    def action(pipes: Pipes) -> int:
        name_thread("kmatrix-dns")
        listener, asker = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        listener.bind(server)  # a port for root
        asker.bind(("127.0.0.1", 0))
        for sock in (listener, asker):
            sock.settimeout(2)
        pid, (address, port) = os.getpid(), asker.getsockname()
        pipes.say(become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-dns"})
        pipes.say({"saddr": address, "sport": port, "daddr": server[0], "dport": server[1]})
        name = question[: question.index(0)].decode("ascii")
        pipes.say({"query_id": ident, "query_flags": flags, "answer_flags": answered, "question": name, "query_len": len(query)})
        pipes.ready()
        asker.sendto(query, server)
        asked, whom = listener.recvfrom(512)
        listener.sendto(answer, whom)
        if asked != query or asker.recv(512) != answer:
            raise ValueError("a packet on loopback was changed")
        pipes.say({"done": True})
        return pipes.rest()

    return Child("dns", action)


KINDS: Mapping[str, Kind] = {
    "tcp_connect": Kind(
        _tcp_connect,
        {
            "pid": "the process that connects",
            "tgid": "the same",
            "comm": "its name",
            "family": 'AF_INET (2), or AF_INET6 (10) with family = "ipv6"',
            "saddr": "its address, as text",
            "daddr": "the listener's address, as text",
            "sport": "its port",
            "dport": "the listener's port",
        },
        options=("family",),
        prepared=True,
    ),
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
            "answer_flags": "0x8180: an answer, without error",
            "question": "the name asked for as it stands in the packet, as text up to the end of the name",
            "query_len": "bytes of the query, which is what sendto(2) returns",
        },
        prepared=True,
    ),
}
