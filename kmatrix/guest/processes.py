"""The processes below this one: which there are, what of BPF they hold, and their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from . import bpf
from .observe import read_text

PR_SET_CHILD_SUBREAPER = 36
ATTACHABLE = ("[perf_event]", "bpf-raw-tracepoint", "bpf_link", "bpf-link", "bpf_tracing_link")
"""What the kernel calls files (anon_inode:…) that a program may be attached through."""


@dataclass(frozen=True)
class Process:
    """One process as /proc has it."""

    pid: int
    parent: int
    name: str
    zombie: bool


def all_processes() -> dict[int, Process]:
    """Every process there is now, by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError):  # gone meanwhile
                process = parse_stat(read_text(f"/proc/{entry}/stat"))
                found[process.pid] = process
    return found


def parse_stat(text: str) -> Process:
    """/proc/PID/stat: the name stands in brackets and may itself hold any, and spaces."""
    ident, _, rest = text.partition(" (")
    name, _, tail = rest.rpartition(") ")
    state, parent = tail.split()[:2]
    return Process(int(ident), int(parent), name, state in "ZX")


def below(processes: dict[int, Process], root: int, without: frozenset[int]) -> list[Process]:
    """Those that descend from `root`, but for `without` and what descends from them; parents first."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            if process.pid not in without:
                found.append(process)
                waiting.append(process.pid)
    return found


class Tree:
    """What is started from here on, with all that it starts: whoever daemonizes stays below this process, which then is its parent."""

    def __init__(self) -> None:
        here = os.getpid()
        self._others = frozenset(p.pid for p in all_processes().values() if p.parent == here)

    def members(self) -> list[Process]:
        """The living ones."""
        return [p for p in below(all_processes(), os.getpid(), self._others) if not p.zombie]

    def reap(self, but: int) -> None:
        """Take in the ends of orphans; `but` is waited for elsewhere."""
        here = os.getpid()
        for process in all_processes().values():
            if process.parent == here and process.zombie and process.pid not in self._others and process.pid != but:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)

    def signal(self, number: int) -> None:
        """Send a signal to all of them."""
        for process in self.members():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def kill(self, but: int, within: float = 2.0) -> None:
        """Nobody is left of it, also of those that are started while it dies."""
        deadline = time.monotonic() + within
        while True:
            self.signal(signal.SIGKILL)
            self.reap(but)
            if not any(p.pid != but for p in self.members()) or time.monotonic() > deadline:
                return
            time.sleep(0.005)


@contextmanager
def adopting() -> Iterator[Tree]:
    """While inside, orphans below this process become its children, not PID 1's."""
    bpf.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield Tree()
    finally:
        bpf.libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def bpf_files(pid: int) -> dict[int, str]:
    """The open files of a process that belong to BPF or perf: descriptor → what the kernel calls it ("bpf-prog", "bpf-map", …)."""
    found = {}
    with suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                kind = os.readlink(f"/proc/{pid}/fd/{entry}")
                if kind.startswith("anon_inode:") and ("bpf" in kind or "perf_event" in kind):
                    found[int(entry)] = kind.removeprefix("anon_inode:")
    return found


def fdinfo(pid: int, fd: int) -> dict[str, str]:
    """What the kernel says of an open file of a process (proc(5), fdinfo), by its keys. Raises OSError where it is closed."""
    lines = (line.partition(":") for line in read_text(f"/proc/{pid}/fdinfo/{fd}").splitlines())
    return {key: value.strip() for key, _, value in lines}


def held(pid: int, files: dict[int, str]) -> dict[str, list[int]]:
    """The ids of the programs, maps and links that a process holds open, as far as the kernel tells (fdinfo)."""
    ids: dict[str, set[int]] = {"programs": set(), "maps": set(), "links": set()}
    for fd in files:
        with suppress(OSError, ValueError):
            for key, value in fdinfo(pid, fd).items():
                kind = {"prog_id": "programs", "map_id": "maps", "link_id": "links"}.get(key)
                if kind is not None:
                    ids[kind].add(int(value))
    return {kind: sorted(found) for kind, found in ids.items()}
