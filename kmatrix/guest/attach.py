"""Attaching: each program where its section says, the way the kernel at hand can.

libbpf does tracing hooks by itself (BPF links where the kernel has them, else perf events, else kprobes defined through tracefs).
What it leaves to the application is attached here, to what the guest has: the loopback interface (for a socket filter, a packet socket
there), a netkit device made for the purpose, the root of cgroup v2, the guest's network namespace, a software clock on each CPU.

The hook is the one that the section names, and no other: a tcx program on a kernel without tcx is an error, though clsact would take it.
A program that the kernel would attach and never run is an error too.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import byref, sizeof

from . import bpf, libbpf, netdev
from .cgroup import cgroup_root
from .observe import dynamic_probes
from .targets import attach_to

SO_ATTACH_BPF = 50
ETH_P_ALL = 3
BPF_F_ALLOW_MULTI = 2
XDP_FLAGS_SKB_MODE = 2
BPF_TC_INGRESS, BPF_TC_EGRESS = 1, 2
LOOPBACK = 1
"""The interface index of lo, the same in every network namespace."""


def attach(program: int, resources: ExitStack, to: str | None = None) -> str | None:
    """Attach a loaded program where its section says, or `to` that target; `resources` will detach it.

    Returns how it was done, or None where its section does not say where.

    Raises LibbpfError or OSError where the kernel would not, or where the kernel does not know of the attachment afterwards.
    """
    kind, where = bpf.name_of(bpf.PROG_TYPES, libbpf.program_type(program)), libbpf.program_attach_type(program)
    if where in (bpf.XDP_DEVMAP, bpf.XDP_CPUMAP) and kind == "xdp":
        return None  # it goes into an entry of such a map, which is the application's to make
    if where == bpf.TRACE_ITER and kind == "tracing":
        return _iterator(program, resources)
    if kind == "lsm":
        _check_lsm()
        if where == bpf.LSM_CGROUP:
            return _cgroup(program, resources)
    by_hand = _BY_HAND.get("cgroup" if kind in _ON_CGROUPS else kind)
    if by_hand is not None:
        return by_hand(program, resources)
    probes = dynamic_probes() if kind == "kprobe" else []
    link = libbpf.program_attach(program) if to is None else attach_to(program, to)
    if not link:
        error = libbpf.last_error("attach")
        has_target = to is not None or (kind in _TRACING and "/" in libbpf.program_section(program).decode())
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


def _check_lsm() -> None:
    """Raises OSError where the kernel attaches LSM programs and runs none: bpf has to be in its list of LSMs (from 5.7 on, fc611f47f218)."""
    _mount_securityfs()
    try:
        with open("/sys/kernel/security/lsm") as file:
            names = file.read().strip()
    except OSError:
        return
    if "bpf" not in names.split(","):
        raise OSError(
            errno.EOPNOTSUPP,
            f"bpf is not in this kernel's list of LSMs ({names}): the program would never run. Boot with lsm=…,bpf",
        )


def _mount_securityfs() -> None:
    """Mount securityfs where it belongs, if it is not there."""
    where = "/sys/kernel/security"
    if os.path.isdir(where) and not os.path.ismount(where):
        bpf.libc.mount(b"securityfs", where.encode(), b"securityfs", 0, None)


OUTPUT_LIMIT = 1 << 20
"""Bytes that are read of an iterator's text."""
READS = 10_000
"""How often it is read at most."""


def _iterator(program: int, resources: ExitStack) -> str:
    """Attached and read: an iterator runs when somebody reads it."""
    link = libbpf.pointer("attach", libbpf.program_attach(program))
    resources.callback(libbpf.link_destroy, link)
    with open(bpf.iter_create(libbpf.link_fd(link)), "rb", buffering=0) as file:
        text, chunk = bytearray(), None
        for _ in range(READS):
            chunk = file.read(
                1 << 16
            )  # None is EAGAIN: the kernel rests after a million objects that print nothing (MAX_ITER_OBJECTS)
            text += chunk or b""
            if chunk == b"" or len(text) >= OUTPUT_LIMIT:
                break
        else:
            raise OSError(errno.EAGAIN, f"the iterator did not come to an end in {READS} reads")
    lines = text.decode("utf-8", "replace").splitlines()
    first = f", the first {lines[0][:60]!r}" if lines else ""
    return f"iterator, {len(lines)} line{'' if len(lines) == 1 else 's'} read{first}"


SAMPLES_PER_SECOND = 99


def _perf_event(program: int, resources: ExitStack) -> str:
    """On a software clock of each CPU that is online: the agent's own event is its loader's to choose."""
    cpus = sorted(os.sched_getaffinity(0))
    for cpu in cpus:
        event = bpf.cpu_clock_open(cpu, SAMPLES_PER_SECOND)
        link = libbpf.program_attach_perf_event(program, event)
        if not link:
            error = libbpf.last_error("attach")
            bpf.close(event)
            raise error
        resources.callback(libbpf.link_destroy, link)
        _confirmed("perf_event", libbpf.link_fd(link), libbpf.program_fd(program), tracefs=False)
    return f"perf_event, a software clock on {len(cpus)} CPU{'' if len(cpus) == 1 else 's'}"


def _by_link(program: int, resources: ExitStack, target: int, name: str, since: str, more: bytes = b"") -> int:
    """A link of the kind that the program's attach type asks for; its fd. OSError says since when there are such links, where there are none."""
    prog_fd = libbpf.program_fd(program)
    try:
        link = bpf.link_create(prog_fd, target, libbpf.program_attach_type(program), more)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            raise OSError(error.errno, f"attach type {name}, since {since}: this kernel has none ({error.strerror})") from None
        raise
    resources.callback(os.close, link)
    if (found := bpf.link_info(link).prog_id) != (own := bpf.prog_info(prog_fd).id):
        raise OSError(errno.ENOENT, f"the kernel has program {found} at this attachment, not {own}")
    return link


_devices = itertools.count()


def _device(program: int, resources: ExitStack) -> str:
    """tcx (e420bed02507, 6.6) and netkit (35dfaad7188c, 6.7): links only, never clsact in their place."""
    where = libbpf.program_attach_type(program)
    name, since = _DEVICE_HOOKS[where]
    index = LOOPBACK
    if name.startswith("netkit"):
        try:
            index = netdev.add("netkit", f"kmatrix{next(_devices)}")
        except OSError as error:
            raise OSError(
                error.errno, f"attach type {name}, since {since}: no netkit device can be made ({error.strerror})"
            ) from None
        resources.callback(netdev.remove, index)
    link = _by_link(program, resources, index, name, since)
    on, hook = bpf.link_hook(link)
    if hook != where or (on != index and where != bpf.NETKIT_PEER):  # that link is on the other end of the pair
        raise OSError(errno.ENOENT, f"the kernel has the program at hook {hook} of interface {on}, not at {where} of {index}")
    return f"{name} link"


_DEVICE_HOOKS = {
    bpf.TCX_INGRESS: ("tcx_ingress", "6.6"),
    bpf.TCX_EGRESS: ("tcx_egress", "6.6"),
    bpf.NETKIT_PRIMARY: ("netkit_primary", "6.7"),
    bpf.NETKIT_PEER: ("netkit_peer", "6.7"),
}


def _namespace(program: int, resources: ExitStack) -> str:
    """On the guest's network namespace: flow dissectors (7f045a49fee0, 5.8) and socket look-ups (e9ddbb7707ff, 5.9)."""
    where, prog_fd = libbpf.program_attach_type(program), libbpf.program_fd(program)
    name, since = _NAMESPACE_HOOKS[where]
    try:
        with open("/proc/self/ns/net", "rb") as namespace:
            _by_link(program, resources, namespace.fileno(), name, since)
    except OSError as error:
        if error.errno != errno.EINVAL or where != bpf.FLOW_DISSECTOR:
            raise
        # Older than its link is its attachment by BPF_PROG_ATTACH (4.20, d58e468b1112).
        libbpf.check("attach", libbpf.prog_attach(prog_fd, 0, where, 0))
        resources.callback(libbpf.prog_detach, prog_fd, 0, where)
        return "netns"
    return f"{name} link"


_NAMESPACE_HOOKS = {bpf.FLOW_DISSECTOR: ("flow_dissector", "5.8"), bpf.SK_LOOKUP: ("sk_lookup", "5.9")}


def _netfilter(program: int, resources: ExitStack) -> str:
    """On IPv4's output, before connection tracking (84601d6ee68a, 6.4)."""
    ipv4, local_out, priority = 2, 3, -300
    _by_link(program, resources, 0, "netfilter", "6.4", struct.pack("=IIiI", ipv4, local_out, priority, 0))
    return "netfilter link"


SO_ATTACH_REUSEPORT_EBPF = 52


def _reuseport(program: int, resources: ExitStack) -> str:
    sock = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, struct.pack("i", libbpf.program_fd(program)))
    return "reuseport socket"


def _sockmap(program: int, resources: ExitStack) -> str:
    """On a sockmap without sockets: the application's own map is its loader's to fill."""
    where, prog_fd = libbpf.program_attach_type(program), libbpf.program_fd(program)
    sockmap = bpf.map_create(bpf.MAP_TYPES.index("sockmap"), 4, 4, 1)
    resources.callback(os.close, sockmap)
    libbpf.check("attach", libbpf.prog_attach(prog_fd, sockmap, where, 0))
    resources.callback(libbpf.prog_detach, prog_fd, sockmap, where)
    return "sockmap"


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
    # By section, not by attach type: libbpf (1.3 on) gives tc/ingress and tc/egress those of tcx, and loaders attach them through clsact.
    if libbpf.program_section(program).decode().lstrip("?").startswith(("tcx/", "netkit/")):
        return _device(program, resources)
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
    "perf_event": _perf_event,
    "flow_dissector": _namespace,
    "sk_lookup": _namespace,
    "netfilter": _netfilter,
    "sk_reuseport": _reuseport,
    "sk_msg": _sockmap,
    "sk_skb": _sockmap,
}
