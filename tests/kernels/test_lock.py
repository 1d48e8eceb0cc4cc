"""kernels.lock: what is held, what is refused, and that nothing changes where something was."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from conftest import KMATRIX
from kmatrix import kernels
from kmatrix.cli import lock as command_module
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.host.toml import read_toml
from kmatrix.kernels import layout
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import debian as sources_debian
from kmatrix.kernels.sources.debian import DebianSource
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix import lock_schema, lockfile
from kmatrix.matrix.kernel import SourceSpec
from kmatrix.matrix.load import load_matrix, lock_path, write_lock
from kmatrix.matrix.lockfile import Lock

from .fabricate import Archive, Served, bzimage, debian_kernel, kernel, kernel_deb, leftovers, staged

KERNEL = debian_kernel()
ONE = f'schema = 1\n[kernels."6.1".arm64]\nrelease = "x"\nsource = "package"\ndigest = "{"0" * 64}"\n'
NAME = ("6.1", "x86_64")


@pytest.fixture(autouse=True)
def _our_archive(apt_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_debian, "DebianSource", lambda mirror: DebianSource(mirror, root=apt_config))


def obtain(store: KernelStore, held: Lock | None = None, **more: bool) -> KernelEntry:
    return kernels.obtain(KERNEL, "x86_64", store, reporter=Quiet(), lock=held, **more)


def locked(entry: KernelEntry, path: Path = Path("/p/kernels.lock"), name: str = "6.1") -> Lock:
    made = lockfile.record(name, "x86_64", release=entry.release, digest=entry.content, source=entry.source)
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
    write_lock(held)
    assert lock_schema.parse(read_toml(held.path), path=held.path) == held
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


@pytest.mark.parametrize("kind", ["import", "build"])
def test_given_by_hand_under_a_name_that_is_fetched(store: KernelStore, tmp_path: Path, kind: str) -> None:
    """No source of kernels.toml has it: the command that gives it is said, wherever it is missing, and not to lock anew."""
    entry = store.add("6.1", "x86_64", lambda into: replace(staged(into, "6.1.1"), source={"kind": kind, "image": "x"}))
    held, command = locked(entry), f"kmatrix kernels {kind} 6.1 --arch x86_64"
    assert obtain(store, held) == entry
    fresh = KernelStore(tmp_path / "fresh")
    assert kernels.availability(KERNEL, "x86_64", fresh, lock=held) is not None
    assert command in str(kernels.availability(KERNEL, "x86_64", fresh, lock=held))
    with pytest.raises(Unavailable, match=rf"holds it to 6\.1\.1 \(from {kind}\), which is not in the kernel store") as caught:
        obtain(fresh, held)
    assert str(caught.value.fix).startswith(command)
    assert "--update" not in str(caught.value.fix)
    obtain(fresh)
    with pytest.raises(InfraError, match="the one in the store is") as refused:
        obtain(fresh, held)
    assert f"{command}" in str(refused.value.fix)
    assert "--replace" in str(refused.value.fix)


def test_a_file_is_held_to_its_digest_before_it_is_unpacked(
    store: KernelStore, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed, and another: not even fetched. Whatever address the host's apt has for it."""
    held = locked(obtain(store))
    files = tuple(
        {**file, "url": f"http://elsewhere.invalid/{file['url'].rsplit('/', 1)[-1]}"} for file in held.kernels[NAME].files
    )
    held = Lock(held.path, {NAME: replace(held.kernels[NAME], files=files)})
    assert obtain(KernelStore(tmp_path / "same"), held).release == "6.1.0-9-amd64"
    at = next(n for n, p in enumerate(archive.packages["amd64"]) if p[0] == "linux-image-6.1.0-9-amd64")
    del archive.packages["amd64"][at]
    archive.add("linux-image-6.1.0-9-amd64", "6.1.9-1", "amd64", kernel_deb(image=bzimage(btf=False)))
    archive.publish()
    monkeypatch.setattr(layout, "lay_out", lambda *_arguments, **_more: pytest.fail("unpacked"))
    with pytest.raises(InfraError, match="and the lock asks for"):
        obtain(KernelStore(tmp_path / "fresh"), held)


def test_a_password_is_in_no_lock(store: KernelStore, web: Served, tmp_path: Path) -> None:
    """And is used all the same where kernels.toml has it."""
    data = kernel_deb("5.4.1-amd64")
    (tmp_path / "web/k.deb").write_bytes(data)
    url, digest = f"{web.uri}/k.deb".replace("://", "://me:secret@"), hashlib.sha256(data).hexdigest()
    mine = kernel("5.4", (5, 4), SourceSpec("package", options={"url": (url,), "sha256": (digest,)}))
    held = locked(kernels.obtain(mine, "x86_64", store, reporter=Quiet()), tmp_path / "kernels.lock", "5.4")
    text = lockfile.render(held)
    assert "secret" not in text
    assert f"{web.uri}/k.deb" in text
    assert lock_schema.parse(tomllib.loads(text), path=held.path) == held
    (spec,) = kernels._locked_to(mine, held.kernels["5.4", "x86_64"])
    assert spec.options["url"] == (url,)
    assert kernels.obtain(mine, "x86_64", KernelStore(tmp_path / "fresh"), reporter=Quiet(), lock=held).release == "5.4.1-amd64"


def test_two_that_write_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fetches for a while, and takes its own kernels into what the other has written meanwhile."""
    kinds = "".join(f'[kernels."{name}"]\nversion = "{name}"\nsources = [{{ kind = "import" }}]\n' for name in ("5.4", "5.10"))
    (tmp_path / "kernels.toml").write_text(f"schema = 1\nextends = false\n{kinds}")
    cached = KernelStore(tmp_path / "cache/kernels")
    for name in ("5.4", "5.10"):
        cached.add(name, "x86_64", lambda into, name=name: staged(into, f"{name}.1", text=name))  # type: ignore[misc]
    monkeypatch.undo()  # conftest's own downloads: here all of the cache is the test's
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    with filelock.FileLock(command_module._guard(tmp_path / "kernels.lock")):
        command = [*KMATRIX, "kernels", "lock", "--arch=x86_64"]
        both = [subprocess.Popen([*command, name], cwd=tmp_path) for name in ("5.4", "5.10")]
        time.sleep(3)
        assert [each.poll() for each in both] == [None, None]
        assert not (tmp_path / "kernels.lock").exists()
    assert [each.wait(60) for each in both] == [0, 0]
    assert set(tomllib.loads((tmp_path / "kernels.lock").read_text())["kernels"]) == {"5.4", "5.10"}


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
        (f"{ONE}pin = {{ sha256 = 3 }}", r"pin\.sha256"),
        (f'{ONE}pin = {{ url = "http://x/y" }}', r"pin\.url"),
        (f'{ONE}pin = {{ url = ["http://x/y"], sha256 = [] }}', "each url has one"),
        (f'{ONE}pin = {{ commit = "main" }}', r"pin\.commit"),
        (f'{ONE}pin = {{ vesrion = "1" }}', "unknown key; did you mean version"),
    ],
)
def test_a_damaged_lock_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kernels.toml").write_text("schema = 1\n")
    (tmp_path / "kernels.lock").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load_matrix(tmp_path)
    assert caught.value.where == str(tmp_path / "kernels.lock")


def test_where_the_lock_is(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    assert lock_path(tmp_path / "a/b") == tmp_path / "a/b/kernels.lock"
    (tmp_path / "kernels.lock").write_text("schema = 1\n")
    assert lock_path(tmp_path / "a/b") == tmp_path / "kernels.lock"
    (tmp_path / "a/kernels.toml").write_text("schema = 1\n")
    assert lock_path(tmp_path / "a/b") == tmp_path / "a/kernels.lock"
    assert lock_path(tmp_path, file=tmp_path / "mine.toml") == tmp_path / "mine.lock"


def test_the_command(tmp_path: Path) -> None:
    """Lock, change the store under it, be refused, look, accept."""
    env = {"KMATRIX_CACHE": str(tmp_path / "cache"), "KMATRIX_OFFLINE": "1"}
    cached = KernelStore(tmp_path / "cache/kernels")
    text = 'schema = 1\nextends = false\n[kernels."5.4"]\nversion = "5.4"\nsources = [{ kind = "import" }]\n'
    (tmp_path / "kernels.toml").write_text(text)

    def kmatrix(*arguments: str) -> tuple[int, str]:
        command = [*KMATRIX, *arguments]
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
