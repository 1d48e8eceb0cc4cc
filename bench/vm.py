"""How long the VM engine takes, stage by stage, and virtme-ng alone beside it: medians, from one run, on this host as it is."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import vng
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.vm import Machine, SnapshotStore, VmSpec, boot, choose
from kmatrix.vm.guest_image import ImageStore

COLUMNS = ("target", "cold boot", "save", "MiB", "restore → answer", "next answer", "kill", "vng --exec true")


@dataclass(frozen=True)
class Timing:
    """Medians in seconds, but for `mib`: what the snapshot takes on the disk."""

    target: str
    accel: str
    cold: float
    """QEMU's start to the agent's hello."""
    save: float
    """Saving the devices' state and writing the memory out."""
    mib: int
    restore: float
    """Asking for a machine to having its agent's first answer."""
    answer: float
    """A call and its answer after that."""
    kill: float
    vng: float | None
    """virtme-ng booting the same kernel to run `true`: what a cell would pay without snapshots. None where it fails."""

    def row(self) -> tuple[str, ...]:
        """For the table, under COLUMNS."""
        vng = "–" if self.vng is None else f"{self.vng:.2f} s"
        seconds = (f"{value:.3f} s" for value in (self.restore, self.answer, self.kill))
        restore, answer, kill = seconds
        return (
            f"{self.target} ({self.accel})",
            f"{self.cold:.2f} s",
            f"{self.save:.2f} s",
            str(self.mib),
            restore,
            answer,
            kill,
            vng,
        )


def available() -> list[tuple[str, Arch, VmSpec]]:
    """Every target whose kernel and guest image are in the cache."""
    images = ImageStore()
    found = []
    for name, arch, kernel in KernelStore().entries():
        if (image := images.find(arch)) is not None:
            found.append((name, arch, VmSpec(kernel, image, accel=choose("auto", kernel, image).name)))
    return found


def measure(targets: Iterable[tuple[str, Arch, VmSpec]], *, rounds: int, boots: int) -> Iterable[Timing]:
    """One Timing a target: `rounds` restores and `boots` cold boots of each."""
    for name, arch, spec in targets:
        with tempfile.TemporaryDirectory(prefix="kmatrix-bench-") as folder:
            work = Path(folder)
            console = work / "console.log"
            snapshot = SnapshotStore(work / "snapshots").get(spec)
            seconds = snapshot.manifest["seconds"]
            cold = [seconds["boot"], *(_cold(spec, console) for _ in range(boots - 1))]
            restores, answers, kills = zip(*(_restored(snapshot.restore, console) for _ in range(rounds)), strict=True)
            yield Timing(
                target=f"{name}-{arch}",
                accel=spec.accel,
                cold=statistics.median(cold),
                save=seconds["save"] + seconds["store"],
                mib=snapshot.manifest["ram_used"] >> 20,
                restore=statistics.median(restores),
                answer=statistics.median(answers),
                kill=statistics.median(kills),
                vng=_vng(spec, boots),
            )


def _cold(spec: VmSpec, console: Path) -> float:
    with boot(spec, console) as machine:
        return machine.seconds


def _restored(restore: Callable[[Path], Machine], console: Path) -> tuple[float, float, float]:
    start = time.perf_counter()
    machine = restore(console)
    answered = time.perf_counter()
    machine.call("probe")
    again = time.perf_counter()
    machine.kill()
    return answered - start, again - answered, time.perf_counter() - again


def _vng(spec: VmSpec, times: int) -> float | None:
    """Median of `vng --exec true`; None where it fails."""
    try:
        return statistics.median(vng.run(spec) for _ in range(times))
    except RuntimeError:
        return None
