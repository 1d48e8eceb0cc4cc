"""The oldest kernel for each program: by the releases upstream, and by the profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kmatrix.host.version import text as written
from kmatrix.matrix.arch import Arch
from kmatrix.objects.needs import Need, needs, oldest
from kmatrix.predict import store
from kmatrix.predict.judge import Prediction, predict
from kmatrix.predict.subject import Subject


@dataclass(frozen=True)
class Oldest:
    """One program on one arch."""

    program: str
    section: str
    arch: Arch
    since: str
    """The first release upstream that has what the program always asks for; `any` for 4.14 and older."""
    because: str
    """The feature that sets it, and its line."""
    profile: str | None
    """The oldest kernel from which on it is foreseen to load and attach on every profile; None where it is not on the newest."""
    before: str
    """What is in the way on the one before."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def of(subject: Subject, arches: Sequence[Arch]) -> list[Oldest]:
    """Each program on each arch that the object is for."""
    found = needs(subject.code)
    fitting = [arch for arch in arches if subject.code.info.compiled_for in (None, arch)]
    foreseen = {arch: [*_foreseen(subject, arch)] for arch in fitting}
    rows = []
    for number, program in enumerate(subject.programs):
        for arch in fitting:
            since, need = _release(found[program.name], arch)
            name, before = _profile([here[number] for here in foreseen[arch]])
            rows.append(Oldest(program.name, program.section, arch, since, need, name, before))
    return rows


def _foreseen(subject: Subject, arch: Arch) -> Iterator[list[Prediction]]:
    yield from predict(subject, [kernel for kernel in store.kernels() if kernel.arch == arch])


def _release(every: Sequence[Need], arch: Arch) -> tuple[str, str]:
    since, need = oldest(every, arch)
    if need is None:
        return "any", ""
    return written(since), f"{need.name}{f' ({need.line})' if need.line is not None else ''}"


def _profile(every: Sequence[Prediction]) -> tuple[str | None, str]:
    """Of the predictions of one program, oldest kernel first."""
    good: str | None = None
    for each in reversed(every):
        if not each.good:
            where = f" ({each.cause.where})" if each.cause is not None and each.cause.where else ""
            return good, f"{each.kernel}: {each.cause.headline() if each.cause is not None else each.state}{where}"
        good = each.kernel
    return good, ""
