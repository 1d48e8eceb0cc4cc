"""Who runs which cell: the plan alone, without a worker."""

from __future__ import annotations

import pytest

from kmatrix.matrix.arch import Arch
from kmatrix.runs.workers.plan import PAYS, Host, Plan

X86, ARM = frozenset[Arch]({"x86_64"}), frozenset[Arch]({"arm64"})
BOTH = X86 | ARM


def arches(*targets: str) -> dict[str, Arch]:
    return {target: "arm64" if target.endswith("arm64") else "x86_64" for target in targets}


def plan(cells: list[str | None], *hosts: Host) -> Plan:
    return Plan(cells, arches(*(cell for cell in cells if cell is not None)), hosts)


def drain(made: Plan, host: Host) -> list[str | None]:
    """The targets of what the host takes, alone, to the end."""
    taken = []
    while (cell := made.take(host)) is not None:
        taken.append(made.targets[cell])
        made.finish(cell, host)
    return taken


def test_alone_a_host_takes_everything_in_the_order_of_collection() -> None:
    host = Host("a", BOTH, "x86_64", ready={"5.4-x86_64", "6.1-x86_64"}, workers=2)
    made = plan(["5.4-x86_64", "6.1-x86_64", None, "5.4-x86_64", "6.1-x86_64"], host)
    taken = [made.take(host) for _ in range(6)]
    assert taken == [0, 1, 3, 4, 2, None]


def test_a_target_goes_where_its_snapshot_lies() -> None:
    a = Host("a", X86, "x86_64", ready={"6.1-x86_64"}, workers=1)
    b = Host("b", X86, "x86_64", ready={"5.4-x86_64"}, workers=1)
    made = plan(["5.4-x86_64", "6.1-x86_64"] * 3, a, b)
    assert drain(made, a) == ["6.1-x86_64"] * 3
    assert drain(made, b) == ["5.4-x86_64"] * 3


def test_a_target_stays_with_the_host_that_began_it() -> None:
    a, b = Host("a", X86, "x86_64", workers=1), Host("b", X86, "x86_64", workers=1)
    made = plan(["5.4-x86_64", "6.1-x86_64"] * 4, a, b)
    first, second = made.take(a), made.take(b)
    assert (first, second) == (0, 1)
    assert [made.take(a), made.take(b), made.take(a)] == [2, 3, 4]


def test_workers_of_one_host_begin_different_targets_first() -> None:
    """Two that begin the same one would both wait for its snapshot."""
    host = Host("a", X86, "x86_64", workers=2)
    made = plan(["5.4-x86_64", "5.4-x86_64", "6.1-x86_64"], host)
    assert [made.take(host), made.take(host), made.take(host)] == [0, 2, 1]


def test_a_host_gets_only_what_it_can_run() -> None:
    x86, small = Host("x86", X86, "x86_64", workers=1), Host("small", BOTH, "x86_64", only=frozenset({"6.1-arm64"}), workers=1)
    made = plan(["6.1-x86_64", "6.1-arm64", "5.4-arm64"], x86, small)
    assert drain(made, x86) == ["6.1-x86_64"]
    assert drain(made, small) == ["6.1-arm64"]
    assert made.pending == [2]
    assert not made.runnable(2)


def test_a_test_without_a_target_runs_anywhere() -> None:
    host = Host("nothing", frozenset(), "x86_64", workers=1)
    assert drain(plan([None, "6.1-x86_64", None], host), host) == [None, None]


def test_an_arm64_host_takes_arm64_cells_first_and_leaves_them_to_no_emulator() -> None:
    pc, board = Host("pc", BOTH, "x86_64", workers=1), Host("board", BOTH, "arm64", workers=1)
    cells: list[str | None] = ["6.1-x86_64", "6.1-arm64", "5.4-x86_64", "5.4-arm64"]
    made = plan(cells, pc, board)
    assert [made.targets[cell] for cell in (made.take(board), made.take(board)) if cell is not None] == ["6.1-arm64", "5.4-arm64"]
    assert [made.targets[cell] for cell in (made.take(pc), made.take(pc)) if cell is not None] == ["6.1-x86_64", "5.4-x86_64"]
    other = plan(cells, pc := Host("pc", BOTH, "x86_64", workers=1), Host("board", BOTH, "arm64", workers=1))
    assert drain(other, pc)[:2] == ["6.1-x86_64", "5.4-x86_64"]


def test_a_host_without_an_arch_of_its_own_leaves_to_others_what_is_theirs() -> None:
    odd, pc = Host("odd", BOTH, None, workers=1), Host("pc", BOTH, "x86_64", workers=1)
    made = plan(["6.1-x86_64", "6.1-arm64"], odd, pc)
    assert drain(made, odd) == ["6.1-arm64", "6.1-x86_64"]


def test_a_target_whose_snapshot_was_made_goes_on_before_another_is_begun() -> None:
    host = Host("a", X86, "x86_64", workers=2)
    made = plan(["5.4-x86_64", "6.1-x86_64", "5.4-x86_64", "6.1-x86_64", "6.12-x86_64"], host)
    assert [made.take(host), made.take(host)] == [0, 1]
    made.finish(1, host)
    assert [made.take(host) for _ in range(3)] == [3, 4, 2]


def test_what_few_can_run_comes_first() -> None:
    both = Host("both", BOTH, None, workers=1)
    made = plan(["6.1-x86_64", "6.1-arm64"], both, Host("x86", X86, None, workers=1))
    assert made.take(both) == 1


@pytest.mark.parametrize(("waiting", "helps"), [(PAYS + 2, True), (PAYS, False)])
def test_another_hosts_target_is_taken_where_a_second_snapshot_pays(waiting: int, helps: bool) -> None:
    a = Host("a", X86, "x86_64", ready={"6.1-x86_64"}, workers=1)
    b = Host("b", X86, "x86_64", workers=1)
    made = plan(["6.1-x86_64"] * waiting, a, b)
    assert (made.take(b) is not None) is helps


def test_the_cells_of_a_lost_host_go_to_the_others_although_its_snapshot_was_there() -> None:
    a = Host("a", X86, "x86_64", ready={"6.1-x86_64"}, workers=1)
    b = Host("b", X86, "x86_64", workers=1)
    made = plan(["6.1-x86_64"] * 3, a, b)
    lost = [cell for cell in (made.take(a), made.take(a)) if cell is not None]
    assert made.take(b) is None
    a.workers = 0
    made.put_back(lost)
    assert made.pending == [0, 1, 2]
    assert drain(made, b) == ["6.1-x86_64"] * 3
    assert made.done == {0, 1, 2}


def test_a_cell_is_done_once_it_is_given_up() -> None:
    made = plan(["6.1-arm64", "6.1-x86_64"], host := Host("a", X86, "x86_64", workers=1))
    made.give_up(0)
    assert made.pending == [1]
    assert drain(made, host) == ["6.1-x86_64"]
    assert made.done == {0, 1}
