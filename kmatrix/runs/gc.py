"""What the cache holds that nobody needs: found, sized, and removed one by one.

Not needed is what no kernels.toml or kernels.lock in force refers to, what cannot be used again (a snapshot of a kernel or image that is
gone), and what was left half-done. The cache may be shared with other projects, whose files are not known here: so what was used lately
stays as well, and what a running process uses stays in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError
from kmatrix.kernels import identity
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.selection import Matrix
from kmatrix.vm.guest_image import ImageStore

DAYS = 7.0
"""What was used within so many days is kept, unless it cannot be used again."""
_BUILDING = 1 / 24
"""Days within which a build that goes on has written to its log."""


@dataclass(frozen=True)
class Item:
    """Something that can go."""

    name: str
    size: int
    why: str
    remove: Callable[[], bool]
    """Remove it, unless a process uses it: says whether it is gone."""


def items(matrix: Matrix, days: float = DAYS) -> Iterator[Item]:
    """What can go. Snapshots come last: one may have lost its kernel or image to what was yielded before."""
    yield from _kernels(matrix, days)
    yield from _images(days)
    yield from _downloads(days)
    yield from _work(days)
    yield from _snapshots(days)


def _kernels(matrix: Matrix, days: float) -> Iterator[Item]:
    store = KernelStore()
    held = {locked.digest for locked in matrix.lock.kernels.values()} if matrix.lock is not None else set()
    for name, arch in store.refs():
        folder = store.folder(name, arch)
        if folder is None or not folder.is_dir():  # a damaged ref, or one whose files are gone: it says nothing any more

            def forget(name: str = name, arch: Arch = arch) -> bool:
                return store.remove(name, arch)

            yield Item(f"kernel {name}-{arch}", 0, "damaged: its files are not known", forget)
            continue
        if cache.idle_days(folder) < days:
            continue
        size = _size(folder)
        try:
            entry = store.find(name, arch)
            if entry is not None and (entry.content in held or _meant(matrix, name, arch, entry)):
                continue
        except InfraError:  # a damaged one goes, unless kernels.toml has it: then who uses it is told
            if matrix.find(name) is not None:
                continue

        def remove(name: str = name, arch: Arch = arch, folder: Path = folder) -> bool:
            with cache.unused(folder) as free:
                return free and store.remove(name, arch)

        yield Item(f"kernel {name}-{arch}", size, f"in no kernels.toml or lock, {_idle(folder)}", remove)
    for folder in store.orphans():

        def remove_orphan(folder: Path = folder) -> bool:
            with cache.unused(folder) as free:
                return free and store.remove_orphan(folder)

        yield Item(f"kernel files {folder.name[:12]}…", _size(folder), "no kernel has them", remove_orphan)


def _meant(matrix: Matrix, name: str, arch: Arch, entry: KernelEntry) -> bool:
    """Whether kernels.toml means this one by a name of its own; or by one that it has because another project's has that name."""
    named = [matrix.find(name)]
    named += [kernel for kernel in matrix.kernels.values() if identity.is_beside(name, kernel.name)]
    return any(kernel is not None and identity.differs(kernel, arch, entry) is None for kernel in named)


def _images(days: float) -> Iterator[Item]:
    store = ImageStore()
    for image in store.entries():
        if store.in_use(image) or cache.idle_days(image.folder) < days:
            continue

        def remove(image=image) -> bool:  # type: ignore[no-untyped-def]
            with cache.unused(image.folder) as free:
                if free:
                    store.remove(image)
                return free

        yield Item(f"guest image {image.folder.name}", _size(image.folder), f"of another recipe, {_idle(image.folder)}", remove)


def _downloads(days: float) -> Iterator[Item]:
    folder = paths.cache_dir("downloads")
    for path in sorted(folder.iterdir()):
        if path.suffix in (".lock", ".json") or cache.idle_days(path) < days:
            continue
        stem = path.name.removesuffix(".part")
        why = "not finished" if path.suffix == ".part" else "kept to be used again"

        def remove(path: Path = path, stem: str = stem) -> bool:
            try:
                with cache.locked(folder / f"{stem}.lock", stem, limit=0):
                    path.unlink(missing_ok=True)
                    (folder / f"{stem}.json").unlink(missing_ok=True)
                    return True
            except cache.Busy:
                return False

        yield Item(f"download {stem[:24]}…", _size(path), f"{why}, {_idle(path)}", remove)


def _work(days: float) -> Iterator[Item]:
    """Logs of builds, what searches over commits were built in, and loaders."""
    for kind, what in (("builds", "build log"), ("bisect", "bisect's clone and build"), ("loaders", "loader")):
        for path in sorted(paths.cache_dir(kind).iterdir()):
            if path.name == "tmp" or path.suffix == ".lock":
                continue
            # The log of a build under way grows all the time.
            if cache.idle_days(path) < max(days, 0 if path.is_dir() else _BUILDING):
                continue

            def remove(path: Path = path) -> bool:
                if path.is_dir():
                    return cache.remove_unused(path)
                path.unlink(missing_ok=True)
                return True

            yield Item(f"{what} {path.name}", _size(path), _idle(path), remove)


def _snapshots(days: float) -> Iterator[Item]:
    kernels = {folder.name for folder in paths.cache_dir("kernels").iterdir()}
    images = {image.digest for image in ImageStore().entries()}
    for folder in sorted(paths.cache_dir("snapshots").glob("*-*/*/")):
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            usable = manifest["kernel"]["digest"] in kernels and manifest["image"] in images
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if usable and cache.idle_days(folder) < days:
            continue

        def remove(folder: Path = folder) -> bool:
            return cache.remove_unused(folder)

        why = _idle(folder) if usable else "its kernel or guest image is gone"
        yield Item(f"snapshot {folder.parent.name}/{folder.name[:8]}", _size(folder), why, remove)


def _idle(path: Path) -> str:
    days = cache.idle_days(path)
    return f"last used {days:.0f} days ago" if days >= 1 else "used today"


def _size(path: Path) -> int:
    """Bytes on the disk: a snapshot's memory is mostly holes."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):  # gone, or renamed, since it was listed
            total += file.stat(follow_symlinks=False).st_blocks * 512 if not file.is_dir() else 0
    return total
