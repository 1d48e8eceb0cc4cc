"""Attaching to network interfaces and routes: XDP, clsact, tcx, netkit, actions, light-weight tunnels."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from contextlib import ExitStack
from ctypes import byref, c_uint32, sizeof

from . import bpf, confine, confirm, libbpf, netdev
from .confirm import Attachment
from .library import Program

XDP_FLAGS_SKB_MODE = 2
BPF_TC_INGRESS, BPF_TC_EGRESS = 1, 2
LOOPBACK = 1
"""The interface index of lo, the same in every network namespace."""

_devices = itertools.count()


def watched() -> list[int]:
    """The interfaces that programs on packets are attached to: lo, and the near end of the veth pair where a trigger's packets cross it."""
    near = netdev.pair_in_use()
    return [LOOPBACK] if near is None else [LOOPBACK, near]


def by_link(program: Program, resources: ExitStack, target: int, name: str, since: str, more: bytes = b"") -> str | None:
    """Attach by a link of the kind that the program's attach type asks for; where, as the kernel has it.

    An OSError says whether this kernel has no such links (and since when there are), or has them and refuses this one.
    """
    prog_fd, where = program.fd, program.attach_type
    try:
        link = bpf.link_create(prog_fd, target, where, more)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        if confirm.queried(target, where) is None and not _netfilter_works(where, more):
            raise OSError(error.errno, f"attach type {name}, since {since}: this kernel has none ({error.strerror})") from None
        raise OSError(error.errno, f"this kernel has {name} links and refuses this one ({error.strerror})") from None
    resources.callback(os.close, link)
    return confirm.link(link, bpf.prog_info(prog_fd).id, where)


def _netfilter_works(where: int, more: bytes) -> bool:
    """Netfilter's hooks cannot be asked: whether a program that does nothing gets a link there."""
    if where != bpf.NETFILTER:
        return False
    program = link = -1
    try:
        program = bpf.prog_load(
            bpf.PROG_TYPES.index("netfilter"), bpf.insn(0xB7, imm=1) + bpf.EXIT, expected_attach_type=bpf.NETFILTER
        )
        link = bpf.link_create(program, 0, bpf.NETFILTER, more)
    except OSError:
        return False
    finally:
        bpf.close(link, program)
    return True


def device(program: Program, resources: ExitStack) -> Attachment:
    """tcx (e420bed02507, 6.6) and netkit (35dfaad7188c, 6.7): links only, never clsact in their place."""
    where = program.attach_type
    name, since = _DEVICE_HOOKS[where]
    hooks = []
    for index in [netkit(name, since, resources)] if name.startswith("netkit") else watched():
        hook = by_link(program, resources, index, name, since)
        # A link on the far end of a netkit pair is on another interface.
        if where != bpf.NETKIT_PEER and hook != f"{name} of interface {confirm.interface(index)}":
            raise OSError(
                errno.ENOENT, f"the kernel has the program at {hook}, not at {name} of interface {confirm.interface(index)}"
            )
        hooks += [hook] if hook is not None else []
    return Attachment(f"{name} link", ", ".join(hooks) or None)


def netkit(name: str, since: str, resources: ExitStack) -> int:
    """A netkit device made for the purpose, by its index. Raises OSError where the kernel makes none."""
    try:
        index = confine.outside(lambda: netdev.add("netkit", f"netkit{next(_devices)}"))
    except OSError as error:
        raise OSError(error.errno, f"attach type {name}, since {since}: no netkit device can be made ({error.strerror})") from None
    resources.callback(confine.outside, lambda: netdev.remove(index))
    return index


_DEVICE_HOOKS = {
    bpf.TCX_INGRESS: ("tcx_ingress", "6.6"),
    bpf.TCX_EGRESS: ("tcx_egress", "6.6"),
    bpf.NETKIT_PRIMARY: ("netkit_primary", "6.7"),
    bpf.NETKIT_PEER: ("netkit_peer", "6.7"),
}


def xdp(program: int, resources: ExitStack) -> Attachment:
    """On a veth pair, where the driver itself runs it (948d4f214fde, 4.19), and on the loopback interface, by the generic code (4.12)."""
    via, generic = _xdp_on(program, resources, LOOPBACK)
    try:
        _, native = _xdp_on(program, resources, confine.outside(netdev.pair))
    except (OSError, libbpf.LibbpfError) as error:
        return Attachment(via, f"{generic} (generic); not native on a veth: {error}")
    return Attachment(via, f"{generic} (generic), {native} (native)")


def _xdp_on(program: int, resources: ExitStack, index: int) -> tuple[str, str]:
    prog_fd = libbpf.program_fd(program)
    prog_id, name = bpf.prog_info(prog_fd).id, confirm.interface(index)
    link = libbpf.program_attach_xdp(program, index)
    if link:
        resources.callback(libbpf.link_destroy, link)
        return "link", confirm.link(libbpf.link_fd(link), prog_id) or f"xdp of interface {name}"
    # Before 5.9 there are no links for XDP.
    return "netlink", xdp_by_netlink(prog_fd, resources, index)


def xdp_by_netlink(prog_fd: int, resources: ExitStack, index: int) -> str:
    """Attach without a link; where. Raises LibbpfError and OSError."""
    prog_id, name = bpf.prog_info(prog_fd).id, confirm.interface(index)
    flags = XDP_FLAGS_SKB_MODE if index == LOOPBACK else 0
    libbpf.check("attach", libbpf.xdp_attach(index, prog_fd, flags, None))
    resources.callback(libbpf.xdp_attach, index, -1, flags, None)
    found = c_uint32()
    if libbpf.xdp_query_id(index, flags, byref(found)) == 0 and found.value not in (0, prog_id):
        raise OSError(errno.ENOENT, f"the kernel has program {found.value} at this interface, not {prog_id}")
    return f"xdp of interface {name}"


def _clsact(resources: ExitStack, index: int = LOOPBACK) -> None:
    """See that the interface has clsact, and that what is made for it is gone afterwards."""
    hook = libbpf.TcHook(sz=sizeof(libbpf.TcHook), ifindex=index, attach_point=BPF_TC_INGRESS | BPF_TC_EGRESS, parent=0)
    created = libbpf.tc_hook_create(byref(hook))
    if created == 0:
        resources.callback(libbpf.tc_hook_destroy, byref(hook))
    elif created != -errno.EEXIST:
        libbpf.check("clsact", created)


def tc(program: Program, resources: ExitStack) -> Attachment:
    """Through clsact, unless the section names tcx or netkit."""
    # By section, not by attach type: libbpf (1.3 on) gives tc/ingress and tc/egress those of tcx, and loaders attach them through clsact.
    section = program.section
    if section.startswith(("tcx/", "netkit/")):
        return device(program, resources)
    point = BPF_TC_EGRESS if "egress" in section else BPF_TC_INGRESS
    return Attachment("tc", ", ".join(_classifier(program, resources, index, point) for index in watched()))


def _classifier(program: Program, resources: ExitStack, index: int, point: int) -> str:
    """Attach through an interface's clsact; where."""
    _clsact(resources, index)
    hook = libbpf.TcHook(sz=sizeof(libbpf.TcHook), ifindex=index, attach_point=point, parent=0)
    opts = libbpf.TcOpts(sz=sizeof(libbpf.TcOpts), prog_fd=program.fd)
    libbpf.check("attach", libbpf.tc_attach(byref(hook), byref(opts)))
    asked = libbpf.TcOpts(sz=sizeof(libbpf.TcOpts), handle=opts.handle, priority=opts.priority)
    libbpf.check("query", libbpf.tc_query(byref(hook), byref(asked)))
    if asked.prog_id != (own := bpf.prog_info(program.fd).id):
        raise OSError(errno.ENOENT, f"the kernel has program {asked.prog_id} at this filter, not {own}")
    return f"clsact {'egress' if point == BPF_TC_EGRESS else 'ingress'} of interface {confirm.interface(index)}"


def action(program: Program, resources: ExitStack) -> Attachment:
    """The action of a filter that matches all that comes in on the loopback interface (act_bpf, 4.1; matchall, 4.8)."""
    _clsact(resources)
    parameters = struct.pack("=IIiii", 0, 0, -1, 0, 0)  # struct tc_gen: index, capabilities, TC_ACT_UNSPEC, counts
    options = netdev.attribute(2, parameters)  # TCA_ACT_BPF_PARMS
    options += netdev.attribute(5, struct.pack("=I", program.fd))  # TCA_ACT_BPF_FD
    options += netdev.attribute(6, b"kmatrix\0")  # TCA_ACT_BPF_NAME
    kind, nested = netdev.attribute(1, b"bpf\0"), netdev.attribute(2 | netdev.NLA_F_NESTED, options)
    try:
        netdev.filter_ingress(LOOPBACK, kind + nested)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        needed = "CONFIG_NET_ACT_BPF and CONFIG_NET_CLS_MATCHALL"
        raise OSError(
            errno.ENOENT, f"this kernel takes no filter with such an action: it needs {needed} ({error.strerror})"
        ) from None
    return Attachment("tc action")


LWTUNNEL_ENCAP_BPF, LWTUNNEL_ENCAP_SEG6_LOCAL = 6, 7
_LWT_HOOKS = {"lwt_in": 1, "lwt_out": 2, "lwt_xmit": 3}
"""LWT_BPF_IN, LWT_BPF_OUT, LWT_BPF_XMIT"""
_addresses = itertools.count(1)


def light_weight_tunnel(program: Program, resources: ExitStack) -> Attachment:
    """On a route through the veth: encap bpf (3a0af8fd61f9, 4.10), or an End.BPF action of segment routing (004d4b274e2a, 4.18)."""
    kind = program.type
    index, number = confine.outside(netdev.pair), next(_addresses) % 254 + 1
    described = netdev.attribute(1, struct.pack("=I", program.fd)) + netdev.attribute(2, b"kmatrix\0")
    if kind == "lwt_seg6local":
        family, address, tunnel = (
            socket.AF_INET6,
            socket.inet_pton(socket.AF_INET6, f"2001:db8::{number:x}"),
            LWTUNNEL_ENCAP_SEG6_LOCAL,
        )
        end_bpf = 15
        encapsulation = netdev.attribute(1, struct.pack("=I", end_bpf)) + netdev.attribute(8 | netdev.NLA_F_NESTED, described)
    else:
        family, address, tunnel = socket.AF_INET, socket.inet_aton(f"198.51.100.{number}"), LWTUNNEL_ENCAP_BPF
        encapsulation = netdev.attribute(_LWT_HOOKS[kind] | netdev.NLA_F_NESTED, described)
    try:
        netdev.route_through(family, address, index, tunnel, encapsulation)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        option = "CONFIG_IPV6_SEG6_BPF" if kind == "lwt_seg6local" else "CONFIG_LWTUNNEL_BPF"
        raise OSError(
            error.errno, f"this kernel takes no route with such a program: it needs {option} ({error.strerror})"
        ) from None
    resources.callback(netdev.unroute, family, address, index)
    return Attachment("route", f"{kind} of the route to {socket.inet_ntop(family, address)} through {netdev.NEAR}")
