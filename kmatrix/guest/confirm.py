"""Where a program is attached, by the kernel's own account: what bpf(2) tells of a link, a perf event or a hook (struct bpf_link_info)."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from . import bpf, confine

_SIZE = 256
_NAME_SIZE = 512
PERF_KINDS = {1: "uprobe", 2: "uretprobe", 3: "kprobe", 4: "kretprobe", 5: "tracepoint", 6: "event"}
"""enum bpf_perf_event_type (1b715e1b0ec5, 6.6)."""
PROTOCOLS = {2: "ipv4", 10: "ipv6"}
NF_HOOKS = ("prerouting", "local_in", "forward", "local_out", "postrouting")


class Attachment(NamedTuple):
    """How a program is attached, and where."""

    via: str
    hook: str | None = None
    """Where, as the kernel has it; None where the kernel does not tell of this kind of attachment."""


def attach_type(number: int) -> str:
    """The name of an attach type, without its BPF_."""
    return bpf.name_of(bpf.ATTACH_TYPES, number)


def link(fd: int, prog_id: int, expected: int | None = None) -> str | None:
    """Where the link behind `fd` is, in words. Raises OSError where it has another program, or another attach type than `expected`.

    None where the kernel knows no such fd as a link (before 5.8, or an attachment that is no link).
    """
    try:
        raw = _info(fd)
    except OSError:
        return None
    number, _, found = struct.unpack_from("=III", raw)
    kind = bpf.name_of(bpf.LINK_TYPES, number)
    if found not in (0, prog_id):  # a struct_ops link has many, and says none
        raise OSError(errno.ENOENT, f"the kernel has program {found} at this attachment, not {prog_id}")
    read = _KINDS.get(kind)
    words, at = read(fd, raw) if read is not None else (kind, None)
    if expected is not None and at is not None and at != expected:
        raise OSError(errno.ENOENT, f"the kernel has the program at hook {attach_type(at)}, not at {attach_type(expected)}")
    return words


def any_link(prog_id: int) -> str | None:
    """Where a link of the program is, of those that the kernel has; None where it has none, or where nobody may look (CAP_SYS_ADMIN)."""

    def look() -> str | None:
        try:
            return next((link(fd, prog_id) for fd in bpf.link_fds() if bpf.link_info(fd).prog_id == prog_id), None)
        except PermissionError:
            return None

    return confine.outside(look)


def interface(index: int) -> str:
    """An interface's name, or its index where it is in another namespace."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"#{index}"


def _info(fd: int, pointer_at: int | None = None, text: ctypes.Array[ctypes.c_char] | None = None) -> bytes:
    """The bpf_link_info of a link; where a kind has a name, `text` takes it: its address stands at `pointer_at`, its size after that."""
    info = ctypes.create_string_buffer(_SIZE)
    if text is not None and pointer_at is not None:
        struct.pack_into("=QI", info, pointer_at, ctypes.addressof(text), len(text))
    bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _SIZE, ctypes.addressof(info)))
    return info.raw


def _name(fd: int, at: int) -> str:
    text = ctypes.create_string_buffer(_NAME_SIZE)
    with suppress(OSError):
        _info(fd, at, text)
    return text.value.decode("utf-8", "replace")


_Read = tuple[str, int | None]


def _raw_tracepoint(fd: int, _: bytes) -> _Read:
    return f"raw_tracepoint {_name(fd, 16)}", None


def _tracing(_: int, raw: bytes) -> _Read:
    at, target, ident = struct.unpack_from("=III", raw, 16)
    where = f" of program {target}" if target and ident and at == 0 else ""
    return f"{'freplace' if at == 0 else attach_type(at)}, BTF id {ident}{where}", at or None


def _cgroup(_: int, raw: bytes) -> _Read:
    ident, at = struct.unpack_from("=QI", raw, 16)
    return f"{attach_type(at)} of cgroup {ident}", at


def _iter(fd: int, _: bytes) -> _Read:
    return f"iterator over {_name(fd, 16)}", None


def _netns(_: int, raw: bytes) -> _Read:
    inode, at = struct.unpack_from("=II", raw, 16)
    return f"{attach_type(at)} of network namespace {inode}", at


def _xdp(_: int, raw: bytes) -> _Read:
    return f"xdp of interface {interface(struct.unpack_from('=I', raw, 16)[0])}", None


def _on_interface(_: int, raw: bytes) -> _Read:
    index, at = struct.unpack_from("=II", raw, 16)
    return f"{attach_type(at)} of interface {interface(index)}", at


def _struct_ops(_: int, raw: bytes) -> _Read:
    return f"struct_ops map {struct.unpack_from('=I', raw, 16)[0]}", None


def _netfilter(_: int, raw: bytes) -> _Read:
    family, number, priority = struct.unpack_from("=IIi", raw, 16)
    name = NF_HOOKS[number] if number < len(NF_HOOKS) else str(number)
    return f"netfilter {PROTOCOLS.get(family, family)} {name}, priority {priority}", None


def _kprobe_multi(_: int, raw: bytes) -> _Read:
    count, flags = struct.unpack_from("=II", raw, 24)
    return f"{'kretprobe' if flags & 1 else 'kprobe'}_multi" + (f" of {count} function{'s' * (count != 1)}" if count else ""), None


def _uprobe_multi(fd: int, _: bytes) -> _Read:
    text = ctypes.create_string_buffer(_NAME_SIZE)
    info = ctypes.create_string_buffer(_SIZE)
    struct.pack_into("=Q", info, 16, ctypes.addressof(text))
    struct.pack_into("=I", info, 48, len(text))
    with suppress(OSError):
        bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _SIZE, ctypes.addressof(info)))
    count = struct.unpack_from("=I", info, 52)[0]
    where = f" of {count} place{'s' * (count != 1)} in {text.value.decode('utf-8', 'replace')}" if count else ""
    return f"uprobe_multi{where}", None


def _perf_event(fd: int, raw: bytes) -> _Read:
    """What kind of event it is the kernel tells from 6.6 on."""
    kind = PERF_KINDS.get(struct.unpack_from("=I", raw, 16)[0])
    if kind is None:
        return "perf_event", None
    if kind == "event":
        config, number = struct.unpack_from("=QI", raw, 24)
        return f"perf event of type {number}, config {config}", None
    offset = struct.unpack_from("=I", raw, 36)[0] if kind != "tracepoint" else 0
    return f"{kind} {_name(fd, 24)}{f'+{offset:#x}' if offset else ''}", None


def _sockmap(_: int, raw: bytes) -> _Read:
    ident, at = struct.unpack_from("=II", raw, 16)
    return f"{attach_type(at)} of map {ident}", at


_KINDS = {
    "raw_tracepoint": _raw_tracepoint,
    "tracing": _tracing,
    "cgroup": _cgroup,
    "iter": _iter,
    "netns": _netns,
    "xdp": _xdp,
    "tcx": _on_interface,
    "netkit": _on_interface,
    "struct_ops": _struct_ops,
    "netfilter": _netfilter,
    "kprobe_multi": _kprobe_multi,
    "uprobe_multi": _uprobe_multi,
    "perf_event": _perf_event,
    "sockmap": _sockmap,
}


def queried(target: int, where: int) -> list[int] | None:
    """The ids of the programs at a hook (of an interface by index, or of a cgroup, map or namespace by fd); None where it cannot be asked.

    EINVAL is how a kernel says that it does not know the hook.
    """
    ids = (ctypes.c_uint32 * 64)()
    attr = struct.pack("=IIIIQI", target, where, 0, 0, ctypes.addressof(ids), len(ids)).ljust(64, b"\0")
    buffer = ctypes.create_string_buffer(attr, 64)
    try:
        bpf.syscall(bpf.NR_BPF, bpf.PROG_QUERY, buffer, 64)
    except OSError as error:
        if error.errno == errno.E2BIG:  # an older kernel's attributes are shorter
            return bpf.programs_on_cgroup(target, where)
        return None
    (count,) = struct.unpack_from("=I", buffer.raw, 24)
    return list(ids[:count])


def perf(fd: int, prog_id: int) -> str | None:
    """Where a perf event or raw tracepoint of this process is (from 4.18 on). Raises OSError where another program is there."""
    told = confine.outside(lambda: bpf.task_fd_query(os.getpid(), fd))
    if told is None:
        return None
    if told[0] not in (0, prog_id):
        raise OSError(errno.ENOENT, f"the kernel has program {told[0]} at this attachment, not {prog_id}")
    return told[1] or None
