"""The same object loaded by virtme-ng and bpftool, and by kmatrix.

virtme-ng boots the same kernel with the host's own root, in which a script has bpftool load the object, and looks what is loaded. So it is of the
host's arch alone. A cell of kmatrix does more: it attaches the programs too, makes the event, reads and compares it, and sees that nothing is left.
"""

from __future__ import annotations

import shlex
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import vng
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.arch import INFO, host_arch
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import cell
from kmatrix.runs.machine_room import MachineRoom

COLUMNS = ("what", "median", "min", "max", "of a warm cell")


def measure(kernel: str, collector: str = "openat", variant: str = "ringbuf", *, rounds: int, boots: int) -> Iterator[list[str]]:
    """A row a way, on the kernel and the host's arch; medians of so many runs, in seconds."""
    arch = host_arch()
    if arch is None:
        raise RuntimeError("kernels of this host's arch are none of kmatrix's")
    room = MachineRoom(load_matrix())
    target = room.matrix.target(f"{kernel}-{arch}")
    loaded = load_collector(Path("collectors") / collector)
    built = Path("collectors") / collector / "build" / f"{collector}_{variant}_{INFO[arch].bpf2go}_bpfel.o"
    cold_room = MachineRoom(room.matrix, cold=True)

    def one(where: MachineRoom) -> float:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="kmatrix-bench-") as folder:
            record = cell.run(loaded, target, where, Path(folder))
        if not record.ok:
            raise RuntimeError(f"{record.cell}: {record.failure}: {record.reason}")
        return time.perf_counter() - start

    one(room)  # makes the snapshot
    warm = _times(lambda: one(room), rounds)
    spec = room.spec(target)
    ways = [
        ("kmatrix, a warm cell", warm),
        ("kmatrix, a cold cell (--cold)", _times(lambda: one(cold_room), boots)),
        ("vng --exec true", _times(lambda: vng.run(spec), boots)),
        ("vng --exec, bpftool loads", _times(lambda: vng.run(spec, _script(built)), boots)),
    ]
    base = statistics.median(warm)
    for name, taken in ways:
        seconds = (statistics.median(taken), min(taken), max(taken))
        yield [name, *(f"{value:.2f} s" for value in seconds), f"{statistics.median(taken) / base:.1f}"]


def _times(once: Callable[[], float], times: int) -> list[float]:
    return [once() for _ in range(times)]


def _script(built: Path) -> str:
    """What a cell does, as far as bpftool does it."""
    bpftool = shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if bpftool is None:
        raise RuntimeError("bpftool is not installed: apt-get install bpftool")
    steps = [
        "mount -t bpf bpf /sys/fs/bpf",
        f"{bpftool} prog loadall {shlex.quote(str(built.resolve()))} /sys/fs/bpf/bench",
        "cat /etc/hostname",
        f"{bpftool} prog show",
        f"{bpftool} map show",
    ]
    return " && ".join(steps)
