"""Making the events happen, with values that are known beforehand or learnt from the process that does it.

Every trigger (`triggers`) acts in a child with a cgroup, a user and a name of its own, so that an event which mixes up pid and tgid, uid and
gid, or reads a neighbouring field, does not pass by accident. Making such a child costs half of a cell's time where every instruction is
emulated, so those that most collectors use are made before the snapshot (`prepare`) and wait for the word.
"""

from __future__ import annotations

import time
from contextlib import suppress

from .child import Child, Outcome
from .triggers import KINDS
from .triggers.kind import Spec

_prepared: dict[str, Child] = {}
_spent: list[Child] = []


def prepare(timeout: float = 10.0) -> None:
    """Have a child waiting for each trigger whose row says so."""
    for kind, row in KINDS.items():
        if not row.prepared:
            continue
        with suppress(OSError):  # a kernel without what this one takes has the others all the same; who asks for it is told
            child = _prepared.get(kind) or row.make({"kind": kind})
            if child.await_ready(time.monotonic() + timeout):
                _prepared[kind] = child
            else:
                child.close()


def ready(spec: Spec, timeout: float) -> Child:
    """A child that waits to do what the spec says. Raises OSError or ValueError where there can be none.

    To be had before anything is loaded: a child made later would hold copies of what is attached, and show up in its own events.
    """
    kind = str(spec.get("kind"))
    if kind not in KINDS:
        raise ValueError(f"this agent knows no trigger {kind!r}; known: {', '.join(KINDS)}")
    row = KINDS[kind]
    prepared = None if any(spec.get(option) for option in row.options) else _prepared.pop(kind, None)
    child = prepared or row.make(spec)
    _spent.append(child)
    child.await_ready(time.monotonic() + timeout)
    return child


def pull(child: Child, timeout: float) -> Outcome:
    """Have the child do it, in no more than `timeout` seconds; a failure is in the outcome, not raised.

    A command has then ended with all that it started; what is left of another child stays until `clean_up`.
    """
    row = KINDS[child.kind]
    outcome = child.pull(timeout, to_the_end=row.to_the_end)
    if row.judge is not None:
        row.judge(child, outcome)
    if row.says_more:
        clean_up()
    return outcome


def clean_up() -> None:
    """Remove what is left of the children that were asked for."""
    while _spent:
        _spent.pop().close()
