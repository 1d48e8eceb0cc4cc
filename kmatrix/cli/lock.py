"""`kmatrix kernels lock`: hold a project to the kernels it has now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from kmatrix import kernels
from kmatrix.cli import complete, options
from kmatrix.cli.kernels import named_targets, real_targets
from kmatrix.host import cache, paths
from kmatrix.host.errors import InputError, KmatrixError
from kmatrix.host.progress import Terminal
from kmatrix.kernels.store import KernelEntry, KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix, lock_path, read_lock, write_lock
from kmatrix.matrix.lockfile import Lock, Locked, record, render
from kmatrix.matrix.selection import DEFAULT_SET, Matrix


@click.command("lock")
@click.argument("kernel", nargs=-1, shell_complete=complete.kernels)
@options.ARCH
@click.option("--update", is_flag=True, help="Fetch anew, the newest of each source, what can be fetched and is not built here.")
@click.option(
    "--check", is_flag=True, help="Write nothing; exit status 1 where kernels.lock is not up to date. No network is used."
)
@options.KERNELS_FILE
@options.JSON
def command(kernel: tuple[str, ...], arch: str, update: bool, check: bool, kernels_file: Path | None, as_json: bool) -> None:
    """Write kernels.lock, beside your kernels.toml: a run then refuses any kernel but those.

    Without KERNEL… the lock gets what it lacks of the default set, and loses what kernels.toml no longer has; with it, those kernels are
    taken into it as the store has them now. What the store lacks is fetched.
    """
    matrix, store, reporter = load_matrix(file=kernels_file), KernelStore(), Terminal()
    before = matrix.lock or Lock(lock_path(file=kernels_file))
    if check and update:
        raise InputError("--check writes nothing, and --update fetches", where="kernels lock", fix="give one of the two")
    wanted = real_targets(named_targets(matrix, kernel or (DEFAULT_SET,), arch))
    if check:
        _check(matrix, store, before, wanted, as_json)
        return
    anew = [t for t in wanted if kernel or update or (t.kernel.name, t.arch) not in before.kernels]
    missing_because = {
        str(t): kernels.availability(t.kernel, t.arch, store, asked=bool(kernel), mirrors=matrix.mirrors) for t in anew
    }
    fetchable = [t for t in anew if missing_because[str(t)] is None]
    renewed = [t for t in fetchable if update and _source_fetches(t)]
    found: dict[str, KernelEntry | KmatrixError] = {}
    for targets, replace in ((renewed, True), ([t for t in fetchable if t not in renewed], False)):
        results = kernels.obtain_all(targets, store, reporter=reporter, mirrors=matrix.mirrors, replace=replace)
        found |= {str(target): result for target, result in results}
    failed = [result for result in found.values() if isinstance(result, KmatrixError)]
    had = {target.kernel.name for target in fetchable}
    # Asked for by name; of one that this machine has for one arch only, that one is meant unless --arch says so.
    missing = [t for t in anew if t not in fetchable and (arch != "all" or t.kernel.name not in had)] if kernel else []
    if failed or missing:
        for error in failed:
            click.echo(f"kmatrix: {error}", err=True)
        for target in missing:
            click.echo(f"kmatrix: {target}: {missing_because[str(target)]}", err=True)
        click.echo(f"kmatrix: {before.path} is left as it was", err=True)
        raise click.exceptions.Exit(3)
    entries = [(t, entry) for t in fetchable if isinstance(entry := found[str(t)], KernelEntry)]
    with cache.locked(_guard(before.path), before.path.name, reporter):
        # As it is by now: another process may have taken other kernels into it meanwhile.
        before = read_lock(before.path) or Lock(before.path)
        after = Lock(before.path, _kept(before, matrix) | _recorded(entries))
        if render(after) == (before.path.read_text(encoding="utf-8") if before.path.is_file() else None):
            _print(before.path, {}, as_json, wrote=False)
            return
        write_lock(after)
    _print(after.path, _changes(before, after), as_json, wrote=True)


def _print(path: Path, changes: Mapping[str, tuple[str | None, str | None]], as_json: bool, *, wrote: bool) -> None:
    """What the lock holds otherwise than before: target → the release that it held, and the one it holds now."""
    if as_json:
        rows = [{"target": target, "before": was, "after": now} for target, (was, now) in changes.items()]
        click.echo(json.dumps({"lock": str(path), "wrote": wrote, "changes": rows}, indent=1))
    elif not wrote:
        click.echo(f"{path}: up to date")
    else:
        for target, (was, now) in changes.items():
            click.echo(f"{target}: {was or '-'} → {now or '-'}" + (" (other content)" if was == now else ""))
        click.echo(f"wrote {path}")


def _guard(path: Path) -> Path:
    """The file whose lock keeps others from writing `path`: in the cache, as it is no part of the project."""
    return paths.cache_dir("locks") / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.lock"


def _source_fetches(target: Target) -> bool:
    known = kernels.by_kind()
    return any(known[spec.kind].fetches and not known[spec.kind].slow for spec in target.kernel.sources_for(target.arch))


def _kept(lock: Lock, matrix: Matrix) -> dict[tuple[str, Arch], Locked]:
    """What stays: the kernels that kernels.toml still has, with an image of their own."""
    known = {name: matrix.find(name) for name, _ in lock.kernels}
    return {
        key: each for key, each in lock.kernels.items() if (kernel := known[each.kernel]) is not None and kernel.image_of is kernel
    }


def _recorded(entries: Iterable[tuple[Target, KernelEntry]]) -> dict[tuple[str, Arch], Locked]:
    return {
        (t.kernel.name, t.arch): record(t.kernel.name, t.arch, release=e.release, digest=e.content, source=e.source)
        for t, e in entries
    }


def _changes(before: Lock, after: Lock) -> dict[str, tuple[str | None, str | None]]:
    changes = {}
    for key in sorted({*before.kernels, *after.kernels}):
        old, new = before.kernels.get(key), after.kernels.get(key)
        if old != new:
            changes[f"{key[0]}-{key[1]}"] = (old.release if old else None, new.release if new else None)
    return changes


def _check(matrix: Matrix, store: KernelStore, lock: Lock, wanted: Iterable[Target], as_json: bool) -> None:
    """Say what is not as the lock has it; exit status 1 then."""
    if not lock.path.is_file():
        raise InputError("there is no lock", where=str(lock.path), fix="kmatrix kernels lock")
    problems = [
        f"{each.target}: is locked, and kernels.toml does not have it"
        for key, each in lock.kernels.items()
        if key not in _kept(lock, matrix)
    ]
    for target in wanted:
        key = (target.kernel.name, target.arch)
        if key not in lock.kernels:
            if kernels.availability(target.kernel, target.arch, store, mirrors=matrix.mirrors) is None:
                problems.append(f"{target}: can be had, and is not locked")
            continue
        reason = kernels.availability(target.kernel, target.arch, store, asked=True, lock=lock, mirrors=matrix.mirrors)
        if reason is not None:
            problems.append(f"{target}: {reason}")
    if as_json:
        click.echo(json.dumps({"lock": str(lock.path), "up_to_date": not problems, "problems": problems}, indent=1))
        raise click.exceptions.Exit(1 if problems else 0)
    for problem in problems:
        click.echo(problem)
    if problems:
        click.echo(f"{lock.path}: not up to date: kmatrix kernels lock", err=True)
        raise click.exceptions.Exit(1)
    click.echo(f"{lock.path}: up to date")
