"""What a program uses and the kernel does not have: helpers, kernel functions, types and fields of its BTF."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kmatrix.guest.table_kfuncs import MODULES
from kmatrix.matrix import history
from kmatrix.verdict.diagnosis import hooks
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, naming, release, used, where

_MAY_SLEEP = ("bpf_copy_from_user", "bpf_copy_from_user_task", "bpf_ima_inode_hash", "bpf_ima_file_hash")
"""Helpers that only a sleepable program may call (might_sleep in kernel/bpf/helpers.c and kernel/bpf/bpf_lsm.c)."""
_ONLY_SYSCALL = ("bpf_sys_bpf", "bpf_btf_find_by_name_kind", "bpf_sys_close", "bpf_kallsyms_lookup_name")
"""Helpers of programs of type syscall (syscall_prog_func_proto in kernel/bpf/syscall.c)."""


_READS, _WRITES = "read the kernel's memory by an address", "write to a process' memory"
_LOCKED: Mapping[str, str] = {
    **dict.fromkeys(("bpf_probe_read", "bpf_probe_read_str", "bpf_probe_read_kernel", "bpf_probe_read_kernel_str"), _READS),
    "bpf_probe_write_user": _WRITES,
}
"""Helpers that lockdown takes from tracing programs (9d1f8be5cf42, 5.4; 51e1bb9eeaf7, 5.15), which are allowed in each of them otherwise."""
_TRACING = ("kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable", "perf_event", "tracing")


_NEWER = re.compile(r"\b(bpf_probe_read)_(?:user|kernel)(_str)?\b")
"""Helpers (5.5) that libbpf replaces by the older one where its probe of bpf_probe_read_kernel fails (FEAT_PROBE_READ_KERN)."""


def _put_in_place(name: str, at: str | None) -> str:
    """That libbpf put the helper in the place of a newer one, where the line of source names that."""
    newer = next((each[0] for each in _NEWER.finditer(at or "") if f"{each[1]}{each[2] or ''}" == name), None)
    if newer is None:
        return ""
    return f" (libbpf put it in the place of {newer}, because its probe of bpf_probe_read_kernel failed)"


def helper(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A helper that the kernel does not have, or not for this type of program."""
    found = history.helper(int(match["number"]))
    if found is None:
        return None
    name, since = found
    if failing.version < since:
        return Diagnosis(
            "helper",
            f"helper {name}",
            f"call it only where the kernel has it (bpf_core_enum_value_exists), or give kernels before {release(since)} a variant without it",
            release(since),
            where(failing),
        )
    if name in _MAY_SLEEP and not re.match(r"[\w.]+\.s(/|$)", failing.section):
        return _sleeps(failing, name)
    kind = failing.wants.get("type") or "this type"
    if name in _LOCKED and kind in _TRACING:
        at = where(failing)
        return Diagnosis(
            "lockdown",
            f"helper {name}{_put_in_place(name, at)}: this kernel is locked down, and lets no program {_LOCKED[name]}",
            "let the agent say that the kernel is locked down (/sys/kernel/security/lockdown), or read by BTF (fentry, tp_btf), which lockdown allows",
            None,
            at,
        )
    only = "; it is for programs of type syscall" if name in _ONLY_SYSCALL else ""
    return Diagnosis(
        "helper-type",
        f"helper {name} is not for programs of type {kind} on this kernel{only}",
        "use another helper, or another kind of program",
        None,
        where(failing),
    )


def _sleeps(failing: Failing, name: str) -> Diagnosis:
    return Diagnosis(
        "sleepable",
        f"helper {name} may sleep, and the program may not",
        "make the program sleepable (fentry.s, lsm.s, uprobe.s), or use a helper that does not sleep",
        None,
        where(failing),
    )


def helper_sleeps(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """The same in newer kernels' words, which name no helper: the last one that was called does."""
    called = re.findall(r"call (bpf_\w+)#\d+|call %?(\w+)#", failing.log)
    name = next((each for pair in reversed(called) for each in pair if each), None)
    return _sleeps(failing, name or "(which one, the log says)")


def sleepable_type(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A sleepable program of a type that may not sleep on this kernel."""
    newer = hooks.too_new(failing)
    if newer is not None and newer.kind == "flag":
        return newer
    return Diagnosis(
        "sleepable",
        f"programs in section {failing.section} may not sleep on this kernel",
        "use the form without .s, and no helper that sleeps",
        None,
        first_line(failing),
    )


def not_sleepable_hook(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A function at which a sleepable program may not be."""
    return Diagnosis(
        "sleepable",
        f"{match['function']} is not a place where a program may sleep",
        "use the form without .s there, or another function",
        None,
        first_line(failing),
    )


def kfunc(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A kernel function that the kernel does not have, or not in what is loaded of it."""
    name = match["function"]
    since, module = history.first(f"kfunc:{name}", failing.arch), MODULES.get(name)
    if failing.version < (5, 13) and since is None:
        since = (5, 13)
        what = f"kernel function {name}: BPF programs call no kernel functions"
        return Diagnosis("kfunc", what, "give such kernels a variant that calls helpers", release(since), used(failing, name))
    if since is not None and failing.version < since:
        return Diagnosis(
            "kfunc",
            f"kernel function {name}",
            f"declare it __weak and call it only where bpf_ksym_exists says so, or give kernels before {release(since)} a variant without it",
            release(since),
            used(failing, name),
        )
    if module is not None:
        return Diagnosis(
            "kfunc",
            f"kernel function {name} is in the module {module}, which is not loaded",
            f"load the module first (modprobe {module}), or declare the function __weak and test it by bpf_ksym_exists",
            None,
            used(failing, name),
        )
    return Diagnosis(
        "kfunc",
        f"kernel function {name} is not in this kernel",
        "declare it __weak, and call it only where bpf_ksym_exists says so",
        None,
        used(failing, name),
    )


def kfunc_type(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A kernel function that is not for this type of program."""
    kind = failing.wants.get("type") or "this type"
    return Diagnosis(
        "kfunc-type",
        f"kernel function {match['function']} is not for programs of type {kind} on this kernel",
        "use another kind of program, or give such kernels a variant without it",
        None,
        where(failing),
    )


def relocation(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A CO-RE relocation that came to nothing: whether the kernel has the type, and what it has instead."""
    kind, name, member = match["kind"], match["type"].split("___")[0], match["member"] or match["enumerator"]
    known = failing.btf.get("type") or {}
    at = naming(failing, (member or name).rpartition(".")[2]) or where(failing)
    if known and not known["there"]:
        alike = f"; the nearest is {', '.join(known['alike'])}" if known["alike"] else ""
        return Diagnosis(
            "btf-type",
            f"CO-RE: btf:{kind} {name} is not in this kernel{alike}",
            f"guard the access with bpf_core_type_exists, and read the type of newer kernels by a flavour ({kind} {(known['alike'] or [name])[0]}___new)",
            None,
            at,
        )
    if kind in ("enum", "enum64"):
        return Diagnosis(
            "btf-enum",
            f"CO-RE: btf:enum {name} has no {member.split('___')[0] if member else 'such value'} on this kernel",
            "guard it with bpf_core_enum_value_exists",
            None,
            at,
        )
    field_ = f".{member}" if member else ""
    members = known.get("members") or []
    same = [each for each in members if each.strip("_") == (member or "").rpartition(".")[2]]
    renamed = f"; the nearest is {', '.join(same or members)}" if members else ""
    return Diagnosis(
        "btf-field",
        f"CO-RE: btf:{name}{field_} is not in this kernel, or of another kind{renamed}",
        "guard the access with bpf_core_field_exists, and read what other kernels have by a flavour of the type",
        None,
        at,
    )


def argument(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A function of the kernel, or a tracepoint, that has fewer arguments than the program reads.

    Some releases count the argument in the message from 0, others (5.10) from 1. The offset into the context, which follows, does not lie.
    """
    function = match["function"]
    offset = re.search(r"invalid bpf_context access off=(\d+)", failing.log[failing.log.find(match[0]) :])
    number = (int(offset[1]) // 8 if offset else int(match["index"])) + 1
    count = (failing.btf.get("function") or {}).get("arguments")
    has = f"has {count} argument{'' if count == 1 else 's'}" if count is not None else "has fewer arguments"
    name = f"tracepoint {function}" if failing.section.startswith("tp_btf") else f"btf:func/{function}"
    beyond = " (or its return value, which comes after the last)" if failing.section.startswith("fexit") else ""
    return Diagnosis(
        "btf-function",
        f"{name} {has} on this kernel, and the program reads argument {number}{beyond}",
        "load another program for kernels whose function has another signature",
        None,
        where(failing),
    )


def no_btf_function(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """The function, tracepoint, hook or iterator that a program is for is not in the kernel's BTF."""
    name = match["function"]
    if (newer := hooks.too_new(failing)) is not None:  # an iterator's name is that of no function where there are no iterators
        return newer
    if hooks.is_placeholder(name):
        return hooks.placeholder(failing, name)
    section, at = failing.section, first_line(failing)
    if section.startswith("tp_btf"):
        return Diagnosis(
            "tracepoint",
            f"tracepoint {name} is not in this kernel",
            "attach to another tracepoint on such kernels, or make the program optional",
            None,
            at,
        )
    known = failing.btf.get("function") or {}
    of_framework = re.match(r"lsm|iter", section)
    if of_framework is not None:
        what = "LSM hook" if of_framework[0] == "lsm" else "iterator"
        known = {"alike": known.get("alike")}  # a function that is spelled nearly like it is no hook
        return Diagnosis("symbol", f"{what} {name} is not in this kernel{hooks.not_there(known, '')}", hooks.OTHERWISE, None, at)
    modules, fix = ", nor in a module that is loaded", hooks.ANOTHER_FUNCTION
    if failing.version < hooks.MODULES_IN_BTF:
        modules, fix = "", f"{hooks.OTHERWISE}; a function of a module takes a kprobe before 5.11"
    return Diagnosis("symbol", f"btf:func/{name} is not in this kernel{hooks.not_there(known, modules)}", fix, None, at)


def kernel_variable(failing: Failing, match: re.Match[str]) -> Diagnosis:
    """A variable of the kernel that its BTF or its symbols do not have; which variables the BTF has is a matter of the kernel's build."""
    name = match["variable"] or match["other"]
    return Diagnosis(
        "extern",
        f"kernel variable {name} is not in this kernel's BTF, or has no address there",
        "declare it __weak and test its address, or as extern const void … __ksym; a kernel's BTF has per-CPU variables alone, as a rule",
        None,
        used(failing, name),
    )


def no_kernel_btf(failing: Failing, _: re.Match[str]) -> Diagnosis | None:
    """A kernel without BTF, which CO-RE and trampolines need."""
    return Diagnosis(
        "btf",
        "this kernel has no BTF of its own (CONFIG_DEBUG_INFO_BTF, 5.2 on)",
        "give it a variant without CO-RE, or bring a BTF file",
        None,
        first_line(failing),
    )


def global_pointer(failing: Failing, match: re.Match[str]) -> Diagnosis | None:
    """A global function with a pointer to a structure: e5069b9c23b3 (5.13)."""
    at = failing.lines.first(match["function"]) if failing.lines is not None else None
    return Diagnosis(
        "global-function",
        f"global function {match['function']}() with a pointer argument",
        "make the function static, or __always_inline",
        "5.13",
        at or where(failing),
    )


def global_void(failing: Failing, match: re.Match[str]) -> Diagnosis:
    """A global function that returns nothing, or a pointer."""
    at = failing.lines.first(match["function"]) if failing.lines is not None else None
    return Diagnosis(
        "global-function",
        f"global function {match['function']}() does not return a number",
        "let it return int, make it static, or __always_inline",
        None,
        at or where(failing),
    )
