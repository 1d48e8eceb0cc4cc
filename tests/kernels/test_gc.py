"""`kmatrix kernels gc`: what goes, what stays, and that nothing in use goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import KMATRIX
from kmatrix.host import cache, paths
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix import lockfile
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.lockfile import Lock
from kmatrix.matrix.selection import Matrix
from kmatrix.runs import gc

from .fabricate import leftovers, staged


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # conftest's own downloads: here all of the cache is the test's
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))


def matrix(held: Lock | None = None) -> Matrix:
    shipped = load_matrix()
    return Matrix(shipped.kernels, shipped.sets, lock=held)


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def collect(matrix: Matrix, days: float = gc.DAYS) -> list[str]:
    return [item.name for item in gc.items(matrix, days) if item.remove()]


def test_kernels() -> None:
    store = KernelStore()
    for name in ("5.4", "5.4-nobtf", "old", "recent", "held"):
        entry = store.add(name, "x86_64", lambda into, name=name: staged(into, "5.4.1", text=name))  # type: ignore[misc]
        age(entry.path, 1 if name == "recent" else 10)
        held = lockfile.record("x", "x86_64", release=entry.release, digest=entry.content, source=entry.source)
    project = matrix(Lock(Path("kernels.lock"), {("x", "x86_64"): held}))
    (item,) = gc.items(project)
    assert item.name == "kernel old-x86_64"
    assert item.size > 0
    assert "10 days ago" in item.why
    assert [name for name, _ in store.refs()] == ["5.4", "5.4-nobtf", "held", "old", "recent"]  # nothing is removed by looking
    assert collect(project) == ["kernel old-x86_64"]
    assert collect(matrix(), days=0) == ["kernel held-x86_64", "kernel recent-x86_64"]
    assert [name for name, _ in store.refs()] == ["5.4", "5.4-nobtf"]
    assert leftovers(store.root) == []


def test_what_no_name_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between storing an entry and naming it; a ref that says nothing; one whose files are gone."""
    store = KernelStore()
    kept = store.add("5.4", "x86_64", lambda into: staged(into, "5.4.1"))
    with monkeypatch.context() as patch:
        patch.setattr(KernelStore, "_write_ref", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            store.add("6.1", "x86_64", lambda into: staged(into, "6.1.1", text="orphan"))
    (orphan,) = store.orphans()
    (store.root / "refs/6.6-x86_64.json").write_text("{")
    gone = store.add("6.12", "x86_64", lambda into: staged(into, "6.12.1", text="gone"))
    shutil.rmtree(gone.path)
    cache.hold(orphan)
    assert collect(matrix()) == ["kernel 6.6-x86_64", "kernel 6.12-x86_64"]
    assert store.orphans() == [orphan]
    os.close(cache._held.pop(orphan))
    (item,) = gc.items(matrix())
    assert item.name == f"kernel files {orphan.name[:12]}…"
    assert item.size > 0
    assert item.remove()
    assert store.refs() == [("5.4", "x86_64")]
    assert [path.name for path in store.root.iterdir() if len(path.name) == 64] == [kept.digest]


def test_an_orphan_that_is_named_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    store = KernelStore()
    entry = store.add("5.4", "x86_64", lambda into: staged(into, "5.4.1"))
    monkeypatch.setattr(KernelStore, "orphans", lambda _: [entry.path])
    assert collect(matrix()) == []
    assert entry.image.exists()


def test_a_build_under_way_keeps_its_log() -> None:
    logs = {minutes: paths.cache_dir("builds") / f"5.4-{minutes}.log" for minutes in (5, 100)}
    for minutes, log in logs.items():
        log.write_text("CC a.o")
        age(log, minutes / 1440)
    assert collect(matrix(), days=0) == ["build log 5.4-100.log"]
    assert logs[5].exists()


def test_a_file_renamed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that was finished between being listed and being looked at."""
    (paths.cache_dir("downloads") / "sha256-a.part").write_bytes(b"x")
    listed = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda path: [*listed(path), path / "sha256-b.part"] if path.name == "downloads" else listed(path)
    )
    assert collect(matrix(), days=0) == ["download sha256-a…", "download sha256-b…"]


def test_what_a_process_uses_stays() -> None:
    store = KernelStore()
    entry = store.add("mine", "arm64", lambda into: staged(into))
    script = "import sys; from pathlib import Path; from kmatrix.host import cache\ncache.hold(Path(sys.argv[1])); print(1, flush=True); input()"
    user = subprocess.Popen([sys.executable, "-c", script, entry.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert user.stdout is not None
    assert user.stdout.readline()
    assert collect(matrix(), days=0) == []
    assert store.find("mine", "arm64") is not None
    user.kill()
    user.wait()
    assert collect(matrix(), days=0) == ["kernel mine-arm64"]
    assert not entry.path.exists()


def test_snapshots_whose_kernel_is_gone() -> None:
    kernel = KernelStore().add("5.4", "x86_64", lambda into: staged(into))
    image = paths.cache_dir("images") / "x86_64-abc"
    image.mkdir()
    folders = {}
    for name, digest in (("good", kernel.digest), ("orphan", "0" * 64)):
        folder = folders[name] = paths.cache_dir("snapshots") / f"x86_64-5.4/{name}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"kernel": {"digest": digest}, "image": "i"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc.ImageStore, "entries", lambda _: [type("Image", (), {"digest": "i", "key": "k", "folder": image})()])
        patch.setattr(gc.ImageStore, "in_use", lambda *_: True)
        cache.hold(folders["orphan"])
        assert collect(matrix()) == []
        os.close(cache._held.pop(folders["orphan"]))
        assert collect(matrix()) == ["snapshot x86_64-5.4/orphan"]
    assert folders["good"].exists()


def test_downloads_and_logs() -> None:
    downloads = paths.cache_dir("downloads")
    for name in ("sha256-a.part", "sha256-a.json", "sha256-b", "sha256-c.part"):
        (downloads / name).write_bytes(b"x" * 5000)
        age(downloads / name, 1 if "-c" in name else 10)
    log = paths.cache_dir("builds") / "5.4-arm64.log"
    log.write_text("CC a.o")
    age(log, 10)
    assert len(collect(matrix())) == 3
    assert sorted(path.name for path in downloads.iterdir() if path.suffix != ".lock") == ["sha256-c.part"]
    assert not log.exists()


def test_the_command(tmp_path: Path) -> None:
    entry = KernelStore().add("mine", "arm64", lambda into: staged(into))
    command = [*KMATRIX, "kernels", "gc", "--days=0"]

    def run(*arguments: str) -> str:
        return subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "would remove kernel mine-arm64" in run("--dry-run")
    assert entry.path.exists()
    said = run()
    assert "removed kernel mine-arm64" in said
    assert "MiB freed" in said
    assert not entry.path.exists()
