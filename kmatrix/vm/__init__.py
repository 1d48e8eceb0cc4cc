"""The VM engine: machines of any kernel and either arch, booted once, saved, and restored in a fraction of a second.

    spec = VmSpec(kernel, image, accel=choose("auto", spec).name)
    snapshot = SnapshotStore().get(spec, reporter)           # boots and saves, the first time
    with snapshot.restore(console=Path("console.log")) as machine:
        facts = machine.call("cell", timeout=30, **request)
        splat = machine.splat()

`virtme` composes the QEMU command line, `launch` starts it, `machine` asks it, `snapshot` saves and restores it, `console` judges what the
kernel printed, `accel` decides between KVM and TCG.
"""

from kmatrix.vm.accel import Accel, choose
from kmatrix.vm.console import Splat, splats
from kmatrix.vm.errors import GuestError, GuestTimeout, KernelDied, VmLost
from kmatrix.vm.launch import boot
from kmatrix.vm.machine import Machine, RunResult
from kmatrix.vm.snapshot import Snapshot, SnapshotStore
from kmatrix.vm.spec import VmSpec, footprint_mib

__all__ = [
    "Accel",
    "GuestError",
    "GuestTimeout",
    "KernelDied",
    "Machine",
    "RunResult",
    "Snapshot",
    "SnapshotStore",
    "Splat",
    "VmLost",
    "VmSpec",
    "boot",
    "choose",
    "footprint_mib",
    "splats",
]
