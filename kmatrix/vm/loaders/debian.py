"""Packages of the guest image's Debian suite, fetched once: for files in the guest, and for what is built for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host import cache, paths
from kmatrix.host.errors import Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.vm.image_recipe import Recipe

if TYPE_CHECKING:
    from kmatrix.fetch import apt
else:
    apt = later("kmatrix.fetch.apt")


def place(name: str, arch: Arch) -> Path:
    """Where the package's file is in the cache, once it was fetched."""
    return paths.cache_dir("packages") / f"{Recipe.load().data.suite}-{arch}-{name}.deb"


def package(
    name: str, arch: Arch, *, mirrors: Mapping[str, str] | None = None, reporter: Reporter | None = None, where: str | None = None
) -> Path:
    """The package's file in the cache: fetched once, verified from the suite's signature down, and kept.

    Raises Unavailable where the suite has none, InfraError where it cannot be fetched.
    """
    suite_name, reporter, kept = Recipe.load().data.suite, reporter or Quiet(), place(name, arch)
    folder = kept.parent
    with cache.locked(folder / f".{kept.name}.lock", kept.name, reporter):
        if kept.exists():
            return kept
        with reporter.step(f"fetching Debian {suite_name}'s {name} for {arch}") as step, cache.staging(folder) as scratch:
            suite = apt.open_suite(suite_name, mirror=(mirrors or {}).get("debian"))
            found = suite.find(INFO[arch].debian, name.replace("+", r"\+").replace(".", r"\."))
            if not found:
                raise Unavailable(f"Debian {suite_name} has no package {name} for {INFO[arch].debian}", where=where)
            fresh = scratch / kept.name
            suite.download(found[0], fresh, advance=step.advance)
            fresh.replace(kept)
    return kept
