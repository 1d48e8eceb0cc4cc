"""kernels.lock: what is held, what is refused, and that nothing changes where something was."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from kmatrix import config, kernels, lock
from kmatrix.errors import InfraError, InputError, Unavailable
from kmatrix.kernels.debian import DebianSource
from kmatrix.kernels.store import KernelEntry, KernelStore
from kmatrix.lock import Lock
from kmatrix.progress import Quiet

from .fabricate import Archive, Served, bzimage, debian_kernel, kernel, kernel_deb, leftovers, staged

KERNEL = debian_kernel()
NAME = ("6.1", "x86_64")


@pytest.fixture(autouse=True)
def _our_archive(apt_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DebianSource", lambda mirror: DebianSource(mirror, root=apt_config))


def obtain(store: KernelStore, held: Lock | None = None, **more: bool) -> KernelEntry:
    return kernels.obtain(KERNEL, "x86_64", store, reporter=Quiet(), lock=held, **more)


def locked(entry: KernelEntry, path: Path = Path("/p/kernels.lock"), name: str = "6.1") -> Lock:
    made = lock.record(name, "x86_64", release=entry.release, digest=entry.content, source=entry.source)
    return Lock(path, {(name, "x86_64"): made})


def newer(archive: Archive) -> None:
    """The suite moves on; the old package stays in the pool and in the index."""
    archive.add("linux-image-6.1.0-11-amd64", "6.1.11-1", "amd64", kernel_deb("6.1.0-11-amd64"))
    archive.packages["amd64"] = [p for p in archive.packages["amd64"] if p[0] != "linux-image-amd64"]
    archive.publish()


def test_the_file_reads_as_it_was_written(store: KernelStore, served: Served, tmp_path: Path) -> None:
    held = locked(obtain(store), tmp_path / "kernels.lock")
    (file,) = held.kernels["6.1", "x86_64"].files
    assert file["url"].startswith(served.uri)
    assert set(file) == {"url", "sha256", "size"}
    assert held.kernels["6.1", "x86_64"].pin == {"version": "6.1.9-1"}
    config.write_lock(held)
    assert lock.parse(config.read_toml(held.path), path=held.path) == held
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_locked_kernel_is_got_again_although_there_is_a_newer_one(store: KernelStore, archive: Archive, tmp_path: Path) -> None:
    first = obtain(store)
    newer(archive)
    elsewhere = KernelStore(tmp_path / "elsewhere")
    assert obtain(elsewhere, locked(first)).content == first.content
    assert obtain(KernelStore(tmp_path / "without")).release == "6.1.0-11-amd64"


def test_projects_held_to_different_kernels_share_a_store(store: KernelStore, archive: Archive, served: Served) -> None:
    old = locked(obtain(store))
    newer(archive)
    new = locked(obtain(store, replace=True))
    assert obtain(store, old).release == "6.1.0-9-amd64"
    assert obtain(store, new).release == "6.1.0-11-amd64"
    assert obtain(store).release == "6.1.0-11-amd64"
    asked = served.count(".deb")
    assert [obtain(store, each).release for each in (old, new)] == ["6.1.0-9-amd64", "6.1.0-11-amd64"]
    assert served.count(".deb") == asked


def test_another_package_is_refused(store: KernelStore, archive: Archive, tmp_path: Path) -> None:
    """Signed, and of the same version: still not what was locked."""
    held = locked(obtain(store))
    packages = archive.packages["amd64"]
    at = next(n for n, p in enumerate(packages) if p[0] == "linux-image-6.1.0-9-amd64")
    del packages[at]
    archive.add("linux-image-6.1.0-9-amd64", "6.1.9-1", "amd64", kernel_deb(image=bzimage(btf=False)))
    archive.publish()
    fresh = KernelStore(tmp_path / "fresh")
    with pytest.raises(InfraError, match="and the lock asks for") as caught:
        obtain(fresh, held)
    assert held.kernels[NAME].files[0]["sha256"] in caught.value.message
    assert "kmatrix kernels lock 6.1" in str(caught.value.fix)
    assert fresh.refs() == []
    assert leftovers(fresh.root) == []


def test_another_content_of_the_same_files_is_refused(store: KernelStore, tmp_path: Path) -> None:
    """What says only the digest of the whole: kmatrix itself unpacks it differently."""
    held = locked(obtain(store))
    other = Lock(held.path, {NAME: replace(held.kernels[NAME], digest="0" * 64)})
    fresh = KernelStore(tmp_path / "fresh")
    with pytest.raises(InfraError, match=r"the lock asks for 6\.1\.0-9-amd64 \(digest 0000"):
        obtain(fresh, other)
    assert fresh.refs() == []
    assert leftovers(fresh.root) == []


def test_a_version_that_is_gone(store: KernelStore, tmp_path: Path) -> None:
    held = locked(obtain(store))
    gone = Lock(held.path, {NAME: replace(held.kernels[NAME], pin={"version": "6.1.7-1"})})
    with pytest.raises(Unavailable, match=r"has no kernel 6\.1\.7-1") as caught:
        obtain(KernelStore(tmp_path / "fresh"), gone)
    assert "--update" in str(caught.value.fix)


def test_what_is_given_by_hand_is_held_too(store: KernelStore) -> None:
    mine = kernel("5.4", (5, 4), *())
    mine = replace(mine, sources=(replace(KERNEL.sources[0], kind="import", options={}),))
    entry = store.add("5.4", "x86_64", lambda into: staged(into, "5.4.1"))
    held = locked(entry, name="5.4")
    assert kernels.obtain(mine, "x86_64", store, reporter=Quiet(), lock=held) == entry
    assert kernels.availability(mine, "x86_64", store, lock=held) is None
    store.add("5.4", "x86_64", lambda into: staged(into, "5.4.2", text="other"), replace=True)
    with pytest.raises(InfraError, match=r"the one in the store is 5\.4\.2"):
        kernels.obtain(mine, "x86_64", store, reporter=Quiet(), lock=held)
    reason = kernels.availability(mine, "x86_64", store, lock=held)
    assert reason is not None
    assert "refused by /p/kernels.lock" in reason


def test_what_is_not_locked_is_refused(store: KernelStore, served: Served) -> None:
    empty = Lock(Path("/p/kernels.lock"))
    with pytest.raises(InputError, match=r"6\.1-x86_64 is not in it"):
        obtain(store, empty)
    assert kernels.availability(KERNEL, "x86_64", store, lock=empty) is not None
    assert served.requests == {}


def test_derived_files_do_not_count(store: KernelStore) -> None:
    """Another kmod or e2fsprogs makes other indices and another image of the same modules."""
    tree = "lib/modules/6.1.9"
    files = {f"{tree}/kernel/a.ko": b"a", f"{tree}/modules.builtin": b"b", f"{tree}/modules.dep": b"1", "modules.ext4": b"2"}
    one = store.add("a", "x86_64", lambda into: staged(into, files=files))
    two = store.add("b", "x86_64", lambda into: staged(into, files=files | {f"{tree}/modules.dep": b"x", "modules.ext4": b"y"}))
    three = store.add("c", "x86_64", lambda into: staged(into, files=files | {f"{tree}/modules.builtin": b"z"}))
    assert one.digest != two.digest
    assert one.content == two.content != three.content


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema = 2", "schema"),
        ('schema = 1\n[kernels."6.1".riscv]\nrelease = "x"', "riscv"),
        ('schema = 1\n[kernels."6.1".arm64]\nrelease = "x"\nsource = "import"\ndigest = "abc"', "digest"),
        ('schema = 1\n[kernels."6.1".arm64]\nrelease = "x"\nsource = "import"', "digest: missing"),
        ("schema = ", "not TOML"),
    ],
)
def test_a_damaged_lock_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kernels.toml").write_text("schema = 1\n")
    (tmp_path / "kernels.lock").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        config.load_matrix(tmp_path)
    assert caught.value.where == str(tmp_path / "kernels.lock")


def test_where_the_lock_is(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    assert config.lock_path(tmp_path / "a/b") == tmp_path / "a/b/kernels.lock"
    (tmp_path / "kernels.lock").write_text("schema = 1\n")
    assert config.lock_path(tmp_path / "a/b") == tmp_path / "kernels.lock"
    (tmp_path / "a/kernels.toml").write_text("schema = 1\n")
    assert config.lock_path(tmp_path / "a/b") == tmp_path / "a/kernels.lock"
    assert config.lock_path(tmp_path, file=tmp_path / "mine.toml") == tmp_path / "mine.lock"


def test_the_command(tmp_path: Path) -> None:
    """Lock, change the store under it, be refused, look, accept."""
    env = {"KMATRIX_CACHE": str(tmp_path / "cache"), "KMATRIX_OFFLINE": "1"}
    cached = KernelStore(tmp_path / "cache/kernels")
    text = 'schema = 1\nextends = false\n[kernels."5.4"]\nversion = "5.4"\nsources = [{ kind = "import" }]\n'
    (tmp_path / "kernels.toml").write_text(text)

    def kmatrix(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", "from kmatrix.cli import main; main()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert kmatrix("kernels", "lock", "--check")[0] == 2
    status, said = kmatrix("kernels", "lock", "5.4", "--arch", "arm64")
    assert status == 3
    assert "kernels import 5.4 --arch arm64" in said
    assert not (tmp_path / "kernels.lock").exists()
    cached.add("5.4", "x86_64", lambda into: staged(into, "5.4.1"))
    assert kmatrix("kernels", "lock")[0] == 0
    assert tomllib.loads((tmp_path / "kernels.lock").read_text())["kernels"]["5.4"]["x86_64"]["release"] == "5.4.1"
    assert kmatrix("kernels", "lock", "--check") == (0, f"{tmp_path}/kernels.lock: up to date\n")
    cached.add("5.4", "x86_64", lambda into: staged(into, "5.4.2", text="other"), replace=True)
    status, said = kmatrix("kernels", "lock", "--check")
    assert status == 1
    assert "5.4.2" in said
    status, said = kmatrix("kernels", "fetch", "5.4", "--arch", "x86_64")
    assert status == 3
    assert "refused by" in said
    before = (tmp_path / "kernels.lock").read_text()
    assert kmatrix("kernels", "lock")[0] == 0  # what is locked stays locked
    assert (tmp_path / "kernels.lock").read_text() == before
    status, said = kmatrix("kernels", "lock", "5.4")
    assert (status, "5.4.1 → 5.4.2" in said) == (0, True)
    assert kmatrix("kernels", "lock", "--check")[0] == 0
    (tmp_path / "kernels.toml").write_text(text.replace("5.4", "5.5"))
    assert kmatrix("kernels", "lock", "--check")[0] == 1
