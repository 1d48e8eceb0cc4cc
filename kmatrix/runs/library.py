"""A library that loads objects, made ready in a VM: what the guest image does not have is brought there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kmatrix.guest.library import PACKED
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.matrix.arch import Arch
from kmatrix.vm.loaders import TITLES
from kmatrix.vm.machine import Machine

if TYPE_CHECKING:
    from kmatrix.vm.loaders import build
    from kmatrix.vm.loaders.build import Built
else:
    build = later("kmatrix.vm.loaders.build")  # the guest image has libbpf


def obtain(library: str, arch: Arch, *, mirrors: Mapping[str, str] | None = None, reporter: Reporter | None = None) -> Built | None:
    """The library's program for the guest; None where the guest image has it. Raises InfraError, Unavailable and InputError."""
    return build.cilium(arch, mirrors=mirrors, reporter=reporter) if library in PACKED else None


def bring(vm: Machine, library: str, built: Built | None) -> str:
    """Put it into the guest; the library's name and version, such as "cilium/ebpf 0.11.0"."""
    if built is None:
        return f"{TITLES[library]} {str(vm.hello.get('libbpf', '')).removeprefix('v')}".strip()
    vm.put(PACKED[library], built.packed.read_bytes())
    return f"{TITLES[library]} {built.version}"
