"""What loads runs with the privileges that the target's circumstances leave it; what looks on stays root's.

The kernel keeps user, capabilities, namespaces and filters for each thread. So what loads is done in a thread that has given them up, and ends with
it. Descriptors and memory are shared with the agent: what was loaded there is looked at, read and torn down by the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from . import libbpf
from .errand import Errand
from .privileges import Privileges

T = TypeVar("T")
Spec = Mapping[str, Any]
"""`user` (None: root), `caps` (None: all), `filter` (None, or `container`), `namespaces`."""

_asked: list[Spec] = []
_fresh_for: list[str] = []
"""The privileges with which this libbpf has asked the kernel; empty for root's."""
_local = threading.local()


def privileges(core: int = 0, user: str | None = None, caps: list[str] | None = None) -> Privileges:
    """The privileges that a process is to take, where its own `user` and `caps` are not given: those asked for. Raises ValueError."""
    spec: Spec = _asked[-1] if _asked else {}
    return Privileges(
        user if user is not None else spec.get("user"),
        caps if caps is not None else spec.get("caps"),
        core,
        filter_=spec.get("filter"),
        apart=spec.get("namespaces") or (),
    )


@contextmanager
def asked(spec: Spec | None) -> Iterator[None]:
    """While the block lasts, what is `confined` has the privileges of `spec` (None: all)."""
    if spec is None:
        yield
        return
    _asked.append(spec)
    try:
        yield
    finally:
        _asked.pop()


def name() -> str:
    """A name for the privileges that are asked for; empty where these are all."""
    return repr(sorted(_asked[-1].items())) if _asked else ""


def confined(action: Callable[[], T]) -> T:
    """What `action` returns (or raises) with the privileges that are asked for."""
    if not _asked or getattr(_local, "errand", None) is not None:
        return action()
    taken = privileges()
    if _fresh_for != [name()]:  # libbpf remembers what it found a kernel to have: as somebody else it finds less
        libbpf.start_afresh()
        _fresh_for[:] = [name()]

    def work() -> T:
        _local.errand = errand
        taken.confine()
        return action()

    errand = Errand(work)
    thread = threading.Thread(target=errand.work, daemon=True)
    thread.start()
    try:
        return errand.wait()
    finally:
        thread.join()


def outside(action: Callable[[], T]) -> T:
    """What `action` returns as root, asked from inside what is confined; elsewhere simply that."""
    errand: Errand[Any] | None = getattr(_local, "errand", None)
    return action() if errand is None else errand.ask(action)
