"""The kinds of trigger as data: what is known of each after it was pulled, and what a manifest may say of it.

The guest does them (`trigger`), and the host checks a manifest's [trigger] and its `known.NAME` against this, before a VM is booted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ALWAYS: Mapping[str, str] = {
    "uid": "the user of the process",
    "gid": "its group",
    "ppid": "its parent, which is the agent",
    "cgroup_id": "its cgroup's id; null if cgroup v2 is not in use",
    "cgroup_path": "its cgroup's path; null if cgroup v2 is not in use",
}
"""What is known of every trigger."""


class Kind(NamedTuple):
    """A kind of trigger."""

    known: Mapping[str, str]
    """What is known of it beside `ALWAYS`: names for `known.NAME`, and what they are."""
    options: tuple[str, ...] = ()
    """Keys of [trigger] that are for this kind."""
    prepared: bool = True
    """Whether it needs nothing of the request, so that its process waits in the snapshot already."""
    says_more: bool = False
    """Whether it may add to what is known: a JSON object, as the only thing on its standard output."""


KINDS: Mapping[str, Kind] = {
    "open": Kind(
        {
            "pid": "the thread that opens",
            "tgid": "its process",
            "comm": "the thread's name",
            "path": "the file that is there",
            "flags": "of both opens: O_RDONLY, O_CLOEXEC and O_NOFOLLOW, whose values differ by arch",
            "ret": "the file descriptor",
            "missing_path": "the file that is not there",
            "missing_ret": "-2: minus ENOENT",
        },
    ),
    "exec": Kind(
        {
            "pid": "the process",
            "tgid": "the same",
            "comm": "its name after the exec",
            "path": "the program",
            "filename": "the same",
            "exit_status": "7",
            "exit_code": "7 << 8, as the kernel and wait(2) have it",
        },
    ),
    "tcp_connect": Kind(
        {
            "pid": "the process that connects",
            "tgid": "the same",
            "comm": "its name",
            "family": 'AF_INET (2), or AF_INET6 (10) with family = "ipv6"',
            "saddr": "its address, as text",
            "daddr": "the listener's address, as text",
            "sport": "its port",
            "dport": "the listener's port",
        },
        options=("family",),
    ),
    "dns": Kind(
        {
            "pid": "the process that asks",
            "tgid": "the same",
            "comm": "its name",
            "saddr": "the asker's address, as text",
            "daddr": "the name server's address, as text",
            "sport": "the asker's port",
            "dport": "53",
            "query_id": "of query and answer",
            "query_flags": "0x0100: a query, recursion desired",
            "answer_flags": "0x8180: an answer, without error",
            "question": "the name asked for as it stands in the packet, as text up to the end of the name",
            "query_len": "bytes of the query, which is what sendto(2) returns",
        },
    ),
    "oom": Kind(
        {
            "pid": "the process that takes the memory, for which another has to go",
            "tgid": "the same",
            "comm": "its name",
            "victim": "the process that is killed",
            "victim_comm": "its name",
            "limit_pages": "the cgroup's memory limit, in pages",
            "message": "what the kernel says first",
        },
    ),
    "command": Kind(
        {
            "pid": "the command's process",
            "tgid": "the same",
            "comm": "its name after the exec",
            "path": "the program",
            "filename": "the same",
            "exit_status": "its exit status",
            "exit_code": "the same << 8, or the signal, as the kernel and wait(2) have it",
        },
        options=("command", "env"),
        prepared=False,
        says_more=True,
    ),
}
"""The kinds by name."""


def known(kind: str) -> frozenset[str] | None:
    """The names that `known.NAME` may have after this trigger; None if it may say any."""
    row = KINDS[kind]
    return None if row.says_more else frozenset({**ALWAYS, **row.known})
