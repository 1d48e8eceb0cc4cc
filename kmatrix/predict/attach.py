"""The hooks that programs name, on a kernel of which there is a profile: is there such a function, tracepoint or attach type?"""

from __future__ import annotations

import errno
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmatrix.guest.fact import since
from kmatrix.guest.facts import FACTS
from kmatrix.guest.spelling import GIVEN
from kmatrix.guest.table_uapi import PROG_FLAGS
from kmatrix.host import version
from kmatrix.predict.kernel import Kernel, Symbol
from kmatrix.predict.subject import Program
from kmatrix.predict.types import View
from kmatrix.predict.words import Writer
from kmatrix.verdict.diagnosis import Diagnosis
from kmatrix.verdict.diagnosis.hooks import UNCHECKED


@dataclass(frozen=True)
class Hook:
    """What is foreseen of attaching a loaded program."""

    attached: bool
    """False where its section does not say where, or the profile does not tell."""
    cause: Diagnosis | None = None
    unknown: tuple[str, ...] = ()


_NOWHERE = Hook(False)
_ATTACHED = Hook(True)
_SYSCALL_PREFIX = {"x86_64": "__x64_sys_", "arm64": "__arm64_sys_"}


def wraps_syscalls(kernel: Kernel) -> bool:
    """Whether system calls are behind wrappers (kernel_supports FEAT_SYSCALL_WRAPPER of libbpf): 4.17 on x86_64, 4.19 on arm64."""
    found = kernel.symbol(f"{_SYSCALL_PREFIX[kernel.arch]}bpf")
    return found is not None


# -- before loading ----------------------------------------------------------------------------------------------------------

_AIMED: Mapping[str, str] = {
    "fentry": "",
    "fexit": "",
    "fmod_ret": "",
    "lsm": "bpf_lsm_",
    "lsm_cgroup": "bpf_lsm_",
    "iter": "bpf_iter_",
}


def missing_function(program: Program, kernel: Kernel) -> str | None:
    """The function or tracepoint that libbpf looks for in the kernel's BTF before it loads the program, where it is not there."""
    if not program.target or not program.typed:
        return None
    if program.kind == "tp_btf":
        return None if kernel.typed_tracepoint(program.target) else program.target
    if program.kind in _AIMED:
        return None if kernel.function(_AIMED[program.kind] + program.target) is not None else program.target
    return None


def without_address(program: Program, kernel: Kernel) -> str | None:
    """The function that the program is for, where it is in the kernel's BTF alone: the compiler put it into its callers."""
    found = kernel.function(program.target) if program.kind in ("fentry", "fexit", "fmod_ret") and program.target else None
    return program.target if found is not None and kernel.knows("symbols") and "S" not in found.flags else None


def unknown_type(program: Program, kernel: Kernel) -> bool:
    """Whether the kernel does not know the attach type that the program is loaded with, and checks it."""
    if kernel.version < (4, 17) and (program.attach or "").startswith(("tcx_", "netkit_", "trace_kprobe_", "trace_uprobe_")):
        return True  # the attach type has no place in its attributes (5e43f899b03a), and libbpf does not leave these out
    if program.attach is None or program.kind.startswith(("kprobe", "kretprobe", "uprobe", "uretprobe", "xdp")):
        return False
    if program.attach in ("trace_fentry", "trace_fexit", "modify_return", "lsm_mac") and kernel.arch == "arm64":
        return kernel.version < FACTS["attach"][program.attach].since  # where it also attaches came later
    if program.attach.startswith(("tcx_", "netkit_", "sk_skb", "sk_msg", "trace_")) and program.type != "tracing":
        return False
    return not kernel.has(f"attach:{program.attach}") and program.attach not in ("lsm_mac", *UNCHECKED)


def unknown_flag(program: Program, kernel: Kernel) -> bool:
    """Whether the kernel does not know a flag that the program is loaded with: that it may sleep, or takes packets of several buffers."""
    if program.sleepable:
        return kernel.version < ((6, 0) if program.kind in ("uprobe", "uretprobe", "usdt") else since(PROG_FLAGS, 4))
    return program.frags and kernel.version < since(PROG_FLAGS, 5)


def beyond_arguments(
    program: Program, kernel: Kernel, reads: Sequence[tuple[int, int, int]]
) -> tuple[int, str, Mapping[str, Any]] | None:
    """The first read of an argument that the function or tracepoint has not: instruction, the verifier's words, and what is known."""
    count, extra = _arguments(program, kernel)
    if count is None:
        return None
    for index, offset, _ in reads:
        if offset // 8 >= count + extra:
            words = f"func '{program.target}' doesn't have {offset // 8 + 1}-th argument\ninvalid bpf_context access off={offset} size=8"
            return index, words, {"function": {"name": program.target, "arguments": count}}
    return None


def _arguments(program: Program, kernel: Kernel) -> tuple[int | None, int]:
    """How many arguments the target has, and whether what it returns comes after them."""
    if program.kind in ("fentry", "fexit", "fmod_ret"):
        found = kernel.function(program.target)
        return (found.arguments if found is not None else None), int(program.kind != "fentry")
    if program.kind == "tp_btf":
        view = View(kernel.pack, kernel.number, kernel.bit)
        points = view.named("t", f"btf_trace_{program.target}")
        node = view.bare(points[0][1]) if points else None
        proto = view.bare(node.inner) if node is not None and node.kind == "*" and node.inner is not None else None
        return (len(proto.members) - 1 if proto is not None and proto.kind == "(" else None), 0
    return None, 0


# -- attaching ---------------------------------------------------------------------------------------------------------------


def judge(program: Program, kernel: Kernel, writer: Writer) -> Hook:
    """What becomes of a loaded program at its hook."""

    def refuse(error: str, code: int, kind: str, **names: object) -> Hook:
        return Hook(False, writer.cause(kernel, program, "attach", error, kind=kind, code=code, btf=names))

    for pattern, way in _WAYS:
        if re.fullmatch(pattern, program.kind):
            return way(program, kernel, refuse)
    return _by_type(program, kernel, refuse)


Refuse = Callable[..., Hook]


def _kprobe(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    if not kernel.has("kprobes"):
        return refuse("failed to create kprobe perf event", errno.ENOENT, "config")
    return _function(program.target.partition("+")[0], kernel, refuse, offset="+" in program.target)


def _function(name: str, kernel: Kernel, refuse: Refuse, *, offset: bool = False) -> Hook:
    there = kernel.probes(name)
    if there is None:
        return Hook(False, unknown=(f"whether {name} may be probed: the profile has no list of symbols",))
    if there:
        return Hook(True, unknown=("whether an instruction begins at the offset",) if offset else ())
    symbol = kernel.symbol(name)
    exists = symbol is not None and "S" in symbol.flags
    alike = [] if exists else [each for each in kernel.alike("names", name) if kernel.probes(each)]
    spelled = [] if exists or alike else [each for each in kernel.spelled("names", name) if kernel.probes(each)][:GIVEN]
    facts = {"name": name, "there": exists, "alike": alike, "spelled": spelled}
    return refuse(f"failed to create kprobe '{name}' perf event", errno.EINVAL if exists else errno.ENOENT, "symbol", symbol=facts)


def _ksyscall(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    prefix = _SYSCALL_PREFIX[kernel.arch] if wraps_syscalls(kernel) else "__se_sys_"
    return _function(prefix + program.target, kernel, refuse)


def _multi(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    session = "session" in program.kind
    if not kernel.has("link:kprobe_multi") or (session and not kernel.has("attach:trace_kprobe_session")):
        return refuse("failed to attach", errno.EINVAL if kernel.version < (5, 18) else errno.EOPNOTSUPP, "attach-type")
    if not kernel.knows("traceable"):
        return Hook(False, unknown=("which functions may be traced: the profile has no list of them",))
    if not any(char in program.target for char in "*?"):
        return _ATTACHED if kernel.traces(program.target) else refuse("no such function", errno.ENOENT, "symbol")
    fits = re.compile(fnmatch.translate(program.target)).match
    found = any(fits(name) and "T" in Symbol.parsed(value).flags for name, value in kernel.values("names"))
    return _ATTACHED if found else refuse("no such function", errno.ENOENT, "symbol")


def _uprobe(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    if not kernel.has("uprobes"):
        return refuse("failed to create uprobe perf event", errno.ENOENT, "config")
    if ":" not in program.target:
        return refuse(f"section '{program.section}' missing ':function[+offset]' specification", errno.EINVAL, "placeholder")
    return Hook(False, unknown=(f"whether {program.target} is there on the host",))


def _tracepoint(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    there = kernel.tracepoint(program.target)
    if there is None:
        return Hook(False, unknown=(f"whether there is a tracepoint {program.target}: the profile has no list of them",))
    if not there:
        group, _, name = program.target.partition("/")
        found = [
            each.partition("/")[2]
            for each in kernel.alike("events", f"{group}/{name}") or kernel.alike("events", f"{group}/{name.rpartition('_')[0]}")
        ]
        return refuse(
            "failed to create tracepoint perf event",
            errno.ENOENT,
            "tracepoint",
            tracepoint={"name": program.target, "alike": found},
        )
    return _ATTACHED


def _raw_tracepoint(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    there = kernel.raw_tracepoint(program.target)
    if there is None:
        return Hook(False, unknown=(f"whether there is a tracepoint {program.target}: the profile has no list of them",))
    return _ATTACHED if there else refuse("failed to attach raw tracepoint", errno.ENOENT, "tracepoint")


def _trampoline(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not program.target:
        return _NOWHERE
    name = {"fentry": "trace_fentry", "fexit": "trace_fexit", "fmod_ret": "modify_return"}[program.kind]
    if not kernel.has(f"attach:{name}"):
        return refuse("failed to attach: ERROR: strerror_r(-524)=22", 524, "attach-type")
    if kernel.traces(program.target) is False:
        return refuse("failed to attach", errno.EBUSY, "symbol")
    return _ATTACHED


def _lsm(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if not kernel.runs_lsm:
        return refuse(f"bpf is not in this kernel's list of LSMs ({kernel.meta['lsm']})", errno.EOPNOTSUPP, "lsm")
    if program.attach is not None and not kernel.has(f"attach:{program.attach}"):
        return refuse("failed to attach: ERROR: strerror_r(-524)=22", 524, "attach-type")
    return _ATTACHED


def _extension(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    if kernel.arch == "arm64" and kernel.version < (6, 0):  # b2ad54e1533e
        return refuse("failed to attach: ERROR: strerror_r(-524)=22", 524, "attach-type")
    return Hook(False, unknown=(f"whether it fits the program {program.target} that it extends",))


def _of_its_loader(what: str) -> Callable[[Program, Kernel, Refuse], Hook]:
    return lambda program, kernel, refuse: Hook(False, unknown=(what,))  # noqa: ARG005


_LINKED = {"tcx_ingress": "tcx", "tcx_egress": "tcx", "netkit_primary": "netkit", "netkit_peer": "netkit", "netfilter": "netfilter"}


_TRACING = ("kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable", "tracing", "lsm", "ext")
_OPTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("lwt_in", "lwt_out", "lwt_xmit"), ("route with such a program", ("LWTUNNEL_BPF",))),
    "lwt_seg6local": ("route with such a program", ("IPV6_SEG6_BPF",)),
    "sched_act": ("filter with such an action", ("NET_ACT_BPF", "NET_CLS_MATCHALL")),
    "sched_cls": ("filter with such a program", ("NET_CLS_BPF",)),
}
"""Type of a program → what it is put on, and the options that this takes."""


def _by_type(program: Program, kernel: Kernel, refuse: Refuse) -> Hook:
    """Devices, sockets and cgroups: by the attach type."""
    if program.attach in ("xdp_devmap", "xdp_cpumap") or (program.type in _TRACING and program.kind != "perf_event"):
        return _NOWHERE
    what, options = _OPTIONS.get(str(program.type), ("", ()))
    lacking = [option for option in options if kernel.knows("config") and kernel.option(option) not in ("y", "m")]
    if lacking:
        return refuse(
            f"this kernel takes no {what}: it needs {' and '.join(f'CONFIG_{each}' for each in options)} (Invalid argument)",
            errno.EINVAL,
            "config",
        )
    link = _LINKED.get(program.attach or "")
    if link is not None and not kernel.has(f"link:{link}"):
        first = version.text(FACTS["link"][link].since)
        return refuse(f"attach type {program.attach}, since {first}", errno.EINVAL, "attach-type")
    if program.type in ("sk_skb", "sk_msg"):
        if not kernel.takes_map("sockmap"):
            return refuse(
                "this kernel takes no sockmap: it needs CONFIG_BPF_STREAM_PARSER (Invalid argument)", errno.EINVAL, "config"
            )
        if program.type == "sk_skb" and "/" not in program.section:
            return _NOWHERE
    if program.type == "lirc_mode2":
        return _NOWHERE
    return _ATTACHED


_WAYS: tuple[tuple[str, Callable[[Program, Kernel, Refuse], Hook]], ...] = (
    (r"kprobe|kretprobe", _kprobe),
    (r"ksyscall|kretsyscall", _ksyscall),
    (r"k(ret)?probe\.(multi|session)", _multi),
    (r"u(ret)?probe(\.multi|\.session)?|usdt", _uprobe),
    (r"tp|tracepoint", _tracepoint),
    (r"(raw_tp|raw_tracepoint)(\.w)?", _raw_tracepoint),
    (r"fentry|fexit|fmod_ret", _trampoline),
    (r"lsm|lsm_cgroup", _lsm),
    (r"tp_btf|iter", lambda program, kernel, refuse: _ATTACHED if program.target else _NOWHERE),  # noqa: ARG005
    (r"freplace", _extension),
    (r"struct_ops", _of_its_loader("whether the kernel takes the operations")),
)
"""Kind of section → what is asked."""
