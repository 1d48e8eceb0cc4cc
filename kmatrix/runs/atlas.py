"""The verifier's atlas: how hard the verifier works at each program of compiled objects, on every target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.guest import limit
from kmatrix.host.errors import InputError
from kmatrix.host.paths import write_whole
from kmatrix.matrix.kernel import Target
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.runs import core_btf
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.runs.pairs import machine_for, pairs, side_by_side
from kmatrix.runs.patience import INTERRUPTION, MARGIN
from kmatrix.verdict.effort import Effort, effort_of
from kmatrix.vm.channel import pack

SCHEMA = 1
"""Of an atlas that is kept in a file."""


@dataclass(frozen=True)
class Page:
    """One object on one target."""

    object: str
    target: str
    efforts: Mapping[str, Effort] = field(default_factory=dict)
    """Of the programs that load, by name."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Why the others do not."""
    visits: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    """Of each program the lines of source that the verifier looked at most, where that was asked for."""
    infra: str | None = None
    """What went wrong with the machine, if anything did."""


def draw(
    infos: Sequence[ObjectInfo],
    targets: Sequence[Target],
    room: MachineRoom,
    programs: Sequence[str],
    load_timeout: float,
    *,
    contracts: Mapping[Path, Mapping[str, Any]],
    lines: bool,
) -> list[Page]:
    """A page of each object on each target of its arch, each in a VM of its own. Raises InputError where no object is for a target's arch."""

    def one(info: ObjectInfo, target: Target) -> Page:
        return _page(info, target, room, list(programs) or list(info.programs), load_timeout, contracts.get(info.path), lines)

    def failed(info: ObjectInfo, target: Target, words: str, _infra: bool) -> Page:
        return Page(str(info.path), str(target), infra=words)

    return [page for each in side_by_side(pairs(infos, targets), room, one, failed).values() for page in each]


def _page(
    info: ObjectInfo,
    target: Target,
    room: MachineRoom,
    programs: Sequence[str],
    load_timeout: float,
    contract: Mapping[str, Any] | None,
    lines: bool,
) -> Page:
    with machine_for("atlas", info, target, room, contract) as (vm, _):
        answer = vm.call(
            "effort",
            timeout=MARGIN + (limit.AT_MOST * load_timeout + INTERRUPTION) * len(programs),
            name=info.path.name,
            data=pack(info.data),
            programs=programs,
            contract=contract,
            load_timeout=load_timeout,
            lines=lines,
            core_btf=core_btf.minimal(vm, target, info, "libbpf"),
        )
    version, found = target.kernel.version, answer["programs"]
    efforts = {name: effort_of(report, answer["nothing"], version) for name, report in found.items()}
    return Page(
        str(info.path),
        str(target),
        {name: effort for name, effort in efforts.items() if effort is not None},
        {name: str(report["error"]) for name, report in found.items() if report.get("error")},
        {name: [(text, count) for text, count in report["visits"]] for name, report in found.items() if report.get("visits")},
    )


def as_json(pages: Sequence[Page]) -> dict[str, Any]:
    """The atlas as data: what `--json` prints and `--save` keeps."""
    return {"schema": SCHEMA, "pages": [asdict(page) for page in pages]}


def save(pages: Sequence[Page], path: Path) -> None:
    """Keep the atlas in a file. Raises InputError where it cannot be written."""
    try:
        write_whole(path, json.dumps(as_json(pages), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path), fix="check the folder's permissions") from None


def kept(path: Path) -> dict[tuple[str, str, str], int]:
    """Of an atlas that was kept: the instructions by object's file name, target and program. Raises InputError."""
    fix = "write one with kmatrix atlas --save"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise InputError(f"has schema {data['schema']}, and this kmatrix reads {SCHEMA}", where=str(path), fix=fix)
        return {
            (Path(page["object"]).name, page["target"], name): int(effort["insns"])
            for page in data["pages"]
            for name, effort in page["efforts"].items()
        }
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix=fix) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError("is no atlas", where=str(path), fix=fix) from None
