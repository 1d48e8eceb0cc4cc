"""SEC("…") → the program type, the attach type and the target that libbpf reads out of it (docs/program_types.rst of libbpf).

Only the attach types that a kernel checks, or that came later than their program type, are named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """What a section name says."""

    kind: str
    """Its first part without flags: `fentry` of `?fentry.s/do_exit`."""
    program: str | None
    """The program type, as bpftool writes it; None for a section that libbpf does not know."""
    attach: str | None
    """The attach type, in the words of enum bpf_attach_type."""
    target: str
    """What comes after the first slash; empty where nothing does."""
    sleepable: bool
    frags: bool
    """XDP that takes packets of several buffers."""


_SLEEPABLE = re.compile(r"^([a-z_]+(?:\.multi|\.session)?)\.s(/|$)")
_CGROUP = {
    "cgroup_skb/ingress": ("cgroup_skb", None), "cgroup_skb/egress": ("cgroup_skb", None), "cgroup/skb": ("cgroup_skb", None),
    "cgroup/sock_create": ("cgroup_sock", None), "cgroup/sock_release": ("cgroup_sock", "cgroup_inet_sock_release"), "cgroup/sock": ("cgroup_sock", None),
    "cgroup/post_bind4": ("cgroup_sock", "cgroup_inet4_post_bind"), "cgroup/post_bind6": ("cgroup_sock", "cgroup_inet6_post_bind"),
    "cgroup/bind4": ("cgroup_sock_addr", "cgroup_inet4_bind"), "cgroup/bind6": ("cgroup_sock_addr", "cgroup_inet6_bind"),
    "cgroup/connect4": ("cgroup_sock_addr", "cgroup_inet4_connect"), "cgroup/connect6": ("cgroup_sock_addr", "cgroup_inet6_connect"),
    "cgroup/connect_unix": ("cgroup_sock_addr", "cgroup_unix_connect"),
    "cgroup/sendmsg4": ("cgroup_sock_addr", "cgroup_udp4_sendmsg"), "cgroup/sendmsg6": ("cgroup_sock_addr", "cgroup_udp6_sendmsg"),
    "cgroup/sendmsg_unix": ("cgroup_sock_addr", "cgroup_unix_sendmsg"),
    "cgroup/recvmsg4": ("cgroup_sock_addr", "cgroup_udp4_recvmsg"), "cgroup/recvmsg6": ("cgroup_sock_addr", "cgroup_udp6_recvmsg"),
    "cgroup/recvmsg_unix": ("cgroup_sock_addr", "cgroup_unix_recvmsg"),
    "cgroup/getpeername4": ("cgroup_sock_addr", "cgroup_inet4_getpeername"), "cgroup/getpeername6": ("cgroup_sock_addr", "cgroup_inet6_getpeername"),
    "cgroup/getpeername_unix": ("cgroup_sock_addr", "cgroup_unix_getpeername"),
    "cgroup/getsockname4": ("cgroup_sock_addr", "cgroup_inet4_getsockname"), "cgroup/getsockname6": ("cgroup_sock_addr", "cgroup_inet6_getsockname"),
    "cgroup/getsockname_unix": ("cgroup_sock_addr", "cgroup_unix_getsockname"),
    "cgroup/sysctl": ("cgroup_sysctl", "cgroup_sysctl"), "cgroup/getsockopt": ("cgroup_sockopt", "cgroup_getsockopt"),
    "cgroup/setsockopt": ("cgroup_sockopt", "cgroup_setsockopt"), "cgroup/dev": ("cgroup_device", None),
}  # fmt: skip
_WHOLE = {
    **_CGROUP,
    "sk_skb/stream_parser": ("sk_skb", None), "sk_skb/stream_verdict": ("sk_skb", None), "sk_skb/verdict": ("sk_skb", "sk_skb_verdict"),
    "sk_reuseport/migrate": ("sk_reuseport", "sk_reuseport_select_or_migrate"),
    "xdp/devmap": ("xdp", "xdp_devmap"), "xdp/cpumap": ("xdp", "xdp_cpumap"), "xdp.frags/devmap": ("xdp", "xdp_devmap"), "xdp.frags/cpumap": ("xdp", "xdp_cpumap"),
    "tcx/ingress": ("sched_cls", "tcx_ingress"), "tcx/egress": ("sched_cls", "tcx_egress"),
    "netkit/primary": ("sched_cls", "netkit_primary"), "netkit/peer": ("sched_cls", "netkit_peer"),
}  # fmt: skip
_FIRST: dict[str, tuple[str, str | None]] = {
    "socket": ("socket_filter", None), "sk_reuseport": ("sk_reuseport", None), "kprobe": ("kprobe", None), "kretprobe": ("kprobe", None),
    "ksyscall": ("kprobe", None), "kretsyscall": ("kprobe", None), "uprobe": ("kprobe", None), "uretprobe": ("kprobe", None), "usdt": ("kprobe", None),
    "kprobe.multi": ("kprobe", "trace_kprobe_multi"), "kretprobe.multi": ("kprobe", "trace_kprobe_multi"), "kprobe.session": ("kprobe", "trace_kprobe_session"),
    "uprobe.multi": ("kprobe", "trace_uprobe_multi"), "uretprobe.multi": ("kprobe", "trace_uprobe_multi"), "uprobe.session": ("kprobe", "trace_uprobe_session"),
    "tc": ("sched_cls", None), "classifier": ("sched_cls", None), "action": ("sched_act", None), "tracepoint": ("tracepoint", None), "tp": ("tracepoint", None),
    "raw_tracepoint": ("raw_tracepoint", None), "raw_tp": ("raw_tracepoint", None), "raw_tracepoint.w": ("raw_tracepoint_writable", None),
    "raw_tp.w": ("raw_tracepoint_writable", None), "tp_btf": ("tracing", "trace_raw_tp"), "fentry": ("tracing", "trace_fentry"),
    "fexit": ("tracing", "trace_fexit"), "fmod_ret": ("tracing", "modify_return"), "freplace": ("ext", None), "lsm": ("lsm", "lsm_mac"),
    "lsm_cgroup": ("lsm", "lsm_cgroup"), "iter": ("tracing", "trace_iter"), "syscall": ("syscall", None), "xdp": ("xdp", None), "perf_event": ("perf_event", None),
    "lwt_in": ("lwt_in", None), "lwt_out": ("lwt_out", None), "lwt_xmit": ("lwt_xmit", None), "lwt_seg6local": ("lwt_seg6local", None),
    "sockops": ("sock_ops", None), "sk_skb": ("sk_skb", None), "sk_msg": ("sk_msg", None), "lirc_mode2": ("lirc_mode2", None),
    "flow_dissector": ("flow_dissector", "flow_dissector"), "struct_ops": ("struct_ops", None), "sk_lookup": ("sk_lookup", "sk_lookup"),
    "netfilter": ("netfilter", "netfilter"),
}  # fmt: skip


def read(section: str) -> Section:
    """What `section` says of a program, as libbpf 1.x reads it."""
    text = section.removeprefix("?")
    sleepable = _SLEEPABLE.match(text)
    if sleepable:
        text = text.replace(".s", "", 1)
    frags = text.startswith("xdp.frags")
    if text in _WHOLE:
        program, attach = _WHOLE[text]
        return Section(text.split("/")[0], program, attach, "", bool(sleepable), frags)
    plain = text.replace("xdp.frags", "xdp", 1) if frags else text
    kind, _, target = plain.partition("/")
    found = _FIRST.get(kind)
    return Section(kind, found[0] if found else None, found[1] if found else None, target, bool(sleepable), frags)
