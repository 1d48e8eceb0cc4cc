"""Shards: a run in parts, one for each machine. Pure, but for the file of durations in the cache and a shard's own account.

A run is cut in the order of its targets, so that most targets are whole in one shard: a target that two shards have is booted and saved
twice. All shards of a run compute the same cut, from the same cells and the same durations; its digest tells whether they did.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from kmatrix.host import paths
from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.runs import cell_records
from kmatrix.runs.cell_records import Record

if TYPE_CHECKING:
    from kmatrix.runs import guest_test_records
    from kmatrix.runs.guest_test_records import TestRecord
else:
    guest_test_records = later("kmatrix.runs.guest_test_records")

OPTION = "--shard"
SCHEMA = "kmatrix.shard/1"
FILE = "shard.json"
"""A shard's account of itself, in its kmatrix directory."""
TARGET_SECONDS = 6.0
"""What a target costs beside its cells: one boot, and saving it (measured: 2.3 to 7.0 s without KVM)."""


@dataclass(frozen=True)
class Shard:
    """One part of a run: `2/4`."""

    number: int
    """From 1 on."""
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse(text: str) -> Shard:
    """The shard that `2/4` means. Raises InputError."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        fix = "write NUMBER/COUNT, from 1/4 to 4/4 for four shards"
        raise InputError(f"{text!r} is not a shard", where=OPTION, fix=fix)
    return Shard(number, count)


@dataclass(frozen=True)
class Item:
    """What is put into one shard: a cell, or another test."""

    name: str
    """The cell's id, `openat[5.4-arm64]`, by which its duration is known; of another test, its pytest id."""
    target: str
    """Empty where it has none."""
    key: str
    """What tells it from all others of the run: its pytest id."""


@dataclass(frozen=True)
class Cut:
    """A run, cut."""

    parts: Sequence[frozenset[str]]
    """The keys of each shard's items."""
    measured: int
    """Of how many items the duration was known."""
    digest: str
    """The same for all shards of a run that was cut alike."""


def cut(items: Iterable[Item], count: int, seconds: Mapping[str, float], *, order: Mapping[str, int] | None = None) -> Cut:
    """Cut a run in `count` parts by the `seconds` that cells took (by name); where none is known, into parts of as many items each.

    An item whose duration is not known counts as the median of the others. `order` has the place of each target in the run; where it is not
    given, targets stand by name. An item is in exactly one part.
    """
    places = order or {}
    row = sorted(
        {item.key: item for item in items}.values(), key=lambda item: (places.get(item.target, len(places)), item.target, item.key)
    )
    known = {item.name: seconds[item.name] for item in row if item.name in seconds}
    if known:
        usual = median(known.values())
        bounds = _by_cost(row, [known.get(item.name, usual) for item in row], count)
    else:
        bounds = [len(row) * each // count for each in range(count + 1)]
    parts = [frozenset(item.key for item in row[start:end]) for start, end in itertools.pairwise(bounds)]
    digest = hashlib.sha256(json.dumps([sorted(part) for part in parts]).encode()).hexdigest()[:12]
    return Cut(parts, sum(item.name in known for item in row), digest)


def _by_cost(row: Sequence[Item], costs: Sequence[float], count: int) -> list[int]:
    """The bounds of `count` runs of neighbours such that the longest takes as little time as can be, the boots of its targets included.

    Dynamic programming over the ends of parts. `best[end]` is the longest part, and the sum of squares (among equals, the evenest), of the
    cheapest way to cut the first `end` items.
    """
    best: list[tuple[float, float]] = [(0.0, 0.0)] + [(float("inf"), float("inf"))] * len(row)
    begins: list[list[int]] = []
    for _ in range(count):
        following, begin = [(0.0, 0.0)], [0]
        for end in range(1, len(row) + 1):
            chosen, at, cost = best[end], end, 0.0  # an empty part
            targets: set[str] = set()
            for start in range(end - 1, -1, -1):
                cost += costs[start]
                if row[start].target and row[start].target not in targets:
                    targets.add(row[start].target)
                    cost += TARGET_SECONDS
                if cost > chosen[0]:
                    break
                longest, squares = best[start]
                chosen, at = min((chosen, at), ((max(longest, cost), squares + cost * cost), start))
            following.append(chosen)
            begin.append(at)
        best = following
        begins.append(begin)
    bounds = [len(row)]
    for begin in reversed(begins):
        bounds.append(begin[bounds[-1]])
    return bounds[::-1]


# -- durations ---------------------------------------------------------------------------------------------------------------


def durations(directory: Path | None = None) -> dict[str, float]:
    """Seconds by cell: of the records in `directory`, or, without one, of this cache's runs. Empty where nothing is known.

    Raises InputError where a `directory` is given that has no records.
    """
    if directory is not None:
        found = _of_records([*cell_records.read_all(directory), *guest_test_records.read_all(directory)])
        if not found:
            fix = "name the folder that was an earlier run's --kmatrix-dir"
            raise InputError("there are no records", where=f"--shard-durations: {directory}", fix=fix)
        return found
    try:
        said = json.loads(_kept().read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in said["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # no run yet, or one of another version: shards are then cut by count


def keep_durations(records: Iterable[Record | TestRecord]) -> None:
    """Keep how long these cells and tests took, for later runs to be cut by.

    A shard keeps nothing: the next shard of its run, on the same machine, must be cut by the same durations.
    """
    found = _of_records(records)
    if found:
        text = json.dumps({"schema": "kmatrix.durations/1", "seconds": durations() | found}, indent=1, sort_keys=True)
        paths.write_whole(_kept(), text + "\n")


def _kept() -> Path:
    return paths.cache_dir("durations") / "cells.json"


_ONCE = ("prepare", "restore")
"""Stages that depend on what the cache had, and not on the cell."""


def _of_records(records: Iterable[Record | TestRecord]) -> dict[str, float]:
    """By the name of the pytest item. What machines failed at says nothing, and is left out."""
    return {
        record.cell if isinstance(record, Record) else guest_test_records.item_of(record): max(
            0.0, record.timings["total"] - sum(record.timings.get(stage, 0.0) for stage in _ONCE)
        )
        for record in records
        if "total" in record.timings and record.failure != "infra"
    }


# -- a shard's account of itself -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Which part of which cut the records of a kmatrix directory are."""

    shard: int
    of: int
    cut: str
    """The digest of the cut."""
    items: int
    schema: str = SCHEMA


def write_account(directory: Path, shard: Shard, whole: Cut) -> None:
    """Leave the account in the kmatrix directory."""
    account = Account(shard.number, shard.count, whole.digest, len(whole.parts[shard.number - 1]))
    paths.write_whole(directory / FILE, json.dumps(asdict(account), indent=1) + "\n")


def forget_account(directory: Path) -> None:
    """Remove the account of an earlier shard: the records there are of a whole run now."""
    (directory / FILE).unlink(missing_ok=True)


def read_account(directory: Path) -> Account | None:
    """The account in the kmatrix directory; None where its run was whole. Raises InputError."""
    path = directory / FILE
    try:
        return TypeAdapter(Account).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InputError("not a shard's account of itself", where=str(path), fix="run the shard again") from error
