"""The first kernel on which a collector behaves otherwise: over the releases of the matrix, or over the commits of a git tree.

What is compared is what a cell says: the behaviour observed and the class of failure. Whatever is not as on the good kernel counts as
changed. A kernel that cannot be had, built or booted says nothing and is passed over, as by `git bisect skip`. What was found out is kept
after each kernel, so an interrupted search goes on where it was.

Here is the search over releases; that over commits is in `bisect_commits`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kmatrix import kernels
from kmatrix.host import paths
from kmatrix.host.errors import InfraError, InputError, StoreError
from kmatrix.host.progress import Reporter
from kmatrix.host.version import natural
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.matrix.selection import Matrix, series_of
from kmatrix.runs import cell, cell_records, loader_files
from kmatrix.runs.machine_room import MachineRoom

SCHEMA = 1
Mark = Literal["good", "bad", "skip"]
Say = Callable[[str], None]


# --- the search, as a pure function


@dataclass(frozen=True)
class Narrowed:
    """Where the change is, by what is known: after `good`, at `bad` at the latest. `next` is the one to try; None when there is none."""

    good: int
    bad: int
    next: int | None


def narrow(marks: Sequence[Mark | None]) -> Narrowed:
    """The next of a line of kernels to try: the first is good, the last is bad, None is not yet known."""
    bad = marks.index("bad")
    good = max(at for at in range(bad) if marks[at] == "good")
    middle = (good + bad) / 2
    open_ = [at for at in range(good + 1, bad) if marks[at] is None]
    return Narrowed(good, bad, min(open_, key=lambda at: (abs(at - middle), at), default=None))


# --- what a kernel says


@dataclass(frozen=True)
class Outcome:
    """What the collector did on one kernel; `skipped` says why nothing is known of it."""

    kernel: str
    title: str
    """What a reader calls it: a target, or a commit with its subject."""
    behaviour: str | None = None
    failure: str | None = None
    reason: str = ""
    record: str = ""
    reproduce: str = ""
    skipped: str | None = None
    passing: bool = False
    """Whether it was skipped for what may be otherwise the next time (no network, a machine room in trouble): another run tries it again."""

    @property
    def shown(self) -> str:
        """In a few words."""
        if self.skipped is not None:
            return f"skipped: {self.skipped}"
        return " ".join(part for part in (self.behaviour or "no behaviour", f"({self.failure})" if self.failure else "") if part)

    def mark(self, good: Outcome) -> Mark:
        """What it is beside the good one."""
        if self.skipped is not None:
            return "skip"
        return "good" if (self.behaviour, self.failure) == (good.behaviour, good.failure) else "bad"


@dataclass(frozen=True)
class Found:
    """The end of a search: the two neighbours, and those between of which nothing is known."""

    good: Outcome
    bad: Outcome
    between: tuple[Outcome, ...] = ()
    tried: int = 0


@dataclass
class State:
    """What was found out, in a file: `question` is what was asked, by which a later run knows that it is the same."""

    path: Path
    question: Mapping[str, Any]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, question: Mapping[str, Any]) -> State:
        """The state of the same question asked before, but for what is to be tried again; or a new one.

        Raises InputError where another search was left unfinished.
        """
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["schema"] == SCHEMA and kept["question"] == question:
                outcomes = {name: Outcome(**each) for name, each in kept["outcomes"].items()}
                return cls(path, question, {name: outcome for name, outcome in outcomes.items() if not outcome.passing})
        except FileNotFoundError:
            return cls(path, question)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot be read ({error})", where=str(path), fix="begin anew: --reset") from None
        differ = [name for name in question if kept.get("question", {}).get(name) != question[name]]
        raise InputError(
            f"is of another search (other {', '.join(differ) or 'schema'})", where=str(path), fix="finish that one, or --reset it"
        )

    def keep(self, name: str, outcome: Outcome) -> Outcome:
        """Remember an outcome, on disk before anything else happens."""
        self.outcomes[name] = outcome
        text = {"schema": SCHEMA, "question": self.question, "outcomes": {k: asdict(v) for k, v in self.outcomes.items()}}
        paths.write_whole(self.path, json.dumps(text, indent=1) + "\n")
        return outcome


@dataclass(frozen=True)
class Search:
    """What both kinds of search share."""

    collector: Collector
    arch: Arch
    directory: Path
    """The kmatrix directory: records, and the search's own state."""
    accel: str
    cold: bool
    reporter: Reporter
    say: Say

    @property
    def folder(self) -> Path:
        """Where the state is."""
        return self.directory / "bisect" / f"{self.collector.name}@{self.arch}"

    def question(self, **more: object) -> dict[str, Any]:
        """What is asked; the collector by its manifest and all files that it is run from, so that one rebuilt meanwhile is another question."""
        folder = self.collector.path.parent
        objects = [folder / name for variant in self.collector.variants for name in variant.candidates(self.arch)]
        given = [folder / name for name in (self.collector.trigger.files if self.collector.trigger else ())]
        digest = hashlib.sha256(self.collector.path.read_bytes())
        for file in dict.fromkeys([*objects, *loader_files.on_host(self.collector, self.arch), *given]):
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size}\0".encode() + file.read_bytes())
        return {"collector": digest.hexdigest(), "arch": self.arch, **more}

    def reset(self) -> None:
        """Forget what was found out."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, kernel: Kernel, title: str, room: MachineRoom, options: tuple[str, ...]) -> Outcome:
        """The cell on one kernel."""
        target = Target(kernel, self.arch)
        try:
            with self.reporter.step(f"{self.collector.name}[{target}]"):
                record = cell.run(self.collector, target, room, self.directory, options=options)
        except StoreError:
            raise
        except InfraError as error:
            return Outcome(kernel.name, title, skipped=error.message, passing=True)
        path = str(cell_records.path_of(self.directory, record.collector, record.target))
        if record.failure == "infra":
            return Outcome(kernel.name, title, record=path, skipped=record.reason, passing=True)
        return Outcome(kernel.name, title, record.observed, record.failure, record.reason, path, record.reproduce)


def ends_of(state: State, names: tuple[str, str], attempt: Callable[[str], Outcome]) -> tuple[Outcome, Outcome]:
    """What the good and the bad end say. Raises where one says nothing, or both the same."""
    found = []
    for name, side in zip(names, ("--good", "--bad"), strict=True):
        outcome = state.outcomes.get(name)
        if outcome is None or outcome.skipped is not None:  # without it there is no search: whatever it was, it is tried again
            outcome = attempt(name)
        if outcome.skipped is not None:
            raise InfraError(
                f"nothing is known of this end: {outcome.skipped}", where=f"{side} {name}", fix="mend that, or choose another"
            )
        found.append(outcome)
    good, bad = found
    if bad.mark(good) == "good":
        raise InputError(
            f"behaves the same on both ends: {good.shown}", where=f"--good {names[0]}, --bad {names[1]}", fix="choose other ends"
        )
    return good, bad


# --- over releases


def line(matrix: Matrix, good: Kernel, bad: Kernel) -> list[Kernel]:
    """The kernels from `good` to `bad`, both in, in the order of their versions (backwards, where the bad one is the older).

    Variants and distributions' kernels are left out (no version says what was ported back), and simulated releases too unless an end is
    simulated.
    """
    simulated = good.simulation is not None or bad.simulation is not None
    low, high = sorted((good.version, bad.version))
    if low == high:
        raise InputError("are of the same version", where=f"--good {good.name}, --bad {bad.name}", fix="choose two releases")
    between = [
        kernel
        for kernel in matrix.kernels.values()
        if low < kernel.version < high
        and kernel.flavour_of is None
        and kernel.distribution is None
        and (kernel.simulation is None or (simulated and kernel.simulation.as_of is not None))
    ]
    between.sort(key=lambda kernel: kernel.version, reverse=bad.version < good.version)
    return [good, *between, bad]


def points(matrix: Matrix, good: str, bad: str, had: Sequence[str]) -> list[Kernel]:
    """The point releases from `good` to `bad` of one series, both in, in order: those between of `had`."""
    if good == bad:
        raise InputError("are the same release", where=f"--good {good}, --bad {bad}", fix="choose two releases")
    low, high = sorted((natural(good), natural(bad)))
    between = [name for name in had if low < natural(name) < high]
    names = sorted({good, *between, bad}, key=natural, reverse=natural(bad) < natural(good))
    return [matrix.kernel(name, where="--good, --bad") for name in names]


def _line(search: Search, matrix: Matrix, good: str, bad: str, room: MachineRoom) -> list[Kernel]:
    """The kernels to search: the point releases of one series, or the series of the matrix."""
    ends = matrix.kernel(good, where="--good"), matrix.kernel(bad, where="--bad")
    series = series_of(good), series_of(bad)
    if series[0] is not None and series[0] == series[1]:
        had = kernels.point_releases(ends[0], search.arch, room.store, reporter=search.reporter, mirrors=matrix.mirrors)
        chosen = points(matrix, good, bad, had)
        search.say(f"point releases of {series[0]} that can be had: {', '.join(kernel.name for kernel in chosen)}")
        return chosen
    if (bad if series[0] else good) in series:  # 6.1.172 and 6.1: the latter is whatever is the newest, and no version says which
        raise InputError(
            f"{bad if series[0] else good} is no one release", where=f"--good {good}, --bad {bad}", fix="name two point releases"
        )
    return line(matrix, *ends)


def releases(search: Search, matrix: Matrix, good: str, bad: str, kernels_file: Path | None) -> Found:
    """The first release of the matrix, from `good` on towards `bad`, on which the collector behaves otherwise.

    Where both are point releases of one series, it is the first of those that the archive or the store has.
    """
    room = MachineRoom(matrix, accel=search.accel, cold=search.cold, reporter=search.reporter)
    chosen = _line(search, matrix, good, bad, room)
    names = [kernel.name for kernel in chosen]
    state = State.load(search.folder / "state.json", search.question(good=good, bad=bad, kernels=names))
    chosen_options = options(search, kernels_file)
    by_name = {kernel.name: kernel for kernel in chosen}

    def attempt(name: str) -> Outcome:
        target = Target(by_name[name], search.arch)
        reason = kernels.availability(
            target.kernel, target.arch, room.store, asked=name in (good, bad), lock=matrix.lock, mirrors=matrix.mirrors
        )
        if reason is not None:
            return state.keep(name, Outcome(name, str(target), skipped=reason, passing=True))
        return state.keep(name, search.run(by_name[name], str(target), room, chosen_options))

    first, last = ends_of(state, (good, bad), attempt)
    search.say(f"good  {first.title}: {first.shown}")
    search.say(f"bad   {last.title}: {last.shown}")
    while True:
        known = [state.outcomes.get(name) for name in names]
        marks: list[Mark | None] = [outcome.mark(first) if outcome else None for outcome in known]
        at = narrow(marks)
        if at.next is None:
            break
        outcome = attempt(names[at.next])
        left = sum(mark is None for mark in marks[at.good + 1 : at.bad]) - 1
        search.say(f"{outcome.mark(first):5} {outcome.title}: {outcome.shown}  ({left} more between the two)")
    between = tuple(state.outcomes[name] for name in names[at.good + 1 : at.bad])
    return Found(state.outcomes[names[at.good]], state.outcomes[names[at.bad]], between, len(state.outcomes))


def options(search: Search, kernels_file: Path | None) -> tuple[str, ...]:
    """The options by which a user runs one of the search's cells again."""
    chosen = [f"--accel={search.accel}"] if search.accel != "auto" else []
    chosen += ["--cold"] if search.cold else []
    chosen += [f"--kernels-file={kernels_file}"] if kernels_file is not None else []
    return tuple(chosen)
