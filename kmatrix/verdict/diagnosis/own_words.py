"""Causes that the guest's loader tells in words of its own (kmatrix.guest), and some that kernels tell of hooks: pattern → cause.

Pure, and apart from the table of diagnosis: what is said here is known to be the cause, and comes before the rest of the log is read.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import NamedTuple


class Cause(NamedTuple):
    """A cause: its class (docs/diagnosis.md), one line, what to do, and the place where it was found."""

    kind: str
    what: str
    fix: str
    where: str | None = None


Match = re.Match[str]

_ALLOWED = {
    "sleepable": "sleepable programs go to system calls and other functions that the kernel lists for error injection",
    "modifiable": "fmod_ret takes security_ functions, and those that the kernel lists for error injection",
}

_OPTIONS = {"lirc_mode2": "CONFIG_BPF_LIRC_MODE2", "lsm": "CONFIG_BPF_LSM", "netfilter": "CONFIG_NETFILTER_BPF_LINK"}
"""The option without which a kernel that is new enough does not know the program type."""


def _interrupted(match: Match) -> Cause:
    """The verifier was stopped at kmatrix's own limit (kmatrix.guest.limit)."""
    return Cause(
        "verifier-timeout",
        f"the verifier was still at work after {match['seconds']} s",
        "make loops shorter, or split the program; where it is only the emulated CPU that is slow, raise the limit (--load-timeout, load_timeout in the manifest)",
        f"its last state was {' '.join(match['state'].split())}" if match["state"] else None,
    )


def _refused(match: Match) -> Cause:
    return Cause(
        "refused",
        f"this kernel has {match['name']} links, and does not take this one",
        "see that the program is of the type that the hook takes, and that the hook is free",
    )


def _no_binary(match: Match) -> Cause:
    return Cause(
        "file",
        f"the binary {match['path']}, which its section names, is not in the guest",
        "name a library that the guest has, such as libc.so.6, or have the collector's own loader bring the file and attach to it",
    )


def _no_usdt(match: Match) -> Cause:
    return Cause(
        "file",
        f"there is no USDT probe in {match['path']}",
        "name a binary that was built with <sys/sdt.h> and is in the guest",
    )


def _no_symbol(match: Match) -> Cause:
    return Cause("file", f"{match['path']} has no function {match['symbol']}", "name a function that the binary has")


def _lacking_option(match: Match) -> Cause:
    return Cause(
        "config", f"{match['what']}: it needs {match['option']}, which this kernel was built without", "make the program optional"
    )


def _not_allowed(match: Match) -> Cause:
    return Cause(
        "symbol",
        f"function {match['function']} is not {match['how']}: {_ALLOWED[match['how']]}",
        "attach to a function that is, or use the form of the section that does not ask for it",
    )


def _no_target(match: Match) -> Cause:
    return Cause(
        "target",
        f"{match['function']}() is a function of another object's program, which the loader of this one names",
        "attach it by its own loader, or put the program that it extends into the same object",
    )


def _no_type(_: Match) -> Cause:
    return Cause(
        "section", "its section names no kind of program", "write a name that libbpf knows (kmatrix lint finds some: KM106)"
    )


def _no_structure(match: Match) -> Cause:
    name = match["name"]
    option = " (CONFIG_SCHED_CLASS_EXT, 6.12)" if name == "sched_ext_ops" else ""
    return Cause("struct-ops", f"struct_ops: btf:struct {name} is not in this kernel{option}", "make the structure optional")


_ROWS: tuple[tuple[str, Callable[[Match], Cause]], ...] = (
    (r"^the verifier was still at work after (?P<seconds>\S+) s(?:; its last state was (?P<state>.*))?", _interrupted),
    (r"^this kernel has (?P<name>\w+) links and refuses this one", _refused),
    (r"^its binary (?P<path>\S+) is not in the guest", _no_binary),
    (r"no USDT notes section \(\S+\) found in '(?P<path>[^']+)'", _no_usdt),
    (r"failed to find symbol '(?P<symbol>[^']+)' in '(?P<path>[^']+)'", _no_symbol),
    (r"this kernel takes no (?P<what>.*): it needs (?P<option>.*) \(", _lacking_option),
    (r"^(?P<function>\w+)(?:\(\))? is not (?P<how>sleepable|modifiable)$", _not_allowed),
    (r"no other program of this object has a function (?P<function>\w+) to replace", _no_target),
    (r"missing BPF prog type", _no_type),
    (r"struct_ops \w+: struct (?P<name>\w+) is not found in kernel BTF", _no_structure),
)


def cause(error: str, log: str, kind: str | None, code: int | None, *, new_enough: bool) -> Cause | None:
    """Return the cause that `error` or the verifier's `log` tells; None where neither does.

    `kind` is the program's type, `code` the errno; `new_enough` says whether the kernel's release has that type.
    """
    for pattern, row in _ROWS:
        if match := re.search(pattern, error, re.DOTALL) or re.search(pattern, log, re.MULTILINE):
            return row(match)
    if kind in _OPTIONS and code == errno.EINVAL and not log and new_enough:
        return Cause(
            "config",
            f"program type {kind} needs {_OPTIONS[kind]}, which this kernel was built without",
            "make the program optional",
        )
    return None
