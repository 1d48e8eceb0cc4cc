"""What triggers with sockets share: addresses, the two ends of a socket, and results as the kernel has them."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..child import Known
from .kind import Spec

FAMILIES = ("ipv4", "ipv6")
_LOOPBACK = {"ipv4": (socket.AF_INET, "127.0.0.1"), "ipv6": (socket.AF_INET6, "::1")}

ACTOR: Mapping[str, str] = {
    "pid": "the thread that acts, which is the second of its process",
    "tgid": "its process",
    "comm": "the thread's name",
}
PEER: Mapping[str, str] = {"peer_pid": "the process at the other end", "peer_comm": "its name"}
ENDS: Mapping[str, str] = {
    "family": 'AF_INET (2), or AF_INET6 (10) with family = "ipv6"',
    "saddr": "the address of the actor's own end, as text",
    "sport": "the port of the actor's own end",
    "daddr": "the address of the other end, as text",
    "dport": "the port of the other end",
}


class Loopback(NamedTuple):
    """Where a trigger's sockets are bound."""

    family: socket.AddressFamily
    address: str

    @classmethod
    def of(cls, spec: Spec) -> Loopback:
        """The address of the family that a spec asks for."""
        return cls(*_LOOPBACK[str(spec.get("family") or FAMILIES[0])])

    def new(self, kind: socket.SocketKind = socket.SOCK_STREAM, *, bound: bool = True) -> socket.socket:
        """A socket, bound to a free port unless told otherwise."""
        sock = socket.socket(self.family, kind)
        if bound:
            sock.bind((self.address, 0))
        return sock

    def listener(self, backlog: int = 1) -> socket.socket:
        """A listening socket at a free port."""
        sock = self.new()
        sock.listen(backlog)
        return sock

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """A TCP connection: the end that connected, and the end that accepted."""
        with self.listener() as listener:
            near = self.new(bound=False)
            near.connect(listener.getsockname())
            far, _ = listener.accept()
        return near, far


def port(sock: socket.socket) -> int:
    """The port that a socket is bound to."""
    return int(sock.getsockname()[1])


def ends(sock: socket.socket) -> Known:
    """What is known of a connected socket: its own end, and the other."""
    own, other = sock.getsockname(), sock.getpeername()
    return {"family": int(sock.family), "saddr": own[0], "sport": own[1], "daddr": other[0], "dport": other[1]}


def answer(what: str, call: Callable[[], int | None], wanted: int = 0) -> int:
    """What a system call returns, as the kernel has it: minus the errno where it fails.

    Raises OSError where it does not end as it does when nobody interferes: with `wanted`, a negative errno, or else without an error.
    """
    try:
        returned = call() or 0
    except OSError as error:
        returned = -int(error.errno or 0)
    if returned != wanted and (returned < 0 or wanted < 0):
        name, meant = (errno.errorcode.get(-number, str(number)) if number < 0 else "success" for number in (returned, wanted))
        raise OSError(-returned if returned < 0 else errno.EPROTO, f"{what} answers {name}, not {meant}")
    return returned


_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27


def drop_all(sock: socket.socket) -> None:
    """Have the kernel drop what comes in for a socket, as if it were lost on the way."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # struct sock_filter: return 0, the bytes to keep
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))  # struct sock_fprog


def drop_nothing(sock: socket.socket) -> None:
    """Let through again what comes in."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly that many bytes of a stream, or fewer where it ends before."""
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


class TcpInfo(NamedTuple):
    """What the kernel counts of a connection: some of struct tcp_info (include/uapi/linux/tcp.h)."""

    timeouts: int
    """tcpi_retransmits: how often in a row the retransmission timer has expired."""
    total_retrans: int
    """Segments that were sent again, also by loss probes."""
    bytes_acked: int
    """Bytes of the sequence space that the other end has acknowledged: a SYN and a FIN are one each."""
    bytes_received: int


def tcp_info(sock: socket.socket) -> TcpInfo:
    """The counts of this moment (bytes_acked and bytes_received: 0df48c26d841 and bdd1f9edacb5, 4.1)."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return TcpInfo(raw[2], *struct.unpack_from("=I", raw, 100), *struct.unpack_from("=QQ", raw, 120))
