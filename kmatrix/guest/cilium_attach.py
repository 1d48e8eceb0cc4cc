"""Attaching with cilium/ebpf: by its link package where that has a function for it, else as an application does, by the descriptor.

Where a program is attached is then asked of the kernel, as for libbpf.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from . import bpf, by_hand, confine, confirm, interfaces, libbpf, netdev
from .attach import ON_CGROUPS, absent_binary, binary_of, check_lsm, check_place, check_symbol, without_target
from .cgroup import cgroup_root
from .confirm import Attachment
from .library import Program, Refused, Unplaced
from .observe import dynamic_probes

PERF_EVENT_IOC_ENABLE = 0x2400
SAMPLES_PER_SECOND = 99
_LINKED = ("flow_dissector", "sk_lookup")
"""What has a way by hand, and a link in cilium/ebpf too."""


class Loader(Protocol):
    """The process that has the object (`cilium.Process`)."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def ask(self, op: str, seconds: float | None = None, **more: Any) -> tuple[dict[str, Any], list[int]]:
        """The answer to a request. Raises Refused."""
        ...


def attach(loader: Loader, version: str, name: str, program: Program, resources: ExitStack, to: str | None) -> Attachment:
    """Attach the program where its section says, or `to` that target.

    Raises Unplaced where the section does not say where, Refused or OSError where the kernel or cilium/ebpf would not.
    """
    kind, section = program.type, program.section
    check_place(kind, program.attach_type)
    if to is None and kind in _NAMED and (why := without_target(kind, section)) is not None:
        raise Unplaced(why)
    if kind == "lsm":
        check_lsm()
    if kind == "struct_ops":
        raise OSError(errno.EOPNOTSUPP, f"cilium/ebpf {version} registers no structure of functions (struct_ops)")
    if kind == "perf_event":
        return _perf_event(program, resources)
    if kind == "xdp":
        return _xdp(loader, name, program, resources)
    way = by_hand.WAYS.get(kind)
    if way is not None and kind not in _LINKED and not section.startswith(("tcx/", "netkit/")):
        return way(program, resources)
    more: dict[str, Any] = {"to": to or _whole_path(section), "index": interfaces.LOOPBACK}
    if section.startswith("netkit/"):
        more["index"] = interfaces.netkit(section.replace("/", "_"), "6.7", resources)
    if kind in ON_CGROUPS or (kind == "lsm" and program.attach_type == bpf.LSM_CGROUP):
        more["cgroup"] = cgroup_root()
        if more["cgroup"] is None:
            raise OSError(errno.ENOENT, "cgroup v2 is not mounted")
    check_symbol(section, to)
    probes = dynamic_probes() if kind == "kprobe" else []
    try:
        told, _ = loader.ask("attach", program=name, **more)
    except Refused as error:
        if (
            error.errno == errno.EOPNOTSUPP and kind in _LINKED and way is not None
        ):  # before 5.8 and 5.9 there are no links for network namespaces
            return way(program, resources)
        if error.errno in (errno.ENOENT, errno.ESRCH) and (binary := absent_binary(section)) is not None:
            raise OSError(errno.ENOENT, f"its binary {binary} is not in the guest") from None
        raise
    resources.callback(_detach, loader, name)
    return _confirmed(loader, program, told, tracefs=kind == "kprobe" and dynamic_probes() != probes)


_NAMED = ("kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable")
"""The types that are attached at what their section names."""


def _whole_path(section: str) -> str:
    """The target of a uprobe's section whose library has no folder: libbpf looks for it, and an application of cilium/ebpf has to. Else ""."""
    prefix, _, target = section.partition("/")
    path, _, function = target.rpartition(":")
    if not prefix.startswith(("uprobe", "uretprobe")) or "/" in path:
        return ""
    found = binary_of(path)
    return f"{found}:{function}" if found else ""


def _detach(loader: Loader, name: str) -> None:
    with suppress(Refused, OSError):
        loader.ask("detach", program=name)


def _confirmed(loader: Loader, program: Program, told: dict[str, Any], *, tracefs: bool) -> Attachment:
    """How and where the program is attached, as far as the kernel tells (links from 5.8, other descriptors from 4.18)."""
    prog_id = bpf.prog_info(program.fd).id
    hook = confirm.any_link(prog_id)
    if (output := told.get("output")) is not None:
        lines = output.splitlines()
        first = f", the first {lines[0][:60]!r}" if lines else ""
        return Attachment(f"iterator, {len(lines)} line{'' if len(lines) == 1 else 's'} read{first}", hook)
    if hook is not None:
        return Attachment("tracefs" if tracefs else "link", hook)
    if program.type in ON_CGROUPS:
        return _on_cgroup(program)
    via = "tracefs" if tracefs else "raw_tracepoint" if program.type in ("raw_tracepoint", "tracing", "lsm") else "perf_event"
    return Attachment(via, _held(loader.pid, prog_id))


def _held(pid: int, prog_id: int) -> str | None:
    """Where the program is, by the perf events and raw tracepoints that the loader holds."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        told = bpf.task_fd_query(pid, int(fd))
        if told is not None and told[0] == prog_id:
            return told[1] or None
    return None


def _on_cgroup(program: Program) -> Attachment:
    """Before 5.7 there are no links for cgroups: whether the program is on the root's list."""
    root = cgroup_root()
    assert root is not None, "it was attached there"
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        where = program.attach_type
        return Attachment("cgroup", by_hand.on_the_list(program.fd, fd, where, f"{confirm.attach_type(where)} of the root cgroup"))
    finally:
        os.close(fd)


def _xdp(loader: Loader, name: str, program: Program, resources: ExitStack) -> Attachment:
    """On the loopback interface by the generic code, and on a veth pair by the driver, as for libbpf."""
    via, generic = _xdp_on(loader, name, program, resources, interfaces.LOOPBACK)
    try:
        _, native = _xdp_on(loader, name, program, resources, confine.outside(netdev.pair))
    except (OSError, Refused, libbpf.LibbpfError) as error:
        return Attachment(via, f"{generic} (generic); not native on a veth: {error}")
    return Attachment(via, f"{generic} (generic), {native} (native)")


def _xdp_on(loader: Loader, name: str, program: Program, resources: ExitStack, index: int) -> tuple[str, str]:
    before = confine.outside(lambda: {bpf.link_info(fd).id for fd in bpf.link_fds()})
    try:
        loader.ask("attach", program=name, index=index, generic=index == interfaces.LOOPBACK)
    except Refused as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, None):
            raise
        # Before 5.9 there are no links for XDP: an application does it by netlink.
        return "netlink", interfaces.xdp_by_netlink(program.fd, resources, index)
    resources.callback(_detach, loader, name)
    prog_id = bpf.prog_info(program.fd).id
    new = confine.outside(
        lambda: next((confirm.link(fd, prog_id) for fd in bpf.link_fds() if bpf.link_info(fd).id not in before), None)
    )
    return "link", new or f"xdp of interface {confirm.interface(index)}"


def _perf_event(program: Program, resources: ExitStack) -> Attachment:
    """On a software clock of each CPU that is online. cilium/ebpf has no function for it: an application opens the events itself."""
    cpus = sorted(os.sched_getaffinity(0))
    hook = None
    for cpu in cpus:
        event = bpf.cpu_clock_open(cpu, SAMPLES_PER_SECOND)
        resources.callback(os.close, event)
        fcntl.ioctl(event, bpf.PERF_EVENT_IOC_SET_BPF, program.fd)
        fcntl.ioctl(event, PERF_EVENT_IOC_ENABLE, 0)
        hook = confirm.perf(event, bpf.prog_info(program.fd).id)
    return Attachment(f"perf_event, a software clock on {len(cpus)} CPU{'' if len(cpus) == 1 else 's'}", hook)
