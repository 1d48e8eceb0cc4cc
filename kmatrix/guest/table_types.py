"""Map types, program types, attach types and link types, by number, and the first release of each.

Names are those of bpftool, in the order of the enums in include/uapi/linux/bpf.h, which are only ever appended to. The commit behind each
release stands beside it. `make fidelity` and tests/guest/test_first_releases.py ask booted kernels on either side.
"""

from __future__ import annotations

from collections.abc import Mapping

from .fact import Beside, Fact, numbered

_BTF = Beside(("DEBUG_INFO_BTF",))
_STREAM_PARSER = Beside(("BPF_STREAM_PARSER",), note="before 5.13 socket maps took BPF_STREAM_PARSER")

MAP_TYPES: tuple[Fact, ...] = numbered(
    "map",
    (
        ((3, 19), "unspec hash array"),  # 0f8e4bd8a1fc, 28fbcfa08d8e
        ((4, 2), "prog_array"),  # 04fd61ab36ec
        ((4, 3), "perf_event_array"),  # ea317b267e9d
        ((4, 6), "percpu_hash percpu_array stack_trace"),  # 824bd0ce6c7c, a10423b87a7e, d5a3b1f69186
        ((4, 8), "cgroup_array"),  # 4ed8ec521ed5
        ((4, 10), "lru_hash lru_percpu_hash"),  # 29ba732acbee, 8f8449384ec3
        ((4, 11), "lpm_trie"),  # b95a5c4db09b
        ((4, 12), "array_of_maps hash_of_maps"),  # 56f668dfe00d, bcc6b1b7ebf8
        ((4, 14), "devmap sockmap"),  # 546ac1ffb70d, 174a79ff9515
        ((4, 15), "cpumap"),  # 6710e1126934
        ((4, 18), "xskmap sockhash"),  # fbfc504a24f5, 81110384441a
        ((4, 19), "cgroup_storage reuseport_sockarray"),  # de9cbbaadba5, 5dc4c4b7d4e8
        ((4, 20), "percpu_cgroup_storage queue stack"),  # b741f1630346, f1a2e44a3aec
        ((5, 2), "sk_storage"),  # 6ac99e8f23d4
        ((5, 4), "devmap_hash"),  # 6f9d451ab1a3
        ((5, 6), "struct_ops"),  # 85d33df357b6
        ((5, 8), "ringbuf"),  # 457f44363a88
        ((5, 10), "inode_storage"),  # 8ea636848aca
        ((5, 11), "task_storage"),  # 4cf1bc1f1045
        ((5, 16), "bloom_filter"),  # 9330986c0300
        ((6, 1), "user_ringbuf"),  # 583c1f420173
        ((6, 2), "cgrp_storage"),  # c4bcfb38a95e
        ((6, 9), "arena"),  # 317460317a02
    ),
    {
        "xskmap": Beside(("XDP_SOCKETS",)),
        "sockmap": _STREAM_PARSER,
        "sockhash": _STREAM_PARSER,
        "cgroup_array": Beside(("CGROUPS",)),
        "cgroup_storage": Beside(("CGROUP_BPF",)),
        "percpu_cgroup_storage": Beside(("CGROUP_BPF",)),
        "cgrp_storage": Beside(("CGROUPS",)),
        "inode_storage": Beside(("BPF_LSM",)),
        "struct_ops": _BTF,
    },
)

PROG_TYPES: tuple[Fact, ...] = numbered(
    "prog",
    (
        ((3, 19), "unspec socket_filter"),  # 89aa075832b0
        ((4, 1), "kprobe sched_cls sched_act"),  # 2541517c32be, 96be4325f443, 94caee8c312d
        ((4, 7), "tracepoint"),  # 98b5c2c65c29
        ((4, 8), "xdp"),  # 6a773a15a1e8
        ((4, 9), "perf_event"),  # 0515e5999a46
        ((4, 10), "cgroup_skb cgroup_sock lwt_in lwt_out lwt_xmit"),  # 0e33661de493, 610236587600, 3a0af8fd61f9
        ((4, 13), "sock_ops"),  # 40304b2a1567
        ((4, 14), "sk_skb"),  # b005fd189cec
        ((4, 15), "cgroup_device"),  # ebc614f68736
        ((4, 17), "sk_msg raw_tracepoint cgroup_sock_addr"),  # 4f738adba30a, c4f6699dfcb8, 4fbac77d2d09
        ((4, 18), "lwt_seg6local lirc_mode2"),  # 004d4b274e2a, f4364dcfc86d
        ((4, 19), "sk_reuseport"),  # 2dbb9b9e6df6
        ((4, 20), "flow_dissector"),  # d58e468b1112
        ((5, 2), "cgroup_sysctl raw_tracepoint_writable"),  # 7b146cebe30c, 9df1c28bb752
        ((5, 3), "cgroup_sockopt"),  # 0d01da6afc54
        ((5, 5), "tracing"),  # f1b9509c2fb0
        ((5, 6), "struct_ops ext"),  # 27ae7997a661, be8704ff07d2
        ((5, 7), "lsm"),  # fc611f47f218
        ((5, 9), "sk_lookup"),  # e9ddbb7707ff
        ((5, 14), "syscall"),  # 79a7f8bdb159
        ((6, 4), "netfilter"),  # 84601d6ee68a
    ),
    {
        **{name: Beside(("CGROUP_BPF",)) for name in ("cgroup_skb", "cgroup_sock", "sock_ops", "cgroup_device", "cgroup_sock_addr")},
        **{name: Beside(("CGROUP_BPF",)) for name in ("cgroup_sysctl", "cgroup_sockopt")},
        "lirc_mode2": Beside(("BPF_LIRC_MODE2",)),
        **{name: Beside(("BPF_EVENTS",)) for name in ("kprobe", "tracepoint", "perf_event", "raw_tracepoint", "raw_tracepoint_writable")},
        "tracing": Beside(("BPF_EVENTS", "DEBUG_INFO_BTF")),
        "struct_ops": _BTF,
        "ext": _BTF,
        "lsm": Beside(("BPF_LSM", "DEBUG_INFO_BTF")),
        "netfilter": Beside(("NETFILTER_BPF_LINK",)),
    },
)  # fmt: skip

_TRAMPOLINE = Beside(
    ("DEBUG_INFO_BTF", "FUNCTION_TRACER", "DYNAMIC_FTRACE"),
    {"arm64": (6, 4)},
    note="arm64: efc9909fdce0 (JIT, 6.0) and 2aa6ac03516d (ftrace direct calls, 6.4)",
)
_MULTI = Beside(("FPROBE",), {"arm64": (6, 14)}, note="arm64: 4346ba160409 (fprobe: Rewrite fprobe on function-graph tracer, 6.14)")

ATTACH_TYPES: tuple[Fact, ...] = numbered(
    "attach",
    (
        ((4, 10), "cgroup_inet_ingress cgroup_inet_egress cgroup_inet_sock_create"),  # 0e33661de493, 610236587600
        ((4, 13), "cgroup_sock_ops"),  # 40304b2a1567
        ((4, 14), "sk_skb_stream_parser sk_skb_stream_verdict"),  # 464bc0fd6273
        ((4, 15), "cgroup_device"),  # ebc614f68736
        # 4f738adba30a, 4fbac77d2d09, d74bad4e74ee, aac3fc320d94
        ((4, 17), "sk_msg_verdict cgroup_inet4_bind cgroup_inet6_bind cgroup_inet4_connect cgroup_inet6_connect"),
        ((4, 17), "cgroup_inet4_post_bind cgroup_inet6_post_bind"),
        ((4, 18), "cgroup_udp4_sendmsg cgroup_udp6_sendmsg lirc_mode2"),  # 1cedee13d25a, f4364dcfc86d
        ((4, 20), "flow_dissector"),  # d58e468b1112
        ((5, 2), "cgroup_sysctl cgroup_udp4_recvmsg cgroup_udp6_recvmsg"),  # 7b146cebe30c, 983695fa6765
        ((5, 3), "cgroup_getsockopt cgroup_setsockopt"),  # 0d01da6afc54
        ((5, 5), "trace_raw_tp trace_fentry trace_fexit"),  # f1b9509c2fb0, fec56f5890d9
        ((5, 7), "modify_return lsm_mac"),  # ae24082331d9, fc611f47f218
        # 15d83c4d7cef, 1b66d253610c, fbee97feed9b
        ((5, 8), "trace_iter cgroup_inet4_getpeername cgroup_inet6_getpeername cgroup_inet4_getsockname cgroup_inet6_getsockname"),
        ((5, 8), "xdp_devmap"),
        ((5, 9), "cgroup_inet_sock_release xdp_cpumap sk_lookup xdp"),  # f5836749c9c0, 9216477449f3, e9ddbb7707ff, aa8d3a716b59
        ((5, 13), "sk_skb_verdict"),  # a7ba4558e69a
        ((5, 14), "sk_reuseport_select sk_reuseport_select_or_migrate"),  # d5e4ddaeb6ab
        ((5, 15), "perf_event"),  # b89fbfbb854c
        ((5, 18), "trace_kprobe_multi"),  # 0dcac2725406
        ((6, 0), "lsm_cgroup"),  # 69fd337a975c
        ((6, 4), "struct_ops netfilter"),  # 68b04864ca42, 84601d6ee68a
        ((6, 6), "tcx_ingress tcx_egress trace_uprobe_multi"),  # e420bed02507, 89ae89f53d20
        ((6, 7), "cgroup_unix_connect cgroup_unix_sendmsg cgroup_unix_recvmsg cgroup_unix_getpeername cgroup_unix_getsockname"),
        ((6, 7), "netkit_primary netkit_peer"),  # 859051dd165e (Unix sockets), 35dfaad7188c
        ((6, 10), "trace_kprobe_session"),  # 535a3692ba72
        ((6, 13), "trace_uprobe_session"),  # d920179b3d48
    ),
    {
        "lirc_mode2": Beside(("BPF_LIRC_MODE2",)),
        "sk_skb_stream_parser": _STREAM_PARSER,
        "sk_skb_stream_verdict": _STREAM_PARSER,
        "sk_msg_verdict": _STREAM_PARSER,
        "trace_raw_tp": _BTF,
        "trace_fentry": _TRAMPOLINE,
        "trace_fexit": _TRAMPOLINE,
        "modify_return": _TRAMPOLINE,
        "lsm_mac": Beside(("BPF_LSM", *_TRAMPOLINE.config), _TRAMPOLINE.arches, note=_TRAMPOLINE.note),
        "lsm_cgroup": Beside(("BPF_LSM", *_TRAMPOLINE.config), _TRAMPOLINE.arches, note=_TRAMPOLINE.note),
        "trace_iter": _BTF,
        "trace_kprobe_multi": _MULTI,
        "trace_kprobe_session": _MULTI,
        "netfilter": Beside(("NETFILTER_BPF_LINK",)),
        "netkit_primary": Beside(("NETKIT",)),
        "netkit_peer": Beside(("NETKIT",)),
    },
)

LINK_TYPES: tuple[Fact, ...] = numbered(
    "link",
    (
        ((5, 7), "unspec"),
        ((5, 8), "raw_tracepoint tracing"),  # f2e10bff16a0: from then on they can be asked for by id and have a type
        ((5, 7), "cgroup"),  # af6eea57437a
        ((5, 8), "iter netns"),  # de4e05cac46d, 7f045a49fee0
        ((5, 9), "xdp"),  # aa8d3a716b59
        ((5, 15), "perf_event"),  # b89fbfbb854c
        ((5, 18), "kprobe_multi"),  # 0dcac2725406
        ((6, 4), "struct_ops netfilter"),  # 68b04864ca42, 84601d6ee68a
        ((6, 6), "tcx uprobe_multi"),  # e420bed02507, 89ae89f53d20
        ((6, 7), "netkit"),  # 35dfaad7188c
        ((6, 10), "sockmap"),  # 699c23f02c65
    ),
    {
        "tracing": _TRAMPOLINE,
        "iter": _BTF,
        "kprobe_multi": _MULTI,
        "struct_ops": _BTF,
        "netfilter": Beside(("NETFILTER_BPF_LINK",)),
        "netkit": Beside(("NETKIT",)),
    },
)

LINK_OF: Mapping[int, str] = {
    **dict.fromkeys((0, 1, 2, 3, 6, *range(8, 16), *range(18, 23), *range(29, 33), 34, 43, *range(49, 54)), "cgroup"),
    **dict.fromkeys((17, 36), "netns"), **dict.fromkeys((4, 5, 7, 38), "sockmap"), **dict.fromkeys((46, 47), "tcx"),
    **dict.fromkeys((48, 57), "uprobe_multi"), **dict.fromkeys((42, 56), "kprobe_multi"), **dict.fromkeys((54, 55), "netkit"),
    28: "iter", 37: "xdp", 41: "perf_event", 44: "struct_ops", 45: "netfilter",
}  # fmt: skip
"""Attach type → the link type that BPF_LINK_CREATE makes for it. Those of tracing are made by BPF_RAW_TRACEPOINT_OPEN as well."""


def names(rows: tuple[Fact, ...]) -> tuple[str, ...]:
    """The names, by number."""
    return tuple(row.name for row in rows)
