"""Attaching with libbpf: each program where its section says, the way the kernel at hand can.

libbpf does tracing hooks by itself (BPF links where the kernel has them, else perf events, else kprobes defined through tracefs).
What it leaves to the application is attached here, to what the guest has: the loopback interface (for a socket filter, a packet socket
there), a veth pair and a netkit device made for the purpose, the root of cgroup v2, the guest's network namespace, a software clock on
each CPU. Where a program is attached is then asked of the kernel.

The hook is the one that the section names, and no other: a tcx program on a kernel without tcx is an error, though clsact would take it.
A program that the kernel would attach and never run is an error too.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from . import bpf, by_hand, confine, confirm, interfaces, libbpf, simulate, structops, surroundings
from .cgroup import cgroup_root
from .confirm import Attachment
from .library import Program, Unplaced
from .observe import dynamic_probes
from .targets import attach_to

BPF_F_ALLOW_MULTI = 2


def attach(program: int, resources: ExitStack, maps: Iterable[int] = (), to: str | None = None) -> Attachment:
    """Attach a loaded program where its section says, or `to` that target; `resources` will detach it.

    `maps` are its object's, of which some are attached with it (struct_ops).

    Raises Unplaced where its section does not say where, LibbpfError or OSError where the kernel would not, or where the kernel does not
    know of the attachment afterwards.
    """
    kind, where = bpf.name_of(bpf.PROG_TYPES, libbpf.program_type(program)), libbpf.program_attach_type(program)
    section = libbpf.program_section(program).decode().lstrip("?")
    check_place(kind, where)
    if where == bpf.TRACE_ITER and kind == "tracing":
        return _iterator(program, resources)
    if kind == "lsm":
        check_lsm()
        if where == bpf.LSM_CGROUP:
            return _cgroup(program, resources)
    if kind == "struct_ops":
        return structops.attach(program, maps, resources)
    if (way := by_hand.WAYS.get(kind)) is not None:
        return way(Program(libbpf.program_fd(program), section, kind, where), resources)
    if (by_libbpf := _BY_LIBBPF.get("cgroup" if kind in ON_CGROUPS else kind)) is not None:
        return by_libbpf(program, resources)
    check_symbol(section, to)
    probes = dynamic_probes() if kind == "kprobe" else []
    link = libbpf.program_attach(program) if to is None else attach_to(program, to)
    if not link:
        error = libbpf.last_error("attach")
        if to is None and error.errno == errno.EOPNOTSUPP and (why := without_target(kind, section)) is not None:
            raise Unplaced(why)
        if error.errno in (errno.ENOENT, errno.ESRCH) and (binary := absent_binary(section)) is not None:
            raise OSError(errno.ENOENT, f"its binary {binary} is not in the guest")
        raise error
    resources.callback(libbpf.link_destroy, link)
    tracefs = kind == "kprobe" and dynamic_probes() != probes
    return _confirmed(kind, libbpf.link_fd(link), libbpf.program_fd(program), section, tracefs=tracefs)


def check_place(kind: str, where: int) -> None:
    """Raises Unplaced for a program whose place is one that its loader makes."""
    if where in (bpf.XDP_DEVMAP, bpf.XDP_CPUMAP) and kind == "xdp":
        name = "devmap" if where == bpf.XDP_DEVMAP else "cpumap"
        raise Unplaced(f"it goes into an entry of a {name}, which is its loader's to make")


def check_symbol(section: str, to: str | None) -> None:
    """Raises OSError where a kprobe is for a function that the simulated kernel lacks, and would be defined through tracefs.

    With perf_event_open(2) the supervisor says so; the files of tracefs it does not see.
    """
    past = simulate.past()
    kind, _, named = section.partition("/")
    name = (to or named).partition("+")[0]
    if kind not in ("kprobe", "kretprobe") or "kprobe_pmu" not in past.hidden:
        return
    if code := past.absent.of_symbol(name):
        raise OSError(code, f"failed to create {kind} '{name}+0x0' perf event: {os.strerror(code)}")


def _confirmed(kind: str, fd: int, prog_fd: int, section: str, *, tracefs: bool) -> Attachment:
    """How the program is attached through `fd`, as far as the kernel tells (links from 5.8, other fds from 4.18)."""
    prog_id = bpf.prog_info(prog_fd).id
    via = "tracefs" if tracefs else "raw_tracepoint" if kind in ("raw_tracepoint", "tracing", "lsm") else "perf_event"
    if section.startswith("usdt"):  # libbpf has a link of its own over those of the places, and no fd for it
        hook = confirm.any_link(prog_id)
        return Attachment("link" if hook else "perf_event", hook)
    hook = confirm.link(fd, prog_id, _TRACE_TYPES.get(section.partition("/")[0].removesuffix(".s")))
    if hook is not None:
        return Attachment("tracefs" if tracefs else "link", hook)
    return Attachment(via, confirm.perf(fd, prog_id))


_TRACE_TYPES = {
    name: bpf.ATTACH_TYPES.index(kind)
    for name, kind in (
        ("fentry", "trace_fentry"),
        ("fexit", "trace_fexit"),
        ("fmod_ret", "modify_return"),
        ("tp_btf", "trace_raw_tp"),
        ("lsm", "lsm_mac"),
    )
}

_NO_TARGET = (
    (r"u(ret)?probe", "its section names no binary and function: uprobe/PATH:FUNCTION"),
    (r"usdt", "its section names no binary, provider and name: usdt/PATH:PROVIDER:NAME"),
    (r"k(ret)?(probe|syscall)", "its section names no function: kprobe/FUNCTION"),
    (r"tp(_btf)?|tracepoint", "its section names no tracepoint: tracepoint/CATEGORY/NAME"),
    (r"raw_t(race)?p(oint)?", "its section names no tracepoint: raw_tracepoint/NAME"),
)


def without_target(kind: str, section: str) -> str | None:
    """Why libbpf does not know where to attach the program; None where its section names a target."""
    if "/" in section and kind in _TRACING:
        return None
    return next((why for pattern, why in _NO_TARGET if re.match(pattern, section)), "its section does not say where to attach it")


_BINARY = re.compile(r"(?:u(?:ret)?probe(?:\.multi)?|usdt)(?:\.s)?/(?P<path>[^:]+):")


def absent_binary(section: str) -> str | None:
    """The binary or library that a uprobe's or USDT's section names, where the guest has none of that name."""
    match = _BINARY.match(section)
    return match["path"] if match is not None and binary_of(match["path"]) is None else None


def binary_of(path: str) -> str | None:
    """Where a binary or library is, of which a section has the path or only the name (libbpf looks in these folders); None where it is not."""
    folders = ["/usr/lib64", "/usr/lib", f"/lib/{os.uname().machine}-linux-gnu", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    places = [path] if "/" in path else [f"{folder}/{path}" for folder in folders]
    return next((place for place in places if os.path.exists(place)), None)


def check_lsm() -> None:
    """Raises OSError where the kernel attaches LSM programs and runs none: bpf has to be in its list of LSMs (from 5.7 on, fc611f47f218)."""
    names = confine.outside(surroundings.lsms)
    if names and "bpf" not in names:
        raise OSError(
            errno.EOPNOTSUPP,
            f"bpf is not in this kernel's list of LSMs ({','.join(names)}): the program would never run. Boot with lsm=…,bpf",
        )


OUTPUT_LIMIT = 1 << 20
"""Bytes that are read of an iterator's text."""
READS = 10_000
"""How often it is read at most."""


def _iterator(program: int, resources: ExitStack) -> Attachment:
    """Attached and read: an iterator runs when somebody reads it."""
    link = libbpf.pointer("attach", libbpf.program_attach(program))
    resources.callback(libbpf.link_destroy, link)
    hook = confirm.link(libbpf.link_fd(link), bpf.prog_info(libbpf.program_fd(program)).id)
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
    return Attachment(f"iterator, {len(lines)} line{'' if len(lines) == 1 else 's'} read{first}", hook)


SAMPLES_PER_SECOND = 99


def _perf_event(program: int, resources: ExitStack) -> Attachment:
    """On a software clock of each CPU that is online: the agent's own event is its loader's to choose."""
    cpus, hook = sorted(os.sched_getaffinity(0)), None
    for cpu in cpus:
        event = bpf.cpu_clock_open(cpu, SAMPLES_PER_SECOND)
        link = libbpf.program_attach_perf_event(program, event)
        if not link:
            error = libbpf.last_error("attach")
            bpf.close(event)
            raise error
        resources.callback(libbpf.link_destroy, link)
        hook = _confirmed("perf_event", libbpf.link_fd(link), libbpf.program_fd(program), "", tracefs=False).hook
    return Attachment(f"perf_event, a software clock on {len(cpus)} CPU{'' if len(cpus) == 1 else 's'}", hook)


_alone: set[int] = set()
"""The attach types that a program has for itself, on a kernel that lets it have no company."""


def _cgroup(program: int, resources: ExitStack) -> Attachment:
    root = cgroup_root()
    if root is None:
        raise OSError(errno.ENOENT, "cgroup v2 is not mounted")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    resources.callback(os.close, fd)
    kind, prog_fd = libbpf.program_attach_type(program), libbpf.program_fd(program)
    link = libbpf.program_attach_cgroup(program, fd)
    if link:
        resources.callback(libbpf.link_destroy, link)
        return Attachment("link", confirm.link(libbpf.link_fd(link), bpf.prog_info(prog_fd).id, kind))
    # Before 5.7 there are no links for cgroups.
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
    return Attachment("cgroup", by_hand.on_the_list(prog_fd, fd, kind, f"{confirm.attach_type(kind)} of the root cgroup"))


_TRACING = ("kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable", "tracing", "lsm", "ext")
ON_CGROUPS = ("cgroup_skb", "cgroup_sock", "cgroup_sock_addr", "cgroup_device", "cgroup_sysctl", "cgroup_sockopt", "sock_ops")
_BY_LIBBPF: dict[str, Callable[[int, ExitStack], Attachment]] = {
    "cgroup": _cgroup,
    "xdp": interfaces.xdp,
    "perf_event": _perf_event,
}
