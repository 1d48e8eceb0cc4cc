"""Booted machines, saved: made once, restored for every cell.

    <cache>/snapshots/<arch>-<release>/
      lock                 held while one of this target's snapshots is made or removed
      <key>/               one snapshot; all that it depends on is in its key, so it is never changed
        manifest.json      the command line to replay, what the agent's probe said, how the boot went
        ram                the guest's memory (sparse); a restored machine maps it privately, so any number share it
        state              devices and CPUs
        console.log        of the boot

A simulated kernel's snapshot is its base's, restored and saved again once the simulation stands: its folder has a suffix, `~` and a digest.

A snapshot's folder is locked (shared) by every machine that runs from it, and removed only by whoever gets that lock for itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.objects.min_core_btf import KernelBtf
from kmatrix.vm import virtme
from kmatrix.vm.errors import GuestTimeout, KernelDied, VmLost
from kmatrix.vm.launch import boot_plan, launch
from kmatrix.vm.machine import Machine, agent_digest, boot_timeout
from kmatrix.vm.spec import VmSpec

SCHEMA = 1

_SPARE = 1
"""Snapshots of the same target kept beside the newest (another memory size or accelerator in use by turns)."""
_KEEP = 30 * 86400.0
"""Seconds after its last use that a snapshot of any target is kept: kernels get new releases, and nobody asks for the old ones again."""
_PROBE_TIMEOUT = 120.0
_RESTORE_TIMEOUT = 60.0
KERNEL_BTF = "/sys/kernel/btf/vmlinux"
_MARGIN = 64 << 20
"""Bytes that must be left on the disk beside the guest's memory."""


@dataclass(frozen=True)
class Snapshot:
    """A saved machine. `manifest` holds argv, seconds of its stages, the agent's hello and what its probe said."""

    spec: VmSpec
    path: Path
    manifest: Mapping[str, Any] = field(repr=False, compare=False)
    store: SnapshotStore = field(repr=False, compare=False)

    @property
    def probe(self) -> Mapping[str, Any]:
        """What the agent's `probe` said, once, before the machine was saved."""
        result: Mapping[str, Any] = self.manifest["probe"]
        return result

    @property
    def console_text(self) -> str:
        """What the console said while the saved machine booted."""
        return (self.path / "console.log").read_text(encoding="utf-8", errors="replace").replace("\r", "")

    def minimal_btf(self, names: Sequence[str]) -> bytes | None:
        """BTF with the kernel's types of these names and what they hold by value; None where the kernel shows no BTF, or not all of the names."""
        try:
            return KernelBtf(self.path / "btf").minimal(names, (self.path / "btf.index").read_bytes())
        except (OSError, ValueError):
            return None

    def restore(
        self,
        console: Path,
        *,
        reporter: Reporter | None = None,
        serial: socket.socket | None = None,
        carried: int | None = None,
    ) -> Machine:
        """A new machine that goes on where this one was saved; its clock is set and its agent has answered.

        `console` is the file its console goes to from now on. A snapshot that turns out unusable is thrown away and made anew, once;
        the second failure is an InfraError. `carried` is the disk's file for what the run brings along (virtme.carried_drive).
        """
        return self._insist(lambda it: it._restore(it.spec, console, serial=serial, carried=carried), reporter or Quiet())

    def simulating(self, spec: VmSpec, console: Path, ram: int, *, reporter: Reporter | None = None) -> Machine:
        """The same for `spec`, the simulated kernel that this snapshot is the base of, with its memory copied into the descriptor `ram`
        and kept there, so that the machine can be saved in its turn.
        """
        return self._insist(lambda it: it._restore(spec, console, ram=ram), reporter or Quiet())

    def _insist(self, restore: Callable[[Snapshot], Machine], reporter: Reporter) -> Machine:
        try:
            return restore(self)
        except _Unusable as first:
            fresh = self.store.renew(self, reporter, why=str(first))
        try:
            return restore(fresh)
        except _Unusable as error:
            self.store.discard(fresh)
            raise InfraError(f"a snapshot just made cannot be restored: {error}", where=str(self.spec)) from error

    def _restore(
        self,
        spec: VmSpec,
        console: Path,
        *,
        ram: int | None = None,
        serial: socket.socket | None = None,
        carried: int | None = None,
    ) -> Machine:
        start = time.monotonic()
        try:
            lock = cache.share(self.path)
        except OSError as error:
            raise _Unusable(f"{self.path}: {error.strerror}") from error
        try:
            state = self._sound_state()
            memory, fds = str(self.path / "ram"), [] if carried is None else [carried]
            if ram is not None:
                with (self.path / "ram").open("rb") as file:
                    _copy_sparse(file.fileno(), ram, self.manifest["ram"][0])
                memory, fds = f"/proc/self/fd/{ram}", [*fds, ram]
            files = {"ram": memory, "carried": virtme.carried_drive(carried)}
            command = virtme.substitute(self.manifest["argv"], files, share=ram is not None)
            machine = launch(spec, command, console, fds=fds, state=state, serial=serial)
        except BaseException:
            os.close(lock)
            raise
        machine.on_close(lambda: os.close(lock))
        machine.hello, machine.minimal_btf = self.manifest["hello"], self.minimal_btf
        try:
            machine.call("time", timeout=_RESTORE_TIMEOUT, now=time.time())
        except (VmLost, KernelDied, GuestTimeout) as error:
            machine.kill()
            raise _Unusable(str(error)) from error
        except BaseException:
            machine.kill()
            raise
        with suppress(OSError):  # a cache that we may only read
            os.utime(self.path)
        machine.seconds = time.monotonic() - start
        return machine

    def _sound_state(self) -> bytes:
        """The state; raises _Unusable unless it and the memory are what was written (memory: by size and time of change)."""
        try:
            state = (self.path / "state").read_bytes()
            ram = (self.path / "ram").stat()
        except OSError as error:
            raise _Unusable(f"{error.filename}: {error.strerror}") from error
        if hashlib.sha256(state).hexdigest() != self.manifest["state_sha256"]:
            raise _Unusable("its state is damaged")
        if (ram.st_size, ram.st_mtime_ns) != tuple(self.manifest["ram"]):
            raise _Unusable("its memory file was changed")
        return state


class _Unusable(Exception):
    """This snapshot cannot be restored."""


class SnapshotStore:
    """The snapshots of one cache folder. Any number of processes may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else paths.cache_dir("snapshots")

    def get(self, spec: VmSpec, reporter: Reporter | None = None) -> Snapshot:
        """The snapshot of `spec`, made now unless it is there: by one process, however many ask.

        Raises InfraError where QEMU or virtme-ng is missing or the disk is full, KernelDied, VmLost or GuestTimeout where the
        machine does not come up.
        """
        if spec.confine is not None:  # who loads is said with each request: the machine is the same
            return replace(self.get(replace(spec, confine=None), reporter), spec=spec)
        path = self._path(spec)
        if (there := self._load(spec, path)) is not None:
            return there
        base = self.get(spec.base, reporter) if spec.simulate else None
        return self._make(spec, path, base, reporter or Quiet())

    def find(self, spec: VmSpec) -> Snapshot | None:
        """The snapshot of `spec` if it is there."""
        if spec.confine is not None:
            found = self.find(replace(spec, confine=None))
            return None if found is None else replace(found, spec=spec)
        return self._load(spec, self._path(spec))

    def renew(self, old: Snapshot, reporter: Reporter, *, why: str) -> Snapshot:
        """Throw `old` away and make it anew, unless somebody else has done so already."""
        with self._lock(old.path.parent, reporter):
            now = self._load(old.spec, old.path)
            if now is not None and now.manifest["made"] == old.manifest["made"]:
                cache.retire(self.root, old.path)
        with reporter.step(f"snapshot of {old.spec} is unusable ({why}): made anew"):
            return self.get(old.spec)

    def discard(self, snapshot: Snapshot) -> None:
        """Remove a snapshot. Machines that run from it go on."""
        with self._lock(snapshot.path.parent):
            cache.retire(self.root, snapshot.path)

    def _path(self, spec: VmSpec) -> Path:
        release = re.sub(r"[^0-9A-Za-z._+-]", "_", spec.kernel.release)
        simulated = f"~{hashlib.sha256(spec.simulate.encode()).hexdigest()[:8]}" if spec.simulate else ""
        set_up = f"+{hashlib.sha256(' '.join(spec.cmdline).encode()).hexdigest()[:8]}" if spec.cmdline else ""
        return self.root / f"{spec.arch}-{release}{set_up}{simulated}" / key(spec)

    @contextmanager
    def _lock(self, target: Path, reporter: Reporter | None = None) -> Iterator[None]:
        # Whoever holds it is bounded by the boot's and the probe's timeouts; many may queue.
        limit = 4 * (boot_timeout() + _PROBE_TIMEOUT)
        try:
            with cache.locked(target / "lock", f"snapshot of {target.name}", reporter, limit=limit):
                yield
        except cache.Busy:
            raise InfraError(
                f"another kmatrix has been making this snapshot for {limit:.0f} s", where=str(target / "lock")
            ) from None

    def _load(self, spec: VmSpec, path: Path) -> Snapshot | None:
        try:
            manifest = json.loads((path / "manifest.json").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return None  # damaged: made anew over it
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            return None
        return Snapshot(spec, path, manifest, self)

    def _make(self, spec: VmSpec, path: Path, base: Snapshot | None, reporter: Reporter) -> Snapshot:
        with reporter.step(f"snapshot of {spec}"), self._lock(path.parent, reporter):
            if (made := self._load(spec, path)) is not None:
                return made
            try:
                with cache.staging(self.root) as work:
                    manifest = _build(spec, work) if base is None else _derive(base, spec, work, reporter)
                    cache.publish(self.root, work, path)
            except OSError as error:
                if (told := paths.cache_error(error, self.root)) is not None:
                    raise told from error
                raise
            self._prune(path)
            return Snapshot(spec, path, manifest, self)

    def _prune(self, newest: Path) -> None:
        """Remove what the newest snapshot supersedes, and what no target has used for long: a folder's time is that of its last use."""
        others = [folder for folder in newest.parent.iterdir() if folder.is_dir() and folder != newest]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in others[_SPARE:]:
            cache.remove_unused(folder)
        long_ago = time.time() - _KEEP
        for folder in self.root.glob("*-*/*/"):
            if folder.stat().st_mtime < long_ago:
                cache.remove_unused(folder)


@lru_cache(maxsize=1)
def _host_cpu() -> str:
    """What a KVM guest sees of the host's CPU: its state fits no other."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    wanted = ("model name", "flags", "features", "cpu implementer", "cpu part", "cpu variant", "microcode")
    return "\n".join(line for line in lines if line.lower().startswith(wanted))


def key(spec: VmSpec) -> str:
    """The name of `spec`'s snapshot: a digest of everything that a saved machine depends on."""
    parts = {
        "format": [virtme.FORMAT, SCHEMA],
        "kernel": [spec.kernel.digest, str(spec.kernel.image), str(spec.kernel.modules_image)],
        "image": [spec.image.digest, str(spec.image.path)],
        "agent": agent_digest(),
        "qemu": virtme.qemu_identity(spec.arch),
        "virtme": virtme.virtme_version(),
        "machine": [spec.accel, spec.memory_mib, spec.cpus, virtme.cmdline(spec)],
        "host": _host_cpu() if spec.accel == "kvm" else None,
        "simulate": spec.simulate,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _build(spec: VmSpec, work: Path) -> dict[str, Any]:
    """Boot, probe and save a machine into the folder `work`; its manifest."""
    with _memory(spec, work) as ram:
        start = time.monotonic()
        scratch = work / "virtme"
        scratch.mkdir()
        plan = virtme.compose(spec, scratch)
        shutil.rmtree(scratch)
        composed = time.monotonic() - start
        with boot_plan(plan, spec, work / "console.log", ram) as machine:
            return _save(machine, ram, work, plan.resume, {"compose": composed})


def _derive(base: Snapshot, spec: VmSpec, work: Path, reporter: Reporter) -> dict[str, Any]:
    """Restore `base`, have its guest simulate what `spec` says, and save that into the folder `work`; its manifest."""
    with _memory(spec, work) as ram, base.simulating(spec, work / "console.log", ram, reporter=reporter) as machine:
        manifest = _save(machine, ram, work, base.manifest["argv"], {})
    with suppress(OSError), (work / "console.log").open("w", encoding="utf-8") as file:
        file.write(base.console_text)
    return manifest


@contextmanager
def _memory(spec: VmSpec, work: Path) -> Iterator[int]:
    """Memory for the guest, as a descriptor; raises InfraError where the disk has no room to keep it."""
    free = shutil.disk_usage(work).free
    if free < (spec.memory_mib << 20) + _MARGIN:
        need = spec.memory_mib + (_MARGIN >> 20)
        raise InfraError(f"a snapshot may need {need} MiB, {free >> 20} are free", where=str(work.parent), fix=paths.MAKE_ROOM)
    ram = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
    try:
        yield ram
    finally:
        os.close(ram)


def _save(machine: Machine, ram: int, work: Path, argv: Sequence[str], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Probe the machine and write it into the folder `work`; its manifest."""
    spec = machine.spec
    start = time.monotonic()
    probe = machine.call("probe", timeout=_PROBE_TIMEOUT)
    if probe["features"].get("btf") and spec.simulate is None:
        _keep_btf(machine, work)
    probed = time.monotonic()
    state = machine.save_state()
    saved = time.monotonic()
    (work / "state").write_bytes(state)
    with (work / "ram").open("wb") as file:
        _copy_sparse(ram, file.fileno(), spec.memory_mib << 20)
    stored = time.monotonic()
    stages = {**seconds, "boot": machine.seconds, "probe": probed - start, "save": saved - probed, "store": stored - saved}
    stat = (work / "ram").stat()
    manifest = {
        "schema": SCHEMA,
        "made": time.time_ns(),
        "kernel": {"digest": spec.kernel.digest, "release": spec.kernel.release},
        "image": spec.image.digest,
        "arch": spec.arch,
        "accel": spec.accel,
        "memory_mib": spec.memory_mib,
        "cpus": spec.cpus,
        "simulate": spec.simulate,
        "qemu": virtme.qemu_version(spec.arch),
        "virtme": virtme.virtme_version(),
        "argv": list(argv),
        "cmdline": virtme.cmdline(spec),
        "state_sha256": hashlib.sha256(state).hexdigest(),
        "ram": [stat.st_size, stat.st_mtime_ns],
        "ram_used": stat.st_blocks * 512,
        "seconds": {stage: round(taken, 3) for stage, taken in stages.items()},
        "hello": machine.hello,
        "probe": probe,
        "splats": [splat.title for splat in machine.all_splats()],
    }
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in work.iterdir():
        paths.sync(path)
    return manifest


def _keep_btf(machine: Machine, work: Path) -> None:
    """Keep the kernel's BTF, which is read here and not by each guest that loads an object. BTF that cannot be read is left to the guest."""
    (work / "btf").write_bytes(machine.get(KERNEL_BTF, timeout=_PROBE_TIMEOUT))
    try:
        (work / "btf.index").write_bytes(KernelBtf(work / "btf").index())
    except ValueError:
        (work / "btf").unlink()


def _copy_sparse(source: int, target: int, size: int) -> None:
    """Copy the guest's memory between empty files; what it never touched stays a hole."""
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(target, source, at, end - at)
