"""What the guest's serial console says: kernel trouble found in its text (pure), and the file read as it grows."""

from __future__ import annotations

import codecs
import ctypes
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["panic", "oops", "bug", "warning", "lockup", "hung-task", "rcu-stall"]

FATAL: frozenset[Kind] = frozenset({"panic"})
"""After these nothing answers any more."""
GRAVE: frozenset[Kind] = frozenset({"panic", "oops", "bug", "lockup", "hung-task", "rcu-stall"})
"""After these an answer may still come, but is not worth a long wait."""

EXCERPT_LINES = 80
"""A splat's excerpt is cut at this many lines: a register dump and a call trace fit."""

# In the order they are tried on a line: the first that matches names it. The wordings are the kernel's own, 4.14 to 6.12, from
# kernel/panic.c, kernel/watchdog.c, kernel/workqueue.c, kernel/hung_task.c, kernel/rcu/tree_stall.h (tree.c in 4.14), lib/bug.c,
# arch/x86/mm/fault.c, arch/x86/kernel/{dumpstack,traps}.c, arch/arm64/mm/fault.c and arch/arm64/kernel/traps.c.
_WORDINGS: tuple[tuple[Kind, str], ...] = (
    ("panic", r"Kernel panic - not syncing"),
    ("lockup", r"BUG: soft lockup|hard LOCKUP|BUG: workqueue lockup"),
    ("hung-task", r"INFO: task .+ blocked for more than \d+ seconds"),
    ("rcu-stall", r"\brcu\w* (?:self-)?detected (?:expedited )?stalls?\b|\brcu\w* kthread starved"),
    ("bug", r"[Kk]ernel BUG at |Oops - BUG"),
    ("oops", r"BUG: (?:unable to handle|kernel NULL pointer|.*stack guard page)|Unable to handle kernel|Internal error: |\bOops: "),
    # Whatever x86 calls its exception, die() numbers it: "double fault: 0000 [#1] SMP".
    ("oops", r"^[\w ,.]+: [0-9a-f]{4,8} \[#\d+\]|general protection fault, |Insufficient stack space"),
    ("bug", r"\bBUG: "),
    ("warning", r"WARNING: CPU: \d+ PID: \d+|WARNING: \S+ at \S+"),
    ("warning", r"WARNING: (?:possible|suspicious|inconsistent|bad unlock|held lock|lock held|Nested lock)"),
    ("warning", r"\bUBSAN: "),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _WORDINGS)
_STAMP = re.compile(r"\[\s*(\d+\.\d{6})\](?:\[\s*[TC]\d+\])? ?(.*)$")
_CUT_HERE = "[ cut here ]"
_END = "---[ end "
_PAUSE = 1.0
"""Seconds of silence after which what comes is not of the same splat."""


@dataclass(frozen=True)
class Splat:
    """One piece of kernel trouble on the console."""

    kind: Kind
    title: str
    """The line that says it, without its time stamp."""
    line: int
    """Where on the console, counted from 1."""
    time: float | None
    """Seconds since the guest booted, where the line carries a time stamp."""
    excerpt: tuple[str, ...]
    """The lines from the trouble's first to its end, at most EXCERPT_LINES."""

    @property
    def text(self) -> str:
        """The excerpt as one text."""
        return "\n".join(self.excerpt)


def splats(text: str) -> tuple[Splat, ...]:
    """Every piece of kernel trouble in `text`, in order.

    Only lines with the kernel's time stamp count: the others are some program's. Lines that belong to a splat already begun (the oops
    that follows a BUG) do not start another; a panic always does, because it ends the machine.
    """
    lines = text.splitlines()
    found: list[Splat] = []
    covered = 0  # lines before this one belong to the last splat
    for index, line in enumerate(lines):
        time, said = unstamp(line)
        kind = None if time is None else classify(said)
        if kind is None or (index < covered and kind != "panic"):
            continue
        start = max(covered, _opening(lines, index))
        end = _end(lines, index)
        found.append(Splat(kind, said.strip(), index + 1, time, tuple(each.rstrip() for each in lines[start:end])))
        covered = max(covered, end)
    return tuple(found)


_MATTERS = re.compile(
    r"bpf|btf|trac(?:e|er|efs|ing)\b|ftrace|[ku]probe|\bperf\b|lockdown|cgroup|\bLSM\b|taint|deprecat|unprivileged|module verification",
    re.IGNORECASE,
)
"""What a message of the boot has to do with programs that observe a kernel. The rest is of the machine's clocks, buses and caches."""


def boot_warnings(text: str) -> tuple[str, ...]:
    """What a kernel warned of while it booted, each once, in order: trouble of any kind, and messages that matter to BPF programs.

    A guest's console has messages of the level `warning` and above alone (loglevel=5), so each line with a time stamp is one.
    """
    trouble = splats(text)
    inside = {line for splat in trouble for line in splat.excerpt}
    said = [unstamp(line) for line in text.splitlines() if line.rstrip() not in inside]
    messages = [message.strip() for time, message in said if time is not None and _MATTERS.search(message)]
    return tuple(dict.fromkeys([*(f"{splat.kind}: {splat.title}" for splat in trouble), *messages]))


def classify(said: str) -> Kind | None:
    """The kind of trouble that this one line (without its time stamp) announces, if any."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(said)), None)


def worst(found: Iterable[Splat]) -> Splat | None:
    """The splat to name first: the earliest grave one (what follows is often its consequence), else the earliest."""
    ordered = list(found)
    return next((splat for splat in ordered if splat.kind in GRAVE), ordered[0] if ordered else None)


def unstamp(line: str) -> tuple[float | None, str]:
    """The kernel's time stamp and what follows it; None and the line where there is no stamp."""
    match = _STAMP.search(line)
    return (float(match[1]), match[2]) if match else (None, line)


def _opening(lines: Sequence[str], index: int) -> int:
    """Where the splat that `lines[index]` announces begins: at its "cut here", which a message of its own may follow."""
    for at in range(index - 1, max(-1, index - 5), -1):
        if _CUT_HERE in lines[at]:
            return at
        if _END in lines[at]:
            break
    return index


def _end(lines: Sequence[str], index: int) -> int:
    """The index after the last line of the splat that `lines[index]` announces."""
    limit = min(len(lines), index + EXCERPT_LINES)
    last, _ = unstamp(lines[index])
    for at in range(index + 1, limit):
        time, said = unstamp(lines[at])
        if _END in said:
            return at + 1
        if _CUT_HERE in said or classify(said) == "panic":
            return at
        if time is not None:
            if last is not None and time - last > _PAUSE:
                return at
            last = time
    return limit


def tail(text: str, lines: int = 15) -> str:
    """The last `lines` lines that say something."""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])


class ConsoleLog:
    """The file QEMU writes the console to, read as it grows.

    `fileno()` becomes readable when there is more (inotify): nobody polls. Where the host has no inotify instance left, it is None
    and the caller looks every now and then.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._read = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.text = ""
        """All that was taken in so far."""
        self._inotify = _inotify_modify(path)

    def fileno(self) -> int | None:
        """A descriptor to poll for reading, or None."""
        return self._inotify

    def read(self) -> bool:
        """Take in what was written since; True if there was anything."""
        if self._fd < 0:
            return False
        if self._inotify is not None:
            with suppress(BlockingIOError):
                os.read(self._inotify, 65536)
        before = self._read
        while chunk := os.pread(self._fd, 1 << 20, self._read):
            self._read += len(chunk)
            self.text += self._decode(chunk).replace("\r", "")
        return self._read > before

    def close(self) -> None:
        """Take in the rest and let go of the file."""
        if self._fd < 0:
            return
        self.read()
        os.close(self._fd)
        self._fd = -1
        if self._inotify is not None:
            os.close(self._inotify)
            self._inotify = None


_IN_MODIFY = 0x2


def _inotify_modify(path: Path) -> int | None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(fd)
        return None
    return fd
