"""Network interfaces that an attachment needs and no guest has of itself, made and removed over rtnetlink (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct

RTM_NEWLINK, RTM_DELLINK = 16, 17
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x200, 0x400
NLMSG_ERROR = 2
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 18, 1


def add(kind: str, name: str) -> int:
    """Make an interface of a kind that needs no options ("netkit", "veth"); its index. Raises OSError (EOPNOTSUPP: no such kind here)."""
    info = _attribute(IFLA_LINKINFO, _attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    _ask(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, _attribute(IFLA_IFNAME, name.encode() + b"\0") + info)
    return socket.if_nametoindex(name)


def remove(index: int) -> None:
    """Remove the interface, and its peer with it."""
    _ask(RTM_DELLINK, 0, index, b"")


def _attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr, padded to 4 bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _ask(message: int, flags: int, index: int, attributes: bytes) -> None:
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0) + attributes  # struct ifinfomsg
    header = struct.pack("=IHHII", 16 + len(body), message, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.sendto(header + body, (0, 0))
        answer = netlink.recv(65536)
    _, kind, _, _, _, code = struct.unpack_from("=IHHIIi", answer)
    if kind != NLMSG_ERROR:
        raise OSError(errno.EPROTO, f"rtnetlink answered with message {kind}")
    if code:
        raise OSError(-code, os.strerror(-code))
