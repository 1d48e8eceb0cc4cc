"""`--dist kmatrix`: the scheduler that pytest-xdist's controller asks, over kmatrix.runs.workers.plan.

pytest-xdist's workers run a test once they know the next one, or that there is none (they tear fixtures down in between). So each has two
at a time, and its last one runs when it is told that no more will come. After that it takes nothing: where a worker is lost so late that
nobody is left to take what it had, another is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kmatrix.matrix.arch import Arch
from kmatrix.runs.workers.plan import Host, Plan

DEPTH = 2
"""Tests that a worker has at a time: the one that runs, and the next."""
TRIES = 2
"""Workers that a test may take along before it is said to have crashed them."""


class TargetScheduling:
    """Gives each worker what is best run there. Its public names are those that pytest-xdist asks for, and `coming`, `gone` and `plan`."""

    def __init__(
        self,
        host_of: Callable[[Any], Host],
        arches: Mapping[str, Arch],
        hosts: Sequence[Host],
        *,
        differs: Callable[[Any, Sequence[str], Sequence[str]], None],
        reinforce: Callable[[Host], None],
    ) -> None:
        """`arches` of each target by its name. `differs` is told of a worker that collected other tests than the rest, which gets none.
        `reinforce` starts another worker on a host, and puts it among `coming`.
        """
        self.plan: Plan | None = None
        self.collection: list[str] | None = None
        self.coming: list[Any] = []
        """The workers that have not said yet what they collected."""
        self._queues: dict[Any, list[int]] = {}
        self._collections: dict[Any, list[str]] = {}
        self._outcasts: set[Any] = set()
        self._crashes: dict[int, int] = {}
        self._host_of, self._arches, self._hosts, self._differs = host_of, arches, hosts, differs
        self._reinforce = reinforce
        self.replaces = False
        """Whether xdist starts a worker in place of the one that it removes now."""

    # -- what xdist asks

    @property
    def nodes(self) -> list[Any]:
        """The workers that are up."""
        return [*self._queues]

    @property
    def collection_is_completed(self) -> bool:
        """Whether all workers have said what they collected."""
        return self.plan is not None or not self.coming

    @property
    def tests_finished(self) -> bool:
        """Whether nothing is left that a worker will do."""
        if self.coming:
            return False
        if self.plan is None:
            return not self._queues
        return not any(self._queues.values()) and not any(map(self.plan.runnable, self.plan.pending))

    @property
    def has_pending(self) -> bool:
        """Whether there are tests that did not run."""
        return self.plan is not None and (bool(self.plan.pending) or any(self._queues.values()))

    def add_node(self, node: Any) -> None:
        """A worker is up, and collects."""
        self._queues[node] = []

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """What a worker collected."""
        self._collections[node] = list(collection)
        self.coming = [each for each in self.coming if each is not node]
        if self.collection is not None:
            self._compare(node)

    def schedule(self) -> None:
        """All have collected: begin; or a worker came later: give it something."""
        if self.plan is None:
            collections = [*self._collections.values()]
            if not collections:
                return
            self.collection = max(collections, key=collections.count)  # what most have; of as many, the first
            targets = [target_of(item, self._arches) for item in self.collection]
            self.plan = Plan(targets, self._arches, self._hosts)
            for node in [*self._collections]:
                self._compare(node)
        self.feed()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:  # noqa: ARG002
        """A worker ran a test to its end."""
        assert self.plan is not None
        self._queues[node].remove(item_index)
        self.plan.finish(item_index, self._host_of(node))
        self.feed()

    def mark_test_pending(self, item: str) -> None:
        """A plugin wants a test run again."""
        assert self.plan is not None
        assert self.collection is not None
        self.plan.put_back([self.collection.index(item)])
        self.feed()

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Answers a command that this scheduler does not send."""

    def remove_node(self, node: Any) -> str | None:
        """A worker has ended. What it had goes to others; the test that it ran is returned where that ended a worker before."""
        left = self._queues.pop(node)
        if not left:
            self.feed()
            return None
        assert self.plan is not None
        assert self.collection is not None
        crashed = left[0]
        self._crashes[crashed] = self._crashes.get(crashed, 0) + 1
        again = self._crashes[crashed] < TRIES
        self.plan.put_back(left)
        if not again:
            self.plan.give_up(crashed)
        self.feed()
        return None if again else self.collection[crashed]

    # -- what kmatrix's plugin tells

    def gone(self, node: Any) -> None:
        """A worker has ended, perhaps before it had collected."""
        if any(each is node for each in self.coming):
            self.coming = [each for each in self.coming if each is not node]
            if self.plan is None and not self.coming and self._collections:
                self.schedule()

    # -- inside

    def _compare(self, node: Any) -> None:
        assert self.collection is not None
        if self._collections[node] != self.collection:
            self._outcasts.add(node)
            self._differs(node, self.collection, self._collections[node])
            node.shutdown()

    def _open(self) -> list[Any]:
        """The workers that take tests."""
        here = [node for node in self._queues if node in self._collections and node not in self._outcasts]
        return [node for node in here if not node.shutting_down]

    def feed(self) -> None:
        """Give out what can be given out, and let those end that nothing will come for."""
        if self.plan is None:
            return
        nodes = self._open()
        for host in self._hosts:
            host.workers = sum(self._host_of(node) is host for node in nodes)
        hungry = [node for node in nodes if len(self._queues[node]) < DEPTH]
        while hungry:
            node = min(hungry, key=lambda each: len(self._queues[each]))
            cell = self.plan.take(self._host_of(node))
            if cell is None:
                hungry.remove(node)
                continue
            self._queues[node].append(cell)
            with suppress(OSError):  # it is lost, which is told next: then the cell goes to another
                node.send_runtest_some([cell])
            if len(self._queues[node]) >= DEPTH:
                hungry.remove(node)
        for node in nodes:
            if len(self._queues[node]) == 1:  # nothing will come for it: its one test is to run now
                node.shutdown()
        self._call_for_help()

    def _call_for_help(self) -> None:
        """Have another worker started for tests that a host can run, and whose workers take no more."""
        assert self.plan is not None
        if self.coming or self.replaces:
            return
        called: list[Host] = []
        for cell in self.plan.pending:
            target = self.plan.targets[cell]
            able = [host for host in self._hosts if host.alive and host.can(target, self.plan.arch(target))]
            if able and not any(host.workers or host in called for host in able):
                called.append(min(able, key=lambda host: (target not in host.ready, not host.is_local)))
        for host in called:
            self._reinforce(host)


def target_of(nodeid: str, known: Iterable[str]) -> str | None:
    """The target of the test of that id, of those that are known; None for a test without one. Other parameters may stand beside it."""
    if not nodeid.endswith("]"):
        return None
    inside = f"-{nodeid[:-1].rpartition('[')[2]}-"
    return max((name for name in known if f"-{name}-" in inside), key=len, default=None)
