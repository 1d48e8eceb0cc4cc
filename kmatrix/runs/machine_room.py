"""The machine room: from a target to a running, pristine VM. Joins the kernel store, the guest images and the VM engine."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from kmatrix import __version__, kernels
from kmatrix.host.errors import InfraError, InputError, KmatrixError
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch, parse_arches
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.selection import Matrix
from kmatrix.vm import accel as accelerators
from kmatrix.vm import guest_image, virtme
from kmatrix.vm.errors import KernelDied
from kmatrix.vm.launch import boot
from kmatrix.vm.machine import Machine
from kmatrix.vm.snapshot import SnapshotStore
from kmatrix.vm.spec import DEFAULT_MEMORY_MIB, VmSpec

T = TypeVar("T")


def refuse_missing(targets: Iterable[Target], missing: Mapping[str, str], *, kernels: str | None, arch: str | None) -> None:
    """An explicit request is strict. `targets` is what was asked for by --kernels and --arch (None: not given), `missing` those of them
    that cannot be had, and why.

    Raises InputError for each that --kernels asks for; without it, where there is nothing at all of an arch that --arch asks for.
    """
    asked, strict = f"--kernels={kernels} asks for kernels that cannot be had", dict(missing)
    if kernels is None:
        had = {target.arch for target in targets if str(target) not in missing}
        without = [each for each in parse_arches(arch) if each not in had] if arch is not None else []
        asked = f"--arch={arch}: no kernel for {' or '.join(without)} can be had"
        strict = {name: reason for name, reason in missing.items() if name.endswith(tuple(f"-{each}" for each in without))}
    if strict:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in strict.items())
        raise InputError(f"{asked}:\n{listed}")


@dataclass
class MachineRoom:
    """Everything this host needs to run cells: where kernels, images and snapshots are, and how VMs are accelerated."""

    matrix: Matrix
    accel: str = "auto"
    """`auto`, `kvm` or `tcg`."""
    cold: bool = False
    """Boot every VM afresh instead of restoring a snapshot."""
    reporter: Reporter = field(default_factory=Quiet)
    _specs: dict[str, VmSpec] = field(default_factory=dict, repr=False)
    _accels: dict[Arch, accelerators.Accel] = field(default_factory=dict, repr=False)

    @cached_property
    def store(self) -> KernelStore:
        """The kernels that are here."""
        return KernelStore()

    def unavailable(self, targets: Iterable[Target], *, asked: bool = False) -> dict[str, str]:
        """Those of the targets whose kernel cannot be had, each with why and how to get it. Asks the store and kernels.toml.

        A source that builds, or that nobody has tried, counts only for kernels `asked` for by name: those are fetched now, side by side.
        """
        chosen = {str(target): target for target in targets}
        lock, mirrors, store = self.matrix.lock, self.matrix.mirrors, self.store
        reasons = {name: kernels.availability(t.kernel, t.arch, store, lock=lock, mirrors=mirrors) for name, t in chosen.items()}
        missing = {name: reason for name, reason in reasons.items() if reason is not None}
        if asked:
            tried = [
                chosen[name]
                for name in missing
                if kernels.availability(chosen[name].kernel, chosen[name].arch, store, lock=lock, mirrors=mirrors, asked=True)
                is None
            ]
            found = kernels.obtain_all(tried, store, reporter=self.reporter, mirrors=self.matrix.mirrors, lock=lock)
            for target, result in found:
                if isinstance(result, KmatrixError):
                    missing[str(target)] = result.message + (f"; {result.fix}" if result.fix else "")
                else:
                    del missing[str(target)]
        return missing

    def spec(self, target: Target) -> VmSpec:
        """What the target's VM is made of; fetches the kernel and builds the guest image where they are not here yet.

        Raises Unavailable where the kernel cannot be had, InfraError where anything else of the machine room is missing.
        """
        name = str(target)
        if name not in self._specs:
            kernel = kernels.obtain(
                target.kernel,
                target.arch,
                self.store,
                mirrors=self.matrix.mirrors,
                lock=self.matrix.lock,
                reporter=self.reporter,
            )
            image = guest_image.obtain(target.arch, mirrors=self.matrix.mirrors, reporter=self.reporter)
            chosen = self._accels.setdefault(target.arch, accelerators.choose(self.accel, kernel, image, reporter=self.reporter))
            self._specs[name] = VmSpec(
                kernel,
                image,
                accel=chosen.name,
                memory_mib=target.kernel.memory_mib or DEFAULT_MEMORY_MIB,
                cmdline=target.kernel.cmdline,
                simulate=json.dumps(target.simulated.request(target.arch), sort_keys=True) if target.simulated else None,
            )
        return self._specs[name]

    @contextmanager
    def machine(
        self, target: Target, console: Path, *, serial: socket.socket | None = None
    ) -> Iterator[tuple[Machine, Mapping[str, Any]]]:
        """A pristine VM of the target, its console recorded in `console`, with what its guest's probe found.

        Restored from the target's snapshot (made first where there is none), or booted afresh where `cold`. Killed at the end. `serial` is
        the console's other end, for whoever wants to type on it. What is run in a simulated target's VM sees the simulated kernel.
        """
        spec = self.spec(target)
        if self.cold:
            with self._up(target, lambda: boot(spec, console=console, serial=serial)) as vm:
                yield vm, vm.call("probe", timeout=60)
        else:
            snapshot = self._up(target, lambda: SnapshotStore().get(spec, reporter=self.reporter))
            with snapshot.restore(console=console, serial=serial) as vm:
                yield vm, snapshot.probe

    def _up(self, target: Target, start: Callable[[], T]) -> T:
        """What `start` boots; where it does not come up because the kernel in the store was damaged, an error that says so."""
        try:
            return start()
        except (InfraError, KernelDied):
            entry = self._specs[str(target)].kernel
            names = [(name, arch) for name, arch, each in self.store.entries() if each.digest == entry.digest]
            for name, arch in names:
                if damage := self.store.verify(name, arch):
                    fix = f"kmatrix kernels remove {name} --arch {arch}, and get it again"
                    raise InfraError(f"the kernel in the store is damaged: {damage[0]}", where=f"{name}-{arch}", fix=fix) from None
            raise

    def versions(self, target: Target) -> dict[str, str]:
        """The versions that a cell's record names."""
        spec = self.spec(target)
        return {
            "kmatrix": __version__,
            "release": spec.kernel.release,
            "kernel": spec.kernel.digest,
            "image": spec.image.digest,
            "accel": str(self._accels[target.arch]),
            "qemu": virtme.qemu_version(target.arch),
            "virtme-ng": virtme.virtme_version(),
        }
