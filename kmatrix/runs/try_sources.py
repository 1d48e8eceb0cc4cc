"""Sources of kernels.toml tried: each fetches its kernel, which is booted and probed. What came of it is a row of tried.toml."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kmatrix import kernels
from kmatrix.fetch import download, network
from kmatrix.host.errors import KmatrixError
from kmatrix.host.paths import scratch_console
from kmatrix.host.progress import Reporter
from kmatrix.kernels.store import KernelStore, StagedKernel
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Kernel, SourceSpec, Target
from kmatrix.matrix.selection import Matrix
from kmatrix.matrix.tried import Tried, name_of
from kmatrix.vm import accel, boot, guest_image
from kmatrix.vm.console import boot_warnings
from kmatrix.vm.spec import DEFAULT_MEMORY_MIB, VmSpec


@dataclass(frozen=True)
class Trial:
    """A source of a kernel for an arch."""

    kernel: Kernel
    arch: Arch
    source: SourceSpec

    @property
    def key(self) -> tuple[str, str, str]:
        """As `Tried.key`."""
        return self.kernel.name, self.arch, name_of(self.source)


def trials(targets: Iterable[Target], *, build: bool = True) -> list[Trial]:
    """Each source that fetches, of each kernel that has an image of its own; without `build` not those that build what they fetched."""
    known = kernels.by_kind()
    found = [
        Trial(target.kernel, target.arch, spec)
        for target in targets
        if target.kernel.image_of is target.kernel
        for spec in target.kernel.sources_for(target.arch)
        if known[spec.kind].fetches and (build or not known[spec.kind].slow)
    ]
    return list({trial.key: trial for trial in found}.values())


def run(chosen: Iterable[Trial], matrix: Matrix, folder: Path, how: str, reporter: Reporter) -> Iterator[Tried]:
    """Try each, one after another; what is fetched goes into a store of its own in `folder`, and is removed again. `how` is --accel."""
    store = KernelStore(folder)
    for trial in chosen:
        row = _try(trial, matrix, store, how, reporter)
        store.remove(trial.kernel.name, trial.arch)
        yield row


def _try(trial: Trial, matrix: Matrix, store: KernelStore, how: str, reporter: Reporter) -> Tried:
    kernel, arch = replace(trial.kernel, sources=(trial.source,)), trial.arch
    name, _, source = trial.key
    row = Tried(kernel=name, arch=arch, source=source, when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), good=False)
    target = Target(kernel, arch)
    used = kernels.by_kind(matrix.mirrors)[trial.source.kind]
    network.use_mirrors(matrix.mirrors)

    def stage(into: Path) -> StagedKernel:
        return kernels.same_series(kernel, used.stage(trial.source, kernel, arch, into, reporter))

    try:
        with download.working_for(reporter):
            entry = store.add(kernel.name, arch, stage, replace=True, reporter=reporter)
    except KmatrixError as error:
        return row.model_copy(update={"stage": "fetch", "error": _said(error)})
    row = row.model_copy(update={"release": entry.release, "digest": entry.content})
    try:
        image = guest_image.obtain(arch, mirrors=matrix.mirrors, reporter=reporter)
        by = accel.choose(how, entry, image, reporter=reporter).name
        spec = VmSpec(entry, image, accel=by, memory_mib=kernel.memory_mib or DEFAULT_MEMORY_MIB, cmdline=kernel.cmdline)
        with (
            reporter.step(f"{target}: booting {entry.release}"),
            scratch_console(f"try-{target}") as console,
            boot(spec, console) as vm,
        ):
            probe = vm.call("probe", timeout=120)["features"]
            warned = boot_warnings(vm.console_text())
    except KmatrixError as error:
        return row.model_copy(update={"stage": "boot", "error": _said(error)})
    differs = {
        name: bool(probe[name])
        for name in sorted(FEATURES)
        if probe.get(name) is not None and probe[name] != (name in target.features)
    }
    features = tuple(name for name in sorted(FEATURES) if probe.get(name))
    return row.model_copy(update={"good": True, "features": features, "differs": differs, "boot_warnings": warned})


def _said(error: KmatrixError) -> str:
    return error.message + (f" ({error.where})" if error.where else "")
