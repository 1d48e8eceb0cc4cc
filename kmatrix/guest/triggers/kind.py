"""What a kind of trigger is, and what those who write one share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .. import bpf
from ..child import Child, Known, Outcome

Spec = Mapping[str, Any]
"""What a request says of its trigger: the kind, and its options."""

ALWAYS: Mapping[str, str] = {
    "uid": "the user of the process",
    "gid": "its group",
    "ppid": "its parent, which is the agent",
    "cgroup_id": "its cgroup's id; null if cgroup v2 is not in use",
    "cgroup_parent_id": "the id of the cgroup above; null if cgroup v2 is not in use",
    "cgroup_path": "its cgroup's path; null if cgroup v2 is not in use",
    "ns_pid": "its pid in its own pid namespace",
    "pid_ns": "its pid namespace, by inode number",
    "mnt_ns": "its mount namespace",
    "net_ns": "its network namespace",
    "uts_ns": "its namespace of host names",
    "ipc_ns": "its namespace of System V IPC",
    "cgroup_ns": "its cgroup namespace",
}
"""What is known of every trigger."""

UID, GID = 4201, 4202
WORK = "/tmp/kmatrix"  # world-readable, unlike /run/kmatrix: the child is nobody in particular
_PR_SET_NAME = 15


class Kind(NamedTuple):
    """A kind of trigger: what does it, what is known of it then, and what a manifest may ask of it."""

    make: Callable[[Spec], Child]
    """Makes the child that waits to do it. Raises OSError or ValueError where there can be none."""
    known: Mapping[str, str]
    """What is known of it beside `ALWAYS`: names for `known.NAME`, and what they are."""
    options: Mapping[str, tuple[str, ...]] = {}
    """Keys of [trigger] that are for this kind, each with its values: the first is what holds where nothing is said. Where no
    values are named, any will do."""
    prepared: bool = False
    """Whether its process waits in the snapshot already. Each one that does is memory of every VM: for those that most collectors use."""
    says_more: bool = False
    """Whether it may add to what is known: a JSON object, as the only thing on its standard output."""
    to_the_end: bool = False
    """Whether it is done when its process has ended; the others say so, and rest until they are killed."""
    repeats: bool = False
    """Whether it can be done many times: `count` and `rate` go with it."""
    at_home: bool = False
    """Whether it is done in the guest's own network namespace, and so not with a new one."""
    judge: Callable[[Child, Outcome], None] | None = None
    """Looks at what came of it, once it is done: writes what is wrong into the outcome."""


def times(spec: Spec) -> Iterator[int]:
    """The times that it is to be done, from 0 on, each when its time has come: `count` times, `rate` of them a second."""
    rate, start = float(spec.get("rate") or 0), time.monotonic()
    for number in range(int(spec.get("count") or 1)):
        if rate and (early := start + number / rate - time.monotonic()) > 0:
            time.sleep(early)
        yield number


_EACH = 0.005
"""Seconds that one of many times may take beside: some hundred microseconds where every instruction is emulated."""


def lasts(spec: Spec) -> float:
    """Seconds that many times take, beside what a trigger takes that is pulled once."""
    if spec.get("compose"):
        return sum(map(lasts, spec["compose"]))
    count, rate = int(spec.get("count") or 1), float(spec.get("rate") or 0)
    return (count / rate if rate else 0.0) + (count * _EACH if count > 1 else 0.0)


def become_someone() -> Known:
    """Take on the trigger's user and group; what is known of that."""
    os.setgroups([])
    os.setgid(GID)
    os.setuid(UID)
    return {"uid": UID, "gid": GID}


def name_thread(name: str) -> None:
    """Give the calling thread a name of at most 15 bytes."""
    bpf.libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def place(name: str, content: bytes, mode: int = 0o755) -> str:
    """Put a file where the triggers run; its path."""
    path = os.path.join(WORK, name)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    return path


def write(path: str, data: bytes) -> None:
    """Write to a file of the kernel's, in one call."""
    with open(path, "wb", buffering=0) as file:
        file.write(data)
