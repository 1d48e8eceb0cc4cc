"""Causes that the guest's loader tells in words of its own (kmatrix.guest): pattern → cause.

Pure, and apart from the table of diagnosis: what is said here is known to be the cause, and comes before the rest of the log is read.
"""

from __future__ import annotations

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


def _lacking_option(match: Match) -> Cause:
    return Cause(
        "config", f"{match['what']}: it needs {match['option']}, which this kernel was built without", "make the program optional"
    )


def _no_target(match: Match) -> Cause:
    return Cause(
        "target",
        f"{match['function']}() is a function of another object's program, which the loader of this one names",
        "attach it by its own loader, or put the program that it extends into the same object",
    )


def _no_form(match: Match) -> Cause:
    return Cause(
        "one-of",
        f"no form of one_of can run here: {match['why']}",
        "add a form that this kernel can run, or end the group with [] where the object can do without",
    )


def _no_file(match: Match) -> Cause:
    return Cause(
        "file",
        f"{match['path']}, which is to be probed, is not in the guest",
        "name a library that the guest has, without its folder (libc.so.6), or have the collector's own loader bring the file and attach to it",
    )


_ROWS: tuple[tuple[str, Callable[[Match], Cause]], ...] = (
    (r"^the verifier was still at work after (?P<seconds>\S+) s(?:; its last state was (?P<state>.*))?", _interrupted),
    (r"^this kernel has (?P<name>\w+) links and refuses this one", _refused),
    (r"^its binary (?P<path>\S+) is not in the guest", _no_binary),
    (r"^no form of one_of can run here: (?P<why>.*)", _no_form),
    (r"elf: failed to open (?P<path>\S+): No such file or directory", _no_file),
    (r"no USDT notes section \(\S+\) found in '(?P<path>[^']+)'", _no_usdt),
    (r"this kernel takes no (?P<what>.*): it needs (?P<option>.*) \(", _lacking_option),
    (r"no other program of this object has a function (?P<function>\w+) to replace", _no_target),
)


def cause(error: str, log: str) -> Cause | None:
    """Return the cause that `error` or the verifier's `log` tells; None where neither does."""
    for pattern, row in _ROWS:
        if match := re.search(pattern, error, re.DOTALL) or re.search(pattern, log, re.MULTILINE):
            return row(match)
    return None
