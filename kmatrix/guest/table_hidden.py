"""What goes out of sight with a feature that is hidden by name, in simulated kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .table_uapi import BTF_GET_FD_BY_ID, BTF_GET_NEXT_ID, BTF_LOAD, MAP_FREEZE


@dataclass(frozen=True)
class Gone:
    """What goes out of sight with a feature that is hidden by name."""

    commands: frozenset[int] = frozenset()
    map_types: frozenset[int] = frozenset()
    prog_types: frozenset[int] = frozenset()
    helpers: frozenset[int] = frozenset()
    map_flags: int = 0
    pseudo_loads: frozenset[int] = frozenset()
    pseudo_calls: frozenset[int] = frozenset()
    links: frozenset[int] = frozenset()
    """Attach types of BPF_LINK_CREATE."""
    masks: tuple[str, ...] = ()
    """Files and folders that are covered."""


def _set(*parts: int | range) -> frozenset[int]:
    return frozenset(n for part in parts for n in ([part] if isinstance(part, int) else part))


TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
BTF_FOLDER = "/sys/kernel/btf"

GONE: Mapping[str, Gone] = {
    "btf": Gone(
        commands=_set(BTF_GET_NEXT_ID),
        prog_types=_set(26, 27, 28, 29),
        map_types=_set(26),
        helpers=_set(156, 157, 158),
        pseudo_loads=_set(3),
        pseudo_calls=_set(2),
        masks=(BTF_FOLDER,),
    ),
    "ringbuf": Gone(map_types=_set(27, 31), helpers=_set(range(130, 135), 198, 199, 200, 209)),
    "perf_buffer": Gone(map_types=_set(4), helpers=_set(22, 25, 55, 111, 121)),
    "global_data": Gone(commands=_set(MAP_FREEZE), map_flags=1 << 7 | 1 << 8, pseudo_loads=_set(2, 6)),
    "prog_names": Gone(),  # nonzero names are E2BIG
    "bpf2bpf": Gone(pseudo_calls=_set(1), pseudo_loads=_set(4)),
    "bounded_loops": Gone(),  # a jump back is EINVAL
    "insns_1m": Gone(),  # more than 4096 instructions are E2BIG
    "raw_tracepoint": Gone(prog_types=_set(17, 24)),
    "lsm": Gone(prog_types=_set(29), links=_set(27, 43)),
    "fentry": Gone(),  # programs of type tracing that expect fentry, fexit or fmod_ret are EINVAL
    "task_storage": Gone(map_types=_set(29), helpers=_set(156, 157)),
    "cgroup_id_helper": Gone(helpers=_set(80)),
    "probe_read_kernel": Gone(helpers=_set(range(112, 116))),
    "current_task_btf": Gone(helpers=_set(158)),
    "kprobes": Gone(masks=(*(f"{root}/kprobe_events" for root in TRACEFS), "/sys/devices/kprobe")),
    "uprobes": Gone(masks=(*(f"{root}/uprobe_events" for root in TRACEFS), "/sys/devices/uprobe")),
    "kprobe_pmu": Gone(masks=("/sys/devices/kprobe", "/sys/devices/uprobe")),
    "kprobe_multi": Gone(links=_set(42, 48, 56)),
    "syscall_tracepoints": Gone(masks=tuple(f"{root}/events/syscalls" for root in TRACEFS)),
    "bpf_link": Gone(commands=_set(28, 29, 30, 31, 33, 34)),
    "perf_link": Gone(links=_set(41)),
    "btf_load": Gone(commands=_set(BTF_LOAD, BTF_GET_FD_BY_ID, BTF_GET_NEXT_ID)),
    "btf_modules": Gone(),  # all of BTF_FOLDER but vmlinux
    "memcg_accounting": Gone(),  # what is over RLIMIT_MEMLOCK is EPERM
}
"""The features that can be hidden. The others are the kernel's own (cgroup file systems, the clsact qdisc): no answer of bpf(2) hides them."""

IMPLIED: Mapping[str, tuple[str, ...]] = {
    "btf": ("fentry", "lsm", "current_task_btf", "btf_modules"),
    "btf_load": ("btf", "fentry", "lsm", "task_storage", "current_task_btf", "btf_modules"),
    "kprobes": ("kprobe_pmu", "kprobe_multi"),
    "bpf_link": ("perf_link", "kprobe_multi"),
}
"""What cannot be there without a feature, and is hidden with it."""


def hidden_with(names: Iterable[str]) -> frozenset[str]:
    """The features, and those that go with them."""
    return frozenset(each for name in names for each in (name, *IMPLIED.get(name, ())))
