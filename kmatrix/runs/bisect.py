"""The first kernel on which a collector behaves otherwise: over the releases of the matrix, or over the commits of a git tree.

What is compared is what a cell says: the behaviour observed and the class of failure. Whatever is not as on the good kernel counts as
changed. A kernel that cannot be had, built or booted says nothing and is passed over, as by `git bisect skip`. What was found out is kept
after each kernel, so an interrupted search goes on where it was.

Commits are git's own business: a clone that shares the tree's objects, and `git bisect` in it. The tree itself is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kmatrix import kernels
from kmatrix.host import cache, paths
from kmatrix.host import version as versions
from kmatrix.host.errors import InfraError, InputError, KmatrixError, StoreError, Unavailable
from kmatrix.host.progress import Reporter
from kmatrix.kernels import build
from kmatrix.kernels.store import KernelStore
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.selection import Matrix
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


def _ends(state: State, names: tuple[str, str], attempt: Callable[[str], Outcome]) -> tuple[Outcome, Outcome]:
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
        and kernel.variant_of is None
        and kernel.distribution is None
        and (kernel.simulation is None or (simulated and kernel.simulation.as_of is not None))
    ]
    between.sort(key=lambda kernel: kernel.version, reverse=bad.version < good.version)
    return [good, *between, bad]


def releases(search: Search, matrix: Matrix, good: str, bad: str, kernels_file: Path | None) -> Found:
    """The first release of the matrix, from `good` on towards `bad`, on which the collector behaves otherwise."""
    chosen = line(matrix, matrix.kernel(good, where="--good"), matrix.kernel(bad, where="--bad"))
    names = [kernel.name for kernel in chosen]
    room = MachineRoom(matrix, accel=search.accel, cold=search.cold, reporter=search.reporter)
    state = State.load(search.folder / "state.json", search.question(good=good, bad=bad, kernels=names))
    options = _options(search, kernels_file)
    by_name = {kernel.name: kernel for kernel in chosen}

    def attempt(name: str) -> Outcome:
        target = Target(by_name[name], search.arch)
        reason = kernels.availability(
            target.kernel, target.arch, room.store, asked=name in (good, bad), lock=matrix.lock, mirrors=matrix.mirrors
        )
        if reason is not None:
            return state.keep(name, Outcome(name, str(target), skipped=reason, passing=True))
        return state.keep(name, search.run(by_name[name], str(target), room, options))

    first, last = _ends(state, (good, bad), attempt)
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


def _options(search: Search, kernels_file: Path | None) -> tuple[str, ...]:
    chosen = [f"--accel={search.accel}"] if search.accel != "auto" else []
    chosen += ["--cold"] if search.cold else []
    chosen += [f"--kernels-file={kernels_file}"] if kernels_file is not None else []
    return tuple(chosen)


# --- over commits


@dataclass(frozen=True)
class Recipe:
    """How the commits are built."""

    tree: Path
    fragments: tuple[Path, ...] = ()
    variants: tuple[str, ...] = ()
    jobs: int | None = None

    @property
    def digest(self) -> str:
        """What tells images of the same commit apart."""
        parts = [*self.variants, *(path.read_text(errors="replace") for path in self.fragments)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def commits(search: Search, recipe: Recipe, good: str, bad: str) -> Found:
    """The first commit of a git tree, from `good` on towards `bad`, whose kernel makes the collector behave otherwise."""
    work = _work(search, recipe.tree)
    ends = {name: _commit(recipe.tree, ref, side) for name, ref, side in (("good", good, "--good"), ("bad", bad, "--bad"))}
    _check_ancestry(recipe.tree, good, bad)
    state = State.load(search.folder / "state.json", search.question(tree=str(recipe.tree.resolve()), recipe=recipe.digest, **ends))
    with _alone(work, fresh=not state.outcomes):
        return _walk(search, recipe, state, ends, work)


def _work(search: Search, tree: Path) -> Path:
    """Where the clone and the build of a search are."""
    return paths.cache_dir("bisect") / hashlib.sha256(f"{tree.resolve()} {search.folder}".encode()).hexdigest()[:16]


@contextlib.contextmanager
def _alone(work: Path, *, fresh: bool) -> Iterator[None]:
    """The folder of a search, for this process only; `fresh` empties it. Raises InfraError where another is at work in it."""
    work.mkdir(parents=True, exist_ok=True)
    cache.hold(work)
    try:
        with cache.locked(work / "lock", "bisect", limit=0):
            for path in work.iterdir() if fresh else ():
                if path.name != "lock":
                    shutil.rmtree(path)
            yield
    except cache.Busy:
        raise InfraError("another process is at this search", where=str(work), fix="wait for it, or end it") from None


def _walk(search: Search, recipe: Recipe, state: State, ends: Mapping[str, str], work: Path) -> Found:
    git = _Clone(work, recipe.tree)
    declared: dict[str, str] = {}

    def attempt(commit: str) -> Outcome:
        git.checkout(commit)
        title = git("log", "-1", "--format=%h %s", commit).strip()
        name = f"bisect.{commit[:12]}.{recipe.digest}"
        try:
            declared[name] = versions.text(versions.series(build.tree_version(git.source)) or (0, 0))
            _declare(search.folder / "kernels.toml", declared)
            matrix = load_matrix(file=search.folder / "kernels.toml")
            kernel = matrix.kernel(name)
            wanted = build.Recipe(git.source, search.arch, recipe.fragments, recipe.jobs, recipe.variants, work / "build")
            KernelStore().add(
                name, search.arch, lambda into: build.stage(wanted, kernel, into, search.reporter), reporter=search.reporter
            )
        except StoreError:
            raise
        except KmatrixError as error:
            return state.keep(commit, Outcome(name, title, skipped=error.message, passing=isinstance(error, Unavailable)))
        room = MachineRoom(matrix, accel=search.accel, cold=search.cold, reporter=search.reporter)
        return state.keep(commit, search.run(kernel, title, room, _options(search, search.folder / "kernels.toml")))

    for outcome in state.outcomes.values():
        if outcome.skipped is None:
            declared[outcome.kernel] = _declared(search.folder / "kernels.toml", outcome.kernel)
    first, last = _ends(state, (ends["good"], ends["bad"]), attempt)
    search.say(f"good  {first.title}: {first.shown}")
    search.say(f"bad   {last.title}: {last.shown}")
    git.start(ends["bad"], ends["good"])
    while (commit := git.current()) is not None:
        outcome = state.outcomes.get(commit) or attempt(commit)
        mark = outcome.mark(first)
        left = git.mark(mark, commit)
        search.say(f"{mark:5} {outcome.title}: {outcome.shown}" + (f"  ({left})" if left else ""))
    found = git.first_bad()
    parent = git("rev-parse", f"{found}^").strip()
    between = tuple(state.outcomes[commit] for commit in git.skipped() if commit in state.outcomes)
    before = state.outcomes.get(parent)
    good_one = before if before is not None and before.mark(first) == "good" else first
    return Found(good_one, state.outcomes[found], between, len(state.outcomes))


def _declare(path: Path, versions: Mapping[str, str]) -> None:
    """A kernels.toml with the kernels that were built, by which their cells can be run again."""
    entries = [
        f'[kernels."{name}"]\nversion = "{version}"\nsources = [{{ kind = "build" }}]\n' for name, version in versions.items()
    ]
    paths.write_whole(path, "\n".join(["# The kernels of a `kmatrix bisect`.\nschema = 1\n", *entries]))


def _declared(path: Path, name: str) -> str:
    return versions.text(load_matrix(file=path).kernel(name).version)


def _commit(tree: Path, ref: str, side: str) -> str:
    if not (tree / ".git").exists():
        raise InputError("is no git tree", where=f"--tree {tree}", fix="give a clone of the kernel's repository")
    done = _git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if done.returncode != 0:
        raise InputError(f"{tree} has no commit {ref!r}", where=side, fix=f"git -C {tree} log")
    return done.stdout.strip()


def _check_ancestry(folder: Path, good: str, bad: str) -> None:
    """Raises InputError unless the good commit is one of those that led to the bad one: git would ask for their merge base for ever."""
    if _git(folder, "merge-base", "--is-ancestor", f"{good}^{{commit}}", f"{bad}^{{commit}}").returncode == 0:
        return
    base = _git(folder, "merge-base", good, bad).stdout.strip()
    if base and base == _git(folder, "rev-parse", f"{bad}^{{commit}}").stdout.strip():
        fix = "exchange the two: the good one comes after the bad one, and the change between them is the same"
    elif base:
        fix = f"try the last commit that they share, which may be good: --good {base[:12]}"
    else:
        fix = "choose two commits of one history (of a shallow clone: git fetch --unshallow)"
    raise InputError("the good commit is no ancestor of the bad one", where=f"--good {good}, --bad {bad}", fix=fix)


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("git")
    if binary is None:
        raise InfraError("git is not installed", fix="apt-get install git")
    return subprocess.run(
        [binary, "-C", str(folder), "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )


class _Clone:
    """A clone that shares the objects of the user's tree, with `git bisect` under way in it; its build folder beside the source.

    Whatever a git that was killed left behind is of no consequence: this process alone is at work there.
    """

    def __init__(self, work: Path, tree: Path) -> None:
        self.source = work / "source"
        if (self.source / ".git").exists():
            (self.source / ".git/index.lock").unlink(missing_ok=True)
            return
        half = work / "source.half"
        shutil.rmtree(half, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        done = _git(work, "clone", "--quiet", "--shared", "--no-checkout", str(tree.resolve()), str(half))
        if done.returncode != 0:
            raise InfraError(f"git says: {done.stderr.strip()}", where=str(tree), fix=f"git -C {tree} fsck")
        half.rename(self.source)

    def __call__(self, *arguments: str) -> str:
        done = _git(self.source, *arguments)
        if done.returncode != 0:
            raise InfraError(
                f"git {arguments[0]} failed: {(done.stderr or done.stdout).strip()}", where=str(self.source), fix="--reset"
            )
        return done.stdout

    def checkout(self, commit: str) -> None:
        """Have the commit's files in the source folder; those that do not differ are not touched, so make does not compile them again."""
        self("checkout", "--quiet", "--detach", "--force", commit)

    def start(self, bad: str, good: str) -> None:
        """Begin, also where an earlier run had begun: what that found out is known, and told to git again."""
        _check_ancestry(self.source, good, bad)
        self("bisect", "reset")
        done = _git(self.source, "bisect", "start", "--no-checkout", bad, good)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(f"git says: {said[0] if said else '?'}", where="--good, --bad", fix="choose other ends")

    def current(self) -> str | None:
        """The commit to try; None when the search is over."""
        log = (self.source / ".git/BISECT_LOG").read_text()
        if "# first bad commit:" in log or "# only skipped commits left" in log:
            return None
        return self("rev-parse", "BISECT_HEAD").strip()

    def mark(self, mark: Mark, commit: str) -> str:
        """Tell git; what it says of how many are left."""
        done = _git(self.source, "bisect", mark, commit)
        if done.returncode != 0 and self.current() is not None:  # 2 where only skipped ones are left, which is an end
            said = (done.stderr or done.stdout).strip().splitlines()
            raise InfraError(f"git bisect {mark} failed: {said[0] if said else '?'}", where=str(self.source), fix="--reset")
        match = re.search(r"\((roughly \d+ steps?)\)", done.stdout)
        return match[1] if match else ""

    def first_bad(self) -> str:
        """The first commit known to be bad."""
        return self("rev-parse", "refs/bisect/bad").strip()

    def skipped(self) -> list[str]:
        """The commits passed over that may be the first bad one as well."""
        log = (self.source / ".git/BISECT_LOG").read_text()
        possible = re.findall(r"^# possible first bad commit: \[([0-9a-f]+)\]", log, re.MULTILINE)
        return [commit for commit in possible if commit != self.first_bad()]


def reset_commits(search: Search, tree: Path) -> None:
    """Forget a search over commits, its clone and its kernels too."""
    shutil.rmtree(_work(search, tree), ignore_errors=True)
    store = KernelStore()
    for name, arch in store.refs():
        if name.startswith("bisect.") and arch == search.arch and _is_declared(search.folder / "kernels.toml", name):
            store.remove(name, arch)


def _is_declared(path: Path, name: str) -> bool:
    with contextlib.suppress(OSError):
        return f'"{name}"' in path.read_text(encoding="utf-8")
    return False
