"""`--save` and `--check` of `kmatrix run`: the run becomes a baseline, or is held to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmatrix.cli import options
from kmatrix.host.errors import InputError
from kmatrix.host.later import later

if TYPE_CHECKING:
    from kmatrix.matrix.kernel import Target
    from kmatrix.objects.compiled import ObjectInfo
    from kmatrix.report import baseline as report
    from kmatrix.runs import baseline, comparison
    from kmatrix.runs.machine_room import MachineRoom
    from kmatrix.runs.object_run import Outcome
else:  # most runs have no baseline
    report, baseline, comparison = (later(f"kmatrix.{name}") for name in ("report.baseline", "runs.baseline", "runs.comparison"))

_FILE = click.Path(path_type=Path, dir_okay=False)
SAVE = click.option(
    "--save",
    type=_FILE,
    metavar="FILE",
    help="Write what loads and attaches where as a baseline, such as kmatrix.baseline.json. If there is one and --kernels is not given, its targets are run.",
)
CHECK = click.option(
    "--check",
    type=_FILE,
    metavar="FILE",
    help="Compare the run with a baseline: exit status 1 on any difference, worse or better. If --kernels is not given, its targets are run.",
)


@dataclass(frozen=True)
class Asked:
    """What the two options ask for."""

    save: Path | None
    check: Path | None
    saved: baseline.Baseline | None
    """What is at `save` already."""
    held_to: baseline.Baseline | None
    """What is at `check`."""

    def select(
        self, room: MachineRoom, kernels: str | None, arch: str, infos: Sequence[ObjectInfo]
    ) -> tuple[list[Target], dict[str, str]]:
        """As options.select, but without --kernels it is the targets of the baseline that is checked, or saved anew.

        Raises InputError where the objects or targets cannot be held to the baseline that is checked.
        """
        known, path = self.held_to or self.saved, self.check or self.save
        if self.held_to is not None and path is not None:
            comparison.check_objects(self.held_to, path, [info.path for info in infos])
        if known is None or path is None or (kernels is not None and self.held_to is None):
            targets, missing = options.select(room, kernels, arch)
            if path is not None and (real := [str(each) for each in targets if each.kernel.host is not None]):
                fix = "name kernels, which anyone can boot"
                raise InputError(f"a baseline holds no real machine: {', '.join(real)}", where="--kernels", fix=fix)
            if self.save is not None and kernels is None:  # what moves on would differ by itself one day: it is named, or left out
                targets = [each for each in targets if not each.kernel.real.moving]
            return targets, missing
        named = kernels is not None
        if kernels is None:
            where = f"{path}: targets"
            kernels = ",".join(dict.fromkeys(room.matrix.target(name, where=where).kernel.name for name in known.targets))
        held = comparison.check_targets(known, path, room.matrix.targets(kernels, arch), named=named)
        return options.select(room, kernels, arch, only=[str(target) for target in held])


def asked(save: Path | None, check: Path | None, programs: Sequence[str]) -> Asked:
    """The two options, checked before anything runs; raises InputError where they do not go together, or a file is not what it should be."""
    if save is not None and check is not None:
        raise InputError("--save and --check do not go together", where="run", fix="check first, and save what is to be accepted")
    if programs and (save or check):
        raise InputError("a baseline holds whole objects", where="--program", fix="leave out --program, or --save and --check")
    return Asked(
        save,
        check,
        baseline.check_writable(save) if save is not None else None,
        baseline.read(check) if check is not None else None,
    )


@dataclass(frozen=True)
class Held:
    """What became of the run as a baseline, or against one."""

    text: str
    status: int
    """The exit status, where the machines did not fail."""
    json: Mapping[str, Any]


def finish(
    plan: Asked, found: Mapping[Path, Sequence[Outcome]], infos: Sequence[ObjectInfo], room: MachineRoom, *, colour: bool
) -> Held | None:
    """Save the run, or compare it; None where neither is asked for. A run in which the machines failed is not saved."""
    path = plan.save or plan.check
    if path is None:
        return None
    failed = [
        (baseline.name_of(info.path, path.parent), outcome.target)
        for info in infos
        for outcome in found[info.path]
        if outcome.infra
    ]
    outcomes = [outcome for info in infos for outcome in found[info.path]]
    releases = {o.target: room.spec(room.matrix.target(o.target)).kernel.release for o in outcomes if not o.infra}
    now = baseline.of_run(found, infos, releases, path.parent)
    if plan.held_to is not None:
        compared = comparison.compare(plan.held_to, now, [*dict.fromkeys(o.target for o in outcomes)], failed)
        status = 1 if compared.differences else 0
        return Held(report.render(compared, path, colour=colour), status, {"baseline": {"file": str(path), **asdict(compared)}})
    if failed:
        machines = ", ".join(f"{name} on {target}" for name, target in failed)
        return Held(f"{path}: not saved, since the machines failed: {machines}", 3, {"saved": None})
    baseline.write(now, path)
    return Held(report.saved(now, path, plan.saved), 0, {"saved": str(path)})
