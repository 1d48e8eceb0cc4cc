"""The kinds of trigger: for each what does it, what is known of it after it was pulled, and what a manifest may say of it.

The guest pulls them (`trigger`), and the host checks a manifest's [trigger] and its `known.NAME` against this, before a VM is booted.
A kind is a function and a row in the module of its subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import block, command, credentials, file_contents, files, memory, names, network, processes, scheduling, system, tls, victims
from .kind import ALWAYS, Kind

KINDS: Mapping[str, Kind] = {
    **files.KINDS,
    **names.KINDS,
    **file_contents.KINDS,
    **processes.KINDS,
    **credentials.KINDS,
    **system.KINDS,
    **network.KINDS,
    **block.KINDS,
    **memory.KINDS,
    **scheduling.KINDS,
    **victims.KINDS,
    **tls.KINDS,
    **command.KINDS,
}
"""The kinds by name."""


def known(kind: str) -> frozenset[str] | None:
    """The names that `known.NAME` may have after this trigger; None if it may say any."""
    row = KINDS[kind]
    return None if row.says_more else frozenset({**ALWAYS, **row.known})


def prefixes(kinds: Sequence[str]) -> list[str]:
    """What stands before the names that each of several triggers knows: `open_`, and `open2_` for the second of a kind."""
    return [f"{kind}{kinds[:at].count(kind) + 1 if kind in kinds[:at] else ''}_" for at, kind in enumerate(kinds)]
