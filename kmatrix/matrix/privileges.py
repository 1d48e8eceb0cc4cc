"""The privileges that what loads BPF has, and which features of a kernel it then goes without.

The rules are the kernel's: bpf_capable() and perfmon_capable() (include/linux/capability.h, a17b53c4a4b5, 5.8), is_net_admin_prog_type() and
is_perfmon_prog_type() (kernel/bpf/syscall.c), the checks of each map type, and perf_event_open(2). Before 5.8 CAP_SYS_ADMIN stands for CAP_BPF and
CAP_PERFMON, and where they exist it has both of them in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kmatrix.guest.table_capabilities import NAMES, SINCE
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.version import Version

CAPABLE: Version = (5, 8)
"""The first release with CAP_BPF and CAP_PERFMON."""

Rule = tuple[str, ...]
"""Capabilities of which any is enough."""
BPF: Rule = ("bpf", "sys_admin")
PERFMON: Rule = ("perfmon", "sys_admin")
EVENTS: Rule = ("perfmon, where events are not restricted", "sys_admin")
"""perf_event_open(2). Debian's kernels and Ubuntu's take CAP_SYS_ADMIN where kernel.perf_event_paranoid is more than 2, as it is there by default."""
LOADS_NET: Rule = ("net_admin", "sys_admin")
NET: Rule = ("net_admin",)
"""Where CAP_SYS_ADMIN is no help: netlink, cgroups, maps of sockets and devices."""
ANYONE: Rule = ("bpf", "sys_admin", "anyone")
"""What an ordinary user may have, unless kernel.unprivileged_bpf_disabled says otherwise."""

ASKS: Rule = ("whoever may call bpf(2)", *BPF)
"""What is not refused at the door, from 5.19 on (c8644cd0efe7)."""

_TRACING = (
    "kprobe",
    "tracepoint",
    "perf_event",
    "raw_tracepoint",
    "raw_tracepoint_writable",
    "tracing",
    "lsm",
    "struct_ops",
    "ext",
)
_NET = (
    "sched_cls", "sched_act", "xdp", "lwt_in", "lwt_out", "lwt_xmit", "lwt_seg6local", "sk_skb", "sk_msg", "lirc_mode2", "flow_dissector",
    "cgroup_device", "cgroup_sock", "cgroup_sock_addr", "cgroup_sockopt", "cgroup_sysctl", "sock_ops", "netfilter", "ext",
)  # fmt: skip
_ANYONE_PROGRAMS = ("socket_filter", "cgroup_skb")
_ANYONE_MAPS = (
    "array", "percpu_array", "prog_array", "perf_event_array", "cgroup_array", "array_of_maps", "hash", "percpu_hash", "hash_of_maps",
    "ringbuf", "user_ringbuf", "cgroup_storage", "percpu_cgroup_storage",
)  # fmt: skip
_NET_MAPS = ("sockmap", "sockhash", "devmap", "devmap_hash", "xskmap")


def of_program(kind: str, version: Version) -> tuple[Rule, ...]:
    """What loading a program of this type takes."""
    if kind in _ANYONE_PROGRAMS:
        return (ANYONE,)
    rules: tuple[Rule, ...] = (BPF,)
    if kind in _TRACING:
        rules += (PERFMON,)
    if kind in _NET and version >= CAPABLE:
        rules += (LOADS_NET,)
    return rules


def of_map(kind: str) -> tuple[Rule, ...]:
    """What creating a map of this type takes."""
    return (ANYONE,) if kind in _ANYONE_MAPS else (BPF, NET) if kind in _NET_MAPS else (BPF,)


_LOADS_TRACING = (BPF, PERFMON)
_PLAIN: Mapping[str, tuple[Rule, ...]] = {
    "btf": (), "cgroup_v2": (), "cgroup_v1": (), "kprobe_pmu": (), "btf_modules": (),
    "ringbuf": (ANYONE,), "perf_buffer": (ANYONE, EVENTS), "global_data": (ANYONE,), "prog_names": (ANYONE,), "memcg_accounting": (ANYONE,),
    "bpf2bpf": (BPF,), "insns_1m": (BPF,), "task_storage": (BPF,), "btf_load": (BPF,), "bpf_link": (ANYONE,),
    "bounded_loops": _LOADS_TRACING,  # 6.1 finds their end only where it may remember numbers exactly, which takes CAP_PERFMON
    **dict.fromkeys(
        ("raw_tracepoint", "lsm", "fentry", "cgroup_id_helper", "probe_read", "probe_read_kernel", "current_task_btf", "kprobe_multi", "perf_link"),
        _LOADS_TRACING,
    ),
    **dict.fromkeys(("kprobes", "uprobes", "tracepoints", "syscall_tracepoints"), (BPF, PERFMON, EVENTS)),
    "tc_clsact": (BPF, NET),
}  # fmt: skip
_TRACEFS = ("kprobes", "uprobes", "tracepoints", "syscall_tracepoints")
"""What is found in tracefs, which is root's own."""
PASSES_FILES = ("dac_read_search", "dac_override")
"""With any of these an ordinary user reads what is root's own."""
_KINDS = ("helper", "kfunc", "insn", "attach", "link")
"""Kinds of features of which it depends on the program what they take."""


@dataclass(frozen=True)
class Settings:
    """What of a kernel's own settings decides, besides its release."""

    anyone: bool
    """Whether ordinary users may load what is open to them."""
    restricted: bool
    """Whether perf events take CAP_SYS_ADMIN."""


@dataclass(frozen=True)
class Privileges:
    """What is left to whatever loads. The default is root's: all."""

    user: str | None = None
    """None for root."""
    caps: tuple[str, ...] | None = None
    """The capabilities by name, without cap_; None for all."""
    filter: str | None = None
    """`container`: the filter of system calls that container runtimes put."""
    namespaces: tuple[str, ...] = ()
    """Namespaces of its own."""

    @property
    def request(self) -> dict[str, Any]:
        """As the guest is told it."""
        return {
            "user": self.user,
            "caps": list(self.caps) if self.caps is not None else None,
            "filter": self.filter,
            "namespaces": list(self.namespaces),
        }

    def has(self, rule: Rule, settings: Settings) -> bool:
        """Whether it is enough for a rule."""
        if self.caps is None:
            return True
        held = {*self.caps}
        if self.filter is None:
            held.add(ASKS[0])
            held |= {ANYONE[-1]} if settings.anyone else set()
        if "perfmon" in held and not settings.restricted:
            held.add(EVENTS[0])
        return not held.isdisjoint(rule)

    def lets(self, feature: str, version: Version, settings: Settings) -> bool | None:
        """Whether a kernel's feature is of use with these privileges; None where that depends on the program, and a probe has to say."""
        if self.caps is None:
            return True
        rules = _rules(feature, version)
        if rules is None:
            if not self.has(BPF, settings):
                return False
            return True if all(self.has(rule, settings) for rule in (PERFMON, NET)) else None
        if feature in _TRACEFS and self.user is not None and not set(PASSES_FILES) & set(self.caps):
            return False
        return all(self.has(rule, settings) for rule in rules)


ROOT = Privileges()
"""All."""


def _rules(feature: str, version: Version) -> tuple[Rule, ...] | None:
    """What a feature takes; None where that depends on the program."""
    if feature == "bpf_link" and version >= (5, 19):
        return (ASKS,)
    if feature in _PLAIN:
        return _PLAIN[feature]
    kind, _, parameter = feature.partition(":")
    if kind == "prog":
        return of_program(parameter, version)
    if kind == "map":
        return of_map(parameter)
    return None if kind in _KINDS else ()


def capability(text: str) -> str:
    """A capability by its name in capabilities(7), with cap_ before it or without. Raises ValueError with the nearest names."""
    name = text.strip().lower().removeprefix("cap_")
    if name not in NAMES:
        raise ValueError(f"{text!r} is no capability{did_you_mean(name, NAMES)}")
    return name


def too_new(caps: Iterable[str], version: Version) -> list[str]:
    """Those of the capabilities that a release does not have."""
    return [name for name in caps if version < SINCE.get(name, (0, 0))]
