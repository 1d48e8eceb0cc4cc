"""Which trigger makes the programs of a collector run, by what they are attached to.

A kind of trigger is proposed by its row here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kmatrix.objects import sections

_WRAPPER = re.compile(r"^__(?:x64|arm64|se|do)_sys_|^(?:ksys|do_sys)_")


@dataclass(frozen=True)
class Reach:
    """What a trigger does that programs see."""

    kind: str
    hooks: tuple[str, ...]
    """Functions, tracepoints and LSM hooks that it passes, as regular expressions for the whole name; `sys_NAME` is the system call."""
    types: tuple[str, ...] = ()
    """Program types that see it wherever they are attached."""
    same: tuple[str, ...] = ()
    """Names of fields that tell its events from others of the same process."""


TABLE: tuple[Reach, ...] = (
    Reach("oom", ("oom_kill_process", "mark_victim", "out_of_memory", "mem_cgroup_out_of_memory")),
    Reach(
        "exec",
        (
            "sys_execve", "sched_process_exec", "sched_exec", "bprm_execve", "begin_new_exec", "exec_binprm", "search_binary_handler",
            "(security_)?bprm_(check|check_security|creds_for_exec|committing_creds|committed_creds)", "sched_process_exit", "do_exit", "do_group_exit",
        ),
    ),
    Reach(
        "open",
        ("sys_openat", "do_sys_open(at2)?", "do_filp_open", "vfs_open", "do_dentry_open", "(security_)?file_open", "path_openat"),
        same=("path",),
    ),
    Reach("create", ("(security_)?inode_create",)),
    Reach("unlink", ("sys_unlinkat?", "vfs_unlink", "(security_)?(inode|path)_unlink")),
    Reach("rename", ("sys_rename(at2?)?", "vfs_rename", "(security_)?(inode|path)_rename")),
    Reach("mount", ("sys_mount", "path_mount", "(security_)?sb_mount")),
    Reach("umount", ("sys_umount", "path_umount", "(security_)?sb_umount")),
    Reach("fork", ("sched_process_fork", "kernel_clone", "_do_fork", "wake_up_new_task")),
    Reach("signal", ("sys_kill", "signal_generate", "signal_deliver", "(security_)?task_kill")),
    Reach("ptrace", ("sys_ptrace", "(security_)?ptrace_access_check", "ptrace_attach")),
    Reach("bpf", ("sys_bpf", "(security_)?bpf", "bpf_map_create")),
    Reach("module_load", ("sys_(f?init)_module", "module_load", "do_init_module", "load_module")),
    Reach("block_io", ("block_(rq_(issue|insert|complete)|io_(start|done))", "blk_account_io_(start|done)")),
    Reach("page_fault", ("page_fault_user", "exceptions/page_fault_user", "handle_mm_fault")),
    Reach("futex", ("sys_futex", "do_futex", "futex_wait")),
    Reach("tcp_accept", ("sys_accept4?", "inet_csk_accept", "(security_)?socket_accept")),
    Reach("tcp_listen", ("sys_listen", "inet_listen", "inet_csk_listen_start", "(security_)?socket_listen")),
    Reach("tcp_retransmit", ("tcp_retransmit_skb", "tcp_retransmit_timer")),
    Reach("tcp_reset", ("tcp_send_reset", "tcp_receive_reset", "tcp_v4_send_reset", "tcp_reset")),
    Reach(
        "tcp_connect",
        (
            "sys_connect", "tcp_v4_connect", "tcp_connect", "inet_stream_connect", "(security_)?socket_connect",
            "tcp_finish_connect", "tcp_rcv_state_process", "tcp_v4_do_rcv", "connect4",
        ),
        types=("sock_ops",),
    ),
    Reach(
        "tcp_close",
        ("inet_sock_set_state", "tcp_set_state", "tcp_close", "tcp_sendmsg", "tcp_recvmsg", "tcp_cleanup_rbuf", "tcp_destroy_sock"),
    ),
    Reach("unix_connect", ("unix_stream_connect",)),
    Reach("unix_send", ("unix_dgram_sendmsg",)),
    Reach(
        "dns",
        ("udp_sendmsg", "udp_recvmsg", "udp_rcv", "__udp4_lib_rcv", "udp_send_skb", "(security_)?socket_sendmsg", "sys_sendto", "sendmsg4"),
        types=("sched_cls", "xdp", "cgroup_skb", "socket_filter"),
        same=("id", "query_id", "dport"),
    ),
    Reach("udp_receive", ("udp_recvmsg", "udp_rcv", "__udp4_lib_rcv", "udp_queue_rcv_skb")),
    Reach("udp_send", ("udp_sendmsg", "udp_send_skb")),
)  # fmt: skip
"""The kinds of trigger that are proposed. Of two that fit equally well, the first is taken."""


def place(section: str) -> str:
    """What a program is attached to, whichever way: `sched_switch` of `tp_btf/sched_switch` and of `tracepoint/sched/sched_switch`."""
    read = sections.read(section)
    target = (read.target or section.removeprefix("?")).split("+")[0]
    name = target.rpartition("/")[2]
    if read.kind in ("ksyscall", "kretsyscall"):
        return f"sys_{name}"
    if target.startswith("syscalls/"):
        return re.sub(r"^sys_(enter|exit)_", "sys_", name)
    return _WRAPPER.sub("sys_", name) if name.startswith("__") else name


def reached(kind: str, section: str) -> bool:
    """Whether the trigger makes a program in `section` run, as far as the table knows."""
    row = next((each for each in TABLE if each.kind == kind), None)
    if row is None:
        return False
    here, program = place(section), sections.read(section).program
    return program in row.types or any(re.fullmatch(hook, here) for hook in row.hooks)


def reached_of(kind: str, programs: Collection[str]) -> frozenset[str]:
    """Of the sections those that the trigger reaches; all, where the table knows of none: then whoever chose it knows better."""
    return frozenset(section for section in programs if reached(kind, section)) or frozenset(programs)


def fitting(programs: Collection[str]) -> list[str]:
    """The kinds of trigger that reach programs in these sections, the one that reaches most first."""
    counts = {row.kind: sum(reached(row.kind, section) for section in programs) for row in TABLE}
    return sorted((kind for kind, count in counts.items() if count), key=lambda kind: -counts[kind])


def telling(kind: str) -> tuple[str, ...]:
    """The names of fields that tell the trigger's events from others of the same process."""
    return next((row.same for row in TABLE if row.kind == kind), ())


_X86_CALLS = (
    "open", "creat", "stat", "lstat", "newstat", "newlstat", "access", "link", "unlink", "symlink", "readlink", "rename", "mkdir", "rmdir", "chmod",
    "chown", "lchown", "mknod", "fork", "vfork", "pipe", "dup2", "select", "poll", "epoll_create", "epoll_wait", "utime", "utimes", "futimesat",
    "alarm", "pause", "getdents", "inotify_init", "signalfd", "eventfd",
)  # fmt: skip
ONLY_X86: Mapping[str, str] = {f"sys_{name}": f"arm64 has no system call {name}()" for name in _X86_CALLS}
"""System calls that arm64 does not have (include/uapi/asm-generic/unistd.h lists those that it has), so no tracepoints of them either."""
