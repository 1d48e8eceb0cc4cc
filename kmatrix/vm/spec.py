"""What a VM is made of: the value that everything in this package starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import INFO, Arch

if TYPE_CHECKING:
    from kmatrix.kernels.entry import KernelEntry
    from kmatrix.vm.guest_image import GuestImage

AccelName = Literal["kvm", "tcg"]

DEFAULT_MEMORY_MIB = 256

_QEMU_OVERHEAD_MIB = 128
"""QEMU's own memory beside the guest's: 25 MiB when restored, 80 after much work, and up to 170 once all its room for translated code
is in use."""


@dataclass(frozen=True)
class VmSpec:
    """A kernel on a guest image, and the machine under it."""

    kernel: KernelEntry
    image: GuestImage
    accel: AccelName = "tcg"
    memory_mib: int = DEFAULT_MEMORY_MIB
    cpus: int = 1
    cmdline: tuple[str, ...] = ()
    """Kernel parameters added to kmatrix's own."""
    simulate: str | None = None
    """The kernel that the guest's programs are to see instead, as JSON (kmatrix.matrix.simulation); None for the one that is booted."""

    confine: str | None = None
    """What is left of root's privileges to whatever loads in the guest, as JSON (kmatrix.matrix.privileges); None for all."""

    def __post_init__(self) -> None:
        """Raises InputError where the machine cannot have that many CPUs."""
        most = INFO[self.arch].most_cpus
        if self.cpus > most:
            raise InputError(
                f"a machine of {self.arch} has {most} CPUs at most, not {self.cpus}", where="cpus", fix=f"ask for {most} or fewer"
            )

    @property
    def arch(self) -> Arch:
        """The guest's architecture."""
        return self.kernel.arch

    @property
    def base(self) -> VmSpec:
        """The machine as it is booted, with nothing simulated on it."""
        return replace(self, simulate=None, confine=None)

    def __str__(self) -> str:
        told = json.loads(self.simulate) if self.simulate else {}
        as_what = f" as {told['release'] or 'a kernel with less'}" if told else ""
        unusual = [
            *([f"{self.memory_mib} MiB"] if self.memory_mib != DEFAULT_MEMORY_MIB else []),
            *([f"{self.cpus} CPUs"] if self.cpus > 1 else []),
            *self.cmdline,
        ]
        return f"{self.kernel.release}{as_what} ({', '.join([self.arch, self.accel, *unusual])})"


def footprint_mib(spec: VmSpec) -> int:
    """The host memory, in MiB, that one running VM of `spec` may come to need: for sizing how many run at once."""
    return spec.memory_mib + _QEMU_OVERHEAD_MIB
