"""Programs that loaded, and could not be attached."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from typing import Any

from kmatrix.matrix.features import Version
from kmatrix.verdict.diagnosis import contexts
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, first_line, release, since_on
from kmatrix.verdict.diagnosis.hooks import (
    ANOTHER_FUNCTION,
    ENOTSUPP,
    OTHERWISE,
    TRAMPOLINE,
    built_without,
    is_placeholder,
    not_there,
    placeholder,
    too_new,
)


def attach(failing: Failing) -> Diagnosis | None:
    """A program that loaded, and could not be attached."""
    for condition, cause in _ATTACH:
        if condition(failing) and (found := cause(failing)) is not None:
            return found
    return None


def _own(failing: Failing) -> Diagnosis | None:
    own = re.match(r"attach type (?P<name>\w+), since (?P<since>\d+\.\d+)", failing.error)
    if own is None:
        return None
    return Diagnosis(
        "attach-type",
        f"attach type {own['name']}",
        "fall back to what older kernels have, such as clsact for tcx, by another program or another call",
        own["since"],
        first_line(failing),
    )


def _lsm(failing: Failing) -> Diagnosis:
    return Diagnosis(
        "lsm",
        "bpf is not in this kernel's list of LSMs: the program would be attached and never run",
        "boot with lsm=…,bpf (CONFIG_LSM), or use a kprobe there",
        None,
        first_line(failing),
    )


def _multi(failing: Failing) -> Diagnosis | None:
    """kprobe.multi, kprobe.session, uprobe.multi."""
    at = first_line(failing)
    of_functions = failing.section.startswith("k")
    session = ".session" in failing.section
    since: Version = since_on("kprobe_multi", failing) if of_functions else (6, 6)
    if session:
        since = max(since, (6, 10) if of_functions else (6, 13))
    link = ("kprobe" if of_functions else "uprobe") + ("_session" if session else "_multi")
    if failing.version < since:
        place = f" on {failing.arch}" if of_functions else ""
        return Diagnosis("attach-type", f"link {link}{place}", "attach a probe to each function there", release(since), at)
    if failing.errno == errno.EOPNOTSUPP and session and not of_functions:
        return Diagnosis(
            "library",
            "the loading library has no function that attaches uprobe.session (libbpf from 1.6 on)",
            "attach it by the application's own means, or take a newer library",
            None,
            at,
        )
    if failing.errno == errno.EOPNOTSUPP:
        option = "CONFIG_FPROBE" if of_functions else "CONFIG_UPROBES"
        return Diagnosis(
            "config",
            f"link {link} needs {option}, which this kernel was built without",
            "attach a probe to each function there",
            None,
            at,
        )
    if of_functions and failing.errno in (errno.ENOENT, errno.EINVAL, errno.ESRCH):
        return Diagnosis(
            "symbol",
            f"no function of this kernel that may be traced is called {_target(failing)}",
            "correct the pattern, or make the program optional",
            None,
            at,
        )
    return None


def _sockmap(failing: Failing) -> Diagnosis | None:
    """Programs on a sockmap: EINVAL or EOPNOTSUPP where the kernel was built without them (include/linux/bpf.h)."""
    if (newer := too_new(failing)) is not None:
        return newer
    option = "CONFIG_BPF_STREAM_PARSER" if failing.version < (5, 13) else "CONFIG_NET_SOCK_MSG"
    return built_without(failing, f"attaching {failing.section}", option)


_OF_ONE = ("cgroup", "bpf_map_elem", "bpf_sk_storage_map", "sockmap")
"""Iterators that go through one cgroup or map, which the loader names (union bpf_iter_link_info)."""


def _iterator(failing: Failing) -> Diagnosis | None:
    name = _target(failing)
    if name not in _OF_ONE:
        return None
    return Diagnosis(
        "target",
        f"iterator {name} goes through one {'cgroup' if name == 'cgroup' else 'map'}, which its loader names when it attaches it",
        "attach it by its own loader (bpf_program__attach_iter with bpf_iter_attach_opts)",
        None,
        first_line(failing),
    )


def _generic_xdp(failing: Failing) -> Diagnosis | None:
    """Before 2ea5eabaf04a (5.15) generic_xdp_install() refuses a program with a map of devices or CPUs whose values have room for a program."""
    if failing.errno != errno.EINVAL or failing.version >= (5, 15):
        return None
    return Diagnosis(
        "refused",
        "XDP without a driver's help (as on the loopback device) does not take a program with a devmap or cpumap whose values have room for a program",
        "attach it to a device whose driver has XDP, or give such kernels a map with values of 4 bytes",
        "5.15",
        first_line(failing),
    )


def _target(failing: Failing) -> str:
    return failing.section.partition("/")[2]


def _kprobe(failing: Failing) -> Diagnosis | None:
    target = _target(failing)
    if is_placeholder(target):
        return placeholder(failing, target)
    if failing.errno == errno.EILSEQ:
        return Diagnosis(
            "symbol",
            f"symbol {target}: no instruction begins at this offset of the function, or the function ends before it",
            "attach to the function's beginning; offsets differ from kernel to kernel",
            None,
            first_line(failing),
        )
    if failing.errno == errno.EINVAL and "failed to create BPF link" in failing.error:
        return Diagnosis(
            "read-only",
            "the program writes to the registers that a kprobe is given, which only programs of uprobes may do",
            "write to a copy of them",
            None,
            first_line(failing),
        )
    if failing.errno != errno.ENOENT and "failed to create k" not in failing.error:
        return None
    return no_symbol(failing, target)


def no_symbol(failing: Failing, name: str) -> Diagnosis:
    """A function that is not there, or may not be probed: which of the two, where the guest looked (kmatrix.guest.why)."""
    hook: Mapping[str, Any] = failing.btf.get("symbol") or {}
    what, fix = f"symbol {name}: this kernel has no such function, or it may not be probed", ANOTHER_FUNCTION
    if hook and not hook["there"]:
        what = f"symbol {name}: this kernel has no such function{not_there(hook, ', nor has a module that is loaded')}"
    elif hook:
        what, fix = f"symbol {name}: this kernel has the function, and it may not be probed", OTHERWISE
    return Diagnosis(
        "symbol",
        what,
        fix,
        None,
        first_line(failing),
    )


def _alike(names: list[str]) -> str:
    return f"; the nearest is {', '.join(names)}" if names else ""


def _tracepoint(failing: Failing) -> Diagnosis:
    target, hook = _target(failing), failing.btf.get("tracepoint") or {}
    alike = _alike(hook.get("alike") or [])
    return Diagnosis(
        "tracepoint",
        f"tracepoint {target} is not in this kernel{alike}",
        "attach to another tracepoint on such kernels, or make the program optional",
        None,
        first_line(failing),
    )


def _no_entry(failing: Failing) -> Diagnosis:
    """It was tried by itself: what the trampoline did not find is a place for it at the function's entry (bpf_arch_text_poke).

    x86_64 says EBUSY, arm64 ENOTSUPP.
    """
    return Diagnosis(
        "symbol",
        f"function {_target(failing)} cannot be traced by {failing.section.partition('/')[0]} on this kernel: its entry has no place for it",
        "attach to another function, or to a tracepoint, on such kernels",
        None,
        first_line(failing),
    )


def _busy(failing: Failing) -> Diagnosis:
    return Diagnosis(
        "busy",
        "the hook is taken: another program is attached there, and it has room for one",
        "attach one of them only (kmatrix run --program NAME)",
        None,
        first_line(failing),
    )


def _file(failing: Failing) -> Diagnosis | None:
    """A uprobe or USDT probe in a file that is not there, or has no such function."""
    if "USDT support BPF maps" in failing.error or (failing.section.startswith("usdt") and failing.errno == errno.ESRCH):
        return Diagnosis(
            "object",
            "the object has no maps for USDT probes, in which libbpf keeps where their arguments are",
            "include <bpf/usdt.bpf.h>, and read the arguments by BPF_USDT or bpf_usdt_arg",
            None,
            first_line(failing),
        )
    path = re.search(r"failed to (?:open|resolve full path to|find path for) '?(?P<path>[^':\s]+)", failing.error)
    function = re.search(r"failed to find symbol '(?P<name>[^']+)' in '(?P<path>[^']+)'", failing.error)
    usdt = re.search(r"failed to find USDT (?:probe )?'?(?P<name>[\w:]+)|no USDT probe (?P<other>[\w:]+)", failing.error)
    if function:
        what = f"{function['path']} has no function {function['name']}"
    elif usdt or (failing.section.startswith("usdt") and failing.errno == errno.ENOENT and path is None):
        what = f"the program of {_target(failing)} has no such USDT probe"
    elif path or failing.errno == errno.ENOENT:
        what = f"{path['path'] if path else _target(failing)} is not there, or has no such function"
    else:
        return None
    return Diagnosis(
        "file",
        what,
        "bring the program that is probed (files of the manifest), or attach by its own loader",
        None,
        first_line(failing),
    )


def _new_attach_type(failing: Failing) -> Diagnosis | None:
    return too_new(failing)


def _not_permitted(failing: Failing) -> Diagnosis:
    return Diagnosis(
        "permission",
        "attaching is not permitted",
        "run the loader with CAP_BPF and CAP_PERFMON (5.8 on), or CAP_SYS_ADMIN, and see whether the kernel is locked down",
        None,
        first_line(failing),
    )


def _section(pattern: str) -> Callable[[Failing], bool]:
    return lambda failing: re.match(pattern, failing.section) is not None


_MISSING = (errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.EADDRNOTAVAIL)

_ATTACH: tuple[tuple[Callable[[Failing], bool], Callable[[Failing], Diagnosis | None]], ...] = (
    (_section(""), _own),
    (lambda failing: "list of LSMs" in failing.error, _lsm),
    (_section(r"(k|u)(ret)?probe\.(multi|session)"), _multi),
    (
        lambda failing: "missing ':function[+offset]' specification" in failing.error,
        lambda failing: placeholder(failing, failing.section),
    ),
    (
        lambda failing: (
            re.match(r"k(ret)?probe/|ksyscall|kretsyscall", failing.section) is not None
            and failing.errno in (*_MISSING, errno.EILSEQ)
        ),
        _kprobe,
    ),
    (lambda failing: re.match(r"(u(ret)?probe|usdt)(\.s)?/", failing.section) is not None, _file),
    (
        lambda failing: (
            failing.errno in (errno.ENOENT, errno.EINVAL)
            and re.match(r"(tp|tracepoint|raw_tp|raw_tracepoint)/", failing.section) is not None
        ),
        _tracepoint,
    ),
    (
        lambda failing: failing.errno == errno.EACCES and re.match(r"(tp|tracepoint)/", failing.section) is not None,
        contexts.record,
    ),
    (
        lambda failing: failing.errno in (errno.EBUSY, ENOTSUPP) and re.match(rf"{TRAMPOLINE}/", failing.section) is not None,
        _no_entry,
    ),
    (_section(r"iter(\.s)?/"), _iterator),
    (_section(r"xdp(/|$)"), _generic_xdp),
    (lambda failing: failing.errno == errno.EBUSY, _busy),
    (
        lambda failing: (
            failing.errno in (errno.EINVAL, errno.EOPNOTSUPP) and re.match(r"sk_(skb|msg)", failing.section) is not None
        ),
        _sockmap,
    ),
    (lambda failing: failing.errno in (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP), _new_attach_type),
    (lambda failing: failing.errno in (errno.EPERM, errno.EACCES), _not_permitted),
)
"""Condition → cause, in this order."""
