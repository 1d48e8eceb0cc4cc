"""The trigger on TLS: what a program passes to libssl before it is encrypted, and gets from it once it is decrypted."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..child import Known
from .deed import Deed, kind
from .kind import Kind, Spec

if TYPE_CHECKING:
    import ssl  # else where it is used: the agent has no need of libssl, which takes some MB

REQUEST, ANSWER = b"GET /kmatrix HTTP/1.1\r\nHost: kmatrix.test\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"


def _context(*, client: bool) -> ssl.SSLContext:
    """One end of a connection without certificates: keys are agreed on, and nobody proves who they are, which TLS 1.2 has last."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


def _connected() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Client and server, which have shaken hands."""
    import ssl

    near, far = socket.socketpair()
    client = _context(client=True).wrap_socket(near, do_handshake_on_connect=False)
    server = _context(client=False).wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    ends = [client, server]
    for end in ends:
        end.setblocking(False)
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    for end in (client, server):
        end.settimeout(2)
    return client, server


def _library() -> str:
    """The file of libssl that this process has."""
    with open("/proc/self/maps") as maps:
        return next((line.split(maxsplit=5)[5].strip() for line in maps if "/libssl.so" in line), "")


def _tls(_spec: Spec) -> Deed:
    """Write a request, read it at the other end, and answer it."""
    client, server = _connected()

    def do() -> None:
        client.sendall(REQUEST)
        if server.recv(4096) != REQUEST:
            raise OSError("the request came out otherwise than it went in")
        server.sendall(ANSWER)
        if client.recv(4096) != ANSWER:
            raise OSError("the answer came out otherwise than it went in")

    known: Known = {"request": REQUEST.decode(), "request_len": len(REQUEST), "answer": ANSWER.decode(), "answer_len": len(ANSWER)}
    return Deed(known | {"library": os.path.realpath(_library())}, do)


KINDS: Mapping[str, Kind] = {
    "tls": kind(
        "tls",
        _tls,
        {
            "request": "what is written first, and read by the other end, as text",
            "request_len": "its bytes",
            "answer": "what is written and read then",
            "answer_len": "its bytes",
            "library": "the file of libssl",
        },
    ),
}
