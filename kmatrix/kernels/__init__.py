"""Kernels: the store of bootable ones (`store`), and the sources they come from, one module a source."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from kmatrix.arch import Arch
from kmatrix.errors import InfraError, KmatrixError, Unavailable
from kmatrix.kernels.build import BuildSource
from kmatrix.kernels.debian import DebianSource
from kmatrix.kernels.imported import ImportSource
from kmatrix.kernels.package import check_series
from kmatrix.kernels.store import KernelEntry, KernelStore, StagedKernel
from kmatrix.matrix import Kernel, SourceSpec, Target
from kmatrix.progress import Reporter, Step

__all__ = [
    "KernelEntry",
    "KernelStore",
    "Source",
    "StagedKernel",
    "availability",
    "hints",
    "obtain",
    "obtain_all",
    "same_series",
    "sources",
]


class Source(Protocol):
    """Where kernels come from; `kind` is its name in kernels.toml."""

    kind: str
    fetches: bool
    """Whether it can get a kernel by itself; otherwise the user has to give it something, with the command that `hint` says."""

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:
        """The command that gets `kernel` for `arch` from this source."""

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Lay the kernel out in the empty folder `into` (boot/, lib/modules/, modules.ext4). Raises Unavailable or InfraError."""


def sources(mirrors: Mapping[str, str] | None = None) -> dict[str, Source]:
    """The sources by kind; `mirrors` as in kernels.toml."""
    known: list[Source] = [DebianSource((mirrors or {}).get("debian")), ImportSource(), BuildSource()]
    return {source.kind: source for source in known}


def obtain(
    kernel: Kernel,
    arch: Arch,
    store: KernelStore,
    *,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None = None,
    replace: bool = False,
) -> KernelEntry:
    """The kernel from the store, or else from the first of its sources that can fetch it by itself.

    Raises Unavailable, with what each source said and the command that gets the kernel, when none can; InfraError when something is
    wrong that another source would hide (a bad signature, a full disk, a damaged entry). With `replace` it is fetched anew.
    """
    kernel = kernel.real
    if not replace and (entry := store.find(kernel.name, arch)) is not None:
        return entry
    known = sources(mirrors)
    said: list[str] = []
    fixes: list[str] = []
    for spec in kernel.sources_for(arch):
        source = known[spec.kind]
        if not source.fetches:
            said.append(f"{spec.kind}: nothing given yet")
            fixes.append(source.hint(spec, kernel, arch))
            continue
        try:
            return store.add(
                kernel.name,
                arch,
                lambda into, source=source, spec=spec: same_series(  # type: ignore[misc]
                    kernel, source.stage(spec, kernel, arch, into, reporter)
                ),
                replace=replace,
                reporter=reporter,
            )
        except Unavailable as error:
            where = f" ({error.where})" if error.where else ""
            said.append(f"{spec.kind}: {error.message}{where}")
            fixes += [error.fix] if error.fix else []
    raise _unavailable(kernel, arch, said, fixes)


def obtain_all(
    targets: Iterable[Target],
    store: KernelStore,
    *,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None = None,
    replace: bool = False,
) -> list[tuple[Target, KernelEntry | KmatrixError]]:
    """`obtain` for several targets side by side; for each (once) its entry, or the error that it ended with.

    `reporter` is used from several threads at once. An interrupt stops all of them at their next block of data.
    """
    chosen = list({str(target): target for target in targets}.values())
    stop = threading.Event()
    watched = _Stoppable(reporter, stop)

    def one(target: Target) -> KernelEntry | KmatrixError:
        try:
            return obtain(target.kernel, target.arch, store, reporter=watched, mirrors=mirrors, replace=replace)
        except KmatrixError as error:
            return error

    # Some wait for the network while others unpack: a few more than there are CPUs.
    with ThreadPoolExecutor(max_workers=max(1, min(len(chosen), (os.cpu_count() or 1) + 1))) as pool:
        futures = [pool.submit(one, target) for target in chosen]
        try:
            return list(zip(chosen, [future.result() for future in futures], strict=True))
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Stopped(BaseException):
    """Ends a thread whose work is no longer wanted; as a KeyboardInterrupt would, it passes every `except Exception`."""


class _Stoppable:
    """A reporter whose steps raise _Stopped at their next progress once `stop` is set."""

    def __init__(self, reporter: Reporter, stop: threading.Event) -> None:
        self._reporter = reporter
        self._stop = stop

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        with self._reporter.step(label) as step:
            yield _StoppableStep(step, self._stop)


class _StoppableStep:
    def __init__(self, step: Step, stop: threading.Event) -> None:
        self._step = step
        self._stop = stop

    def advance(self, done: int, total: int | None = None) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._step.advance(done, total)


def same_series(kernel: Kernel, staged: StagedKernel) -> StagedKernel:
    """`staged`, if it is of the version that kernels.toml gives `kernel`; InputError otherwise."""
    check_series(kernel, staged.release)
    return staged


def hints(kernel: Kernel, arch: Arch) -> list[str]:
    """The commands that get the kernel, one a source; `import` for one that has no source."""
    kernel, known = kernel.real, sources()
    commands = [known[spec.kind].hint(spec, kernel, arch) for spec in kernel.sources_for(arch)]
    return commands or [f"kmatrix kernels import {kernel.name} --arch {arch} --image FILE"]


def availability(kernel: Kernel, arch: Arch, store: KernelStore) -> str | None:
    """None when the kernel is in the store or a source can fetch it; else why it cannot be had, and the command. No network is used.

    A simulated kernel is had where its base is.
    """
    kernel = kernel.real
    try:
        if store.find(kernel.name, arch) is not None:
            return None
    except InfraError as error:
        return f"{error.message}; {error.fix}"
    known = sources()
    if any(known[spec.kind].fetches for spec in kernel.sources_for(arch)):
        return None
    unavailable = _unavailable(kernel, arch, [], [])
    return f"{unavailable.message}; {unavailable.fix}"


def _unavailable(kernel: Kernel, arch: Arch, said: list[str], fixes: list[str]) -> Unavailable:
    if not kernel.sources_for(arch):
        said = [f"{kernel.declared_in} gives it no source for {arch}"]
    message = "is not in the kernel store" + (f", and no source has it: {'; '.join(said)}" if said else "")
    commands = dict.fromkeys(fixes or hints(kernel, arch))
    return Unavailable(message, where=f"{kernel.name}-{arch}", fix="  or  ".join(commands))
