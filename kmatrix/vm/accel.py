"""Which accelerator runs the guests, and why.

A /dev/kvm that opens proves nothing: there are hosts where it makes a VM and a CPU and never runs a guest kernel. So `auto` believes
in KVM only after it has seen a kernel boot under it, once per boot of the host and QEMU, and remembers either answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.matrix.arch import Arch, host_arch
from kmatrix.vm import virtme
from kmatrix.vm.errors import GuestTimeout, KernelDied, VmLost
from kmatrix.vm.launch import boot
from kmatrix.vm.spec import AccelName, VmSpec

if TYPE_CHECKING:
    from kmatrix.kernels.entry import KernelEntry
    from kmatrix.vm.guest_image import GuestImage

REQUESTS = ("auto", "kvm", "tcg")

_FIRST_WORD = 5.0
"""Seconds a kernel gets under KVM to print its first line, where it takes a fraction of one."""
_PROOF_TIMEOUT = 60.0
"""Seconds it then gets to come up: it runs, so this host can."""


@dataclass(frozen=True)
class Accel:
    """An accelerator and the reason it was chosen, as one clause."""

    name: AccelName
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def choose(
    request: str, kernel: KernelEntry, image: GuestImage, *, reporter: Reporter | None = None, device: Path = Path("/dev/kvm")
) -> Accel:
    """The accelerator for guests of `kernel`'s arch, as `request` ("auto", "kvm", "tcg") wants it.

    `auto` boots the kernel under KVM if nothing cheaper decides, which takes a few seconds the first time and nothing later. `kvm` is
    taken at its word, but must be possible: InputError for a guest of another arch, InfraError where the device cannot be opened.
    """
    if request not in REQUESTS:
        raise InputError(f"unknown accelerator {request!r}", where="--accel", fix=f"use one of: {', '.join(REQUESTS)}")
    if request == "tcg":
        return Accel("tcg", "as asked")
    obstacle = _obstacle(kernel.arch, device)
    if request == "kvm":
        if kernel.arch != host_arch():
            raise InputError(f"{obstacle}", where="--accel=kvm", fix="use --accel=auto")
        if obstacle:
            raise InfraError(obstacle, where="--accel=kvm", fix="use --accel=tcg, or add yourself to the group that owns /dev/kvm")
        return Accel("kvm", "as asked")
    if obstacle:
        return Accel("tcg", obstacle)
    return _remembered(VmSpec(kernel, image, accel="kvm", cmdline=("ignore_loglevel",)), reporter or Quiet(), _prove)


def known(arch: Arch, *, device: Path = Path("/dev/kvm")) -> Accel | None:
    """What `auto` would say without trying anything; None while only a real boot can tell."""
    obstacle = _obstacle(arch, device)
    return Accel("tcg", obstacle) if obstacle else _recall(_memory(arch))


def _obstacle(arch: Arch, device: Path) -> str | None:
    """Why KVM is out of the question, if a look is enough to say so."""
    if arch != host_arch():
        return f"KVM runs {host_arch() or 'no'} guests on this host, not {arch}"
    if not device.exists():
        return f"there is no {device}"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    return None


def _remembered(spec: VmSpec, reporter: Reporter, prove: Callable[[VmSpec], Accel]) -> Accel:
    """The answer known since an earlier call in this boot of the host, or what `prove` says now."""
    path = _memory(spec.arch)
    folder = path.parent
    with cache.locked(folder / f"{spec.arch}.lock", "trying KVM", reporter):
        if (answer := _recall(path)) is not None:
            return answer
        with reporter.step("trying KVM with a real boot (once per boot of this host)"):
            answer = prove(spec)
        # What earlier boots of the host said is of no use any more.
        for old in folder.glob("*.json"):
            if old.name.startswith(f"{spec.arch}-"):
                old.unlink(missing_ok=True)
        paths.write_whole(path, json.dumps(dataclasses.asdict(answer)))
        return answer


def _memory(arch: Arch) -> Path:
    return paths.cache_dir("accel") / f"{_host_key(arch)}.json"


def _recall(path: Path) -> Accel | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Accel(said["name"], said["why"])
    except (OSError, ValueError, KeyError):
        return None


def _prove(spec: VmSpec) -> Accel:
    start = time.monotonic()
    try:
        with cache.staging(paths.cache_dir("snapshots")) as work:
            boot(spec, work / "console.log", timeout=_PROOF_TIMEOUT, silence=_FIRST_WORD).kill()
    except (GuestTimeout, VmLost, KernelDied) as error:
        return Accel("tcg", f"/dev/kvm opens, but a kernel does not come up under it: {error.message.splitlines()[0]}")
    return Accel("kvm", f"a kernel booted under it in {time.monotonic() - start:.1f} s")


def _host_key(arch: Arch) -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{arch}-{hashlib.sha256(f'{boot_id} {virtme.qemu_identity(arch)}'.encode()).hexdigest()[:16]}"
