"""How a whole run grows: the six collectors many times over, at several numbers of workers. Wall clock, CPU and memory of all processes together."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import memory

COLUMNS = ("cells", "workers", "wall", "a cell", "CPU", "a cell", "VMs' memory (PSS)")
_LOOK = 1.0
"""Seconds between looks at the memory."""


@dataclass(frozen=True)
class Run:
    """One run of pytest."""

    cells: int
    workers: int
    wall: float
    """Seconds, as `cpu`: of pytest, its workers and QEMU."""
    cpu: float
    pss: int
    """The most that all QEMU processes of the run had together at once, in bytes."""

    def row(self) -> list[str]:
        """For the table, under COLUMNS."""
        each = (f"{self.wall:.1f} s", f"{self.wall / self.cells:.3f} s", f"{self.cpu:.1f} s", f"{self.cpu / self.cells:.3f} s")
        return [str(self.cells), str(self.workers), *each, f"{self.pss >> 20} MiB"]


def measure(targets: Sequence[str], sizes: Sequence[int], workers: Sequence[int]) -> Iterator[Run]:
    """A run for each size and number of workers, the smallest first; one that is not counted makes the snapshots."""
    with tempfile.TemporaryDirectory(prefix="kmatrix-bench-") as folder:
        copies = Copies(Path(folder), targets)
        copies.run(12, 1)
        for size in sizes:
            for count in workers:
                yield copies.run(size, count)


class Copies:
    """A project of copies of the collectors."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        self._folder, self._targets = folder, targets
        self._manifests = sorted(Path("collectors").glob("*/collector.toml"))

    def run(self, cells: int, workers: int) -> Run:
        """Run so many cells. Raises RuntimeError where one is not as promised."""
        project = self._folder / str(cells)
        self._write(project, cells)
        kernels = sorted({target.rpartition("-")[0] for target in self._targets})
        arches = sorted({target.rpartition("-")[2] for target in self._targets})
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--kernels={','.join(kernels)}"]
        command += [f"--arch={arches[0] if len(arches) == 1 else 'all'}", *(("-n", str(workers)) if workers > 1 else ("-n0",))]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        watch = _Watch(process.pid)
        said, _ = process.communicate()
        wall, pss = time.monotonic() - start, watch.stop()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = re.search(r"(\d+) passed", said)
        if process.returncode or done is None or int(done[1]) != cells:
            raise RuntimeError(f"not all {cells} cells passed:\n{said[-2000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Run(cells, workers, wall, cpu, pss)

    def _write(self, project: Path, cells: int) -> None:
        """As many copies as it takes; a copy has its own name, and the objects of what it is a copy of."""
        needed, rest = divmod(cells, len(self._targets))
        if rest:
            raise ValueError(f"{cells} cells are no multiple of {len(self._targets)} targets")
        for number in range(needed):
            manifest = self._manifests[number % len(self._manifests)]
            name = f"{manifest.parent.name}{number // len(self._manifests)}"
            folder = project / name
            if folder.exists():
                continue
            folder.mkdir(parents=True)
            text = manifest.read_text(encoding="utf-8").replace(f'name = "{manifest.parent.name}"', f'name = "{name}"', 1)
            (folder / manifest.name).write_text(text, encoding="utf-8")
            for beside in manifest.parent.resolve().iterdir():
                if beside.name != manifest.name:
                    (folder / beside.name).symlink_to(beside)


class _Watch:
    """Looks at the memory of the QEMU processes below a process, until it is stopped."""

    def __init__(self, root: int) -> None:
        self._root, self._most = root, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The most that was seen, in bytes."""
        self._over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            total = 0
            for pid in _below(self._root):
                try:
                    if (Path("/proc") / pid / "comm").read_text().startswith("qemu-system"):
                        total += memory.of_process(pid)[1]
                except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                    continue
            self._most = max(self._most, total)


def _below(root: int) -> Iterator[str]:
    """The processes that descend from `root`."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[process.name] = stat.rpartition(")")[2].split()[1]
    for pid in parents:
        above = pid
        while (above := parents.get(above, "0")) not in ("0", "1"):
            if above == str(root):
                yield pid
                break
