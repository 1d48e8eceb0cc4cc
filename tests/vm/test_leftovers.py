"""However a run ends, no QEMU runs on and no socket or temporary file stays: seen on real machines, restored, booting and being saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kmatrix.host import cache
from kmatrix.vm import Snapshot, VmSpec
from tests.vm.test_process import alive, gone

T = TypeVar("T")

RUN = """
import sys, threading, time
from pathlib import Path
from kmatrix.vm.guest_image import ImageStore
from kmatrix.kernels.store import KernelStore
from kmatrix.host import cache
from kmatrix.vm import SnapshotStore, VmSpec, machine
from kmatrix.vm.process import Process

what, arch, root, snapshots = sys.argv[1:]
root = Path(root)
begin = Process.__init__
def tell(self, *args):
    begin(self, *args)
    print(self.pid, flush=True)
Process.__init__ = tell

spec = VmSpec(KernelStore().find("6.1", arch), ImageStore().find(arch))

def busy(vm):
    print("ready", flush=True)
    vm.run(["sleep", "3000"], timeout=3000)

if what == "restored":
    with SnapshotStore(Path(snapshots)).get(spec).restore(root / "console.log") as vm:
        busy(vm)
elif what == "restored in a thread":
    def work():
        with SnapshotStore(Path(snapshots)).get(spec).restore(root / "console.log") as vm:
            busy(vm)
    threading.Thread(target=work, daemon=True).start()
    time.sleep(3000)
elif what == "not closed":
    vm = SnapshotStore(Path(snapshots)).get(spec).restore(root / "console.log")
    print("ready", flush=True)
elif what == "failed":
    with SnapshotStore(Path(snapshots)).get(spec).restore(root / "console.log") as vm:
        print("ready", flush=True)
        raise RuntimeError("on purpose")
elif what == "making":
    print("ready", flush=True)
    SnapshotStore(root / "store").get(VmSpec(spec.kernel, spec.image, cmdline=("making",)))
"""


def start(what: str, spec: VmSpec, root: Path, snapshots: Path) -> tuple[subprocess.Popen[str], int]:
    """A run of `what`, and its QEMU's pid, once both are there."""
    temp = root / "temp"
    temp.mkdir()
    # Its own session: Ctrl-C reaches its whole foreground group, QEMU must not be in it.
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, what, spec.arch, str(root), str(snapshots)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temp)},
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while len(lines) < 2:
        line = process.stdout.readline()
        assert line, f"it ended: {process.communicate()[1]}"
        lines.append(line.strip())
    (pid,) = (int(line) for line in lines if line != "ready")
    return process, pid


def wait_for(look: Callable[[], T | None], seconds: float = 60.0) -> T:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
    return found


def worked(pid: int) -> float:
    """Seconds of a processor that a process has had (proc(5): utime of /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def left(root: Path) -> list[Path]:
    """What lies around of a run, apart from its console and what a store keeps on purpose."""
    return [path for path in root.rglob("*") if not path.is_dir() and path.name not in ("console.log", "lock")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP], ids=lambda how: how.name)
@pytest.mark.parametrize("what", ["restored", "restored in a thread"])
def test_a_run_that_is_ended(what: str, how: signal.Signals, native: Snapshot, tmp_path: Path) -> None:
    process, pid = start(what, native.spec, tmp_path, native.store.root)
    assert alive(pid)
    os.killpg(process.pid, how)
    process.communicate()
    assert gone(pid)
    assert not left(tmp_path)


@pytest.mark.parametrize("what", ["not closed", "failed"])
def test_a_run_that_ends_by_itself(what: str, native: Snapshot, tmp_path: Path) -> None:
    process, pid = start(what, native.spec, tmp_path, native.store.root)
    _, said = process.communicate()
    assert process.returncode == (1 if what == "failed" else 0), said
    assert gone(pid)
    assert not left(tmp_path)


def test_ctrl_c_reaches_the_one_who_waits(native: Snapshot, tmp_path: Path) -> None:
    process, pid = start("restored", native.spec, tmp_path, native.store.root)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert "KeyboardInterrupt" in said
    assert gone(pid)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_making_that_is_ended_is_swept_up_by_the_next(how: signal.Signals, native: Snapshot, tmp_path: Path) -> None:
    process, pid = start("making", native.spec, tmp_path, native.store.root)
    wait_for(lambda: worked(pid) > 1.0)  # midway: a boot takes several (and a quiet kernel says nothing)
    os.killpg(process.pid, how)
    process.communicate()
    assert gone(pid)
    area = tmp_path / "store" / "tmp"
    assert bool(list(area.iterdir())) == (how == signal.SIGKILL), "only a kill leaves something, and in the cache alone"
    assert not list((tmp_path / "temp").iterdir())
    with cache.staging(tmp_path / "store") as folder:
        assert list(area.iterdir()) == [folder]


def test_descriptors_are_given_back(native: Snapshot, tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with native.restore(tmp_path / "console.log") as machine:
        machine.run(["true"])
    before = descriptors()
    for _ in range(3):
        with native.restore(tmp_path / "console.log") as machine:
            machine.run(["true"])
    assert descriptors() == before
