"""Snapshots: made once, pristine each time, thrown away when they are no good."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kmatrix.host import cache
from kmatrix.host.errors import InfraError
from kmatrix.host.progress import Quiet
from kmatrix.matrix.arch import Arch
from kmatrix.vm import Snapshot, SnapshotStore, VmSpec
from kmatrix.vm import snapshot as module
from kmatrix.vm.snapshot import key
from tests.vm.test_virtme import a_spec


def test_a_restored_machine_goes_on_and_has_the_time(snapshot: Snapshot, console: Path) -> None:
    with snapshot.restore(console) as machine:
        assert machine.hello == snapshot.manifest["hello"]
        assert machine.run(["uname", "-r"]).stdout.decode().strip() == snapshot.spec.kernel.release
        assert abs(float(machine.run(["date", "+%s.%N"]).stdout) - time.time()) < 60
        assert machine.call("probe") == snapshot.probe


def test_every_machine_is_pristine(snapshot: Snapshot, console: Path) -> None:
    with snapshot.restore(console) as one:
        one.put("/run/trace", b"x")
        one.run(["sh", "-c", "head -c 20000000 /dev/urandom > /tmp/much"])
        with snapshot.restore(console.with_name("two.log")) as two:
            assert two.run(["ls", "/run/trace"]).exit != 0
    with snapshot.restore(console) as three:
        assert three.run(["ls", "/run/trace", "/tmp/much"]).exit != 0


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
@pytest.mark.parametrize("name", ["4.14", "5.4", "5.10", "5.15", "6.1", "6.12"])
def test_every_kernel_survives(
    name: str, arch: Arch, spec_of: Callable[[str, Arch], VmSpec], snapshots: SnapshotStore, console: Path
) -> None:
    snapshot = snapshots.get(spec_of(name, arch))
    assert snapshot.manifest["hello"]["release"] == snapshot.spec.kernel.release
    for _ in range(3):
        with snapshot.restore(console) as machine:
            # Memory that the saved machine never touched, modules loaded after it was saved, processes, the file system's cache.
            assert machine.run(["sh", "-c", "head -c 30000000 /dev/zero | tail -c 5 | od -c && find /usr/bin | wc -l"]).exit == 0
            assert machine.splat() is None


def test_the_store_has_it_once(native: Snapshot, snapshots: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_build", lambda *args: pytest.fail("it was made already"))  # noqa: ARG005
    assert snapshots.get(native.spec) == native
    assert snapshots.find(native.spec) == native


def test_a_simulated_kernel_starts_from_its_bases_snapshot(
    native: Snapshot, snapshots: SnapshotStore, console: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_build", lambda *args: pytest.fail("it is not booted again"))  # noqa: ARG005
    told = {"as_of": [5, 4], "hidden": ["ringbuf"], "release": "5.4.0-kmatrix-sim"}
    spec = dataclasses.replace(native.spec, simulate=json.dumps(told))
    simulated = snapshots.get(spec)
    assert simulated.path.parent != native.path.parent  # neither supersedes the other
    assert snapshots.find(spec) == simulated
    assert native.probe["features"]["ringbuf"] is True
    assert simulated.probe["features"]["ringbuf"] is False
    for _ in range(2):
        with simulated.restore(console) as machine:
            assert machine.run(["uname", "-r"]).stdout == b"5.4.0-kmatrix-sim\n"
            assert machine.call("probe") == simulated.probe
    with native.restore(console) as machine:
        assert machine.run(["uname", "-r"]).stdout.decode().strip() == native.spec.kernel.release


def test_memory_is_sparse_and_the_state_small(native: Snapshot) -> None:
    ram = (native.path / "ram").stat()
    assert ram.st_size == native.spec.memory_mib << 20
    assert ram.st_blocks * 512 < ram.st_size * 0.8
    assert (native.path / "state").stat().st_size < 4 << 20


def test_the_boots_console_is_kept(native: Snapshot) -> None:
    assert (native.path / "console.log").exists()
    assert isinstance(native.console_text, str)


GET = """
import sys
from pathlib import Path
from kmatrix.vm.guest_image import ImageStore
from kmatrix.kernels.store import KernelStore
from kmatrix.vm import SnapshotStore, VmSpec
name, arch, root = sys.argv[1:]
snapshot = SnapshotStore(Path(root)).get(VmSpec(KernelStore().find(name, arch), ImageStore().find(arch), cmdline=("once",)))
print(snapshot.manifest["made"])
"""


def test_many_processes_make_it_once(native_spec: VmSpec, tmp_path: Path) -> None:
    command = [sys.executable, "-c", GET, "6.1", native_spec.arch, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    said = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(said) == 1
    assert not list((tmp_path / "tmp").iterdir())


@pytest.fixture
def damaged(native: Snapshot, tmp_path: Path) -> Snapshot:
    """A copy of a good snapshot, in a store of its own, to be damaged."""
    store = SnapshotStore(tmp_path / "store")
    path = store._path(native.spec)
    path.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", "--sparse=always", str(native.path), str(path)], check=True)
    found = store.find(native.spec)
    assert found is not None
    return found


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def refuse_state(path: Path) -> None:
    """A state that is what was written, but that QEMU refuses: as one of another QEMU would be."""
    (path / "state").write_bytes(b"QEVM nonsense")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state_sha256"] = hashlib.sha256(b"QEVM nonsense").hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "state truncated": lambda path: truncate(path / "state"),
    "state gone": lambda path: (path / "state").unlink(),
    "state refused": refuse_state,
    "memory truncated": lambda path: truncate(path / "ram"),
    "memory touched": lambda path: os.utime(path / "ram"),
    "memory gone": lambda path: (path / "ram").unlink(),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_snapshot_is_made_anew(
    damage: str, damaged: Snapshot, native: Snapshot, console: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DAMAGES[damage](damaged.path)
    found = damaged.store.find(damaged.spec)
    assert found is not None
    made = []

    def rebuild(spec: VmSpec, work: Path) -> dict[str, object]:  # noqa: ARG001
        """Made anew means booted anew; a copy of the good one stands in, for the boot's time."""
        made.append(work)
        for file in native.path.iterdir():
            subprocess.run(["cp", "-a", "--sparse=always", str(file), str(work)], check=True)
        return dict(native.manifest)

    monkeypatch.setattr(module, "_build", rebuild)
    with found.restore(console) as machine:
        assert machine.run(["true"]).exit == 0
    assert len(made) == 1
    assert not list((damaged.store.root / "tmp").iterdir())


def test_what_cannot_be_restored_twice_is_an_error_and_leaves_nothing(
    damaged: Snapshot, native: Snapshot, console: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuild(spec: VmSpec, work: Path) -> dict[str, object]:  # noqa: ARG001
        for file in native.path.iterdir():
            subprocess.run(["cp", "-a", "--sparse=always", str(file), str(work)], check=True)
        refuse_state(work)
        return dict(json.loads((work / "manifest.json").read_text()))

    monkeypatch.setattr(module, "_build", rebuild)
    truncate(damaged.path / "state")
    with pytest.raises(InfraError, match="a snapshot just made cannot be restored"):
        damaged.restore(console)
    assert not damaged.path.exists()
    assert not list((damaged.store.root / "tmp").iterdir())


def test_a_damaged_manifest_is_no_snapshot(damaged: Snapshot) -> None:
    (damaged.path / "manifest.json").write_text("{")
    assert damaged.store.find(damaged.spec) is None


def test_a_running_machine_keeps_its_snapshot(damaged: Snapshot, console: Path) -> None:
    with damaged.restore(console) as machine:
        cache.remove_unused(damaged.path)
        assert damaged.path.exists(), "in use"
        damaged.store.discard(damaged)
        assert not damaged.path.exists(), "its name is free"
        assert machine.run(["find", "/usr/lib", "-name", "nothing"]).exit == 0, "the machine goes on"
        assert list((damaged.store.root / "tmp").iterdir())
    cache.sweep(damaged.store.root)
    assert not list((damaged.store.root / "tmp").iterdir())


def test_an_unused_one_goes(damaged: Snapshot) -> None:
    cache.remove_unused(damaged.path)
    assert not damaged.path.exists()


def test_the_superseded_go_but_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: VmSpec, work: Path) -> dict[str, object]:
        manifest: dict[str, object] = {"schema": module.SCHEMA, "made": spec.memory_mib}
        (work / "manifest.json").write_text(json.dumps(manifest))
        return manifest

    monkeypatch.setattr(module, "_build", build)
    store = SnapshotStore(tmp_path)
    sizes = [256, 257, 258, 259]
    for size in sizes:
        store.get(dataclasses.replace(a_spec(), memory_mib=size))
    assert [store.find(dataclasses.replace(a_spec(), memory_mib=size)) is not None for size in sizes] == [False, False, True, True]


def test_what_nobody_used_for_long_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: VmSpec, work: Path) -> dict[str, object]:  # noqa: ARG001
        manifest: dict[str, object] = {"schema": module.SCHEMA, "made": 1}
        (work / "manifest.json").write_text(json.dumps(manifest))
        return manifest

    monkeypatch.setattr(module, "_build", build)
    store = SnapshotStore(tmp_path)

    def of(release: str) -> VmSpec:
        return dataclasses.replace(a_spec(), kernel=dataclasses.replace(a_spec().kernel, release=release))

    for release, days in (("6.1.0-1", 40), ("6.1.0-2", 20)):
        used = time.time() - days * 86400
        os.utime(store.get(of(release)).path, (used, used))
    store.get(of("6.1.0-3"))
    assert [store.find(of(f"6.1.0-{number}")) is not None for number in (1, 2, 3)] == [False, True, True]


def test_a_restore_counts_as_use(damaged: Snapshot, console: Path) -> None:
    os.utime(damaged.path, (0, 0))
    damaged.restore(console).kill()
    assert time.time() - damaged.path.stat().st_mtime < 60


def test_making_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: VmSpec, work: Path) -> None:  # noqa: ARG001
        (work / "ram").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_build", build)
    with pytest.raises(KeyboardInterrupt):
        SnapshotStore(tmp_path).get(a_spec())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]


def test_a_full_disk_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9 << 20))  # noqa: ARG005
    with pytest.raises(InfraError, match="may need 320 MiB, 9 are free"):
        SnapshotStore(tmp_path).get(a_spec())


def test_a_disk_that_fills_up_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: VmSpec, work: Path) -> None:  # noqa: ARG001
        raise OSError(28, "No space left on device", str(work / "ram"))

    monkeypatch.setattr(module, "_build", build)
    with pytest.raises(InfraError, match="the disk is full"):
        SnapshotStore(tmp_path).get(a_spec())


def test_a_waiting_process_gets_what_the_other_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    count = []

    def build(spec: VmSpec, work: Path) -> dict[str, object]:  # noqa: ARG001
        count.append(1)
        begun.set()
        assert go.wait(30)
        manifest: dict[str, object] = {"schema": module.SCHEMA, "made": 1}
        (work / "manifest.json").write_text(json.dumps(manifest))
        return manifest

    monkeypatch.setattr(module, "_build", build)
    threads = [threading.Thread(target=SnapshotStore(tmp_path).get, args=(a_spec(), Quiet())) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
    assert count == [1]


KEYED: dict[str, Callable[[VmSpec], VmSpec]] = {
    "kernel": lambda spec: dataclasses.replace(spec, kernel=dataclasses.replace(spec.kernel, digest="x")),
    "kernel's place": lambda spec: dataclasses.replace(spec, kernel=dataclasses.replace(spec.kernel, modules_image=Path("/x"))),
    "image": lambda spec: dataclasses.replace(spec, image=dataclasses.replace(spec.image, manifest={"digest": "x"})),
    "image's place": lambda spec: dataclasses.replace(spec, image=dataclasses.replace(spec.image, folder=Path("/x"))),
    "accelerator": lambda spec: dataclasses.replace(spec, accel="kvm"),
    "memory": lambda spec: dataclasses.replace(spec, memory_mib=512),
    "cpus": lambda spec: dataclasses.replace(spec, cpus=2),
    "parameters": lambda spec: dataclasses.replace(spec, cmdline=("x",)),
}


@pytest.mark.parametrize("change", sorted(KEYED))
def test_the_key_holds_what_the_spec_holds(change: str) -> None:
    assert key(a_spec()) == key(a_spec())
    assert key(KEYED[change](a_spec())) != key(a_spec())


@pytest.mark.parametrize("name", ["agent_digest", "virtme.qemu_identity", "virtme.virtme_version", "SCHEMA", "virtme.FORMAT"])
def test_the_key_holds_what_surrounds_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(a_spec())
    value: object = "x" if name.isupper() or name.endswith("FORMAT") else (lambda *args: "x")  # noqa: ARG005
    monkeypatch.setattr(f"kmatrix.vm.snapshot.{name}", value)
    assert key(a_spec()) != before


def test_the_host_cpu_counts_for_kvm_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kvm = dataclasses.replace(a_spec(), accel="kvm")
    before = key(a_spec()), key(kvm)
    monkeypatch.setattr(module, "_host_cpu", lambda: "another")
    assert key(a_spec()) == before[0]
    assert key(kvm) != before[1]
