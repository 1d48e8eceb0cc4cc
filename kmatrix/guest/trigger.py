"""Making the events happen, with values that are known beforehand or learnt from the process that does it.

Every trigger (`triggers`) acts in a child with a cgroup, a user and a name of its own, so that an event which mixes up pid and tgid, uid and
gid, or reads a neighbouring field, does not pass by accident. Making such a child costs half of a cell's time where every instruction is
emulated, so those that most collectors use are made before the snapshot (`prepare`) and wait for the word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from .child import Child, Outcome
from .namespaces import Surroundings
from .triggers import KINDS, prefixes
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


class Several:
    """The children of a trigger that is composed of several, in order."""

    def __init__(self, children: list[tuple[str, Child]]) -> None:
        self.children = children
        """Each with what stands before its names among what is known."""


def ready(spec: Spec, timeout: float) -> Child | Several:
    """A child that waits to do what the spec says. Raises OSError or ValueError where there can be none.

    To be had before anything is loaded: a child made later would hold copies of what is attached, and show up in its own events.
    """
    if not spec.get("compose"):
        return _ready(spec, timeout)
    parts = spec["compose"]
    names = prefixes([str(part.get("kind")) for part in parts])
    return Several([(name, _ready({**part, **_around(spec)}, timeout)) for name, part in zip(names, parts, strict=True)])


def _around(spec: Spec) -> dict[str, object]:
    """What the spec says of where the children are."""
    return {name: spec[name] for name in ("namespaces", "cgroup_depth") if spec.get(name)}


def _ready(spec: Spec, timeout: float) -> Child:
    kind = str(spec.get("kind"))
    if kind not in KINDS:
        raise ValueError(f"this agent knows no trigger {kind!r}; known: {', '.join(KINDS)}")
    row = KINDS[kind]
    around = _around(spec)
    plain = not around and not any(spec.get(option) for option in (*row.options, "count"))
    child = _prepared.pop(kind, None) if plain else None
    if child is None:
        Child.surroundings = Surroundings(tuple(spec.get("namespaces") or ()), int(spec.get("cgroup_depth") or 1))
        try:
            child = row.make(spec)
        finally:
            Child.surroundings = Surroundings()
    _spent.append(child)
    child.await_ready(time.monotonic() + timeout)
    return child


def pull(child: Child | Several, timeout: float, meanwhile: Callable[[], None] | None = None) -> Outcome:
    """Have the child do it, in no more than `timeout` seconds; a failure is in the outcome, not raised.

    A command has then ended with all that it started; what is left of another child stays until `clean_up`. `meanwhile` is called now and
    then, so that what comes out of a buffer can be taken in while many events are made.
    """
    whole = _pull_all(child, timeout, meanwhile) if isinstance(child, Several) else _pull(child, timeout, meanwhile)
    if any(KINDS[one.kind].says_more for one in _children(child)):
        clean_up()
    return whole


def _children(child: Child | Several) -> list[Child]:
    return [one for _, one in child.children] if isinstance(child, Several) else [child]


def _pull_all(several: Several, timeout: float, meanwhile: Callable[[], None] | None) -> Outcome:
    """Pull one after the other, up to the first that fails."""
    whole = Outcome({})
    for name, child in several.children:
        part = _pull(child, timeout, meanwhile)
        whole.known.update({f"{name}{key}": value for key, value in part.known.items()})
        whole.extra.update(part.extra)
        whole.ok, whole.exit = part.ok, part.exit
        if not part.ok:
            whole.error = f"{child.kind}: {part.error}"
            break
    return whole


def _pull(child: Child, timeout: float, meanwhile: Callable[[], None] | None) -> Outcome:
    row = KINDS[child.kind]
    outcome = child.pull(timeout, to_the_end=row.to_the_end, meanwhile=meanwhile)
    if row.judge is not None:
        row.judge(child, outcome)
    return outcome


def clean_up() -> None:
    """Remove what is left of the children that were asked for."""
    while _spent:
        _spent.pop().close()
