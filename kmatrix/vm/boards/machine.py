"""A `Machine` that is real: asked as a VM is, and looked after when it goes away."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kmatrix.vm.boards.session import Session
from kmatrix.vm.channel import Channel
from kmatrix.vm.console import ConsoleLog, Splat, worst
from kmatrix.vm.errors import KernelDied, VmLost
from kmatrix.vm.machine import Machine
from kmatrix.vm.qmp import Qmp
from kmatrix.vm.spec import VmSpec


class After(Protocol):
    """Finds out what became of a machine whose agent is gone."""

    def __call__(self, splat: Splat | None, said: str) -> KernelDied | VmLost:
        """The error to raise: `splat` is what the kernel was heard to say, `said` how the session ended. May raise InfraError."""


class RealMachine(Machine):
    """A session on a real machine. Leaving the `with` block ends the agent, and has all that it made cleared away."""

    def __init__(self, session: Session, spec: VmSpec, console: Path, after: After) -> None:
        log = ConsoleLog(console)
        monitor, far = socket.socketpair()
        super().__init__(session, Channel(session.pass_on(console)), Qmp(monitor), log, spec)
        far.close()  # there is no QEMU: what asks it finds nobody there
        self.session = session
        self.hello = session.hello
        self._after: Callable[[Splat | None, str], KernelDied | VmLost] = after

    def _ended(self, what: str) -> KernelDied | VmLost:
        self.kill()
        return self._after(worst(self._splats), f"the agent {self.session.ended()} during {what}; {self._last_lines()}")
