"""`--shard=2/4` of pytest: which items are this shard's, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmatrix.matrix.kernel import Target
from kmatrix.plugin import options
from kmatrix.runs import shards
from kmatrix.runs.shards import Shard


@dataclass(frozen=True)
class Asked:
    """The options, read."""

    shard: Shard
    seconds: Mapping[str, float]
    """By cell, as earlier runs took."""


@dataclass(frozen=True)
class Chosen:
    """What became of them. Plain values: a worker of pytest-xdist sends it to the controller."""

    shard: str
    items: int
    of: int
    measured: int

    @property
    def is_spare(self) -> bool:
        """Whether there are more shards than tests, and this one has nothing to do."""
        return self.of > 0 and self.items == 0

    def __str__(self) -> str:
        by = f"by the measured durations of {self.measured} of them" if self.measured else "by count, since no duration is known"
        return f"kmatrix: shard {self.shard} has {self.items} of {self.of} tests, cut {by}"


def asked(config: pytest.Config, told: Mapping[str, float] | None = None) -> Asked | None:
    """What --shard and --shard-durations ask for; None where there is no --shard. `told` are durations that the controller knows.

    Raises InputError.
    """
    text, given = options.value(config, "--shard"), options.value(config, "--shard-durations")
    shard = shards.parse(text) if text is not None else None
    if shard is not None and told is not None:
        return Asked(shard, told)
    folder = config.invocation_params.dir / Path(given) if given is not None else None
    seconds = shards.durations(folder) if shard is not None or folder is not None else {}
    return Asked(shard, seconds) if shard is not None else None


def choose(
    config: pytest.Config, items: list[pytest.Item], wanted: Asked, targets: Sequence[Target], account: Path | None
) -> Chosen:
    """Leave this shard's items in `items`, and its account in the folder `account`."""
    every = [_item(item) for item in items]
    order = {str(target): place for place, target in enumerate(targets)}
    whole = shards.cut(every, wanted.shard.count, wanted.seconds, order=order)
    mine = whole.parts[wanted.shard.number - 1]
    others = [item for item in items if item.nodeid not in mine]
    items[:] = [item for item in items if item.nodeid in mine]
    if others:
        config.hook.pytest_deselected(items=others)
    if account is not None:
        shards.write_account(account, wanted.shard, whole)
    return Chosen(str(wanted.shard), len(items), len(every), whole.measured)


def _item(item: pytest.Item) -> shards.Item:
    target = getattr(item, "target", None) or getattr(getattr(item, "callspec", None), "params", {}).get("target")
    is_ours = isinstance(target, Target)
    return shards.Item(item.name if is_ours else item.nodeid, str(target) if is_ours else "", item.nodeid)
