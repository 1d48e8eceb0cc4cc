"""Features that are named with a parameter, such as `helper:bpf_loop`: what each kind is called, its form, and what follows from a name.

A name is a kind, a colon and a parameter. Kinds with a first release (helper, map, prog, attach, link, kfunc, insn) take it from the tables
of kmatrix.guest. The others (btf, symbol, tracepoint…) are facts of one kernel's image: no release says them, so they are declared in
kernels.toml or found by the guest's probe. docs/features.md has them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from kmatrix.guest.fact import Fact, Version
from kmatrix.guest.facts import FACTS
from kmatrix.host.nearest import did_you_mean
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.features import FEATURES, UNDATED, Feature, Step

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_EVENT = rf"[A-Za-z0-9_-]+/{_NAME}"
_EVERYWHERE: tuple[Step, ...] = ("btf", "map", "program", "attach")


@dataclass(frozen=True)
class Kind:
    """What stands before the colon."""

    prefix: str
    title: str
    example: str
    probe: str
    """How the guest finds out."""
    stops: tuple[Step, ...]
    form: str
    """The regular expression of a parameter."""
    config: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    kind.prefix: kind
    for kind in (
        Kind(
            "helper",
            "a helper function",
            "helper:bpf_loop, or helper:bpf_loop@kprobe for one program type",
            "load a program that calls it",
            ("program",),
            rf"{_NAME}(@{_NAME})?",
        ),
        Kind("map", "a map type", "map:bloom_filter", "create such a map", ("map",), _NAME),
        Kind("prog", "a program type", "prog:lsm", "load such a program", ("program",), _NAME),
        Kind("attach", "an attach type", "attach:tcx_ingress", "attach such a program, or ask to", ("program", "attach"), _NAME),
        Kind("link", "a link type", "link:kprobe_multi", "create such a link, or ask to", ("program", "attach"), _NAME),
        Kind(
            "kfunc",
            "a kernel function for programs",
            "kfunc:bpf_task_acquire",
            "load a program that calls it",
            ("btf", "program"),
            _NAME,
        ),
        Kind("insn", "a kind of instruction", "insn:atomic_fetch", "load a program that has it", ("program",), _NAME),
        Kind(
            "btf",
            "a type, a field or a function in the kernel's BTF",
            "btf:task_struct.__state, btf:struct bpf_lpm_trie_key_u8, btf:func/inet_csk_accept/4",
            "look it up in the kernel's BTF",
            ("btf", "program", "attach"),
            rf"func/{_NAME}(/\d+)?|((struct|union|enum|typedef) )?{_NAME}(\.{_NAME})*",
            ("DEBUG_INFO_BTF",),
        ),
        Kind(
            "symbol",
            "a kernel function that may be probed",
            "symbol:tcp_v4_syn_recv_sock",
            "look it up in /proc/kallsyms and put a kprobe on it",
            ("attach",),
            r"[A-Za-z_.][A-Za-z0-9_.$]*",
        ),
        Kind(
            "tracepoint",
            "a tracepoint",
            "tracepoint:sched/sched_process_exit",
            "look for its folder in tracefs",
            ("program", "attach"),
            _EVENT,
        ),
        Kind(
            "tracepoint-field",
            "a field of a tracepoint",
            "tracepoint-field:syscalls/sys_enter_openat.flags",
            "read the tracepoint's format in tracefs",
            ("program", "attach"),
            rf"{_EVENT}\.{_NAME}",
        ),
        Kind(
            "config",
            "an option that the kernel was built with",
            "config:BPF_LSM, or config:HZ=250",
            "read the kernel's configuration: /proc/config.gz, or the file that came with the image",
            _EVERYWHERE,
            r"[A-Z0-9][A-Za-z0-9_]*(=.+)?",
        ),
        Kind(
            "sysctl",
            "a setting of the running kernel",
            "sysctl:kernel.unprivileged_bpf_disabled=0",
            "read /proc/sys",
            _EVERYWHERE,
            r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_/-]+)+(=.*)?",
        ),
        Kind(
            "module",
            "a kernel module: loaded, built in, or there to be loaded",
            "module:nf_conntrack",
            "look in /sys/module and in /lib/modules",
            ("btf", "program", "attach"),
            r"[A-Za-z0-9_-]+",
        ),
    )
}

SAME: Mapping[str, str] = {
    "map:ringbuf": "ringbuf", "helper:bpf_ringbuf_output": "ringbuf", "helper:bpf_ringbuf_reserve": "ringbuf",
    "map:perf_event_array": "perf_buffer", "map:task_storage": "task_storage", "prog:raw_tracepoint": "raw_tracepoint",
    "helper:bpf_get_current_cgroup_id": "cgroup_id_helper", "helper:bpf_probe_read": "probe_read",
    "helper:bpf_probe_read_kernel": "probe_read_kernel",
    "helper:bpf_get_current_task_btf": "current_task_btf", "link:kprobe_multi": "kprobe_multi", "attach:trace_kprobe_multi": "kprobe_multi",
    "link:perf_event": "perf_link", "attach:perf_event": "perf_link", "attach:trace_fentry": "fentry", "attach:trace_fexit": "fentry",
    "insn:call_function": "bpf2bpf", "insn:bounded_loop": "bounded_loops", "insn:large_program": "insns_1m", "insn:map_value": "global_data",
}  # fmt: skip
"""Names with a parameter that mean the same as one without: what kernels.toml declares of the one holds for the other."""

UNDECIDABLE: Mapping[str, str] = {
    "helper:@ext": "an extension may call what the program that it replaces may call",
}


class BadName(ValueError):
    """A name that is no feature. `fix` says what to write."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@lru_cache(maxsize=4096)
def feature(name: str) -> Feature:
    """The feature of that name, with a parameter or without. Raises BadName, with the nearest names."""
    if name in FEATURES:
        return FEATURES[name]
    prefix, colon, parameter = name.partition(":")
    if not colon:
        raise BadName(f"unknown feature {name!r}{did_you_mean(name, [*FEATURES, *_all_examples()])}", _LIST)
    kind = KINDS.get(prefix)
    if kind is None:
        raise BadName(f"unknown kind {prefix!r} in {name!r}{did_you_mean(prefix, KINDS)}", f"the kinds are: {', '.join(KINDS)}")
    if not re.fullmatch(kind.form, parameter):
        raise BadName(f"{name!r} does not have the form of {kind.title}", f"write it as {kind.example}")
    return _MAKE.get(prefix, _of_image)(kind, name, parameter)


_LIST = "`kmatrix features` lists those without a parameter; docs/features.md has the kinds with one"


def _all_examples() -> list[str]:
    return [f"{kind}:{name}" for kind, rows in FACTS.items() for name in rows]


def _row(kind: Kind, name: str, parameter: str) -> Fact:
    rows = FACTS[kind.prefix]
    if parameter not in rows:
        near = did_you_mean(parameter, rows)
        if f"bpf_{parameter}" in rows:
            near = f"; did you mean {kind.prefix}:bpf_{parameter}?"
        raise BadName(f"{name!r}: there is no {kind.title.split(' ', 1)[1]} {parameter!r}{near}", f"write it as {kind.example}")
    return rows[parameter]


def _dated(kind: Kind, name: str, parameter: str) -> Feature:
    row = _row(kind, name, parameter)
    since = {arch: row.first(arch) for arch in ARCHES} if row.arches else row.since
    rests_on: tuple[str, ...] = ("btf",) if "DEBUG_INFO_BTF" in row.config else ()
    if kind.prefix == "kfunc":
        rests_on = (*rests_on, "insn:call_kfunc")
    return Feature(
        name,
        f"{kind.title.split(' ', 1)[1]} {parameter}",
        since,
        kind.probe,
        row.note or "kmatrix/guest/table_*.py",
        row.config,
        kind.stops,
        row.until,
        rests_on=rests_on,
        same=SAME.get(name),
    )


def _helper(kind: Kind, name: str, parameter: str) -> Feature:
    helper, at, program = parameter.partition("@")
    found = _dated(kind, f"helper:{helper}" if at else name, helper)
    if not at:
        return found
    if program not in FACTS["prog"]:
        raise BadName(
            f"{name!r}: there is no program type {program!r}{did_you_mean(program, FACTS['prog'])}", "write it as bpftool does"
        )
    if (why := UNDECIDABLE.get(f"helper:@{program}")) is not None:
        raise BadName(f"{name!r}: no probe can decide this: {why}", f"write helper:{helper}, or name another program type")
    row, of = FACTS["helper"][helper], FACTS["prog"][program]
    return Feature(
        name,
        f"{found.title} in {program} programs",
        max(row.since, of.since),
        kind.probe,
        "the first release of the helper and of the program type; which of the two may go with the other changed at releases that no table has",
        (*row.config, *of.config),
        kind.stops,
        of_image=True,
    )


def _of_image(kind: Kind, name: str, parameter: str) -> Feature:
    option = parameter if kind.prefix == "config" and "=" not in parameter else None
    if kind.prefix == "config" and parameter.startswith("CONFIG_"):
        raise BadName(
            f"{name!r} does not have the form of {kind.title}",
            f"write it without CONFIG_: config:{parameter.removeprefix('CONFIG_')}",
        )
    rests_on = ("btf",) if kind.prefix == "btf" else ()
    if kind.prefix.startswith("tracepoint") and parameter.startswith("syscalls/"):
        rests_on = ("syscall_tracepoints",)
    return Feature(
        name,
        f"{kind.title.split(' ', 1)[1]}: {parameter}",
        UNDATED,
        kind.probe,
        "declared in kernels.toml, or found by the probe",
        kind.config,
        kind.stops,
        of_image=True,
        rests_on=rests_on,
        option=option,
    )


_MAKE: Mapping[str, Callable[[Kind, str, str], Feature]] = {**dict.fromkeys(FACTS, _dated), "helper": _helper}


# -- a project's own names ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """A project's own name for several features: `any` of them, or `all` of them."""

    name: str
    parts: tuple[str, ...]
    any: bool
    """Whether one of the parts is enough."""

    def there(self, has: Callable[[str], bool | None]) -> bool | None:
        """Whether a kernel has it, by what it has of the parts; None where that is not known."""
        found = [has(part) for part in self.parts]
        decisive = self.any
        if decisive in found:
            return decisive
        return None if None in found else not decisive


Definitions = Mapping[str, Definition]


def check(name: str, defined: Definitions) -> None:
    """Raises BadName where `name` is neither a feature nor one of the project's own."""
    if name in defined:
        return
    if ":" not in name and name not in FEATURES:
        raise BadName(f"unknown feature {name!r}{did_you_mean(name, [*FEATURES, *defined, *_all_examples()])}", _LIST)
    feature(name)


def leaves(names: Iterable[str], defined: Definitions) -> tuple[str, ...]:
    """The features that `names` come down to, in order, each once."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys(leaves(defined[name].parts, defined) if name in defined else (name,))
    return tuple(found)


def certain(names: Iterable[str], defined: Definitions) -> frozenset[str]:
    """The features that a kernel with all of `names` has for certain: of an alternative, what all of its parts come down to."""
    found: frozenset[str] = frozenset()
    for name in names:
        if name not in defined:
            found |= {name}
            continue
        each = [certain((part,), defined) for part in defined[name].parts]
        found |= frozenset.intersection(*each) if defined[name].any else frozenset().union(*each)
    return found


def first(name: str, arch: Arch, defined: Definitions) -> Version:
    """The first release that has the feature on `arch`; UNDATED where no release says it."""
    if name not in defined:
        return feature(name).first(arch)
    releases = [first(part, arch, defined) for part in defined[name].parts]
    return min(releases) if defined[name].any else max(releases)
