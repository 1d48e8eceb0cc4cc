"""What the rules know about kernels: fields that come and go, system calls that arm64 lacks, headers, helpers. Data; tests/lint/test_kernel_facts.py asks real kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kmatrix.guest.fact import NEVER, release_of
from kmatrix.guest.table_helpers import HELPER_COUNT, HELPERS
from kmatrix.guest.table_hidden import GONE
from kmatrix.guest.table_types import MAP_TYPES
from kmatrix.host.version import Version

BTF_FLOOR: Version = (5, 2)
"""The first release that can have BTF, and so the oldest that a CO-RE program must suit."""
OLDEST: Version = (4, 14)
"""The oldest kernel that the standard supports."""


class Span(NamedTuple):
    """When a field is there, in the form that programs read."""

    since: Version | None = None
    until: Version | None = None
    """The first release without it."""
    note: str = ""
    """What to read instead, or what changed."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _renamed(old: str, new: str, when: Version) -> dict[str, Span]:
    return {old: Span(until=when, note=f"{new} since"), new: Span(since=when, note=f"{old} before")}


CHANGED: Mapping[str, Mapping[str, Span]] = {
    "task_struct": {
        **_renamed("state", "__state", (5, 14)),  # 2f064a59a11f
        **_renamed("real_start_time", "start_boottime", (5, 5)),  # cf25e24db61c
        **_renamed("pids", "thread_pid", (4, 19)),  # 2c4704756cab
    },
    "kernfs_node": {
        "ino": Span(until=(4, 14), note="id since"),  # c53cd490b1a4
        "id": Span(since=(5, 5), note="a union kernfs_node_id before"),  # 67c0496e87d1
    },
    "cgroup": {"id": Span(until=(5, 5), note="kn->id since")},  # 743210386c03
    "request": {"rq_disk": Span(until=(5, 17), note="q->disk since")},  # f3fa33acca9f
    "request_queue": {"disk": Span(since=(5, 15), note="request.rq_disk before")},  # d152c682f03c
    "iov_iter": {**_renamed("iov", "__iov", (6, 4)), **_renamed("type", "iter_type", (5, 14))},  # de4f5fed3f23, 8cd54c1c8480
    "bio": {**_renamed("bi_disk", "bi_bdev", (5, 12))},  # 309dca309fc3
    "inode": {"i_ctime": Span(until=(6, 6), note="__i_ctime, then i_ctime_sec, since")},  # 13bc24457850
}
"""Fields that supported kernels do not all have in one form, by structure. Checked against the BTF of the matrix's kernels."""

STABLE: Mapping[str, frozenset[str]] = {
    "task_struct": _words(
        "pid tgid real_parent parent group_leader comm exit_code mm nsproxy signal sighand cred real_cred flags files fs start_time prio"
    ),
    "nsproxy": frozenset({"mnt_ns", "net_ns", "uts_ns", "ipc_ns", "cgroup_ns"}),
    "cred": frozenset({"uid", "gid", "euid", "egid"}),
    "mm_struct": frozenset({"exe_file", "arg_start", "arg_end", "env_start"}),
    "file": frozenset({"f_path", "f_inode", "f_flags", "f_mode"}),
    "path": frozenset({"dentry", "mnt"}),
    "dentry": frozenset({"d_name", "d_parent", "d_inode"}),
    "inode": frozenset({"i_ino", "i_mode", "i_sb"}),
    "sock": frozenset({"__sk_common", "sk_protocol", "sk_type"}),
    "sock_common": frozenset({"skc_daddr", "skc_rcv_saddr", "skc_dport", "skc_num", "skc_family", "skc_state", "skc_net"}),
    "inet_sock": frozenset({"inet_sport", "inet_saddr"}),
    "sk_buff": frozenset({"head", "data", "len", "sk", "dev"}),
    "net_device": frozenset({"ifindex", "name"}),
    "linux_binprm": frozenset({"filename", "file"}),
    "oom_control": frozenset({"chosen", "totalpages"}),
    "signal_struct": frozenset({"tty"}),
    "pt_regs": frozenset({"sp"}),
}
"""Fields that every kernel with BTF has had all along, whatever its configuration (which decides on task_struct.cgroups, for one)."""

PACKET_STRUCTS = _words("ethhdr iphdr ipv6hdr tcphdr udphdr icmphdr icmp6hdr vlan_hdr arphdr")
"""What is in packets: offsets into these are the protocol's."""

KERNEL_STRUCTS = (
    frozenset(STABLE)
    | frozenset(CHANGED)
    | _words(
        "css_set cgroup cgroup_subsys_state tcp_sock udp_sock socket net sk_buff_head file_operations super_block vfsmount mount qstr vm_area_struct page bio block_device "
        "gendisk pid upid pid_namespace ns_common user_namespace uts_namespace mnt_namespace rq cfs_rq sched_entity thread_info "
        "trace_entry workqueue_struct work_struct timer_list module device sighand_struct fs_struct files_struct fdtable kiocb iov_iter "
        "tcp_request_sock request_sock inet_connection_sock inet_request_sock bpf_prog bpf_map user_struct msghdr mem_cgroup"
    )
)
"""Names of the kernel's own structures."""

FIXED: Mapping[str, frozenset[str]] = {
    "sock": frozenset({"__sk_common"}),
    "sock_common": _words("skc_daddr skc_rcv_saddr skc_hash skc_dport skc_num skc_portpair skc_family skc_state"),
}
"""Fields at the same offset in every kernel: declared by hand without preserve_access_index, they are read right all the same."""

X86_REGISTERS = _words(
    "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip sp ss cs flags"
)  # arch/x86/include/asm/ptrace.h
USER_REGISTERS = _words("rbp rbx rax rcx rdx rsi rdi orig_rax rip rsp eflags")  # the same, as user space's header has them
ARM64_REGISTERS = _words("regs sp pc pstate orig_x0 syscallno")  # arch/arm64/include/asm/ptrace.h

X86_ONLY_SYSCALLS = _words(
    "access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_wait eventfd fadvise64 fork futimesat getdents getpgrp inotify_init ioperm iopl lchown "
    "link mkdir mknod modify_ldt newlstat newstat open pause personality pipe poll readlink rename rmdir select signalfd symlink sysfs time unlink ustat "
    "utime utimes vfork"
)
"""System calls with a tracepoint on x86_64 and none on arm64 (compared on booted 6.1 guests)."""
SYSCALL_INSTEAD: Mapping[str, str] = {
    "open": "openat", "creat": "openat", "fork": "clone (or sched/sched_process_fork)", "vfork": "clone (or sched/sched_process_fork)", "poll": "ppoll",
    "select": "pselect6", "newstat": "newfstatat", "newlstat": "newfstatat", "unlink": "unlinkat", "rmdir": "unlinkat", "mkdir": "mkdirat",
    "rename": "renameat2", "link": "linkat", "symlink": "symlinkat", "readlink": "readlinkat", "chmod": "fchmodat", "chown": "fchownat", "lchown": "fchownat",
    "access": "faccessat", "pipe": "pipe2", "dup2": "dup3", "epoll_create": "epoll_create1", "epoll_wait": "epoll_pwait", "eventfd": "eventfd2",
    "signalfd": "signalfd4", "inotify_init": "inotify_init1", "getdents": "getdents64", "mknod": "mknodat", "utimes": "utimensat", "utime": "utimensat", "fadvise64": "fadvise64_64", "personality": "arm64_personality",
}  # fmt: skip
"""What does the same on both arches."""

C_LIBRARY = _words(
    "stdio.h stdlib.h string.h strings.h unistd.h errno.h assert.h ctype.h time.h signal.h fcntl.h pthread.h math.h limits.h inttypes.h "
    "netinet/in.h netinet/ip.h netinet/tcp.h netinet/udp.h net/if.h net/ethernet.h arpa/inet.h netdb.h"
)
"""Headers of the C library (and all of sys/)."""
KERNEL_INTERNAL = _words(
    "linux/sched.h linux/ptrace.h linux/kernel.h linux/module.h linux/cgroup.h linux/nsproxy.h linux/mm_types.h linux/dcache.h "
    "linux/fs_struct.h linux/skbuff.h linux/netdevice.h linux/blkdev.h linux/blk_types.h linux/kconfig.h linux/slab.h linux/uaccess.h "
    "asm/ptrace.h bcc/proto.h"
)
"""Headers of one kernel's inside, or of one arch's registers (and all of net/ that is not the C library's)."""

ALSO_USER_SPACES = frozenset(
    {"linux/sched.h", "linux/ptrace.h", "linux/fs.h", "linux/module.h", "linux/kernel.h", "linux/netdevice.h"}
)
"""Of these, the names of interface headers too."""

HEADER_OF: Mapping[str, str] = {
    **dict.fromkeys(("BPF_CORE_READ", "BPF_CORE_READ_INTO", "BPF_CORE_READ_STR_INTO", "BPF_CORE_READ_BITFIELD", "BPF_CORE_READ_BITFIELD_PROBED",
                     "BPF_PROBE_READ", "BPF_PROBE_READ_INTO", "bpf_core_read", "bpf_core_read_str", "bpf_core_field_exists", "bpf_core_type_exists",
                     "bpf_core_enum_value_exists", "bpf_core_enum_value", "bpf_core_field_size", "bpf_core_field_offset", "bpf_core_type_size"),
                    "bpf/bpf_core_read.h"),
    **dict.fromkeys(("BPF_KPROBE", "BPF_KRETPROBE", "BPF_PROG", "BPF_PROG2", "BPF_KSYSCALL", "BPF_KPROBE_SYSCALL", "BPF_UPROBE", "BPF_URETPROBE",
                     "BPF_SEQ_PRINTF", "BPF_SNPRINTF",
                     *(f"PT_REGS_{part}{core}" for core in ("", "_CORE") for part in
                       ("PARM1", "PARM2", "PARM3", "PARM4", "PARM5", "RC", "IP", "SP", "FP", "RET"))),
                    "bpf/bpf_tracing.h"),
    **dict.fromkeys(("bpf_ntohs", "bpf_htons", "bpf_ntohl", "bpf_htonl", "bpf_cpu_to_be64", "bpf_be64_to_cpu"), "bpf/bpf_endian.h"),
    **dict.fromkeys(("SEC", "bpf_printk", "bpf_map_lookup_elem", "bpf_map_update_elem", "bpf_get_current_pid_tgid", "bpf_get_current_task",
                     "bpf_get_current_comm", "bpf_ktime_get_ns", "bpf_perf_event_output", "bpf_ringbuf_reserve"), "bpf/bpf_helpers.h"),
    **dict.fromkeys(("INIT_CORE_COMPAT", "INIT_CORE_COMPAT_FOR", "REQUIRE_CORE_FEATURES", "g_core_features", "safe_cgroup_id_extraction"),
                    "core_compat.h"),
    **dict.fromkeys(("bpf_debug_printk", "get_arg0", "get_arg1", "get_arg2", "get_arg3", "get_arg4", "get_return_value"), "helpers.h"),
}  # fmt: skip
"""The header that defines a name: libbpf's by bpf/…, else bpf_common's."""

ENDIAN_NAMES = _words("bpf_ntohs bpf_htons bpf_ntohl bpf_htonl bpf_cpu_to_be64 bpf_be64_to_cpu")
"""What <bpf/bpf_endian.h> defines as macros."""

GPL_ONLY = _words(
    "bpf_probe_read bpf_probe_read_kernel bpf_probe_read_user bpf_probe_read_str bpf_probe_read_kernel_str bpf_probe_read_user_str bpf_get_current_task "
    "bpf_trace_printk bpf_perf_event_output bpf_perf_event_read_value bpf_get_stackid bpf_get_stack bpf_get_task_stack bpf_override_return "
    "bpf_seq_printf bpf_seq_write bpf_probe_write_user bpf_skb_output bpf_xdp_output bpf_get_current_task_btf"
)
"""Helpers with gpl_only in every supported kernel (bpf_perf_event_output: as tracing has it)."""

NETWORK_SECTIONS: Mapping[str, tuple[str, frozenset[int]]] = {
    "xdp": ("xdp", frozenset({2})),
    "socket": ("socket_filter", frozenset({-1})),
    "cgroup_skb/": ("cgroup_skb", frozenset({1})),
    "cgroup/skb": ("cgroup_skb", frozenset({1})),
    "cgroup/sock": ("cgroup_sock", frozenset({1})),
    "cgroup/bind": ("cgroup_sock_addr", frozenset({1})),
    "cgroup/connect": ("cgroup_sock_addr", frozenset({1})),
    "cgroup/sendmsg": ("cgroup_sock_addr", frozenset({1})),
    "cgroup/recvmsg": ("cgroup_sock_addr", frozenset({1})),
    "cgroup/get": ("cgroup_sock_addr", frozenset({1})),
    "cgroup/dev": ("cgroup_device", frozenset({1})),
    "cgroup/sysctl": ("cgroup_sysctl", frozenset({1})),
    "cgroup/setsockopt": ("cgroup_sockopt", frozenset({1})),
    "cgroup/getsockopt": ("cgroup_sockopt", frozenset({1})),
}
"""Sections of programs to which 0 is a verdict: core_compat's name of the type, and what lets traffic through."""
TC_KINDS = frozenset({"tc", "classifier", "tcx", "netkit"})

TYPED_SECTIONS = ("tp_btf", "fentry", "fexit", "fmod_ret", "lsm", "iter", "struct_ops", "freplace")
"""Programs whose arguments the verifier knows by the kernel's BTF."""


def section_kind(section: str) -> str:
    """The part of a SEC() that names the program's type: `kprobe` of `?kprobe/do_exit`; `fentry` of `fentry.s/…`."""
    return re.split(r"[/.]", section.removeprefix("?"), maxsplit=1)[0]


class Needed(NamedTuple):
    """What something takes of the kernel."""

    since: Version
    feature: str | None
    """kmatrix's name of it, where it has one."""


SECTION_NEEDS: Mapping[str, Needed] = {
    "raw_tp": Needed((4, 17), "raw_tracepoint"),
    "raw_tracepoint": Needed((4, 17), "raw_tracepoint"),
    "tp_btf": Needed((5, 5), "btf"),
    "fentry": Needed((5, 5), "fentry"),
    "fexit": Needed((5, 5), "fentry"),
    "fmod_ret": Needed((5, 7), "fentry"),
    "lsm": Needed((5, 7), "lsm"),
    "iter": Needed((5, 8), None),
    "sk_lookup": Needed((5, 9), None),
    "struct_ops": Needed((5, 6), None),
    "tcx": Needed((6, 6), None),
}


HELPER_FEATURES: Mapping[int, str] = {
    number: feature
    for feature in ("ringbuf", "perf_buffer", "task_storage", "cgroup_id_helper", "probe_read_kernel", "current_task_btf")
    for number in GONE[feature].helpers
}
"""The feature that a helper is part of."""
REWRITTEN = frozenset(range(112, 116))
"""bpf_probe_read_kernel, _user and their _str: libbpf and cilium/ebpf put bpf_probe_read in their place on kernels before 5.5."""


def helper_needs(number: int) -> Needed:
    """What calling a helper takes."""
    feature = HELPER_FEATURES.get(number)
    if number in REWRITTEN:
        return Needed((4, 1), None)
    since = HELPERS[number].since if number < HELPER_COUNT else NEVER
    return Needed(since, None if feature == "perf_buffer" else feature)


def map_needs(number: int) -> Needed:
    """What a map's type takes."""
    features = {27: "ringbuf", 29: "task_storage"}
    return Needed(release_of(MAP_TYPES, number), features.get(number))


MAP_NAMES: Mapping[int, str] = {
    6: "percpu array", 7: "stack trace", 9: "LRU hash", 16: "CPU map", 17: "XSK map", 18: "sock hash", 22: "queue", 23: "stack", 24: "socket storage",
    25: "devmap hash", 26: "struct ops", 27: "ring buffer", 28: "inode storage", 29: "task storage", 30: "bloom filter", 31: "user ring buffer",
    32: "cgroup storage", 33: "arena",
}  # fmt: skip
RINGBUF = 27
