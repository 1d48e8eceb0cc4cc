"""Who runs which cell: decided one cell at a time, as hosts ask for work. Pure: it knows of no connection and no process.

A host takes cells of its own arch first. Among these it takes a target whose snapshot is there, then one that nobody has begun, then one
that is being begun on it. A target that another host has is left to that one, unless there is so much work left that making the snapshot
again pays. What only few hosts can run comes before what any can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kmatrix.matrix.arch import Arch

PAYS = 10
"""Cells that take as long as the making of a snapshot (6 s, where a cell takes 0.6 s)."""


@dataclass(eq=False)
class Host:
    """A machine that runs cells, with one worker or several that share its snapshots."""

    name: str
    arches: frozenset[Arch]
    """Whose guests it can run."""
    native: Arch | None = None
    """The arch of its own CPU."""
    is_local: bool = False
    """Whether it is the machine that the run was started on."""
    alive: bool = True
    """Whether it can still be reached."""
    only: frozenset[str] | None = None
    """The targets that it has room for; None for all."""
    ready: set[str] = field(default_factory=set)
    """The targets whose snapshot is there."""
    begun: set[str] = field(default_factory=set)
    """The targets of which it was given cells in this run."""
    workers: int = 0
    """Its workers that take cells."""

    def can(self, target: str | None, arch: Arch | None) -> bool:
        """Whether it can run a cell of the target; a test of no target runs anywhere."""
        return target is None or (arch in self.arches and (self.only is None or target in self.only))


class Plan:
    """The cells of a run, and what became of them. A cell is the number of its item; its target is None for a test without one."""

    def __init__(self, targets: Sequence[str | None], arches: Mapping[str, Arch], hosts: Iterable[Host]) -> None:
        """`targets` of each cell, in the order of collection; `arches` of each target."""
        self.targets = targets
        self.hosts = list(hosts)
        self._arches = arches
        self._pending: dict[str | None, deque[int]] = {}
        self.done: set[int] = set()
        for cell, target in enumerate(targets):
            self._pending.setdefault(target, deque()).append(cell)

    @property
    def pending(self) -> list[int]:
        """The cells that nobody has, in the order of collection."""
        return sorted(cell for cells in self._pending.values() for cell in cells)

    def arch(self, target: str | None) -> Arch | None:
        """The target's arch."""
        return self._arches[target] if target is not None else None

    def runnable(self, cell: int) -> bool:
        """Whether a host that takes cells can run the cell."""
        target = self.targets[cell]
        return any(host.workers and host.can(target, self.arch(target)) for host in self.hosts)

    def take(self, host: Host) -> int | None:
        """The cell that a worker of the host is to run next; None where there is none for it now."""
        best = min(
            (rank for target in self._pending if (rank := self._rank(host, target)) is not None),
            key=lambda rank: rank[0],
            default=None,
        )
        if best is None:
            return None
        target = best[1]
        cells = self._pending[target]
        cell = cells.popleft()
        if not cells:
            del self._pending[target]
        if target is not None:
            host.begun.add(target)
        return cell

    def finish(self, cell: int, host: Host) -> None:
        """The cell ran on the host to its end: its target's snapshot is there."""
        self.done.add(cell)
        if (target := self.targets[cell]) is not None:
            host.ready.add(target)

    def give_up(self, cell: int) -> None:
        """Nobody will run the cell."""
        self.done.add(cell)
        cells = self._pending.get(self.targets[cell])
        if cells is not None and cell in cells:
            cells.remove(cell)
            if not cells:
                del self._pending[self.targets[cell]]

    def put_back(self, cells: Iterable[int]) -> None:
        """Whoever had the cells is gone: others take them, before what comes later in the order."""
        for cell in cells:
            target = self.targets[cell]
            self._pending[target] = deque(sorted({*self._pending.get(target, ()), cell}))

    # -- the order of preference

    def _rank(self, host: Host, target: str | None) -> tuple[tuple[int, ...], str | None] | None:
        arch, cells = self.arch(target), self._pending[target]
        if not host.can(target, arch):
            return None
        able = [each for each in self.hosts if each.workers and each.can(target, arch)]
        if target is None:
            return (1, 0, len(able), 0, cells[0]), target
        others = [each for each in able if each is not host and (target in each.ready or target in each.begun)]
        if target in host.ready:
            tier = 0
        elif target in host.begun:
            tier = 2
        elif not others:
            tier = 1
        elif self._backlog(others) > PAYS:
            # Of what others have, the largest heap: one snapshot serves most cells.
            return (self._foreign(host, arch, able), 3, -len(cells), len(able), cells[0]), target
        else:
            return None
        return (self._foreign(host, arch, able), tier, len(able), 0, cells[0]), target

    @staticmethod
    def _foreign(host: Host, arch: Arch | None, able: Sequence[Host]) -> int:
        """0 for the host's own arch; 2 for one that is another host's own, which runs it faster."""
        if arch == host.native:
            return 0
        return 2 if any(each.native == arch for each in able) else 1

    def _backlog(self, owners: Sequence[Host]) -> float:
        """Cells that wait for each worker of `owners`, counting the targets that they have."""
        theirs = set().union(*(host.ready | host.begun for host in owners))
        waiting = sum(len(cells) for target, cells in self._pending.items() if target in theirs)
        return waiting / max(1, sum(host.workers for host in owners))
