"""What this machine has for running guests: said by a worker of itself."""

from __future__ import annotations

import os
import platform
import shutil
from typing import Any

from kmatrix.host import paths
from kmatrix.host.errors import InfraError, KmatrixError
from kmatrix.host.memory import available_mib
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import ARCHES, Arch, host_arch
from kmatrix.vm import accel, virtme
from kmatrix.vm.guest_image import ImageStore


def describe() -> dict[str, Any]:
    """What there is, as plain values. Raises StoreError where the cache cannot be had."""
    cache = paths.cache_dir("kernels").parent
    arch = host_arch()
    return {
        "node": platform.node(),
        "machine": platform.machine(),
        "arch": arch,
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": available_mib() or 0,
        "qemu": {each: _qemu(each) for each in ARCHES},
        "setpriv": shutil.which("setpriv"),
        "virtme": _virtme(),
        "accel": _accel(arch),
        "cache": str(cache),
        "free": shutil.disk_usage(cache).free,
        "kernels": [[name, each] for name, each in KernelStore().refs()],
        "images": [image.arch for image in ImageStore().entries()],
        "user": os.geteuid(),
    }


def _qemu(arch: Arch) -> str | None:
    try:
        return virtme.qemu_version(arch)
    except (InfraError, OSError):
        return None


def _virtme() -> str | None:
    try:
        return virtme.virtme_version()
    except InfraError:
        return None


def _accel(arch: Arch | None) -> dict[str, Any]:
    """What `--accel=auto` would take for guests of the host's own arch; `name` None while only a boot can tell."""
    if arch is None:
        return {"name": "tcg", "why": f"KVM runs no guest of kmatrix's on {platform.machine()}"}
    try:
        known = accel.known(arch)
    except (KmatrixError, OSError):  # no QEMU
        return {"name": "tcg", "why": "there is no QEMU that could use KVM"}
    if known is None:
        return {"name": None, "why": "/dev/kvm opens; the first run sees whether a guest boots under it"}
    return {"name": known.name, "why": known.why}
