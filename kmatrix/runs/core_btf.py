"""The few kernel types that an object's CO-RE relocations need, brought to the guest beside the object (kmatrix.objects.min_core_btf).

The guest loads with these. Where that fails, it loads again with all that the kernel has, so a failure is always that of the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmatrix.host.parsed import parsed
from kmatrix.vm.channel import pack

if TYPE_CHECKING:
    from kmatrix.matrix.kernel import Target
    from kmatrix.objects.compiled import ObjectInfo
    from kmatrix.vm.machine import Machine


def minimal(vm: Machine, target: Target, info: ObjectInfo, library: str | None) -> str | None:
    """BTF for the object on this machine, as the guest is sent it. None where the guest has to read the kernel's own: the object needs all of
    it, or nothing, or the target's BTF is another than the kernel's."""
    names = info.core_types
    if not names or library != "libbpf" or target.simulated is not None or target.kernel.btf is not None:
        return None

    def cut() -> bytes:
        found = vm.minimal_btf(names)
        if found is None:
            raise _NotHere
        return found

    try:
        return pack(parsed("core-btf", (vm.spec.kernel.digest.encode(), *(name.encode() for name in names)), cut))
    except _NotHere:  # and not kept: a machine that was booted afresh has none, and one of the same kernel that was restored may
        return None


class _NotHere(Exception):
    """This machine has no such BTF."""
