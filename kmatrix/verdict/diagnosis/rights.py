"""Failures for want of a right: a capability that the loader has not, a filter of system calls, or a kernel that is locked down.

`Failing.situation` has what the guest says of itself and of the loader (kmatrix.guest.surroundings). Without it nothing here is a cause: root in a
guest as it is has every right.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any

from kmatrix.guest.table_capabilities import refused_in_container
from kmatrix.matrix.privileges import (
    ANYONE,
    BPF,
    CAPABLE,
    EVENTS,
    NET,
    PASSES_FILES,
    PERFMON,
    Privileges,
    Rule,
    Settings,
    of_map,
    of_program,
)
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, where
from kmatrix.verdict.words import last_words

_REFUSED = (errno.EPERM, errno.EACCES)
_PROBES = r"\??(tp|tracepoint|k(ret)?probe|ksyscall|kretsyscall|u(ret)?probe|usdt)(\.\w+)?(/|$)"
_IN_TRACEFS = r"\??(tp|tracepoint)/"
_ATTACHING: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    (rf"{_PROBES}|perf_event", (EVENTS,)),
    (r"tc|tcx|classifier|action|xdp|cgroup|sockops|sk_|flow_dissector|netkit|netfilter|lwt|lirc", (BPF, NET)),
    (r"socket", (("net_raw",),)),  # of packets: an ordinary socket takes one without
    (r"raw_tp|raw_tracepoint|f(entry|exit|mod_ret)|tp_btf|lsm|iter|freplace|struct_ops", (BPF, PERFMON)),
)
"""The section → what attaching a program of it takes."""
_HIDES_ADDRESSES = (
    r"leaks addr|pointer comparison prohibited|prohibited for !root|root only|infinite loop detected|pointer arithmetic prohibited|"
    r"has pointer with unsupported alu|attempt to corrupt spilled|variable .* access .* prohibited for"
)
"""What the verifier says to a loader without CAP_PERFMON that it lets pass with it (allow_ptr_leaks and its kin, 2c78ee898d8f)."""
_NO_HELPER = r"(?:unknown func|program of this type cannot use helper) (?P<name>bpf_\w+)#"
_CONFIDENTIAL = "confidentiality"


def cause(failing: Failing) -> Diagnosis | None:
    """The right that is missing; None where that is not what failed."""
    if not failing.situation:
        return None
    return _locked(failing) or _filtered(failing) or _capability(failing)


def _locked(failing: Failing) -> Diagnosis | None:
    """Attaching where the kernel is locked down: tracefs is empty (LOCKDOWN_TRACEFS), and takes no probe (LOCKDOWN_KPROBES)."""
    if failing.situation.get("lockdown") != _CONFIDENTIAL or failing.stage != "attach" or not re.match(_PROBES, failing.section):
        return None
    return Diagnosis(
        "lockdown",
        f"{_kind(failing)} programs: this kernel is locked down for confidentiality, in which none is attached to a tracepoint, kprobe or uprobe",
        "attach by BTF there (fentry, tp_btf) or to a raw tracepoint, or let the agent say that the kernel is locked down (/sys/kernel/security/lockdown)",
        None,
        first_line(failing),
    )


def _loader(failing: Failing) -> Mapping[str, Any]:
    loader: Mapping[str, Any] = failing.situation.get("loader") or {}
    return loader


def _filtered(failing: Failing) -> Diagnosis | None:
    """A system call that the container's filter refuses."""
    loader = _loader(failing)
    if not loader.get("filter") or failing.errno not in _REFUSED or (failing.section and failing.log.strip()):
        return None
    closed = refused_in_container(loader["caps"] or ())
    call = "perf_event_open" if failing.stage == "attach" and re.match(rf"{_PROBES}|perf_event", failing.section) else "bpf"
    if loader["caps"] is None or call not in closed:
        return None
    right = "CAP_PERFMON" if call == "perf_event_open" else "CAP_BPF"
    return Diagnosis(
        "permission",
        f"{_what(failing)}: the container's filter of system calls (seccomp) refuses {call}(2)",
        f"give the container {right} (5.8 on) or CAP_SYS_ADMIN, with which runtimes open the call, or a seccomp profile of its own",
        None,
        first_line(failing),
    )


def _capability(failing: Failing) -> Diagnosis | None:
    """A capability that the loader has not."""
    loader = _loader(failing)
    if loader.get("caps") is None:
        return None
    held = Privileges(caps=tuple(loader["caps"]))
    if failing.stage != "attach" and failing.log.strip() and (told := _verifier(failing, held)) is not None:
        return told
    tracefs = failing.stage == "attach" and loader.get("uid") != 0 and re.match(_IN_TRACEFS, failing.section) is not None
    if tracefs and failing.errno in (*_REFUSED, errno.ENOENT) and not set(PASSES_FILES) & set(loader["caps"]):
        return Diagnosis(
            "permission",
            "attaching to a tracepoint: tracefs is root's, and an ordinary user cannot read the tracepoint's id there",
            "give the loader CAP_DAC_READ_SEARCH, mount tracefs for a group (gid=), or attach to a raw tracepoint",
            None,
            first_line(failing),
        )
    if failing.errno not in _REFUSED:
        return None
    settings = Settings(
        anyone=_sysctl(failing, "kernel.unprivileged_bpf_disabled") == "0",
        restricted=failing.stage == "attach" and held.has(PERFMON, Settings(anyone=False, restricted=False)),
    )
    missing = [rule for rule in _rules(failing) if not held.has(rule, settings)]
    return _lacks(failing, missing[0]) if missing else None


def _rules(failing: Failing) -> tuple[Rule, ...]:
    if failing.stage == "map":
        return of_map(failing.map_type or "")
    if failing.stage in ("open", "load") and not failing.section:
        return (BPF,)
    if failing.stage == "load":
        return of_program(str(failing.wants.get("type") or ""), failing.version)
    return next((rules for pattern, rules in _ATTACHING if re.match(pattern, failing.section)), ())


def _sysctl(failing: Failing, name: str) -> str | None:
    value: str | None = (failing.situation.get("sysctls") or {}).get(name)
    return value


def _verifier(failing: Failing, held: Privileges) -> Diagnosis | None:
    """What the verifier keeps from a loader that may not see addresses, or may not use all of BPF."""
    nobody = Settings(anyone=False, restricted=False)
    helper = re.search(_NO_HELPER, failing.log)
    for rule, pattern in ((BPF, r"allowed for (?:CAP_BPF|root)|CAP_BPF"), (PERFMON, _HIDES_ADDRESSES)):
        if not held.has(rule, nobody) and re.search(pattern, failing.log):
            return _lacks(failing, rule, f"the verifier's {last_words(failing.log)!r}")
    for rule in (BPF, PERFMON):
        if helper is not None and not held.has(rule, nobody):
            return _lacks(failing, rule, f"helper {helper['name']}")
    return None


def _kind(failing: Failing) -> str:
    """The section's kind: one cause for all programs that have it."""
    return failing.section.lstrip("?").partition("/")[0]


def _what(failing: Failing) -> str:
    if failing.stage == "map":
        return f"map {failing.name} ({failing.map_type})"
    if failing.stage in ("open", "load") and not failing.section:
        return "loading any program"
    if failing.stage == "load":
        return f"program type {failing.wants.get('type') or 'of ' + failing.section}"
    return f"attaching a program of section {_kind(failing)}"


def _lacks(failing: Failing, rule: Rule, what: str | None = None) -> Diagnosis:
    old = failing.version < CAPABLE and rule in (BPF, PERFMON, EVENTS, ANYONE)
    names = ["sys_admin"] if old else [name for name in rule if name != ANYONE[-1]]
    why, fix = "", "give the loader that capability"
    if rule is EVENTS and not old:
        if "perfmon" in (_loader(failing)["caps"] or ()):
            paranoid = _sysctl(failing, "kernel.perf_event_paranoid")
            names, why = (
                ["sys_admin"],
                f": kernel.perf_event_paranoid is {paranoid}, where this kernel (Debian's and Ubuntu's) wants more than CAP_PERFMON",
            )
            fix = "set kernel.perf_event_paranoid to 2 or less, or give the loader CAP_SYS_ADMIN"
        else:
            names = ["perfmon", "sys_admin"]
    elif rule is ANYONE:
        disabled = _sysctl(failing, "kernel.unprivileged_bpf_disabled")
        why = f": kernel.unprivileged_bpf_disabled is {disabled}, so no ordinary user loads it" if disabled != "0" else ""
    words = " or ".join(f"CAP_{name.upper()}" for name in names)
    if old:
        fix = "give the loader that capability: before 5.8 there is no lesser one (CAP_BPF, CAP_PERFMON)"
    return Diagnosis(
        "permission",
        f"{what or _what(failing)}: the loader lacks {words}{why}",
        f"{fix}; kmatrix run --find-caps says the least that an object takes",
        None,
        where(failing) or first_line(failing),
    )
