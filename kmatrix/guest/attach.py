"""Attaching: each program where its section says, the way the kernel at hand can.

libbpf does tracing hooks by itself (BPF links where the kernel has them, else perf events, else kprobes defined through tracefs).
What it leaves to the application gets the nearest thing the guest has: the loopback interface (for a socket filter, a packet socket
there) or the root of cgroup v2.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import byref, sizeof

from . import bpf, libbpf
from .cgroup import cgroup_root
from .observe import dynamic_probes

SO_ATTACH_BPF = 50
ETH_P_ALL = 3
BPF_F_ALLOW_MULTI = 2
XDP_FLAGS_SKB_MODE = 2
BPF_TC_INGRESS, BPF_TC_EGRESS = 1, 2
LOOPBACK = 1
"""The interface index of lo, the same in every network namespace."""


def attach(program: int, resources: ExitStack) -> str | None:
    """Attach a loaded program; `resources` will detach it. How it was done, or None where its section does not say where.

    Raises LibbpfError or OSError where the kernel would not, or where the kernel does not know of the attachment afterwards.
    """
    kind = bpf.name_of(bpf.PROG_TYPES, libbpf.program_type(program))
    by_hand = _BY_HAND.get("cgroup" if kind in _ON_CGROUPS else kind)
    if by_hand is not None:
        return by_hand(program, resources)
    probes = dynamic_probes() if kind == "kprobe" else []
    link = libbpf.program_attach(program)
    if not link:
        error = libbpf.last_error("attach")
        has_target = kind in _TRACING and "/" in libbpf.program_section(program).decode()
        if error.errno == errno.EOPNOTSUPP and not has_target:
            return None
        raise error
    resources.callback(libbpf.link_destroy, link)
    tracefs = kind == "kprobe" and dynamic_probes() != probes
    return _confirmed(kind, libbpf.link_fd(link), libbpf.program_fd(program), tracefs=tracefs)


def _confirmed(kind: str, fd: int, prog_fd: int, *, tracefs: bool) -> str:
    """How the program is attached through `fd`, as far as the kernel tells (links from 5.8, other fds from 4.18)."""
    prog_id = bpf.prog_info(prog_fd).id
    via = "tracefs" if tracefs else "raw_tracepoint" if kind in ("raw_tracepoint", "tracing", "lsm") else "perf_event"
    found: int | None
    try:
        found, via = bpf.link_info(fd).prog_id, "tracefs" if tracefs else "link"
    except OSError:
        found = bpf.attached_program(fd)
    if found not in (None, 0, prog_id):
        raise OSError(errno.ENOENT, f"the kernel has program {found} at this attachment, not {prog_id}")
    return via


def _socket(program: int, resources: ExitStack) -> str:
    # No protocol yet: it takes no packets before the filter is there. Nobody reads them: the filter comes before the full queue.
    sock = resources.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, struct.pack("i", libbpf.program_fd(program)))
    sock.bind(("lo", ETH_P_ALL))
    return "socket"


_alone: set[int] = set()
"""The attach types that a program has for itself, on a kernel that lets it have no company."""


def _cgroup(program: int, resources: ExitStack) -> str:
    root = cgroup_root()
    if root is None:
        raise OSError(errno.ENOENT, "cgroup v2 is not mounted")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    resources.callback(os.close, fd)
    link = libbpf.program_attach_cgroup(program, fd)
    if link:
        resources.callback(libbpf.link_destroy, link)
        return "link"
    # Before 5.7 there are no links for cgroups.
    kind, prog_fd = libbpf.program_attach_type(program), libbpf.program_fd(program)
    failed = libbpf.prog_attach(prog_fd, fd, kind, BPF_F_ALLOW_MULTI)
    if failed == -errno.EINVAL:
        # Before 4.15 (324bda9e6c5a) there is one program a hook, and a second takes the place of the first without a word.
        if kind in _alone:
            raise OSError(errno.EBUSY, "this kernel has room for one program at this hook of a cgroup, and it is taken")
        failed = libbpf.prog_attach(prog_fd, fd, kind, 0)
        if failed == 0:
            _alone.add(kind)
            resources.callback(_alone.discard, kind)
    libbpf.check("attach", failed)
    resources.callback(libbpf.prog_detach, prog_fd, fd, kind)
    there, prog_id = bpf.programs_on_cgroup(fd, kind), bpf.prog_info(prog_fd).id
    if there is not None and prog_id not in there:
        raise OSError(errno.ENOENT, f"the kernel has programs {there} at this hook of the cgroup, not {prog_id}")
    return "cgroup"


def _xdp(program: int, resources: ExitStack) -> str:
    link = libbpf.program_attach_xdp(program, LOOPBACK)
    if link:
        resources.callback(libbpf.link_destroy, link)
        return "link"
    # Before 5.9 there are no links for XDP.
    libbpf.check("attach", libbpf.xdp_attach(LOOPBACK, libbpf.program_fd(program), XDP_FLAGS_SKB_MODE, None))
    resources.callback(libbpf.xdp_attach, LOOPBACK, -1, XDP_FLAGS_SKB_MODE, None)
    return "netlink"


def _tc(program: int, resources: ExitStack) -> str:
    egress = "egress" in libbpf.program_section(program).decode()
    hook = libbpf.TcHook(
        sz=sizeof(libbpf.TcHook), ifindex=LOOPBACK, attach_point=BPF_TC_EGRESS if egress else BPF_TC_INGRESS, parent=0
    )
    created = libbpf.tc_hook_create(byref(hook))
    if created == 0:
        whole = libbpf.TcHook(sz=sizeof(libbpf.TcHook), ifindex=LOOPBACK, attach_point=BPF_TC_INGRESS | BPF_TC_EGRESS, parent=0)
        resources.callback(libbpf.tc_hook_destroy, byref(whole))
    elif created != -errno.EEXIST:
        libbpf.check("clsact", created)
    opts = libbpf.TcOpts(sz=sizeof(libbpf.TcOpts), prog_fd=libbpf.program_fd(program))
    libbpf.check("attach", libbpf.tc_attach(byref(hook), byref(opts)))
    return "tc"


_TRACING = ("kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable", "tracing", "lsm", "ext")
_ON_CGROUPS = ("cgroup_skb", "cgroup_sock", "cgroup_sock_addr", "cgroup_device", "cgroup_sysctl", "cgroup_sockopt", "sock_ops")
_BY_HAND: dict[str, Callable[[int, ExitStack], str]] = {
    "socket_filter": _socket,
    "cgroup": _cgroup,
    "xdp": _xdp,
    "sched_cls": _tc,
}
