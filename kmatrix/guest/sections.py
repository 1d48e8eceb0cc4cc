"""Section names that other loaders take and libbpf 1.x does not: `classifier/egress`, `socket1`, `kprobe_tcp_connect`.

libbpf before 1.0, iproute2 and early releases of cilium/ebpf went by what a name begins with. libbpf 1.0 wants the whole name, and leaves a
program of another without a type; such a program is given the type that its name begins with.
"""

from __future__ import annotations

from . import bpf

# libbpf 1.5's own names (section_defs in its libbpf.c): those that are whole, and those that a target may follow after a slash.
_WHOLE_NAMES = """
socket sk_reuseport/migrate sk_reuseport tc/ingress tc/egress tcx/ingress tcx/egress tc classifier action netkit/primary netkit/peer syscall
xdp.frags/devmap xdp/devmap xdp.frags/cpumap xdp/cpumap xdp.frags xdp perf_event lwt_in lwt_out lwt_xmit lwt_seg6local sockops
sk_skb/stream_parser sk_skb/stream_verdict sk_skb/verdict sk_skb sk_msg lirc_mode2 flow_dissector cgroup_skb/ingress cgroup_skb/egress
cgroup/skb cgroup/sock_create cgroup/sock_release cgroup/sock cgroup/post_bind4 cgroup/post_bind6 cgroup/bind4 cgroup/bind6 cgroup/connect4
cgroup/connect6 cgroup/connect_unix cgroup/sendmsg4 cgroup/sendmsg6 cgroup/sendmsg_unix cgroup/recvmsg4 cgroup/recvmsg6 cgroup/recvmsg_unix
cgroup/getpeername4 cgroup/getpeername6 cgroup/getpeername_unix cgroup/getsockname4 cgroup/getsockname6 cgroup/getsockname_unix
cgroup/sysctl cgroup/getsockopt cgroup/setsockopt cgroup/dev sk_lookup netfilter
"""
_NAMES_WITH_TARGET = """
kprobe uprobe uprobe.s kretprobe uretprobe uretprobe.s kprobe.multi kretprobe.multi kprobe.session uprobe.multi uretprobe.multi
uprobe.multi.s uretprobe.multi.s ksyscall kretsyscall usdt usdt.s tracepoint tp raw_tracepoint raw_tp raw_tracepoint.w raw_tp.w tp_btf
fentry fmod_ret fexit fentry.s fmod_ret.s fexit.s freplace lsm lsm.s lsm_cgroup iter iter.s struct_ops struct_ops.s
"""
WHOLE, WITH_TARGET = frozenset(_WHOLE_NAMES.split()), frozenset(_NAMES_WITH_TARGET.split())
"""libbpf 1.5's own names: those that stand alone, and those that a target follows."""

# What a name begins with, the program type, and the attach type that goes with it (enum bpf_attach_type). The longest that fits counts.
_BEGINNINGS = (
    ("socket", "socket_filter", None),
    ("kprobe", "kprobe", None),
    ("kretprobe", "kprobe", None),
    ("uprobe", "kprobe", None),
    ("uretprobe", "kprobe", None),
    ("classifier", "sched_cls", None),
    ("tc", "sched_cls", None),
    ("action", "sched_act", None),
    ("tracepoint", "tracepoint", None),
    ("tp", "tracepoint", None),
    ("raw_tracepoint", "raw_tracepoint", None),
    ("raw_tp", "raw_tracepoint", None),
    ("xdp", "xdp", "xdp"),
    ("perf_event", "perf_event", None),
    ("lwt_in", "lwt_in", None),
    ("lwt_out", "lwt_out", None),
    ("lwt_xmit", "lwt_xmit", None),
    ("lwt_seg6local", "lwt_seg6local", None),
    ("sockops", "sock_ops", "cgroup_sock_ops"),
    ("sk_skb", "sk_skb", None),
    ("sk_skb/stream_parser", "sk_skb", "sk_skb_stream_parser"),
    ("sk_skb/stream_verdict", "sk_skb", "sk_skb_stream_verdict"),
    ("sk_msg", "sk_msg", "sk_msg_verdict"),
    ("sk_reuseport", "sk_reuseport", "sk_reuseport_select"),
    ("sk_lookup", "sk_lookup", "sk_lookup"),
    ("flow_dissector", "flow_dissector", "flow_dissector"),
    ("cgroup/skb", "cgroup_skb", None),
    ("cgroup/skb/egress", "cgroup_skb", "cgroup_inet_egress"),
    ("cgroup_skb", "cgroup_skb", None),
    ("cgroup_skb/ingress", "cgroup_skb", "cgroup_inet_ingress"),
    ("cgroup_skb/egress", "cgroup_skb", "cgroup_inet_egress"),
    ("cgroup/sock", "cgroup_sock", "cgroup_inet_sock_create"),
    ("cgroup/dev", "cgroup_device", "cgroup_device"),
    ("cgroup/sysctl", "cgroup_sysctl", "cgroup_sysctl"),
)


def taken(section: str) -> bool:
    """Whether libbpf 1.5 knows the type of a program by the name of its section (sec_def_matches in its libbpf.c)."""
    name = section.lstrip("?")
    return name in WHOLE or name.partition("/")[0] in WITH_TARGET


def meant(section: str) -> tuple[int, int | None] | None:
    """The program type and attach type that the name of a section begins with; None where it begins like no kind of program."""
    name = section.lstrip("?")
    fitting = [each for each in _BEGINNINGS if name.startswith(each[0])]
    if not fitting:
        return None
    _, kind, where = max(fitting, key=lambda each: len(each[0]))
    return bpf.PROG_TYPES.index(kind), bpf.ATTACH_TYPES.index(where) if where is not None else None


def advice(section: str) -> str:
    """The name to write instead of one that libbpf does not take and that begins like one that it does."""
    name = section.lstrip("?")
    if name.startswith(("classifier", "tc")):
        return f'write SEC("{"tc/egress" if "egress" in name else "tc"}")'
    if name.startswith("cgroup/skb/"):
        return f'write SEC("cgroup_skb/{"egress" if "egress" in name else "ingress"}")'
    whole = max((each for each in (*WHOLE, *WITH_TARGET) if name.startswith(each)), key=len)
    if whole in WITH_TARGET:
        target = name.removeprefix(whole).lstrip("/_-.")
        return f'write SEC("{whole}/{target or "TARGET"}")'
    return f'write SEC("{whole}")'
