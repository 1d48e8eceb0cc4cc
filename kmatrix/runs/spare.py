"""The machine for the next cell, restored while the present one is at work: where a core is idle, a cell does not wait for its machine.

A spare is as pristine as any: its guest has set its clock, and rehearsed once more what it rehearsed before the snapshot, with a program that does
nothing. QEMU has translated then much of the code that the cell will run, which an emulated CPU would otherwise wait for. A spare that is not wanted
after all is killed.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from kmatrix.host.errors import KmatrixError
from kmatrix.host.memory import available_mib
from kmatrix.host.paths import scratch_console
from kmatrix.vm.machine import Machine
from kmatrix.vm.snapshot import SnapshotStore
from kmatrix.vm.spec import VmSpec

_ROOM_MIB = 512
"""Memory that stays free beside a spare."""


def allowed(workers: int) -> bool:
    """Whether as many workers leave a core for a spare."""
    return workers < len(os.sched_getaffinity(0))


class Spare:
    """At most one spare machine. For one thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._spec: VmSpec | None = None
        self._machine: Future[tuple[Machine, Path]] | None = None
        self._resources = ExitStack()

    def begin(self, spec: VmSpec) -> None:
        """Restore a machine of `spec` in the background: where it has a snapshot, and there is memory for one more."""
        self.drop()
        if (available_mib() or 0) < spec.memory_mib + _ROOM_MIB:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="kmatrix-spare")
        console = self._resources.enter_context(scratch_console("spare"))
        self._spec, self._machine = spec, self._pool.submit(_restore, spec, console)

    def take(self, spec: VmSpec, console: Path) -> Machine | None:
        """The spare, if it is of `spec` and came up: its console's file gets its place when it ends."""
        if self._machine is None or self._spec != spec:
            return None
        try:
            machine, said = self._machine.result()
        except (KmatrixError, OSError):  # whoever wanted it restores one, and says what is wrong
            self.drop()
            return None
        if machine.ended:
            self.drop()
            return None
        self._machine = None
        resources = self._resources.pop_all()

        def place() -> None:
            with suppress(FileNotFoundError):
                shutil.move(said, console)
            resources.close()

        machine.on_close(place)
        return machine

    def drop(self) -> None:
        """End the spare, if there is one."""
        pending, self._machine = self._machine, None
        if pending is not None and not pending.cancel():
            with suppress(KmatrixError, OSError):
                pending.result()[0].kill()
        self._resources.close()

    def close(self) -> None:
        """End it, and the thread that makes spares."""
        self.drop()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _restore(spec: VmSpec, console: Path) -> tuple[Machine, Path]:
    snapshot = SnapshotStore().find(spec)
    if snapshot is None:
        raise FileNotFoundError("no snapshot yet")
    machine = snapshot.restore(console)
    if spec.accel == "tcg" and spec.simulate is None:
        try:
            machine.call("rehearse")
        except BaseException:
            machine.kill()
            raise
    return machine, console
