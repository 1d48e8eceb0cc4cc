"""variants(): the ways to run in order, best first, each with a name and a behaviour."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kmatrix.manifest.types import Behaviour
from kmatrix.matrix import history
from kmatrix.objects.needs import OLDEST, feature_of
from kmatrix.propose.found import Group
from kmatrix.propose.sends import Sent, sends


@dataclass(frozen=True)
class Way:
    """One [[variant]]."""

    name: str
    behaviour: Behaviour
    group: Group
    sent: tuple[Sent, ...]
    """What comes out of its buffer: that of its buffers which most programs send to."""
    other: tuple[str, ...] = ()
    """Further buffers."""


def collector_name(groups: Sequence[Group], folder: str) -> str:
    """What all objects' names begin with, else the folder's name."""
    first, last = min(group.stem for group in groups), max(group.stem for group in groups)
    same = next((at for at, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), min(len(first), len(last)))
    common = re.sub(r"[^A-Za-z0-9]+$", "", first[:same])
    whole = common and all(re.fullmatch(rf"{re.escape(common)}([^A-Za-z0-9].*)?", group.stem) for group in groups)
    name = common if whole else folder
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.-]", "", name) or "collector"


def ways(groups: Sequence[Group], collector: str) -> list[Way]:
    """The variants: with BTF before without, the ring buffer before the perf buffer, what needs more before what needs less."""
    ordered = sorted(groups, key=_rank, reverse=True)
    names = _names(ordered, collector)
    best = ordered[0]
    found = []
    for name, group in zip(names, ordered, strict=True):
        behaviour: Behaviour = "full" if group is best else "fallback" if _uses_btf(best) and not _uses_btf(group) else "partial"
        sent, other = _buffer(sends(group.code))
        found.append(Way(name, behaviour, group, tuple(sent), tuple(other)))
    return found


def _buffer(all_sent: Sequence[Sent]) -> tuple[list[Sent], list[str]]:
    counts: dict[str, int] = {}
    for sent in all_sent:
        counts[sent.buffer] = counts.get(sent.buffer, 0) + len(sent.programs)
    if not counts:
        return [], []
    chosen = max(counts, key=lambda name: (counts[name], name in ("events", "rb")))
    return [sent for sent in all_sent if sent.buffer == chosen], [name for name in counts if name != chosen]


def _uses_btf(group: Group) -> bool:
    return any(need.name == "btf" and not need.optional for found in group.needs.values() for need in found)


def _rank(group: Group) -> tuple[int, int, int, int]:
    transports = {sent.transport for sent in sends(group.code)}
    asked = {feature_of(need) for found in group.needs.values() for need in found if not need.optional}
    dated = [since for name in asked if (since := history.first(name, group.arches[0])) is not None]
    transport = 2 if "ringbuf" in transports else 1 if transports else 0
    return int(_uses_btf(group)), transport, len([since for since in dated if since > OLDEST]), len(asked)


def _names(groups: Sequence[Group], collector: str) -> list[str]:
    """What the objects' names say beside the collector's; of a single one, how it sends its events."""
    rest = [group.stem.removeprefix(collector).strip("_-.") for group in groups]
    if all(rest) and len(set(rest)) == len(rest):
        return rest
    told = []
    for group, own in zip(groups, rest, strict=True):
        transports = [sent.transport for sent in sends(group.code)]
        told.append(own or "-".join(["core" if _uses_btf(group) else "plain", *transports[:1]]))
    return told if len(set(told)) == len(told) else [f"{name}-{number}" for number, name in enumerate(told, 1)]
