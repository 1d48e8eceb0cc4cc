"""Attaching by the program's descriptor: what no loading library does, and every application does by itself.

The hook is one that the guest has: a packet socket on each interface that is watched for a socket filter, the guest's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack

from . import bpf, confirm, interfaces, libbpf
from .confirm import Attachment
from .library import Program, Unplaced

SO_ATTACH_BPF = 50
ETH_P_ALL = 3


def _namespace(program: Program, resources: ExitStack) -> Attachment:
    """On the guest's network namespace: flow dissectors (7f045a49fee0, 5.8) and socket look-ups (e9ddbb7707ff, 5.9)."""
    where, prog_fd = program.attach_type, program.fd
    name, since = _NAMESPACE_HOOKS[where]
    with open("/proc/self/ns/net", "rb") as namespace:
        try:
            return Attachment(f"{name} link", interfaces.by_link(program, resources, namespace.fileno(), name, since))
        except OSError as error:
            if error.errno != errno.EINVAL or where != bpf.FLOW_DISSECTOR:
                raise
        # Older than its link is its attachment by BPF_PROG_ATTACH (4.20, d58e468b1112).
        libbpf.check("attach", libbpf.prog_attach(prog_fd, 0, where, 0))
        resources.callback(libbpf.prog_detach, prog_fd, 0, where)
        return Attachment("netns", on_the_list(prog_fd, namespace.fileno(), where, "flow_dissector of the network namespace"))


def on_the_list(prog_fd: int, target: int, where: int, hook: str) -> str | None:
    """`hook` where the kernel says that the program is there, None where it cannot be asked. Raises OSError where it is not there."""
    there, prog_id = confirm.queried(target, where), bpf.prog_info(prog_fd).id
    if there is not None and prog_id not in there:
        raise OSError(errno.ENOENT, f"the kernel has programs {there} at {hook}, not {prog_id}")
    return hook if there is not None else None


_NAMESPACE_HOOKS = {bpf.FLOW_DISSECTOR: ("flow_dissector", "5.8"), bpf.SK_LOOKUP: ("sk_lookup", "5.9")}


def _netfilter(program: Program, resources: ExitStack) -> Attachment:
    """On IPv4's output, before connection tracking (84601d6ee68a, 6.4)."""
    ipv4, local_out, priority = 2, 3, -300
    more = struct.pack("=IIiI", ipv4, local_out, priority, 0)
    return Attachment("netfilter link", interfaces.by_link(program, resources, 0, "netfilter", "6.4", more))


SO_ATTACH_REUSEPORT_EBPF = 52


def _reuseport(program: Program, resources: ExitStack) -> Attachment:
    sock = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, struct.pack("i", program.fd))
    return Attachment("reuseport socket")


def _sockmap(program: Program, resources: ExitStack) -> Attachment:
    """On a sockmap without sockets: the application's own map is its loader's to fill."""
    where, prog_fd = program.attach_type, program.fd
    if where not in (bpf.SK_SKB_STREAM_PARSER, bpf.SK_SKB_STREAM_VERDICT, bpf.SK_SKB_VERDICT, bpf.SK_MSG_VERDICT):
        raise Unplaced("its section names neither stream_parser nor stream_verdict nor verdict: sk_skb/verdict")
    try:
        sockmap = bpf.map_create(bpf.MAP_TYPES.index("sockmap"), 4, 4, 1)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        option = "CONFIG_BPF_STREAM_PARSER"
        raise OSError(errno.EINVAL, f"this kernel takes no sockmap: it needs {option} ({error.strerror})") from None
    resources.callback(os.close, sockmap)
    libbpf.check("attach", libbpf.prog_attach(prog_fd, sockmap, where, 0))
    resources.callback(libbpf.prog_detach, prog_fd, sockmap, where)
    return Attachment("sockmap", on_the_list(prog_fd, sockmap, where, f"{confirm.attach_type(where)} of a sockmap"))


def _socket(program: Program, resources: ExitStack) -> Attachment:
    for index in interfaces.watched():
        # No protocol yet: it takes no packets before the filter is there. Nobody reads them: the filter comes before the full queue.
        sock = resources.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, struct.pack("i", program.fd))
        sock.bind((confirm.interface(index), ETH_P_ALL))
    return Attachment("socket")


LIRC_DEVICE = "/dev/lirc0"


def _lirc(program: Program, resources: ExitStack) -> Attachment:
    if not os.path.exists(LIRC_DEVICE):
        raise Unplaced(f"the guest has no infrared receiver ({LIRC_DEVICE}) to attach it to")
    where, prog_fd = program.attach_type, program.fd
    device = os.open(LIRC_DEVICE, os.O_RDWR)
    resources.callback(os.close, device)
    libbpf.check("attach", libbpf.prog_attach(prog_fd, device, where, 0))
    resources.callback(libbpf.prog_detach, prog_fd, device, where)
    return Attachment("lirc", on_the_list(prog_fd, device, where, f"lirc_mode2 of {LIRC_DEVICE}"))


CONTEXT_SIZE = 4096
"""Bytes of zeros that a program of type syscall is given."""


def _run(program: Program, resources: ExitStack) -> Attachment:
    """A program of type syscall (79a7f8bdb159, 5.14) has no hook: it is run."""
    del resources
    returned = bpf.test_run(program.fd, bytes(CONTEXT_SIZE))
    return Attachment(f"run by BPF_PROG_TEST_RUN, returned {returned}", "syscall")


WAYS: dict[str, Callable[[Program, ExitStack], Attachment]] = {
    "socket_filter": _socket,
    "sched_cls": interfaces.tc,
    "sched_act": interfaces.action,
    "lwt_in": interfaces.light_weight_tunnel,
    "lwt_out": interfaces.light_weight_tunnel,
    "lwt_xmit": interfaces.light_weight_tunnel,
    "lwt_seg6local": interfaces.light_weight_tunnel,
    "flow_dissector": _namespace,
    "sk_lookup": _namespace,
    "netfilter": _netfilter,
    "sk_reuseport": _reuseport,
    "sk_msg": _sockmap,
    "sk_skb": _sockmap,
    "lirc_mode2": _lirc,
    "syscall": _run,
}
"""By the type of the program."""
