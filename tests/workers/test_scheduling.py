"""The scheduler as pytest-xdist's controller uses it, with workers that only note what they are told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kmatrix.matrix.arch import Arch
from kmatrix.plugin.scheduling import TargetScheduling, target_of
from kmatrix.runs.workers.plan import Host

ARCHES: dict[str, Arch] = {"6.1-x86_64": "x86_64", "6.1-arm64": "arm64", "5.4-x86_64": "x86_64"}


class Worker:
    """What the scheduler sees of a worker: runs as xdist's do, a test once it knows the next or that there is none."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.gateway = None
        self.queue: list[int] = []
        self.shutting_down = False
        self.ran: list[int] = []

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def step(self) -> int | None:
        if len(self.queue) >= 2 or (self.queue and self.shutting_down):
            self.ran.append(self.queue[0])
            return self.queue.pop(0)
        return None


class Run:
    """A controller with its workers."""

    def __init__(self, ids: list[str], *workers: Worker) -> None:
        hosts = list({id(worker.host): worker.host for worker in workers}.values())
        self.workers = list(workers)
        self.sched = TargetScheduling(lambda node: node.host, ARCHES, hosts, differs=lambda *_: None, reinforce=self.reinforce)
        self.ids = ids
        self.sched.coming = [*workers]
        for worker in workers:
            self.sched.add_node(worker)
        for worker in workers:
            self.sched.add_node_collection(worker, ids)
        assert self.sched.collection_is_completed
        self.sched.schedule()

    def reinforce(self, host: Host) -> None:
        self.sched.coming.append(Worker(host))

    def arrive(self) -> None:
        """Whoever is coming is there."""
        for worker in [*self.sched.coming]:
            self.workers.append(worker)
            self.sched.add_node(worker)
            self.sched.add_node_collection(worker, self.ids)
            self.sched.schedule()

    def step(self) -> bool:
        """Each worker runs one test; whether any did."""
        did = False
        for worker in self.workers:
            if (cell := worker.step()) is not None:
                did = True
                self.sched.mark_test_complete(worker, cell)
        return did

    def lose(self, worker: Worker) -> str | None:
        self.workers.remove(worker)
        worker.shutting_down = True
        self.sched.gone(worker)
        return self.sched.remove_node(worker)

    def finish(self) -> None:
        while self.step() or self.sched.coming:
            assert not self.sched.tests_finished or not self.sched.coming
            self.arrive()


def x86(name: str = "a") -> Host:
    return Host(name, frozenset[Arch]({"x86_64"}), "x86_64")


def cells(count: int, target: str = "6.1-x86_64") -> list[str]:
    return [f"c{number}/collector.toml::c{number}[{target}]" for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_each_runs_once_and_the_run_ends(count: int) -> None:
    host = x86()
    run = Run(cells(count), Worker(host), Worker(host), Worker(x86("b")))
    run.finish()
    assert sorted(cell for worker in run.workers for cell in worker.ran) == list(range(count))
    assert run.sched.tests_finished
    assert not run.sched.has_pending


@pytest.mark.parametrize("after", range(6))
def test_the_cells_of_a_lost_worker_go_to_the_other(after: int) -> None:
    lost, other = Worker(x86()), Worker(x86("b"))
    run = Run([*cells(3), *cells(3, "5.4-x86_64")], lost, other)
    for _ in range(after):
        run.step()
    lost.host.alive = False
    assert run.lose(lost) is None
    run.finish()
    assert sorted(cell for worker in (lost, *run.workers) for cell in worker.ran) == [0, 1, 2, 3, 4, 5]
    assert all(worker.host is other.host for worker in run.workers)
    assert run.sched.tests_finished


def test_a_cell_that_takes_two_workers_along_is_said_to_have_crashed() -> None:
    host = x86()
    first, second, third = Worker(host), Worker(host), Worker(host)
    run = Run(cells(7), first, second, third)
    assert first.queue[0] == 0
    assert run.lose(first) is None
    while second.queue[:1] != [0] and third.queue[:1] != [0]:
        assert run.step()
    again = second if second.queue[:1] == [0] else third
    assert run.lose(again) == cells(1)[0]
    run.finish()
    assert all(0 not in worker.ran for worker in (second, *run.workers))
    assert run.sched.tests_finished
    assert run.sched.plan is not None
    assert run.sched.plan.done == set(range(7))


def test_what_no_worker_can_run_does_not_keep_the_run_from_ending() -> None:
    run = Run([*cells(2), *cells(2, "6.1-arm64")], Worker(x86()))
    run.finish()
    assert run.sched.tests_finished
    assert run.sched.plan is not None
    assert run.sched.plan.pending == [2, 3]


def test_xdists_own_replacement_keeps_the_run_alive_and_no_other_is_asked_for() -> None:
    host = x86()
    only = Worker(host)
    run = Run(cells(4), only)
    run.sched.replaces = True
    run.lose(only)
    assert not run.sched.coming
    run.sched.coming = [Worker(host)]
    assert not run.sched.tests_finished
    run.finish()
    assert [worker.ran for worker in run.workers] == [[0, 1, 2, 3]]


def test_where_every_host_is_lost_the_run_ends_and_says_what_is_left() -> None:
    host = x86()
    only = Worker(host)
    run = Run(cells(4), only)
    run.step()
    host.alive = False
    run.lose(only)
    assert run.sched.tests_finished
    assert run.sched.plan is not None
    assert run.sched.plan.pending == [1, 2, 3]


def test_a_worker_lost_while_it_collects_is_not_waited_for() -> None:
    host = x86()
    up, lost = Worker(host), Worker(host)
    sched = TargetScheduling(lambda node: node.host, ARCHES, [host], differs=lambda *_: None, reinforce=lambda _: None)
    sched.coming = [up, lost]
    sched.add_node(up)
    sched.add_node_collection(up, cells(2))
    assert not sched.collection_is_completed
    sched.gone(lost)
    assert up.queue == [0, 1]


def test_a_worker_that_collects_something_else_gets_nothing() -> None:
    host = x86()
    workers = [Worker(host), Worker(host), Worker(host)]
    odd: list[object] = []
    sched = TargetScheduling(
        lambda node: node.host, ARCHES, [host], differs=lambda node, *_: odd.append(node), reinforce=lambda _: None
    )
    sched.coming = [*workers]
    for worker, ids in zip(workers, (cells(2), cells(3), cells(3)), strict=True):
        sched.add_node(worker)
        sched.add_node_collection(worker, ids)
    sched.schedule()
    assert odd == [workers[0]]
    assert workers[0].shutting_down
    assert not workers[0].queue
    assert workers[1].queue


@pytest.mark.parametrize(
    ("nodeid", "target"),
    [
        ("c/collector.toml::openat[6.1-x86_64]", "6.1-x86_64"),
        ("t.py::test_it[6.1-x86_64-some]", "6.1-x86_64"),
        ("t.py::test_it[some-6.1-x86_64]", "6.1-x86_64"),
        ("t.py::test_it[16.1-x86_64]", None),
        ("t.py::test_it", None),
        ("c/collector.toml::openat[6.1-sim-x86_64]", "6.1-sim-x86_64"),
    ],
)
def test_the_target_of_a_test(nodeid: str, target: str | None) -> None:
    assert target_of(nodeid, ["6.1-x86_64", "6.1-arm64", "6.1-sim-x86_64"]) == target
