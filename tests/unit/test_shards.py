"""Shards: how a run is cut, and by what."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.host.errors import InputError
from kmatrix.runs import cell_records, shards
from kmatrix.runs.shards import TARGET_SECONDS, Item, Shard
from tests.unit.facts import record

KERNELS = ("5.4", "5.10", "6.1", "6.12")
COLLECTORS = ("dns", "oom", "openat", "tcpconnect", "execexit")


def item(collector: str, target: str) -> Item:
    return Item(f"{collector}[{target}]", target, f"{collector}/collector.toml::{collector}[{target}]")


MATRIX = [item(collector, f"{kernel}-arm64") for collector in COLLECTORS for kernel in KERNELS]


def targets_of(part: frozenset[str]) -> set[str]:
    return {each.target for each in MATRIX if each.key in part}


@pytest.mark.parametrize("text", ["5/4", "0/4", "x", "", "1", "1/0", "-1/4", "1/4/2", "1.5/4", "٢/٤"])
def test_what_is_no_shard_is_one_error(text: str) -> None:
    with pytest.raises(InputError, match="is not a shard") as error:
        shards.parse(text)
    assert error.value.where == "--shard"
    assert "NUMBER/COUNT" in str(error.value)


def test_a_shard_is_read() -> None:
    assert shards.parse("2/4") == Shard(2, 4)
    assert str(shards.parse(" 4 / 4 ")) == "4/4"


@given(
    st.lists(st.tuples(st.sampled_from(COLLECTORS), st.sampled_from(KERNELS)), max_size=20),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from([each.name for each in MATRIX]), st.floats(0, 1e6)),
)
def test_each_item_is_in_exactly_one_shard_in_whatever_order_it_was_found(
    chosen: list[tuple[str, str]], count: int, seconds: dict[str, float]
) -> None:
    items = [item(collector, f"{kernel}-arm64") for collector, kernel in chosen]
    whole = shards.cut(items, count, seconds)
    assert len(whole.parts) == count
    assert sorted(key for part in whole.parts for key in part) == sorted({each.key for each in items})
    assert shards.cut(items[::-1], count, seconds) == whole


def test_without_durations_it_is_cut_evenly_by_count_and_targets_stay_whole() -> None:
    whole = shards.cut(MATRIX, 4, {})
    assert whole.measured == 0
    assert [len(part) for part in whole.parts] == [5, 5, 5, 5]
    assert [targets_of(part) for part in whole.parts] == [{"5.10-arm64"}, {"5.4-arm64"}, {"6.1-arm64"}, {"6.12-arm64"}]
    assert [len(part) for part in shards.cut(MATRIX, 3, {}).parts] == [6, 7, 7]


def test_the_order_of_targets_is_the_matrix_s_where_it_is_given() -> None:
    order = {f"{kernel}-arm64": place for place, kernel in enumerate(KERNELS)}
    assert targets_of(shards.cut(MATRIX, 4, {}, order=order).parts[0]) == {"5.4-arm64"}


def test_with_durations_the_longest_shard_is_as_short_as_can_be() -> None:
    slow = dict.fromkeys([each.name for each in MATRIX], 1.0) | {item("oom", "6.12-arm64").name: 60.0}
    whole = shards.cut(MATRIX, 2, slow)
    assert whole.measured == len(MATRIX)
    # 60 s of one cell: it is left alone with as few others as the order allows.
    assert {len(part) for part in whole.parts} != {10}
    spent = [sum(slow[each.name] for each in MATRIX if each.key in part) for part in whole.parts]
    assert max(spent) < 65 + TARGET_SECONDS


def test_a_target_is_cut_only_where_that_is_worth_its_second_boot() -> None:
    two = [item(collector, f"{kernel}-arm64") for collector in COLLECTORS for kernel in ("5.4", "6.1")]
    # 5 s and 7 s of cells: even parts would be 6 s each, and boot one of the targets twice.
    cheap = {each.name: 1.0 if each.target == "5.4-arm64" else 1.4 for each in two}
    assert [targets_of(part) for part in shards.cut(two, 2, cheap).parts] == [{"5.4-arm64"}, {"6.1-arm64"}]
    dear = {each.name: 1.0 if each.target == "5.4-arm64" else 40.0 for each in two}
    assert targets_of(shards.cut(two, 2, dear).parts[0]) == {"5.4-arm64", "6.1-arm64"}


def test_other_tests_than_cells_are_cut_too() -> None:
    plain = [Item(f"test_x.py::test_{n}", "", f"test_x.py::test_{n}") for n in range(4)]
    whole = shards.cut([*MATRIX, *plain], 2, {MATRIX[0].name: 3.0})
    assert sum(map(len, whole.parts)) == len(MATRIX) + 4


def test_the_digest_tells_cuts_apart() -> None:
    known = dict.fromkeys([each.name for each in MATRIX], 1.0) | {MATRIX[0].name: 500.0}
    assert shards.cut(MATRIX, 2, {}).digest == shards.cut(MATRIX, 2, {}).digest
    assert len({shards.cut(MATRIX, 2, {}).digest, shards.cut(MATRIX, 3, {}).digest, shards.cut(MATRIX, 2, known).digest}) == 3


def test_durations_of_records_are_without_what_the_cache_made_of_them(tmp_path: Path) -> None:
    cell_records.write(record(timings={"prepare": 90.0, "restore": 5.0, "total": 97.0}), tmp_path)
    cell_records.write(record("dns", timings={"total": 1.5}), tmp_path)
    cell_records.write(record("oom", ok=False, failure="infra", observed=None, timings={"total": 60.0}), tmp_path)
    assert shards.durations(tmp_path) == {"openat[5.4-arm64]": 2.0, "dns[5.4-arm64]": 1.5}


def test_durations_are_asked_of_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no records"):
        shards.durations(tmp_path / "nowhere")


def test_durations_are_kept_in_the_cache_and_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path))
    assert shards.durations() == {}
    shards.keep_durations([record(timings={"total": 2.0})])
    shards.keep_durations([record("dns", timings={"total": 3.0})])
    assert shards.durations() == {"openat[5.4-arm64]": 2.0, "dns[5.4-arm64]": 3.0}
    (tmp_path / "durations/cells.json").write_text("{}")
    assert shards.durations() == {}


def test_a_shard_s_account_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = shards.cut(MATRIX, 3, {})
    assert shards.read_account(tmp_path) is None
    shards.write_account(tmp_path, Shard(2, 3), whole)
    account = shards.read_account(tmp_path)
    assert account is not None
    assert (account.shard, account.of, account.cut, account.items) == (2, 3, whole.digest, 7)
    (tmp_path / "shard.json").write_text('{"shard": "two"}')
    with pytest.raises(InputError, match=r"shard\.json"):
        shards.read_account(tmp_path)
    shards.forget_account(tmp_path)
    assert shards.read_account(tmp_path) is None
