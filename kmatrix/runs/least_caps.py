"""The least capabilities that objects take, on many targets: found by trying, in one VM for each object and target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.guest.limit import SECONDS as LOAD_TIMEOUT
from kmatrix.host.errors import InputError
from kmatrix.matrix.kernel import Target
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.objects.source_lines import SourceLines
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.runs.pairs import machine_for, pairs, side_by_side
from kmatrix.verdict.diagnosis import Failing, diagnose
from kmatrix.vm.channel import pack

_PATIENCE = 900.0
"""Seconds for all tries of an object on a target: a dozen loads, where the CPU is emulated."""


@dataclass(frozen=True)
class Least:
    """The least capabilities for a program, or for a whole object."""

    caps: tuple[str, ...]
    why: Mapping[str, str] = field(default_factory=dict)
    """By capability: what fails without it."""


@dataclass(frozen=True)
class Outcome:
    """What was found of an object on a target."""

    target: str
    error: str | None = None
    """Why nothing was found."""
    infra: bool = False
    whole: Least | None = None
    """For all of the object that loads with all capabilities; None where nothing does."""
    programs: Mapping[str, Least] = field(default_factory=dict)
    failing: Sequence[str] = ()
    """Programs that do not load or attach with all capabilities."""
    tries: int = 0
    old: bool = False
    """Whether the memory that it takes counts against RLIMIT_MEMLOCK there (before 5.11)."""


def run(
    infos: Sequence[ObjectInfo],
    targets: Sequence[Target],
    room: MachineRoom,
    programs: Sequence[str] = (),
    load_timeout: float = LOAD_TIMEOUT,
    *,
    contracts: Mapping[Path, Mapping[str, Any]] | None = None,
) -> dict[Path, list[Outcome]]:
    """By the objects' paths, an outcome for each target of its arch. Raises InputError for a simulated kernel, and for `cap=…`."""
    for target in targets:
        if target.simulated is not None or target.kernel.privileges.caps is not None:
            raise InputError(
                f"{target.kernel.name!r}: the least capabilities are found on a real kernel, from all of them on",
                where="--find-caps",
                fix="name kernels without cap=, unprivileged or seccomp=, and no simulated ones",
            )

    def one(info: ObjectInfo, target: Target) -> Outcome:
        return _try(info, target, room, programs, load_timeout, (contracts or {}).get(info.path))

    def failed(_info: ObjectInfo, target: Target, words: str, infra: bool) -> Outcome:
        return Outcome(str(target), error=words, infra=infra)

    return {info.path: [] for info in infos} | side_by_side(pairs(infos, targets), room, one, failed)


def _try(
    info: ObjectInfo,
    target: Target,
    room: MachineRoom,
    programs: Sequence[str],
    load_timeout: float,
    contract: Mapping[str, Any] | None,
) -> Outcome:
    with machine_for("caps", info, target, room, contract) as (vm, _):
        around = vm.call("surroundings", timeout=60, sysctls=[])
        answer = vm.call(
            "caps",
            timeout=_PATIENCE,
            name=info.path.name,
            data=pack(info.data),
            programs=list(programs) or None,
            contract=contract,
            load_timeout=load_timeout,
        )
    error = (answer.get("error") or {}).get("text")
    told = _Told(target, around, SourceLines(info.data))
    whole = answer["object"]
    if whole is None and error is None:
        error = f"nothing of it loads and attaches with all capabilities: {', '.join(answer['failing'])}"
    return Outcome(
        str(target),
        error=error,
        whole=told.least(whole) if whole is not None else None,
        programs={name: told.least(each) for name, each in answer["programs"].items()},
        failing=answer["failing"],
        tries=answer["tries"],
        old=target.kernel.version < (5, 11),
    )


@dataclass(frozen=True)
class _Told:
    """Puts what the guest found into words."""

    target: Target
    around: Mapping[str, Any]
    lines: SourceLines

    def least(self, found: Mapping[str, Any]) -> Least:
        return Least(tuple(found["caps"]), {name: self._why(failure) for name, failure in found["why"].items()})

    def _why(self, failure: Mapping[str, Any]) -> str:
        loader = {**self.around["loader"], "caps": failure["caps"]}
        is_map = failure["stage"] == "map"
        cause = diagnose(
            Failing(
                failure["stage"],
                str(failure["text"]),
                self.target.kernel.version,
                self.target.arch,
                failure["errno"],
                log=failure.get("log") or "",
                section=str(failure.get("section") or ""),
                name=str((failure["map"] if is_map else failure["program"]) or ""),
                map_type=failure.get("type") if is_map else None,
                max_entries=failure.get("max_entries"),
                wants=failure.get("wants") or {},
                situation={**self.around, "loader": loader},
                lines=self.lines,
            )
        )
        words = cause.what if cause is not None and cause.kind == "permission" else f"cannot {failure['stage']}: {failure['text']}"
        return re.sub(r": the loader lacks CAP_\w+( or CAP_\w+)*", "", words)
