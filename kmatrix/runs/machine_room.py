"""The machine room: from a target to a running, pristine VM. Joins the kernel store, the guest images and the VM engine."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from kmatrix import __version__, kernels
from kmatrix.host.errors import InfraError, InputError, KmatrixError
from kmatrix.host.later import later
from kmatrix.host.paths import scratch_console
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix import circumstances
from kmatrix.matrix.arch import Arch, parse_arches
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.privileges import ROOT
from kmatrix.matrix.selection import DEFAULT_SET, STORE, Matrix
from kmatrix.runs import spare, surroundings
from kmatrix.runs.real_machines import RealMachines
from kmatrix.vm import accel as accelerators
from kmatrix.vm import guest_image, virtme
from kmatrix.vm.console import boot_warnings
from kmatrix.vm.errors import GuestError, KernelDied, KernelFails
from kmatrix.vm.launch import boot
from kmatrix.vm.machine import Machine
from kmatrix.vm.snapshot import SnapshotStore
from kmatrix.vm.spec import DEFAULT_MEMORY_MIB, VmSpec

if TYPE_CHECKING:
    from kmatrix.predict import simulated
else:
    simulated = later("kmatrix.predict.simulated")  # what is known of a kernel's profiles, for those that are simulated

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
        lines = [f"  {_named(kernel, arches)}: {reason}" for kernel, arches, reason in by_reason(strict)]
        raise InputError("\n".join([f"{asked}:", *lines]))


def _named(kernel: str, arches: Sequence[str]) -> str:
    return f"{kernel}-{arches[0]}" if len(arches) == 1 else f"{kernel} ({', '.join(arches)})"


def by_reason(missing: Mapping[str, str]) -> list[tuple[str, list[str], str]]:
    """(kernel, arches, why it cannot be had), of `missing` by target: the arches of a kernel that lack it for the same reason share a line."""
    shared: dict[tuple[str, str], list[str]] = {}
    for target, reason in missing.items():
        kernel, _, arch = target.rpartition("-")
        shared.setdefault((kernel, reason.replace(f"--arch {arch}", "--arch ARCH")), []).append(arch)
    return [
        (kernel, arches, reason if len(arches) > 1 else reason.replace("--arch ARCH", f"--arch {arches[0]}"))
        for (kernel, reason), arches in shared.items()
    ]


class Finding(NamedTuple):
    """What a guest says of one feature."""

    there: bool | None
    """None where it cannot tell."""
    why: str


def config_of(path: Path | None) -> dict[str, str] | None:
    """The configuration that came with a kernel's image: options without CONFIG_; None where none came."""
    if path is None:
        return None
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))


def _image_of(target: Target) -> tuple[str, Arch]:
    """What decides on whether its kernel can be had."""
    return target.kernel.image_of.name, target.arch


def _boot_of(spec: VmSpec) -> tuple[object, ...]:
    """What decides on what a kernel says at boot."""
    return spec.kernel.digest, spec.arch, spec.cmdline, spec.simulate


def _confine(target: Target) -> str | None:
    privileges = target.kernel.privileges
    return None if privileges == ROOT else json.dumps(privileges.request, sort_keys=True)


_SPARE_MIB = 64
"""Memory of a VM that maps may take and leave it room to work."""
_MOST_MIB = 4096


def memory_for(memory_mib: int, room_for: int) -> int:
    """The memory of a VM, in MiB, in which maps of `room_for` bytes can be made: what it has, or a power of two."""
    mib = room_for * 5 // 4 >> 20  # a quarter more: the page tables, and what the allocator loses
    while memory_mib < _MOST_MIB and mib > memory_mib // 4 and mib + _SPARE_MIB + 128 > memory_mib:
        memory_mib = 1 << memory_mib.bit_length()
    return memory_mib


@dataclass(frozen=True)
class Shape:
    """What a run's machine has otherwise than its target's: None and nothing for what stays."""

    memory_mib: int | None = None
    cpus: int | None = None
    cmdline: tuple[str, ...] = ()
    """Kernel parameters added to the target's. A machine that has some boots; there is a snapshot for any memory and number of CPUs."""

    def of(self, spec: VmSpec) -> VmSpec:
        """`spec` with it."""
        return replace(
            spec,
            memory_mib=self.memory_mib or spec.memory_mib,
            cpus=self.cpus or spec.cpus,
            cmdline=(*spec.cmdline, *self.cmdline),
        )


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
    _found: dict[tuple[object, ...], dict[str, Finding]] = field(default_factory=dict, repr=False)
    _warned: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)
    _probes: dict[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    _accels: dict[Arch, accelerators.Accel] = field(default_factory=dict, repr=False)
    _spare: spare.Spare = field(default_factory=spare.Spare, repr=False)
    _next: Target | None = field(default=None, repr=False)

    @cached_property
    def store(self) -> KernelStore:
        """The kernels that are here."""
        return KernelStore()

    @cached_property
    def real(self) -> RealMachines:
        """The real machines of kernels.toml."""
        return RealMachines(self.matrix, self.reporter)

    def targets(self, expression: str | None, arch: str) -> tuple[Target, ...]:
        """The targets that --kernels (None: the default set) and --arch select; `store` is all kernels whose image is on this machine.

        A real machine is asked who it is. Raises InputError, also where the store is asked for and has none; InfraError where a real machine
        cannot be used.
        """
        terms = self.matrix.terms(DEFAULT_SET if expression is None else expression)
        if real := [term for term in terms if term in self.matrix.hosts]:
            booted = ",".join(term for term in terms if term not in real)
            return (*(self.targets(booted, arch) if booted else ()), *self.real.targets(real, arch))
        others = ",".join(term for term in terms if term != STORE)
        if STORE not in terms:
            return self.matrix.targets(others, arch)
        arches, here = parse_arches(arch), set(self.store.refs())
        names = [*self.matrix.kernels, *(name for name, _ in here if name not in self.matrix.kernels and self.matrix.find(name))]
        kernels = [self.matrix.kernel(name) for name in dict.fromkeys(names)]
        chosen = [Target(kernel, each) for kernel in kernels for each in arches if (kernel.name, each) in here]
        chosen = [target for target in chosen if str(target) not in self.unavailable([target])]
        if not chosen:
            fix = "kmatrix prepare fetches what can be had of the default set"
            raise InputError(f"no kernel for {' or '.join(arches)} is in the kernel store", where="--kernels=store", fix=fix)
        more = self.matrix.targets(others, arch) if others.strip(",") else ()
        return tuple({str(target): target for target in (*chosen, *more)}.values())

    def unavailable(self, targets: Iterable[Target], *, asked: bool = False, fetch: bool = True) -> dict[str, str]:
        """Those of the targets whose kernel cannot be had, each with why and how to get it. Asks the store and kernels.toml.

        A source that builds, or that nobody has tried, counts only for kernels `asked` for by name: those are fetched now, side by side.
        So are (where `fetch`) those that move on: a mirror need not have what comes, and then a run goes on without.
        """
        chosen = {str(target): target for target in targets if target.kernel.host is None}
        lock, mirrors, store = self.matrix.lock, self.matrix.mirrors, self.store
        # Targets that are only set up differently boot one image: it is asked for once.
        images = {_image_of(target): target for target in chosen.values()}
        reasons = {image: kernels.availability(t.kernel, t.arch, store, lock=lock, mirrors=mirrors) for image, t in images.items()}
        missing = {name: reason for name, t in chosen.items() if (reason := reasons[_image_of(t)]) is not None}
        tried: list[Target] = []
        if asked:
            tried = [
                chosen[name]
                for name in missing
                if kernels.availability(chosen[name].kernel, chosen[name].arch, store, lock=lock, mirrors=mirrors, asked=True)
                is None
            ]
        elif fetch:
            coming = [t for name, t in chosen.items() if name not in missing and t.kernel.real.moving]
            tried = [t for t in coming if kernels.find(t.kernel, t.arch, store, lock) is None]
        for target, result in kernels.obtain_all(tried, store, reporter=self.reporter, mirrors=mirrors, lock=lock) if tried else ():
            if isinstance(result, KmatrixError):
                fix = f"\n    fix: {result.fix}" if "\n" in result.message else f"; {result.fix}"
                missing[str(target)] = result.message + (fix if result.fix else "")
            else:
                missing.pop(str(target), None)
        return missing

    def spec(self, target: Target) -> VmSpec:
        """What the target's VM is made of; fetches the kernel and builds the guest image where they are not here yet.

        Raises Unavailable where the kernel cannot be had, InfraError where anything else of the machine room is missing.
        """
        name = str(target)
        if target.kernel.host is not None:
            return self.real.board(target.kernel.host).spec()
        if name not in self._specs:
            kernel = kernels.obtain(
                target.kernel,
                target.arch,
                self.store,
                mirrors=self.matrix.mirrors,
                lock=self.matrix.lock,
                reporter=self.reporter,
            )
            surroundings.check(target, lambda: config_of(kernel.config))
            image = guest_image.obtain(target.arch, mirrors=self.matrix.mirrors, reporter=self.reporter)
            chosen = self._accels.setdefault(target.arch, accelerators.choose(self.accel, kernel, image, reporter=self.reporter))
            self._specs[name] = VmSpec(
                kernel,
                image,
                accel=chosen.name,
                memory_mib=target.kernel.memory_mib or DEFAULT_MEMORY_MIB,
                cpus=target.kernel.cpus or 1,
                cmdline=surroundings.parameters(target.kernel),
                simulate=json.dumps(simulated.request(target), sort_keys=True) if target.simulated else None,
                confine=_confine(target),
            )
        return self._specs[name]

    def found(self, target: Target, names: Sequence[str]) -> Mapping[str, Finding]:
        """What the target's guest says of features with a parameter (kmatrix.matrix.parameters), probed in a VM of its own.

        Asked once for each feature and target: a kernel does not change. Raises InfraError where the machine room fails.
        """
        spec = self.spec(target)
        known = self._found.setdefault((spec.kernel.digest, spec.cmdline, spec.simulate, spec.confine), {})
        missing = [name for name in names if name not in known]
        if missing:
            config = config_of(spec.kernel.config) if any(name.startswith("config:") for name in missing) else None
            try:
                with scratch_console(f"probe-{target}") as console, self.machine(target, console) as (vm, _):
                    answer = vm.call("facts", timeout=60 + 5 * len(missing), names=missing, config=config)
            except KernelDied as death:
                raise KernelFails(f"the kernel dies where it is asked for its features: {death}", where=str(target)) from None
            except GuestError as error:
                raise InfraError(f"the features {', '.join(missing)} could not be probed: {error}", where=str(target)) from None
            known |= {name: Finding(answer["features"][name], answer["why"][name]) for name in missing}
        return {name: known[name] for name in names}

    @contextmanager
    def machine(
        self,
        target: Target,
        console: Path,
        *,
        serial: socket.socket | None = None,
        room_for: int = 0,
        shape: Shape | None = None,
        carried: int | None = None,
    ) -> Iterator[tuple[Machine, Mapping[str, Any]]]:
        """A pristine VM of the target, its console recorded in `console`, with what its guest's probe found.

        Restored from the target's snapshot (made first where there is none), or booted afresh where `cold`. Killed at the end. `serial` is
        the console's other end, for whoever wants to type on it. What is run in a simulated target's VM sees the simulated kernel. `room_for`
        are the bytes of maps that will be made: a VM that would be short of memory for them gets more, unless mem= says how much. `shape` is what differs from the
        target's own machine; `carried` the file behind the disk for what the run brings along (virtme.carried_drive).
        """
        if target.kernel.host is not None:
            if serial is not None or shape is not None or carried is not None:
                raise self.real.refused(target.kernel.host)
            with self.real.board(target.kernel.host).machine(console) as ready:
                yield ready
            return
        spec = self.spec(target)
        if not circumstances.gives_memory(target.kernel.name):
            spec = replace(spec, memory_mib=memory_for(spec.memory_mib, room_for))
        if shape is not None:
            spec = shape.of(spec)
        if self.cold or (shape is not None and shape.cmdline):
            with self._up(target, lambda: boot(spec, console=console, serial=serial, carried=carried)) as vm:
                self._warned.setdefault(_boot_of(spec), boot_warnings(vm.console_text()))
                around = self._surroundings(target, vm, spec)
                yield vm, {**vm.call("probe", timeout=60), **around} if carried is None else {}
        else:
            snapshot = self._up(target, lambda: SnapshotStore().get(spec, reporter=self.reporter))
            if _boot_of(spec) not in self._warned:
                self._warned[_boot_of(spec)] = boot_warnings(snapshot.console_text)
            restored = self._spare.take(spec, console) if serial is None and carried is None else None
            with restored or snapshot.restore(console=console, serial=serial, carried=carried) as vm:
                self._begin_spare()
                around = self._surroundings(target, vm, spec)
                if spec.confine is not None and carried is None:
                    yield vm, {**self._of_a_loader(target, vm), **around}
                else:
                    yield vm, {**snapshot.probe, **around}

    def expect(self, target: Target | None) -> None:
        """Have a machine of the target restored as soon as the next one is up: for whoever knows what comes next, and has a core for it.

        None where nothing comes. Nothing is fetched, built or booted for it.
        """
        self._next = target

    def close(self) -> None:
        """End what was restored and is not wanted any more."""
        self._spare.close()

    def _begin_spare(self) -> None:
        target, self._next = self._next, None
        if target is not None and not self.cold and str(target) in self._specs:
            self._spare.begin(self._specs[str(target)])

    def _of_a_loader(self, target: Target, vm: Machine) -> Mapping[str, Any]:
        """What the probe finds with the privileges that are left to a loader there: asked once for each target."""
        if str(target) not in self._probes:
            self._probes[str(target)] = vm.call("probe", timeout=60)
        return self._probes[str(target)]

    def _surroundings(self, target: Target, vm: Machine, spec: VmSpec) -> dict[str, Any]:
        """How the guest is, by its own account, where it is under circumstances. Raises InfraError where it is otherwise than their names say."""
        kernel = target.kernel
        if kernel.image_of is kernel or target.simulated is not None:
            return {}
        found = vm.call("surroundings", timeout=60, sysctls=list(kernel.sysctls))
        given = replace(target, kernel=replace(kernel, memory_mib=spec.memory_mib, cpus=spec.cpus))
        if said := surroundings.differing(given, found):
            fix = f"kmatrix shell {kernel.name} --arch {target.arch} shows it; docs/circumstances.md says what each circumstance takes"
            raise InfraError(f"the guest is not as {kernel.name} says: {'; '.join(said)}", where=str(target), fix=fix)
        return {"surroundings": found}

    def boot_warnings(self, target: Target) -> tuple[str, ...]:
        """What the target's kernel warned of when the machine that was last used booted; empty where none was."""
        if target.kernel.host is not None:
            return ()
        return self._warned.get(_boot_of(self.spec(target)), ())

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
        said = {
            "kmatrix": __version__,
            "host": f"{platform.node()} ({platform.machine()}, {os.cpu_count()} CPUs)",
            "release": spec.kernel.release,
        }
        if (host := target.kernel.host) is not None:
            return said | {"machine": f"{host.name}, a real machine ({host.ssh})"}
        return said | {
            "kernel": spec.kernel.digest,
            "image": spec.image.digest,
            "accel": str(self._accels[target.arch]),
            "qemu": virtme.qemu_version(target.arch),
            "virtme-ng": virtme.virtme_version(),
        }
