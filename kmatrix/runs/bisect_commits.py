"""The first commit of a git tree on which a collector behaves otherwise.

Commits are git's own business: a clone that shares the tree's objects, and `git bisect` in it. The tree itself is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kmatrix.host import cache, paths
from kmatrix.host import version as versions
from kmatrix.host.errors import InfraError, InputError, KmatrixError, StoreError, Unavailable
from kmatrix.kernels import build
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.bisect import Found, Mark, Outcome, Search, State, ends_of, options
from kmatrix.runs.machine_room import MachineRoom


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
        return state.keep(commit, search.run(kernel, title, room, options(search, search.folder / "kernels.toml")))

    for outcome in state.outcomes.values():
        if outcome.skipped is None:
            declared[outcome.kernel] = _declared(search.folder / "kernels.toml", outcome.kernel)
    first, last = ends_of(state, (ends["good"], ends["bad"]), attempt)
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
