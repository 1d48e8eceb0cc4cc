"""One compiled object on many targets, without a manifest: which of its programs load and attach where, in the kernel's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kmatrix.guest import limit
from kmatrix.guest.limit import SECONDS as LOAD_TIMEOUT
from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.host.nearest import did_you_mean
from kmatrix.matrix.arch import INFO
from kmatrix.objects.source_lines import SourceLines
from kmatrix.runs.core_btf import minimal
from kmatrix.runs.library import bring, obtain
from kmatrix.runs.pairs import fit, machine_for, pairs, side_by_side
from kmatrix.runs.patience import INTERRUPTION, MARGIN
from kmatrix.verdict import diagnosis
from kmatrix.vm.channel import pack

if TYPE_CHECKING:
    from kmatrix.matrix.kernel import Target
    from kmatrix.objects.compiled import ObjectInfo
    from kmatrix.predict import simulated
    from kmatrix.runs.machine_room import MachineRoom
    from kmatrix.vm.loaders.build import Built
else:
    simulated = later("kmatrix.predict.simulated")

State = Literal["not loaded", "not attached", "placeholder", "differs", "off", "loaded", "attached"]
"""How far a program came. `placeholder`: its section names a target that its loader replaces, so that nothing was tried. `differs`: the
simulated kernel's base lacks its hook, and the real kernel has it, so that nothing is known. `off`: its loader leaves it out there (`off` of
the report). `loaded`: its section does not say where it is attached."""

GOOD: tuple[State, ...] = ("loaded", "attached")
NOT_JUDGED: tuple[State, ...] = ("placeholder", "differs", "off")
"""Neither good nor bad: nothing was tried, or nothing could be seen."""
_BY_CAUSE: Mapping[str, State] = {"placeholder": "placeholder", "simulation": "differs"}


def state(program: Mapping[str, Any]) -> State:
    """How far a program came, of what an Outcome has of it."""
    if program.get("off"):
        return "off"
    if (known := _BY_CAUSE.get((program.get("diagnosis") or {}).get("kind", ""))) is not None:
        return known
    if not program["loaded"]:
        return "not loaded"
    if program["attached"] is None:
        return "loaded"
    return "attached" if program["attached"] else "not attached"


@dataclass(frozen=True)
class Outcome:
    """What became of the object on one target."""

    target: str
    simulated: str | None = None
    """Of a simulated kernel: what it is."""
    machine: Mapping[str, Any] | None = None
    """Of a real machine: what it is, as a record has it (docs/record.md); None for a VM."""
    error: str | None = None
    """Why the target says nothing of the programs (the object did not open, the kernel died, the machine room failed)."""
    infra: bool = False
    """Whether the error is the machine room's."""
    programs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name: `loaded`, `attached` (None where the section does not say where), `via`, `error`, `log`, `section`."""
    maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log: Sequence[str] = ()
    """What libbpf said."""
    diagnosis: Mapping[str, Any] | None = None
    """Why the object did not open, where that is known."""

    together: bool = True
    """Whether all that is meant to load did so in one go, as a loader does it."""
    library: str = "libbpf"
    """What loaded it."""
    loader: str = ""
    """The same with its version: `libbpf 1.5`, `cilium/ebpf 0.11.0`."""
    moving: bool = False
    """Whether the kernel's name moves on to newer releases: what fails there warns of what comes."""
    release: str = ""
    """What uname says there; empty where the kernel was not had."""
    one_of: Sequence[Mapping[str, Any]] = ()
    """Of each group of forms: `forms`, `ran` (None: none could), `why` not the others."""

    @property
    def warns(self) -> bool:
        """Whether what is not good there is a warning of what comes, and fails nothing."""
        return self.moving and not self.infra and not self.good

    @property
    def good(self) -> bool:
        """Whether a real loader would have got through: every map made, all loaded together, and attached where the sections say where.

        What was not tried is left out, but something has to be tried: an object of placeholders alone shows nothing.
        """
        judged = [each for each in map(state, self.programs.values()) if each not in NOT_JUDGED]
        maps_made = not any(found.get("error") for found in self.maps.values())
        return self.error is None and self.together and maps_made and bool(judged) and all(each in GOOD for each in judged)


def check_programs(info: ObjectInfo, names: Sequence[str]) -> None:
    """Raises InputError where the object has no program, or none of one of `names`."""
    if not info.programs:
        raise InputError(
            "the object has no BPF program", where=str(info.path), fix="put SEC(…) on a function, and do not strip symbols"
        )
    for name in names:
        if name not in info.programs:
            raise InputError(
                f"no program {name!r}{did_you_mean(name, info.programs)}",
                where=str(info.path),
                fix=f"it has: {', '.join(info.programs)}",
            )


def run(
    infos: Sequence[ObjectInfo],
    targets: Sequence[Target],
    room: MachineRoom,
    programs: Sequence[str] = (),
    load_timeout: float = LOAD_TIMEOUT,
    *,
    contracts: Mapping[Path, Mapping[str, Any]] | None = None,
    library: str = "libbpf",
) -> dict[Path, list[Outcome]]:
    """Try each object on each target of its arch, each in a VM of its own, as many side by side as there are cores; loaded by `library`.

    By the objects' paths; so are the `contracts`, resolved. The verifier has `load_timeout` seconds for each program. Raises InputError where
    all objects are compiled for arches of which no target is selected.
    """
    chosen = pairs(infos, targets)
    mirrors = room.matrix.mirrors
    built = {arch: obtain(library, arch, mirrors=mirrors, reporter=room.reporter) for arch in {each.arch for _, each in chosen}}

    def one(info: ObjectInfo, target: Target) -> Outcome:
        how = _How(programs, load_timeout, (contracts or {}).get(info.path), library, built.get(target.arch))
        return _try(info, target, room, how)

    def failed(_info: ObjectInfo, target: Target, words: str, infra: bool) -> Outcome:
        moving = target.kernel.real.moving and not infra
        return Outcome(str(target), _account(target), room.real.account(target), error=words, infra=infra, moving=moving)

    return {info.path: [] for info in infos} | side_by_side(chosen, room, one, failed)


def left_out(info: ObjectInfo, targets: Sequence[Target]) -> dict[str, str]:
    """The arches selected on which the object was not tried, each with why, and what to do for it to be."""
    without = {target.arch for target in targets} - {target.arch for target in fit(info, targets)}
    return {
        arch: f"it was compiled for {info.compiled_for} ({info.compiled_because}); compile it with -D__TARGET_ARCH_{INFO[arch].bpf2go} for {arch}"
        for arch in sorted(without)
    }


@dataclass(frozen=True)
class _How:
    """How an object is tried."""

    only: Sequence[str]
    load_timeout: float
    contract: Mapping[str, Any] | None
    library: str
    built: Built | None


def _try(info: ObjectInfo, target: Target, room: MachineRoom, how: _How) -> Outcome:
    contract, load_timeout = how.contract, how.load_timeout
    with machine_for("run", info, target, room, contract) as (vm, probe):
        loader = bring(vm, how.library, how.built)
        answer = vm.call(
            "object",
            timeout=MARGIN + (limit.AT_MOST * load_timeout + INTERRUPTION) * len(info.programs),
            name=info.path.name,
            data=pack(info.data),
            programs=list(how.only) or None,
            contract=contract,
            load_timeout=load_timeout,
            library=how.library,
            core_btf=minimal(vm, target, info, how.library),
        )
        splat = vm.splat()
    version, lines = target.kernel.version, SourceLines(info.data)
    programs, maps = diagnosis.explain(
        answer["programs"], answer.get("maps", {}), version, target.arch, lines, probe.get("surroundings")
    )
    error = (answer.get("error") or {}).get("text")
    if target.simulated is not None and (differing := simulated.difference(target)) is not None:
        programs = differing.marked(programs)
    cause = diagnosis.of_opening(error, version, target.arch) if error else None
    if splat is not None:
        error = f"{splat.kind}: {splat.title}"
    return Outcome(
        str(target),
        _account(target),
        machine=room.real.account(target),
        error=error,
        programs=programs,
        maps=maps,
        log=answer.get("log", ()),
        diagnosis=cause,
        together=bool(answer.get("together", True)),
        library=how.library,
        loader=loader,
        moving=target.kernel.real.moving,
        release=room.spec(target).kernel.release,
        one_of=answer.get("one_of", ()),
    )


def _account(target: Target) -> str | None:
    return str(target.simulated) if target.simulated is not None else None
