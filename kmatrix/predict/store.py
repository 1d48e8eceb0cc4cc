"""The profiles at hand: those that are shipped, and those of this machine (`kmatrix profiles add`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.paths import cache_dir
from kmatrix.host.version import natural
from kmatrix.predict import pack
from kmatrix.predict.kernel import Kernel
from kmatrix.predict.pack import Contents, Meta, Pack

SHIPPED = Path(__file__).parent / "profiles" / "shipped.kmp"
"""The kernels that this project boots."""


def own() -> Path:
    """The file of this machine's profiles: in $KMATRIX_PROFILES, else in the cache."""
    given = os.environ.get("KMATRIX_PROFILES")
    return Path(given) if given else cache_dir("profiles") / "own.kmp"


@lru_cache(maxsize=8)
def opened(path: Path) -> Pack:
    """The file of profiles, read once."""
    return Pack(path)


def shipped() -> list[Kernel]:
    """The profiles of the kernels that this project boots, oldest kernel first."""
    return [kernel for kernel in kernels() if kernel.pack.path == SHIPPED]


def kernels() -> list[Kernel]:
    """Every profile, oldest kernel first. One of this machine hides the shipped one of the same name."""
    found: dict[str, Kernel] = {}
    for path in (SHIPPED, own()):
        if path.exists():
            here = opened(path)
            found |= {meta["name"]: Kernel(here, number) for number, meta in enumerate(here.metas)}
    return sorted(found.values(), key=lambda kernel: (kernel.version, natural(kernel.meta["kernel"]), kernel.arch != "x86_64"))


def named(name: str, where: str = "KERNEL") -> Kernel:
    """The profile of that name. Raises InputError, with the nearest names."""
    every = {kernel.name: kernel for kernel in kernels()}
    if name not in every:
        raise InputError(
            f"there is no profile {name!r}{did_you_mean(name, every)}", where=where, fix="kmatrix profiles list has them all"
        )
    return every[name]


def add(parts: Sequence[tuple[Meta, Contents]], path: Path | None = None) -> Path:
    """Put profiles into a file of them (this machine's), in the place of those of the same names; the file's path."""
    target = path or own()
    before: list[tuple[Meta, Contents]] = []
    names = {meta["name"] for meta, _ in parts}
    if target.exists():
        here = Pack(target)
        before = [(meta, pack.contents(here, number)) for number, meta in enumerate(here.metas) if meta["name"] not in names]
    pack.write(target, *pack.merged([*before, *parts]))
    opened.cache_clear()
    return target


def remove(name: str) -> None:
    """Take a profile out of this machine's. Raises InputError where it is not among them."""
    target = own()
    here = Pack(target) if target.exists() else None
    kept = (
        [(meta, pack.contents(here, number)) for number, meta in enumerate(here.metas) if meta["name"] != name]
        if here is not None
        else []
    )
    if here is None or len(kept) == len(here.metas):
        raise InputError(
            f"this machine has no profile {name!r} of its own", where="NAME", fix="kmatrix profiles list says whose each is"
        )
    if kept:
        pack.write(target, *pack.merged(kept))
    else:
        target.unlink()
    opened.cache_clear()
