"""The features: what a kernel can do for a BPF program, as one table of data.

`since` is the upstream release from which a feature is there, per arch where they differ; `config` are the options without which it
is not; a kernel of kernels.toml may override both (vendors backport, distributions switch off). The guest's probe of the same name
(kmatrix.guest.probe) decides what is really there; where the two disagree, the cell fails as `table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kmatrix.host.version import Version as Version
from kmatrix.matrix.arch import Arch

UNDATED: Version = (0, 0)
"""In place of a first release, where there is none: such a feature is of one kernel's image."""
Step = Literal["btf", "map", "program", "attach"]
"""Where a loader is stopped: at the kernel's BTF, before anything is made; at a map; at a program; at attaching one. libbpf goes in this order."""


@dataclass(frozen=True)
class Feature:
    """One named kernel ability."""

    name: str
    title: str
    since: Version | Mapping[Arch, Version]
    probe: str
    """How the guest finds out."""
    source: str
    """Where the release comes from: kernel commit, document, or what was seen on booted kernels."""
    config: tuple[str, ...] = ()
    stops: tuple[Step, ...] = ()
    """Where its absence stops a loader: a variant that needs it and is stopped elsewhere fails for another reason. tests/guest/test_stops.py
    shows it of those that a kernel at hand lacks and an object can ask for; of the others it follows from libbpf's order."""
    until: Version | None = None
    """The first release without it, where it went away."""
    of_image: bool = False
    """Whether it is a fact of one kernel's image, which no release says: from `since` on, kernels.toml declares it or the probe decides."""
    rests_on: tuple[str, ...] = ()
    """Features without which it cannot be there."""
    same: str | None = None
    """A feature without a parameter that means the same: what is declared of that one holds for this one."""
    option: str | None = None
    """The kernel option that it is, where it is one."""

    def says(self, version: Version, arch: Arch, config: Mapping[str, bool]) -> bool | None:
        """Whether such a kernel has the feature, as `default`; None where only kernels.toml or a probe can say."""
        if self.option is not None and self.option in config:
            return config[self.option]
        there = self.default(version, arch, config)
        return None if there and self.of_image else there

    def first(self, arch: Arch) -> Version:
        """The first release that has it on `arch`; UNDATED where there is none."""
        return self.since if isinstance(self.since, tuple) else self.since[arch]

    def default(self, version: Version, arch: Arch, config: Mapping[str, bool]) -> bool:
        """Whether a kernel of `version` on `arch` has the feature, where options in `config` are known to be on or off."""
        if version < self.first(arch) or (self.until is not None and version >= self.until):
            return False
        return all(config.get(option, True) for option in self.config)


def _f(
    name: str,
    title: str,
    since: Version | Mapping[Arch, Version],
    probe: str,
    source: str,
    *config: str,
    stops: tuple[Step, ...],
) -> Feature:
    return Feature(name, title, since, probe, source, config, stops)


_TABLE: tuple[Feature, ...] = (
    # The standard's three columns.
    _f(
        "btf",
        "the kernel describes its own types",
        (5, 2),
        "/sys/kernel/btf/vmlinux is there and libbpf parses it",
        "e83b9f55448a (kbuild: add ability to generate BTF type info for vmlinux), 341dfcf8d78e (sysfs file, 5.4)",
        "DEBUG_INFO_BTF",
        stops=("btf",),
    ),
    _f(
        "ringbuf",
        "BPF ring buffer maps",
        (5, 8),
        "create a BPF_MAP_TYPE_RINGBUF map",
        "457f44363a88 (bpf: Implement BPF ring buffer and verifier support for it)",
        stops=("map",),
    ),
    _f(
        "cgroup_v2",
        "the unified cgroup hierarchy is in use",
        (4, 5),
        "cgroup2 is mounted, as on every host that does not boot with version 1 alone",
        "67e9c74b8a87 (cgroup: replace __DEVEL__sane_behavior with cgroup2 fs type)",
        "CGROUPS",
        stops=("attach",),
    ),
    # Maps and programs.
    _f(
        "perf_buffer",
        "perf event arrays with bpf_perf_event_output",
        (4, 4),
        "create a BPF_MAP_TYPE_PERF_EVENT_ARRAY map",
        "a43eec304259 (bpf: introduce bpf_perf_event_output() helper)",
        stops=("map",),
    ),
    _f(
        "global_data",
        "global variables (.data, .bss, .rodata)",
        (5, 2),
        "create a one-slot array map and load a program that uses BPF_PSEUDO_MAP_VALUE",
        "d8eca5bbb2be (bpf: implement lookup-free direct value access for maps)",
        stops=("map", "program"),
    ),
    _f(
        "prog_names",
        "program and map names",
        (4, 15),
        "load a program with a name and read the name back",
        "cb4d2b3f03d8 (bpf: Add name, load_time, uid and map_ids to bpf_prog_info)",
        stops=(),
    ),
    _f(
        "bpf2bpf",
        "calls between BPF functions",
        (4, 16),
        "load a program with a BPF_PSEUDO_CALL",
        "cc8b0b92a169 (bpf: introduce function calls (function boundaries))",
        stops=("program",),
    ),
    _f(
        "bounded_loops",
        "loops the verifier can bound",
        (5, 3),
        "load a program with a backward jump",
        "2589726d12a1 (bpf: introduce bounded loops)",
        stops=("program",),
    ),
    _f(
        "insns_1m",
        "programs of up to a million instructions",
        (5, 2),
        "load a program of 4097 instructions",
        "c04c0d2b968a (bpf: increase complexity limit and maximum program size)",
        stops=("program",),
    ),
    _f(
        "raw_tracepoint",
        "raw tracepoint programs",
        (4, 17),
        "load a BPF_PROG_TYPE_RAW_TRACEPOINT program",
        "c4f6699dfcb8 (bpf: introduce BPF_RAW_TRACEPOINT)",
        stops=("program", "attach"),
    ),
    _f(
        "lsm",
        "BPF programs on LSM hooks",
        {"x86_64": (5, 7), "arm64": (6, 4)},
        "bpf is in /sys/kernel/security/lsm and an LSM program loads",
        "fc611f47f218 (bpf: Introduce BPF_PROG_TYPE_LSM); arm64: 2aa6ac03516d (arm64: ftrace: Add direct call support, 6.4)",
        "BPF_LSM",
        "DEBUG_INFO_BTF",
        stops=("btf", "program", "attach"),
    ),
    _f(
        "fentry",
        "fentry/fexit programs attach to kernel functions",
        {"x86_64": (5, 5), "arm64": (6, 4)},
        "load an fentry program and attach it",
        "fec56f5890d9 (bpf: Introduce BPF trampoline); arm64: efc9909fdce0 (JIT, 6.0) and 2aa6ac03516d (ftrace direct calls, 6.4)",
        "DEBUG_INFO_BTF",
        "FUNCTION_TRACER",
        "DYNAMIC_FTRACE",
        stops=("btf", "program", "attach"),
    ),
    _f(
        "task_storage",
        "task-local storage maps",
        (5, 11),
        "create a BPF_MAP_TYPE_TASK_STORAGE map",
        "4cf1bc1f1045 (bpf: Implement task local storage); without BTF of the kernel as well, as built 5.15 and 6.1 show: it is the map's own that counts",
        stops=("map",),
    ),
    # Helpers.
    _f(
        "cgroup_id_helper",
        "bpf_get_current_cgroup_id()",
        (4, 18),
        "load a program that calls helper 80",
        "bf6fa2c893c5 (bpf: implement bpf_get_current_cgroup_id() helper)",
        "CGROUPS",
        stops=("program",),
    ),
    _f(
        "probe_read",
        "bpf_probe_read(): the kernel's memory by an address",
        (4, 1),
        "load a tracepoint program that calls helper 4",
        "2541517c32be (tracing, perf: Implement BPF programs attached to kprobes); lockdown for confidentiality takes it, 9d1f8be5cf42",
        stops=("program",),
    ),
    _f(
        "probe_read_kernel",
        "bpf_probe_read_kernel/user()",
        (5, 5),
        "load a kprobe program that calls helper 113",
        "6ae08ae3dea2 (bpf: Add probe_read_{user, kernel} and probe_read_{user, kernel}_str helpers)",
        stops=("program",),
    ),
    _f(
        "current_task_btf",
        "bpf_get_current_task_btf()",
        (5, 11),
        "load a program that calls helper 158",
        "3ca1032ab7ab (bpf: Implement get_current_task_btf and RET_PTR_TO_BTF_ID)",
        "DEBUG_INFO_BTF",
        stops=("btf", "program"),
    ),
    # Attaching.
    _f(
        "kprobes",
        "kprobes can be attached",
        (4, 1),
        "kprobe_events is in tracefs",
        "2541517c32be (tracing, perf: Implement BPF programs attached to kprobes)",
        "KPROBES",
        "KPROBE_EVENTS",
        stops=("program", "attach"),
    ),
    _f(
        "uprobes",
        "uprobes can be attached",
        (4, 3),
        "uprobe_events is in tracefs",
        "04a22fae4cbc (tracing, perf: Implement BPF programs attached to uprobes)",
        "UPROBE_EVENTS",
        stops=("program", "attach"),
    ),
    _f(
        "kprobe_pmu",
        "kprobes through perf_event_open",
        (4, 17),
        "/sys/bus/event_source/devices/kprobe/type is there",
        "e12f03d7031a (perf/core: Implement the 'perf_kprobe' PMU)",
        "KPROBE_EVENTS",
        stops=("attach",),
    ),
    _f(
        "kprobe_multi",
        "one link on many kprobes",
        {"x86_64": (5, 18), "arm64": (6, 14)},
        "create a kprobe_multi link",
        "0dcac2725406 (bpf: Add multi kprobe link); arm64: 4346ba160409 (fprobe: Rewrite fprobe on function-graph tracer, 6.14)",
        "FPROBE",
        stops=("program", "attach"),
    ),
    _f(
        "tracepoints",
        "programs can be attached to tracepoints",
        (4, 7),
        "the id of sched_process_exec can be read in tracefs",
        "98b5c2c65c29 (perf, bpf: allow bpf programs attach to tracepoints); lockdown for confidentiality leaves tracefs empty, bf8e602186ec",
        stops=("attach",),
    ),
    _f(
        "syscall_tracepoints",
        "tracepoints of each system call",
        (4, 7),
        "events/syscalls is in tracefs",
        "98b5c2c65c29 (perf, bpf: allow bpf programs attach to tracepoints)",
        "FTRACE_SYSCALLS",
        stops=("attach",),
    ),
    _f(
        "bpf_link",
        "attachments are kernel objects (BPF_LINK_CREATE)",
        (5, 7),
        "BPF_LINK_CREATE knows its attach types",
        "af6eea57437a (bpf: Implement bpf_link-based cgroup BPF program attachment)",
        stops=("attach",),
    ),
    _f(
        "perf_link",
        "links for kprobes and tracepoints",
        (5, 15),
        "BPF_LINK_CREATE takes a perf event",
        "b89fbfbb854c (bpf: Implement minimal BPF perf link)",
        stops=("attach",),
    ),
    _f(
        "tc_clsact",
        "programs on the clsact qdisc",
        (4, 5),
        "attach a classifier to lo through clsact",
        "1f211a1b929c (net, sched: add clsact qdisc)",
        "NET_CLS_ACT",
        "NET_SCH_INGRESS",
        stops=("attach",),
    ),
    _f(
        "cgroup_v1",
        "the version 1 cgroup file system",
        (2, 6),
        "cgroup is in /proc/filesystems",
        "ddbcc7e8e50a (Task Control Groups: basic task cgroup framework)",
        "CGROUPS",
        stops=("attach",),
    ),
    # What loaders use.
    _f(
        "btf_load",
        "BPF_BTF_LOAD",
        (4, 18),
        "load a BTF object",
        "69b693f0aefa (bpf: btf: Introduce BPF Type Format (BTF))",
        stops=("btf", "map", "program"),
    ),
    _f(
        "btf_modules",
        "BTF of kernel modules",
        (5, 11),
        "BPF_BTF_GET_FD_BY_ID answers with BTF names; CONFIG_DEBUG_INFO_BTF_MODULES",
        "36e68442d1af (bpf: Load and verify kernel module BTFs)",
        "DEBUG_INFO_BTF",
        "DEBUG_INFO_BTF_MODULES",
        "MODULES",
        stops=("btf", "program", "attach"),
    ),
    _f(
        "memcg_accounting",
        "BPF memory is charged to the memory cgroup, not to RLIMIT_MEMLOCK",
        (5, 11),
        "create a map with RLIMIT_MEMLOCK 0 and no privilege for it",
        "97306be45fbe (Merge branch 'switch to memcg-based memory accounting')",
        stops=("map", "program"),
    ),
)

FEATURES: Mapping[str, Feature] = {feature.name: feature for feature in _TABLE}


def status(features: frozenset[str], version: Version) -> str:
    """The standard's word for a kernel with these features: full, partial, fallback or unsupported.

    CORE_STANDARDS.md, "Feature Matrix": full has BTF and ring buffers, partial BTF alone, fallback neither, and nothing below 4.14 is supported.
    """
    if version < (4, 14):
        return "unsupported"
    if "btf" not in features:
        return "fallback"
    return "full" if "ringbuf" in features else "partial"
