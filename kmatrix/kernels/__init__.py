"""Kernels: the store of bootable ones (`store`), and the sources they come from, one module a source."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kmatrix.fetch import network
from kmatrix.host import cache
from kmatrix.host import version as versions
from kmatrix.host.errors import InfraError, InputError, KmatrixError, StoreError, Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter, Stoppable
from kmatrix.host.threads import results
from kmatrix.kernels import identity
from kmatrix.kernels.entry import KernelEntry, StagedKernel
from kmatrix.kernels.layout import check_flavour, check_series
from kmatrix.kernels.store import KernelStore
from kmatrix.kernels.trust import expand, pinned
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec, Target
from kmatrix.matrix.lockfile import Lock, Locked

if TYPE_CHECKING:
    from kmatrix.fetch import apt, download
else:
    apt, download = later("kmatrix.fetch.apt"), later("kmatrix.fetch.download")

__all__ = [
    "KernelEntry",
    "KernelStore",
    "Source",
    "StagedKernel",
    "availability",
    "by_kind",
    "find",
    "hints",
    "obtain",
    "obtain_all",
    "origin",
    "point_releases",
    "same_series",
]


class Source(Protocol):
    """Where kernels come from; `kind` is its name in kernels.toml.

    What `stage` returns says in its `source` where every byte came from: see `trust.provenance`.
    """

    kind: str
    fetches: bool
    """Whether it can get a kernel by itself; otherwise the user has to give it something, with the command that `hint` says."""
    slow: bool
    """Whether it takes minutes (it builds): not done unless the kernel is asked for by name."""

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:
        """The command that gets `kernel` for `arch` from this source."""

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Lay the kernel out in the empty folder `into` (boot/, lib/modules/, modules.ext4). Raises a KmatrixError.

        Its own working files go beside `into`, and are gone with it.
        """


_KINDS = {
    "debian": "sources.debian:DebianSource",
    "oci": "sources.oci:OciSource",
    "package": "sources.package:PackageSource",
    "mainline": "sources.mainline:MainlineSource",
    "tarball": "sources.tarball:TarballSource",
    "git": "sources.git:GitSource",
    "import": "sources.imported:ImportSource",
    "build": "build:BuildSource",
}
"""Each kind of source: its module below this room, and its class. Most runs need none of them: what they take is in the store."""


class Sources(Mapping[str, Source]):
    """The sources by kind, each imported when it is asked for."""

    def __init__(self, mirrors: Mapping[str, str]) -> None:
        self._mirrors = mirrors

    def __getitem__(self, kind: str) -> Source:
        module, _, name = _KINDS[kind].partition(":")
        made = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        source: Source = made(self._mirrors.get("debian")) if kind == "debian" else made()
        return source

    def __iter__(self) -> Iterator[str]:
        return iter(_KINDS)

    def __len__(self) -> int:
        return len(_KINDS)


def by_kind(mirrors: Mapping[str, str] | None = None) -> Sources:
    """The sources by kind; `mirrors` as in kernels.toml."""
    return Sources(mirrors or {})


def origin(source: Mapping[str, Any]) -> str:
    """What a kernel in the store came from, in a few words; `source` is its entry's. An entry of a kind that is not known says so."""
    known = by_kind().get(str(source.get("kind")))
    return known.origin(source) if known is not None else f"a source of kind {source.get('kind')!r}"


def obtain(
    kernel: Kernel,
    arch: Arch,
    store: KernelStore,
    *,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None = None,
    lock: Lock | None = None,
    replace: bool = False,
) -> KernelEntry:
    """The kernel from the store, or else from the first of its sources that has it; why others before it did not is in its notes.

    One that the store has by that name and kernels.toml does not mean (see `meant`) is left there, for the project that does.
    Raises what the only source raised; of several, Unavailable with what each said and the command that gets the kernel, or InfraError
    where one of them was more than unavailable (a bad signature). A full disk or a damaged entry ends it at once. With `replace` it is
    fetched anew. With `lock` it is the one that the lock holds it to, or an error: InputError where the lock does not have it.
    """
    kernel = kernel.image_of
    while True:
        if replace or (entry := find(kernel, arch, store, lock)) is None:
            entry = _get(kernel, arch, store, reporter, mirrors, lock, replace=replace)
        # Else removed (`kmatrix kernels gc`) since it was found, or another project was quicker to put its own under the name.
        if entry is not None and cache.hold(entry.path):
            return entry


def _get(
    kernel: Kernel,
    arch: Arch,
    store: KernelStore,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None,
    lock: Lock | None,
    *,
    replace: bool,
) -> KernelEntry | None:
    """The kernel from the first of its sources that has it; None where the store has another by its name since it was looked for."""
    locked = lock.held(kernel.name, arch) if lock is not None else None
    known = by_kind(mirrors)
    network.use_mirrors(mirrors or {})
    failed: list[tuple[SourceSpec, KmatrixError]] = []
    other = _other(kernel, arch, store, locked, replace=replace)
    made = False
    for spec in kernel.sources_for(arch) if locked is None else _locked_to(kernel, locked):
        source = known[spec.kind]
        if not source.fetches:
            given = _given_by(source, spec, kernel, arch, other)
            if lock is not None and locked is not None and other is not None:
                lock.check(locked, other.content, other.release, "the one in the store", given)
            failed.append((spec, Unavailable("nothing given yet", fix=given)))
            continue

        def stage(into: Path, source: Source = source, spec: SourceSpec = spec) -> StagedKernel:
            nonlocal made
            made = True
            staged = same_series(kernel, source.stage(spec, kernel, arch, into, reporter))
            if lock is not None and locked is not None:
                lock.check_files(locked, staged.source.get("artifacts", ()))
            passed = tuple(f"passed over {_said(*each)}" for each in failed if known[each[0].kind].fetches)
            return dataclasses.replace(staged, notes=(*staged.notes, *passed))

        def accept(staged: KernelEntry, spec: SourceSpec = spec) -> None:
            if lock is not None and locked is not None:
                lock.check(locked, staged.content, staged.release, f"what {spec.kind} has")

        # The store is shared with projects that mean something else by the name, or hold it to something else: theirs stays.
        name = kernel.name
        if other is not None:
            name = identity.beside(kernel, spec) if locked is None else f"{kernel.name}.{locked.digest[:12]}"
        expect = lock.expect(locked) if lock is not None and locked is not None else None
        try:
            with download.working_for(reporter, expect):
                entry = store.add(name, arch, stage, replace=replace, accept=accept, reporter=reporter)
            return entry if made or name != kernel.name or find(kernel, arch, store, lock) is not None else None
        except StoreError:
            raise
        except KmatrixError as error:
            failed.append((spec, error))
    outcome = _all_failed(kernel, arch, failed, other)
    if lock is not None and locked is not None and isinstance(outcome, Unavailable):
        raise lock.gone(locked, outcome)
    raise outcome


def find(kernel: Kernel, arch: Arch, store: KernelStore, lock: Lock | None = None, *, whole: bool = True) -> KernelEntry | None:
    """The store's entry that kernels.toml means by the kernel's name; with `lock` the one that it holds it to, whatever its name there.

    Raises InputError where the lock does not have it. `whole` as in KernelStore.find.
    """
    kernel = kernel.image_of
    if lock is None:
        return identity.find(kernel, arch, store, whole=whole)
    locked, entry = lock.held(kernel.name, arch), store.find(kernel.name, arch, whole=whole)
    if entry is not None and entry.content == locked.digest:
        return entry
    return store.find_content(locked.digest, arch)


def point_releases(
    kernel: Kernel, arch: Arch, store: KernelStore, *, reporter: Reporter, mirrors: Mapping[str, str] | None = None
) -> list[str]:
    """The point releases of the kernel's series that can be had, oldest first: those of its Debian suites, and those in the store.

    `kernel` is one point release (6.1.172). A suite that the archive does not have, or that cannot be reached, adds none. Raises InfraError
    for a bad signature.
    """
    from kmatrix.kernels.sources.debian import DebianSource

    series = versions.text(kernel.version)
    found = {name for name, each in store.refs() if each == arch and re.fullmatch(rf"{re.escape(series)}\.\d+", name)}
    debian = DebianSource((mirrors or {}).get("debian"))
    for spec in kernel.sources_for(arch):
        if spec.kind == debian.kind and (not network.offline() or _on_disk(spec, arch, mirrors or {})):
            with contextlib.suppress(Unavailable):
                found |= debian.releases(spec, arch, reporter)
    return sorted(found, key=versions.natural)


def _other(kernel: Kernel, arch: Arch, store: KernelStore, locked: Locked | None, *, replace: bool) -> KernelEntry | None:
    """What the store has by the kernel's name where that is another project's kernel."""
    try:
        entry = store.find(kernel.name, arch)
    except StoreError:
        if replace:  # is to mend that
            return None
        raise
    if entry is None:
        return None
    ours = identity.differs(kernel, arch, entry) is None if locked is None else entry.content == locked.digest
    return None if ours else entry


def _given_by(source: Source, spec: SourceSpec, kernel: Kernel, arch: Arch, other: KernelEntry | None) -> str:
    """The command that gives a kernel by hand."""
    return source.hint(spec, kernel, arch) + (" --replace" if other is not None and not source.fetches else "")


def _locked_to(kernel: Kernel, locked: Locked) -> tuple[SourceSpec, ...]:
    """The source that the lock names, made to get exactly what it got then."""
    found = [spec for spec in kernel.sources_for(locked.arch) if spec.kind == locked.source]
    if not found and locked.source in identity.GIVEN:  # any kernel may be given by hand, whatever its sources
        found = [SourceSpec(locked.source)]
    if not found:
        raise InputError(
            f"kernels.lock has it from a source of kind {locked.source!r}, and {kernel.declared_in} gives it none",
            where=locked.target,
            fix=f"kmatrix kernels lock {kernel.name} --arch {locked.arch}",
        )
    return tuple(pinned(spec, {"pin": locked.pin}) for spec in found)


def _said(spec: SourceSpec, error: KmatrixError) -> str:
    return f"{spec.kind}: {error.message}" + (f" ({error.where})" if error.where else "")


def _all_failed(
    kernel: Kernel, arch: Arch, failed: list[tuple[SourceSpec, KmatrixError]], other: KernelEntry | None
) -> KmatrixError:
    if len(failed) == 1 and not isinstance(failed[0][1], Unavailable):
        return failed[0][1]
    unavailable = _unavailable(
        kernel, arch, [_said(*each) for each in failed], [error.fix for _, error in failed if error.fix is not None], other
    )
    if all(isinstance(error, Unavailable) for _, error in failed):
        return unavailable
    return InfraError(unavailable.message, where=unavailable.where, fix=unavailable.fix)


def obtain_all(
    targets: Iterable[Target],
    store: KernelStore,
    *,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None = None,
    lock: Lock | None = None,
    replace: bool = False,
) -> list[tuple[Target, KernelEntry | KmatrixError]]:
    """`obtain` for several targets side by side; for each (once) its entry, or the error that it ended with.

    `reporter` is used from several threads at once. An interrupt stops all of them at their next block of data.
    """
    chosen = list({str(target): target for target in targets}.values())
    stop = threading.Event()
    watched = Stoppable(reporter, stop)

    def one(target: Target) -> KernelEntry | KmatrixError:
        try:
            return obtain(target.kernel, target.arch, store, reporter=watched, mirrors=mirrors, lock=lock, replace=replace)
        except KmatrixError as error:
            return error

    # Some wait for the network while others unpack: a few more than there are CPUs.
    with ThreadPoolExecutor(max_workers=max(1, min(len(chosen), (os.cpu_count() or 1) + 1))) as pool:
        try:
            futures = [pool.submit(one, target) for target in chosen]
            return list(zip(chosen, results(futures), strict=True))
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def same_series(kernel: Kernel, staged: StagedKernel) -> StagedKernel:
    """`staged`, if it is of the version that kernels.toml gives `kernel`, and without BTF where it says so; InputError otherwise."""
    check_series(kernel, staged.release)
    check_flavour(kernel, staged.btf)
    return staged


def hints(kernel: Kernel, arch: Arch) -> list[str]:
    """The commands that get the kernel, each once; `import` for one that has no source."""
    kernel, known = kernel.image_of, by_kind()
    commands = [known[spec.kind].hint(spec, kernel, arch) for spec in kernel.sources_for(arch)]
    return list(dict.fromkeys(commands)) or [f"kmatrix kernels import {kernel.name} --arch {arch} --image FILE"]


def availability(
    kernel: Kernel,
    arch: Arch,
    store: KernelStore,
    *,
    asked: bool = False,
    lock: Lock | None = None,
    mirrors: Mapping[str, str] | None = None,
) -> str | None:
    """None when the kernel is in the store or a source can fetch it; else why it cannot be had, and the command. No network is used.

    Offline, a source can where it, or its mirror, is on this machine. A source that builds or that nobody has tried counts only where the
    kernel was `asked` for by name. A simulated kernel is had where its base is, one that is only set up differently where what it is a
    variant of is. With `lock` it is the kernel that the lock holds it to.
    """
    kernel = kernel.image_of
    try:
        locked = lock.held(kernel.name, arch) if lock is not None else None
        if find(kernel, arch, store, lock, whole=False) is not None:
            return None
        known, other = by_kind(), _other(kernel, arch, store, locked, replace=False)
        specs = kernel.sources_for(arch) if locked is None else _locked_to(kernel, locked)
        for spec in specs:
            fetches = known[spec.kind].fetches and (not network.offline() or _on_disk(spec, arch, mirrors or {}))
            if fetches and (asked or not (spec.untried or known[spec.kind].slow)):
                return None
        gets = [_given_by(known[spec.kind], spec, kernel, arch, other) for spec in specs]
        if lock is not None and locked is not None and other is not None:
            lock.check(
                locked, other.content, other.release, "the one in the store", gets[0] if locked.source in identity.GIVEN else None
            )
    except (InfraError, InputError) as error:
        return f"{error.message}; {error.fix}"
    unavailable = _unavailable(kernel, arch, [], gets, other)
    return f"{unavailable.message}; {unavailable.fix}"


def _on_disk(spec: SourceSpec, arch: Arch, mirrors: Mapping[str, str]) -> bool:
    """Whether all that a source fetches is on this machine, by the mirrors in force."""
    if spec.kind == "debian":
        urls = [archive.uri for archive in apt.archives(spec.options["suite"], mirrors.get("debian"))]
        return any(network.on_disk(network.mirrored(url, mirrors)) for url in urls)
    if spec.kind == "oci":  # a registry is asked, not read
        return False
    keys = [key for key in spec.options.get("key", ()) if "://" in key]
    urls = [*spec.options.get("url", ()), *filter(None, [spec.options.get("repository")]), *keys]
    return all(network.on_disk(network.mirrored(expand(url, arch), mirrors)) for url in urls)


def _unavailable(kernel: Kernel, arch: Arch, said: list[str], fixes: list[str], other: KernelEntry | None) -> Unavailable:
    if not kernel.sources_for(arch):
        said = [f"{kernel.declared_in} gives it no source for {arch}"]
    offline = ", and kmatrix is offline" if network.offline() else ""
    message = "is not in the kernel store"
    if other is not None and (why := identity.differs(kernel, arch, other)) is not None:
        message += f" (what is there by that name is {other.release}, which is not meant: {why})"
    message += (", and no source has it:" + "".join(f"\n    {each}" for each in said)) if said else offline
    commands = dict.fromkeys(fixes or hints(kernel, arch))
    between = "\n    or " if len(said) > 1 else "  or  "  # a line each, as the sources have
    return Unavailable(message, where=f"{kernel.name}-{arch}", fix=between.join(commands))
