"""Triggers of one deed: what is prepared for it, what is known of it, and the doing, once or many times.

A kind of this form says only what is its own. The process, its name and user, and the repeating are the same for all.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from .. import bpf
from ..child import Child, Known, Pipes
from ..namespaces import own_pid, own_tid
from .kind import Kind, Spec, become_someone, name_thread, times

_PR_SET_DUMPABLE = 4

WHO = {"pid": "the process", "tgid": "the same", "comm": "its name"}
"""What is known of whoever does a deed."""


class Deed(NamedTuple):
    """Something that is prepared."""

    known: Known
    """What is known of it by now."""
    do: Callable[[], Known | None]
    """Does it; what is known of it then. Raises OSError where it does not go as it should."""
    again: Callable[[], object] | None = None
    """Makes it possible to do it once more."""
    undo: Callable[[], object] | None = None
    """Clears up, once all is done."""


def kind(
    name: str,
    prepare: Callable[[Spec], Deed],
    knows: Mapping[str, str],
    *,
    options: Mapping[str, tuple[str, ...]] | None = None,
    root: bool = False,
    repeats: bool = True,
    before: Callable[[Spec], object] | None = None,
) -> Kind:
    """The row of a kind whose deed `prepare` prepares, as root, in the process that will do it.

    That process does it as the triggers' user, or as `root`. `before` is done by the agent. Both raise OSError where the kernel or the
    guest has not what it takes.
    """

    def make(spec: Spec) -> Child:
        if before is not None:
            before(spec)

        def action(pipes: Pipes) -> int:
            comm = f"kmatrix-{name}"[:15]
            name_thread(comm)
            pipes.say({"pid": own_tid(), "tgid": own_pid(), "comm": comm})
            deed = prepare(spec)
            pipes.say(({"uid": 0, "gid": 0} if root else become_someone()) | deed.known)
            pipes.ready()
            known = None
            for number in times(spec):
                if number and deed.again is not None:
                    deed.again()
                known = deed.do()
            pipes.say({**(known or {}), "done": True})
            if deed.undo is not None:
                with suppress(OSError):
                    deed.undo()
            return pipes.rest()

        return Child(name, action)

    return Kind(make, {**WHO, **knows}, options=options or {}, repeats=repeats)


class Other:
    """Another process that a deed takes: the triggers' user, with a name. It waits for the word, does its part and ends."""

    def __init__(self, comm: str, part: Callable[[], int] = lambda: 0) -> None:
        told, tell = os.pipe()
        heard, self._word = os.pipe()
        self.inner = os.fork()
        """Its pid in the pid namespace of whoever made it."""
        if self.inner == 0:
            status = 1
            try:
                os.close(self._word)
                name_thread(comm)
                become_someone()
                bpf.libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # setuid(2) took it away, and with it that others may trace it
                os.write(tell, b"%d" % own_pid())
                if os.read(heard, 1):
                    status = part()
            finally:
                os._exit(status)
        os.close(tell)
        os.close(heard)
        self.pid = int(os.read(told, 16))
        """Its pid as BPF programs see it."""
        self.comm = comm
        os.close(told)

    def go(self) -> None:
        """Give the word."""
        os.write(self._word, b"\n")

    def end(self) -> int:
        """Wait for its end: its exit status, or minus the signal."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.inner, 0)[1])
        os.close(self._word)
        return status

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(ProcessLookupError):
            os.kill(self.inner, signal.SIGKILL)
        self.end()


def checked(result: int, what: str) -> int:
    """The result of a function of libc; its errno as OSError where it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
