"""Programs of a type, attach type or flag that the kernel does not know. `attaching` has the hooks that a kernel does not have."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any

from kmatrix.guest.facts import FACTS
from kmatrix.matrix import history
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, release, since_on

TRAMPOLINE = r"f(entry|exit|mod_ret)"
"""The sections of programs at a function's entry or exit."""
ENOTSUPP = 524
"""The kernel's own errno, which C libraries do not know."""
_OPTIONAL = "give such kernels another program, or make this one optional"
_IN_ITS_PLACE = {"fentry": "use a kprobe there", "fexit": "use a kretprobe there", "fmod_ret": _OPTIONAL}
"""What older kernels have at the same place. They have nothing for a program that changes what a function returns."""
_PLACEHOLDERS = r"dummy|placeholder|^foo$"


OTHERWISE = "attach to another function on such kernels, or make the program optional"
ANOTHER_FUNCTION = (
    f"{OTHERWISE}; a function of a module is there once the module is loaded, "
    "and for an object kmatrix loads none but veth: a collector's own loader can run modprobe first"
)
"""What to do where the kernel has no such function, whatever kind of program is for it."""


MODULES_IN_BTF = (5, 11)
"""Since when programs at a function's entry or exit can be at one of a module (36e68442d1af, 290248a5b7d8)."""


def not_there(known: Mapping[str, Any], otherwise: str) -> str:
    """What follows on the words that a kernel has no such function: the nearest that it has (kmatrix.guest.why).

    Where there is none, that no module has it either, and what is spelled nearly like it.
    """
    if known.get("alike"):
        return f"; the nearest is {', '.join(known['alike'])}"
    spelled = known.get("spelled")
    return otherwise + (f"; the nearest in spelling is {', '.join(spelled)}" if spelled else "")


def placeholder(failing: Failing, name: str) -> Diagnosis:
    """A target that nobody means: the loader sets another one."""
    where = "PATH:FUNCTION" if re.match(r"u(ret)?probe", failing.section) else "FUNCTION"
    fix = f"name the target by --attach-to PROGRAM={where}, by attach_to under [programs.PROGRAM] in X.contract.toml (docs/contract.md), or in SEC()"
    if failing.section.startswith("freplace"):
        fix = "attach it by its own loader, or name the function in SEC() and put the program that it extends into the same object"
    return Diagnosis(
        "placeholder",
        f"{name} stands for a target that the loader chooses",
        fix,
        None,
        first_line(failing),
    )


def is_placeholder(name: str) -> bool:
    """Whether it is one, by its name."""
    return re.search(_PLACEHOLDERS, name) is not None


def no_trampoline(failing: Failing, _: re.Match[str] | None = None) -> Diagnosis | None:
    """A program at a function's entry or exit, where the kernel has no trampolines (on arm64 before 6.4, efc9909fdce0)."""
    kind = re.match(rf"{TRAMPOLINE}|lsm|freplace|struct_ops", failing.section)
    if not kind:
        return None
    since = since_on("fentry", failing)
    if kind[0] == "fmod_ret":
        since = max(since, (5, 7))  # ae24082331d9
    elif kind[0] in ("freplace", "struct_ops") and failing.arch == "arm64":
        since = (6, 0)  # b2ad54e1533e, efc9909fdce0; seen to attach on 6.1
    if failing.version >= since:
        return None
    if kind[0] in ("lsm", "freplace", "struct_ops"):
        what, fix = f"{kind[0]} programs on {failing.arch}", _OPTIONAL
    else:
        what, fix = kind[0], _IN_ITS_PLACE[kind[0]]
    if failing.arch == "arm64":
        what = f"no {what.partition(' on ')[0]} on arm64 before {release(since)}"
    return Diagnosis("attach-type", what, fix, release(since), first_line(failing))


def too_new(failing: Failing) -> Diagnosis | None:
    """A program that the kernel refused without a word: of a type, attach type or flag that is newer than the kernel."""
    section, kind = failing.section, failing.wants.get("type")
    if re.match(TRAMPOLINE, section) and failing.version < since_on("fentry", failing):
        return no_trampoline(failing)
    at = first_line(failing)
    for pattern, first, what, fix in _FLAGS[:1]:  # libbpf leaves the attach type of XDP out where the kernel does not know it
        if re.match(pattern, section) and failing.version < first:
            return Diagnosis("flag", what, fix, release(first), at)
    expected = history.attach_type(int(failing.wants.get("attach_type") or 0))
    if expected is not None and expected[0] in UNCHECKED:
        expected = None
    named = failing.wants.get("attach_type") and expected is not None and failing.version < expected[1]
    since = history.prog_type_since(kind) if kind else None
    if named and expected is not None and (since is None or expected[1] > since):
        return Diagnosis("attach-type", f"attach type {expected[0]}", _OPTIONAL, release(expected[1]), at)
    if since is not None and failing.version < since:
        return Diagnosis("program-type", f"program type {kind}", _OPTIONAL, release(since), at)
    for pattern, first, what, fix in _FLAGS:
        if re.match(pattern, section) and failing.version < first:
            return Diagnosis("flag", what, fix, release(first), at)
    refused = failing.stage == "load" and failing.errno == errno.EINVAL and "program load failed" in failing.error
    silent = refused and not failing.log.strip()
    if silent and (option := _option(kind)) is not None:
        return built_without(failing, f"program type {kind}", option)
    return None


def named_attach_type(failing: Failing) -> Diagnosis | None:
    """A section whose attach type libbpf gives to the kernel with the program, before kernels took one there (5e43f899b03a)."""
    expected = history.attach_type(int(failing.wants.get("attach_type") or 0))
    if failing.version >= (4, 17) or not failing.wants.get("attach_type") or expected is None:
        return None
    return Diagnosis(
        "attach-type",
        f"attach type {expected[0]} named when the program is loaded",
        "use a section that names none, such as cgroup/sock or cgroup/skb, or make the program optional",
        "4.17",
        first_line(failing),
    )


def _option(kind: str | None) -> str | None:
    """The option of the kernel's configuration without which it has no programs of that type."""
    row = FACTS["prog"].get(kind or "")
    return f"CONFIG_{row.config[0]}" if row is not None and row.config else None


def built_without(failing: Failing, what: str, option: str) -> Diagnosis:
    """An option of the kernel's configuration that is off."""
    return Diagnosis(
        "config",
        f"{what} needs {option}, which this kernel was built without",
        "give such kernels another program, or make this one optional",
        None,
        first_line(failing),
    )


UNCHECKED = ("sk_reuseport_select", "sk_reuseport_select_or_migrate", "xdp", "perf_event")
"""Attach types that libbpf names and that kernels without them do not look at."""
_FLAGS: tuple[tuple[str, tuple[int, int], str, str], ...] = (
    (
        r"xdp\.frags",
        (5, 18),
        "XDP programs for packets in several buffers (xdp.frags)",
        'put a program in SEC("xdp") beside it for older kernels',
    ),
    (
        r"(u(ret)?probe(\.multi)?|usdt)\.s(/|$)",
        (6, 0),
        "sleepable uprobes (a section with .s)",
        "use the form that does not sleep on older kernels",
    ),
    (r"[\w.]+\.s(/|$)", (5, 10), "sleepable programs (a section with .s)", "use the form that does not sleep on older kernels"),
)
"""Section → first release: BPF_F_XDP_HAS_FRAGS (c2f2cdbeffda), BPF_F_SLEEPABLE (1e6c62a88215), and the types that took the latter up later."""


def not_permitted(failing: Failing) -> Diagnosis | None:
    """A program that the kernel refused to load for want of a right, without a word of the verifier: locked memory, before 5.11."""
    if failing.errno != errno.EPERM or failing.log.strip():
        return None
    if failing.version < (5, 11):
        return Diagnosis(
            "memlock",
            "no more memory may be locked for the program (RLIMIT_MEMLOCK counts before 5.11)",
            "raise RLIMIT_MEMLOCK before the object is loaded",
            None,
            first_line(failing),
        )
    return Diagnosis(
        "permission",
        "loading is not permitted",
        "run the loader with CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, and see whether the kernel is locked down",
        None,
        first_line(failing),
    )
