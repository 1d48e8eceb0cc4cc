"""The fields of the contexts that programs are given (`struct __sk_buff` and its kin), by place, and the first release of each.

Offsets are those of include/uapi/linux/bpf.h, which never change. Releases are those of the commits that added the fields; what has
none named here was there in 4.14, or came with its program type. Seen on booted kernels: tests/guest/test_context.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .fact import Version

_FIRST: Version = (4, 14)
_WIDEST = 8
"""Bytes of the widest field that ends a context."""


@dataclass(frozen=True)
class Field:
    """A field, or neighbours that came together."""

    at: int
    """Bytes from the beginning of the context."""
    name: str
    since: Version = _FIRST


def _fields(*rows: tuple[int, str] | tuple[int, str, Version]) -> tuple[Field, ...]:
    return tuple(Field(*row) for row in rows)


CONTEXTS: Mapping[str, tuple[Field, ...]] = {
    "__sk_buff": _fields(
        (0, "len"),
        (4, "pkt_type"),
        (8, "mark"),
        (12, "queue_mapping"),
        (16, "protocol"),
        (20, "vlan_present"),
        (24, "vlan_tci"),
        (28, "vlan_proto"),
        (32, "priority"),
        (36, "ingress_ifindex"),
        (40, "ifindex"),
        (44, "tc_index"),
        (48, "cb"),
        (68, "hash"),
        (72, "tc_classid"),
        (76, "data"),
        (80, "data_end"),
        (84, "napi_id"),
        (88, "family"),
        (92, "remote_ip4"),
        (96, "local_ip4"),
        (100, "remote_ip6"),
        (116, "local_ip6"),
        (132, "remote_port"),
        (136, "local_port"),
        (140, "data_meta", (4, 15)),  # de8f3a83b0a0
        (144, "flow_keys", (4, 20)),  # d58e468b1112
        (152, "tstamp", (5, 0)),  # f11216b24219
        (160, "wire_len", (5, 0)),  # e3da08d05700
        (164, "gso_segs", (5, 1)),  # d9ff286a0f59
        (168, "sk", (5, 1)),  # 46f8bc92758c
        (176, "gso_size", (5, 7)),  # cf62089b0edd
        (180, "tstamp_type", (5, 18)),  # 8d21ec0e46ed
        (184, "hwtstamp", (5, 16)),  # f64c4acea51f
    ),
    "xdp_md": _fields(
        (0, "data"),
        (4, "data_end"),
        (8, "data_meta", (4, 15)),  # de8f3a83b0a0
        (12, "ingress_ifindex", (4, 16)),  # 02dd3291b2f0
        (16, "rx_queue_index", (4, 16)),
        (20, "egress_ifindex", (5, 8)),  # 64b59025c15b
    ),
    "bpf_sock_ops": _fields(
        (0, "op"),
        (4, "args"),
        (20, "family"),
        (24, "remote_ip4"),
        (28, "local_ip4"),
        (32, "remote_ip6"),
        (48, "local_ip6"),
        (64, "remote_port"),
        (68, "local_port"),
        (72, "is_fullsock", (4, 16)),  # f19397a5c656
        (76, "snd_cwnd", (4, 16)),
        (80, "srtt_us", (4, 16)),
        (84, "bpf_sock_ops_cb_flags", (4, 16)),  # b13d88072172
        (88, "state", (4, 16)),  # 44f0e43037d3, and what follows
        (92, "rtt_min", (4, 16)),
        (96, "snd_ssthresh", (4, 16)),
        (100, "rcv_nxt", (4, 16)),
        (104, "snd_nxt", (4, 16)),
        (108, "snd_una", (4, 16)),
        (112, "mss_cache", (4, 16)),
        (116, "ecn_flags", (4, 16)),
        (120, "rate_delivered", (4, 16)),
        (124, "rate_interval_us", (4, 16)),
        (128, "packets_out", (4, 16)),
        (132, "retrans_out", (4, 16)),
        (136, "total_retrans", (4, 16)),
        (140, "segs_in", (4, 16)),
        (144, "data_segs_in", (4, 16)),
        (148, "segs_out", (4, 16)),
        (152, "data_segs_out", (4, 16)),
        (156, "lost_out", (4, 16)),
        (160, "sacked_out", (4, 16)),
        (164, "sk_txhash", (4, 16)),
        (168, "bytes_received", (4, 16)),
        (176, "bytes_acked", (4, 16)),
        (184, "sk", (5, 3)),  # 1314ef561102
        (192, "skb_data", (5, 10)),  # 0813a841566f
        (200, "skb_data_end", (5, 10)),
        (208, "skb_len", (5, 10)),
        (212, "skb_tcp_flags", (5, 10)),
        (216, "skb_hwtstamp", (6, 2)),  # 9bb053490f1a
    ),
    "bpf_sock": _fields(
        (0, "bound_dev_if"),
        (4, "family"),
        (8, "type"),
        (12, "protocol"),
        (16, "mark"),
        (20, "priority"),
        (24, "src_ip4", (4, 17)),  # aac3fc320d94
        (28, "src_ip6", (4, 17)),
        (44, "src_port", (4, 17)),
        (48, "dst_port", (5, 1)),  # aa65d6960a98
        (52, "dst_ip4", (5, 1)),
        (56, "dst_ip6", (5, 1)),
        (72, "state", (5, 1)),
        (76, "rx_queue_mapping", (5, 8)),  # c3c16f2ea6d2
    ),
    "bpf_sock_addr": _fields(
        (0, "user_family"),
        (4, "user_ip4"),
        (8, "user_ip6"),
        (24, "user_port"),
        (28, "family"),
        (32, "type"),
        (36, "protocol"),
        (40, "msg_src_ip4", (4, 18)),  # 1cedee13d25a
        (44, "msg_src_ip6", (4, 18)),
        (64, "sk", (5, 3)),  # fb85c4a730af
    ),
    "sk_msg_md": _fields(
        (0, "data"),
        (8, "data_end"),
        (16, "family", (4, 18)),  # 303def35f64e, and what follows
        (20, "remote_ip4", (4, 18)),
        (24, "local_ip4", (4, 18)),
        (28, "remote_ip6", (4, 18)),
        (44, "local_ip6", (4, 18)),
        (60, "remote_port", (4, 18)),
        (64, "local_port", (4, 18)),
        (68, "size", (5, 0)),  # 3bdbd0228e75
        (72, "sk", (5, 8)),  # 13d70f5a5ecf
    ),
    "sk_reuseport_md": _fields(
        (0, "data"),
        (8, "data_end"),
        (16, "len"),
        (20, "eth_protocol"),
        (24, "ip_protocol"),
        (28, "bind_inany"),
        (32, "hash"),
        (40, "sk", (5, 14)),  # e061047684af
        (48, "migrating_sk", (5, 14)),  # d5e4ddaeb6ab
    ),
    "bpf_sk_lookup": _fields(
        (0, "sk"),
        (8, "family"),
        (12, "protocol"),
        (16, "remote_ip4"),
        (20, "remote_ip6"),
        (36, "remote_port"),
        (40, "local_ip4"),
        (44, "local_ip6"),
        (60, "local_port"),
        (64, "ingress_ifindex", (5, 17)),  # f89315650ba3
    ),
}
"""The contexts that have fields of their own, in the order of their fields."""

_SKB = (
    "socket_filter", "sched_cls", "sched_act", "cgroup_skb", "lwt_in", "lwt_out", "lwt_xmit", "lwt_seg6local", "sk_skb", "flow_dissector",
)  # fmt: skip
CONTEXT_OF: Mapping[str, str] = {
    **dict.fromkeys(_SKB, "__sk_buff"),
    "xdp": "xdp_md",
    "sock_ops": "bpf_sock_ops",
    "cgroup_sock": "bpf_sock",
    "cgroup_sock_addr": "bpf_sock_addr",
    "sk_msg": "sk_msg_md",
    "sk_reuseport": "sk_reuseport_md",
    "sk_lookup": "bpf_sk_lookup",
}
"""Program type → its context."""


def field(program_type: str, at: int) -> tuple[str, Field] | None:
    """The context of a type of program, and its field at this place; None where no such context is here, or none of its fields is there."""
    context = CONTEXT_OF.get(program_type)
    if context is None or not 0 <= at < CONTEXTS[context][-1].at + _WIDEST:
        return None
    return context, max((each for each in CONTEXTS[context] if each.at <= at), key=lambda each: each.at)
