"""Network interfaces, routes and filters that an attachment needs and no guest has of itself, made and removed over rtnetlink (rtnetlink(7))."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress

from . import bpf

RTM_NEWLINK, RTM_DELLINK, RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWTFILTER = 16, 17, 24, 25, 44
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x200, 0x400
NLMSG_ERROR = 2
NLA_F_NESTED = 0x8000
RTM_NEWADDR, IFA_ADDRESS, IFA_LOCAL = 20, 1, 2
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_NET_NS_FD, VETH_INFO_PEER = 3, 18, 1, 2, 28, 1
IFF_UP = 1
CLONE_NEWNET, MS_BIND = 0x40000000, 4096
RTA_DST, RTA_OIF, RTA_ENCAP_TYPE, RTA_ENCAP = 1, 4, 21, 22

NEAR, FAR, NAMESPACE = "kmatrix0", "kmatrix1", "kmatrix"
"""The pair of veth devices, and the network namespace of the far end."""
ADDRESSES = {"ipv4": ("192.0.2.1", "192.0.2.2"), "ipv6": ("2001:db8:1::1", "2001:db8:1::2")}
"""By family, those of the near and of the far end."""
_NAMESPACES = "/run/netns"
"""Where ip-netns(8) looks for namespaces."""


def pair() -> int:
    """The index of veth `kmatrix0`, whose other end is in the network namespace `kmatrix` (`ADDRESSES`).

    It is made when it is asked for first, and stays as long as the guest. Raises OSError where the kernel has no veth or no namespaces.
    """
    try:
        return socket.if_nametoindex(NEAR)
    except OSError:
        pass
    make_namespace()
    # In a thread that goes to the other namespace and ends there. ip(8) does the same, and takes half a second where the CPU is emulated.
    _in_thread(_make_pair)
    return socket.if_nametoindex(NEAR)


_in_use: list[int] = []


def use_pair() -> int:
    """Have the pair for a trigger whose packets cross it: programs are attached there then as well. Its near end's index; raises OSError."""
    index = pair()
    _in_use[:] = [index]
    return index


def pair_in_use() -> int | None:
    """The index of the near end where a trigger's packets cross the pair; else None."""
    return _in_use[0] if _in_use else None


def enter_namespace() -> None:
    """Have the calling thread go to the namespace of the far end, for good. Raises OSError."""
    with open(f"{_NAMESPACES}/{NAMESPACE}", "rb") as namespace:
        _check(bpf.libc.setns(namespace.fileno(), CLONE_NEWNET))


def make_namespace() -> None:
    """Make the namespace of the far end, unless it is there. Raises OSError where the kernel has no namespaces."""
    if not os.path.exists(f"{_NAMESPACES}/{NAMESPACE}"):
        _in_thread(_make_namespace)


def _in_thread(make: Callable[[], None]) -> None:
    failed: list[OSError] = []

    def attempt() -> None:
        try:
            make()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    if failed:
        raise OSError(errno.EOPNOTSUPP, f"no veth pair can be made: {failed[0].strerror}")


def _make_namespace() -> None:
    """The calling thread ends up in it."""
    _check(bpf.libc.unshare(CLONE_NEWNET))
    os.makedirs(_NAMESPACES, exist_ok=True)
    path = f"{_NAMESPACES}/{NAMESPACE}"
    with open(path, "wb"):
        pass
    _check(bpf.libc.mount(b"/proc/thread-self/ns/net", path.encode(), b"", ctypes.c_ulong(MS_BIND), None))
    with _netlink() as there:
        _bring_up(there, socket.if_nametoindex("lo"))


def _make_pair() -> None:
    """The calling thread ends up in the namespace of the far end."""
    with _netlink() as here, open(f"{_NAMESPACES}/{NAMESPACE}", "rb") as namespace:
        far = _interface(0) + attribute(IFLA_IFNAME, FAR.encode() + b"\0")
        far += attribute(IFLA_NET_NS_FD, struct.pack("=I", namespace.fileno()))
        info = attribute(IFLA_INFO_KIND, b"veth\0") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, far))
        body = _interface(0) + attribute(IFLA_IFNAME, NEAR.encode() + b"\0") + attribute(IFLA_LINKINFO, info)
        _ask(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, here)
        _bring_up(here, socket.if_nametoindex(NEAR), 0)
        _check(bpf.libc.setns(namespace.fileno(), CLONE_NEWNET))
        with _netlink() as there:
            _bring_up(there, socket.if_nametoindex(FAR), 1)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _bring_up(netlink: socket.socket, index: int, end: int | None = None) -> None:
    """Give an interface of the socket's namespace the addresses of an end of the pair, and start it."""
    if end is not None:
        _give_address(netlink, index, socket.AF_INET, ADDRESSES["ipv4"][end], 24)
        with suppress(OSError):  # a kernel that was booted without IPv6 has the pair all the same
            _give_address(netlink, index, socket.AF_INET6, ADDRESSES["ipv6"][end], 64)
    _ask(RTM_NEWLINK, 0, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP), netlink)


def _give_address(netlink: socket.socket, index: int, family: int, address: str, bits: int) -> None:
    """Give an interface an address that may be used at once, in a network of that many bits."""
    number, no_detection = socket.inet_pton(family, address), 2  # IFA_F_NODAD: nobody else can have it
    message = struct.pack("=BBBBI", family, bits, no_detection if family == socket.AF_INET6 else 0, 0, index)  # struct ifaddrmsg
    _ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, message + attribute(IFA_LOCAL, number) + attribute(IFA_ADDRESS, number), netlink)


def add(kind: str, name: str) -> int:
    """Make an interface of a kind that needs no options ("netkit", "veth"); its index. Raises OSError (EOPNOTSUPP: no such kind here)."""
    info = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    _ask(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _interface(0) + attribute(IFLA_IFNAME, name.encode() + b"\0") + info)
    return socket.if_nametoindex(name)


def remove(index: int) -> None:
    """Remove the interface, and its peer with it."""
    _ask(RTM_DELLINK, 0, _interface(index))


def route_through(family: int, destination: bytes, index: int, kind: int, encapsulation: bytes) -> None:
    """Make a route to one address through a light-weight tunnel of type `kind` (LWTUNNEL_ENCAP_*). Raises OSError."""
    tunnel = attribute(RTA_ENCAP_TYPE, struct.pack("=H", kind)) + attribute(RTA_ENCAP | NLA_F_NESTED, encapsulation)
    _ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _route(family, destination, index) + tunnel)


def unroute(family: int, destination: bytes, index: int) -> None:
    """Remove the route."""
    _ask(RTM_DELROUTE, 0, _route(family, destination, index))


def filter_ingress(index: int, action: bytes) -> None:
    """Put a filter that matches every packet on an interface's ingress (it has clsact already); `action` is the attributes of its action."""
    parent, priority, all_protocols = 0xFFFFFFF2, 1, 0x0300  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS); ETH_P_ALL in network order
    message = struct.pack("=BxHiIII", socket.AF_UNSPEC, 0, index, 0, parent, priority << 16 | all_protocols)
    options = attribute(2 | NLA_F_NESTED, attribute(1 | NLA_F_NESTED, action))  # TCA_MATCHALL_ACT, the first of its actions
    _ask(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, message + attribute(1, b"matchall\0") + attribute(2 | NLA_F_NESTED, options))


def attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr, padded to 4 bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _interface(index: int) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)  # struct ifinfomsg


def _route(family: int, destination: bytes, index: int) -> bytes:
    main, boot, link, unicast = 254, 3, 253, 1
    scope = link if family == socket.AF_INET else 0
    message = struct.pack("=BBBBBBBBI", family, 8 * len(destination), 0, 0, main, boot, scope, unicast, 0)  # struct rtmsg
    return message + attribute(RTA_DST, destination) + attribute(RTA_OIF, struct.pack("=I", index))


def _netlink() -> socket.socket:
    """A socket of the network namespace that the caller is in."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def _ask(message: int, flags: int, body: bytes, netlink: socket.socket | None = None) -> None:
    header = struct.pack("=IHHII", 16 + len(body), message, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with nullcontext(netlink) if netlink is not None else _netlink() as asked:
        asked.sendto(header + body, (0, 0))
        answer = asked.recv(65536)
    _, kind, _, _, _, code = struct.unpack_from("=IHHIIi", answer)
    if kind != NLMSG_ERROR:
        raise OSError(errno.EPROTO, f"rtnetlink answered with message {kind}")
    if code:
        raise OSError(-code, os.strerror(-code))
