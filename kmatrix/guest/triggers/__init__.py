"""The kinds of trigger: for each what does it, what is known of it after it was pulled, and what a manifest may say of it.

The guest pulls them (`trigger`), and the host checks a manifest's [trigger] and its `known.NAME` against this, before a VM is booted.
A kind is a function and a row in the module of its subject.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import command, files, memory, network, processes
from .kind import ALWAYS, Kind

KINDS: Mapping[str, Kind] = {**files.KINDS, **processes.KINDS, **network.KINDS, **memory.KINDS, **command.KINDS}
"""The kinds by name."""


def known(kind: str) -> frozenset[str] | None:
    """The names that `known.NAME` may have after this trigger; None if it may say any."""
    row = KINDS[kind]
    return None if row.says_more else frozenset({**ALWAYS, **row.known})
