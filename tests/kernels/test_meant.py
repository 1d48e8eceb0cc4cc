"""One store, several projects: each gets the kernel that its own kernels.toml means by a name, and none loses its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conftest import KMATRIX
from kmatrix import kernels
from kmatrix.host import cache
from kmatrix.host.errors import Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels import identity
from kmatrix.kernels.entry import KernelEntry, StagedKernel
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import Kernel, SourceSpec
from kmatrix.matrix.selection import Matrix
from kmatrix.runs import gc

from .fabricate import Served, bzimage, kernel, kernel_deb, leftovers, staged

A, B = "a" * 64, "b" * 64


def package(served: Served, root: Path, release: str, **more: object) -> SourceSpec:
    """A source of a package that is served, by its digest."""
    data = kernel_deb(f"{release}-amd64")
    (root / f"{release}.deb").write_bytes(data)
    options = {"url": (f"{served.uri}/{release}.deb",), "sha256": (hashlib.sha256(data).hexdigest(),), **more}
    return SourceSpec("package", options=options)


def project(*specs: SourceSpec, version: tuple[int, int] = (5, 4)) -> Kernel:
    return kernel("5.4", version, *specs)


def obtain(store: KernelStore, meant_by: Kernel, **more: bool) -> KernelEntry:
    return kernels.obtain(meant_by, "x86_64", store, reporter=Quiet(), **more)


def test_projects_that_mean_different_kernels_share_a_store(store: KernelStore, web: Served, tmp_path: Path) -> None:
    one, other = (project(package(web, tmp_path / "web", release)) for release in ("5.4.1", "5.4.2"))
    releases = [obtain(store, each).release for each in (one, other, one, other)]
    assert releases == ["5.4.1-amd64", "5.4.2-amd64"] * 2
    assert web.count(".deb") == 2  # neither threw the other's out
    assert [kernels.availability(each, "x86_64", store) for each in (one, other)] == [None, None]
    assert leftovers(store.root) == []
    # --replace renews one's own.
    assert obtain(store, other, replace=True).release == "5.4.2-amd64"
    assert obtain(store, one).release == "5.4.1-amd64"
    assert web.count(".deb") == 3


def test_a_name_that_is_another_series_elsewhere(store: KernelStore, web: Served, tmp_path: Path) -> None:
    obtain(store, project(package(web, tmp_path / "web", "5.10.1"), version=(5, 10)))
    assert obtain(store, project(package(web, tmp_path / "web", "5.4.1"))).release == "5.4.1-amd64"


def test_what_only_the_user_can_give(store: KernelStore, web: Served, tmp_path: Path) -> None:
    """Nothing is fetched: it is said what the store has by that name, and why that is not it."""
    obtain(store, project(package(web, tmp_path / "web", "5.4.1")))
    mine = project(SourceSpec("import"))
    with pytest.raises(Unavailable, match=r"is 5\.4\.1-amd64, which is not meant: it is of a source of kind package") as caught:
        obtain(store, mine)
    assert "kernels.toml gives import" in caught.value.message
    assert caught.value.fix == "kmatrix kernels import 5.4 --arch x86_64 --image FILE --replace"
    assert "which is not meant" in str(kernels.availability(mine, "x86_64", store))


def test_another_project_is_quicker(store: KernelStore, web: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name was free when it was looked for, and is taken when it is to be stored."""
    add, taken = KernelStore.add, []

    def late(self: KernelStore, name: str, *arguments: Any, **more: Any) -> KernelEntry:
        if not taken:
            taken.append(add(store, name, "x86_64", lambda into: staged(into, "5.10.1")))
        return add(self, name, *arguments, **more)

    monkeypatch.setattr(KernelStore, "add", late)
    assert obtain(store, project(package(web, tmp_path / "web", "5.4.1"))).release == "5.4.1-amd64"
    assert store.find("5.4", "x86_64") == taken[0]


def test_one_removed_as_soon_as_it_was_found(
    store: KernelStore, web: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kmatrix kernels gc` in another process: it is got again, not handed out without its files."""
    target = project(package(web, tmp_path / "web", "5.4.1"))
    entry, hold = obtain(store, target), cache.hold
    os.close(cache._held.pop(entry.path))

    def late(folder: Path) -> bool:
        monkeypatch.setattr(cache, "hold", hold)
        store.remove("5.4", "x86_64")
        return hold(folder)

    monkeypatch.setattr(cache, "hold", late)
    assert obtain(store, target).image.is_file()
    assert web.count(".deb") == 2


OCI = {"ref": f"r.example/x:1@sha256:{A}"}


@pytest.mark.parametrize(
    ("spec", "source", "says"),
    [
        (SourceSpec("debian", options={"suite": "a", "series": "5.4"}), {"suite": "a", "version": "1"}, None),
        (SourceSpec("debian", options={"suite": "a", "version": "1"}), {"suite": "a", "version": "2"}, "version 2"),
        (SourceSpec("debian", options={"suite": "b"}), {"suite": "a"}, "suite a"),
        (SourceSpec("oci", options=OCI), {"ref": "r.example/x:1", "artifacts": [{"url": "x", "sha256": A}]}, None),
        (SourceSpec("oci", options=OCI), {"ref": "r.example/x:1", "artifacts": [{"url": "x", "sha256": B}]}, "sha256 bbb"),
        (SourceSpec("oci", options={"ref": "r.example/x:1"}), {"ref": "r.example/x:2", "artifacts": []}, "r.example/x:2"),
        (SourceSpec("oci", options={"ref": "r.example/x:1"}), {"ref": f"r.example/x@sha256:{A}", "artifacts": []}, None),
        (SourceSpec("git", options={"ref": "v1", "url": ("u",)}), {"ref": "v2", "commit": "c"}, "it is v2"),
        (SourceSpec("git", options={"ref": "v1", "url": ("u",), "commit": "c"}), {"ref": "v2", "commit": "c"}, None),
        (SourceSpec("git", options={"ref": "v1", "url": ("u",), "commit": "d"}), {"ref": "v1", "commit": "c"}, "commit c"),
        (SourceSpec("package", options={"url": ("h/{debian}",)}), {"artifacts": [{"url": "h/amd64", "sha256": A}]}, None),
        (SourceSpec("package", options={"url": ("h/2",)}), {"artifacts": [{"url": "h/1", "sha256": A}]}, "from h/1"),
        (SourceSpec("package", options={"url": ("h/2",), "sha256": (A,)}), {"artifacts": [{"url": "h/1", "sha256": A}]}, None),
        (SourceSpec("tarball", options={"url": ("h/v5/",)}), {"artifacts": [{"url": "h/v5/l-5.4.tar.xz", "sha256": A}]}, None),
        (SourceSpec("tarball", options={"url": ("h/v5/",), "version": "5.4"}), {"version": "5.4.0", "artifacts": []}, None),
        (
            SourceSpec("tarball", options={"url": ("h/l-5.4.2.tar.xz",)}),
            {"artifacts": [{"url": "h/l-5.4.tar.xz", "sha256": A}]},
            "from h/l-5.4.t",
        ),
        (SourceSpec("debian", options={"suite": "a"}), {"kind": "import"}, None),
        (SourceSpec("debian", options={"suite": "a", "version": "1"}), {"kind": "import"}, "of a source of kind import"),
    ],
)
def test_what_is_compared(spec: SourceSpec, source: dict[str, object], says: str | None) -> None:
    told = identity.differs(project(spec), "x86_64", StagedKernel("5.4.1", {"kind": spec.kind, **source}, True, ""))
    assert told is None if says is None else says in str(told)


def test_giving_what_would_not_be_used(tmp_path: Path) -> None:
    """A name of which kernels.toml says exactly what it is takes nothing else."""
    text = f'schema = 1\nextends = false\n[kernels."5.4"]\nversion = "5.4"\nsources = [{{ kind = "package", url = "http://x/", sha256 = "{A}" }}]\n'
    (tmp_path / "kernels.toml").write_text(text)
    (tmp_path / "bzImage").write_bytes(bzimage("5.4.1"))
    command = [
        *KMATRIX,
        "kernels",
        "import",
        "5.4",
        "--arch=x86_64",
        "--image=bzImage",
    ]
    env = os.environ | {"KMATRIX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "would not be used: it is of a source of kind import" in done.stderr
    assert 'add { kind = "import" } to its sources' in done.stderr
    assert KernelStore(tmp_path / "cache/kernels").refs() == []


def test_gc_keeps_what_kernels_toml_means(store: KernelStore, web: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (project(package(web, tmp_path / "web", release)) for release in ("5.4.1", "5.4.2"))
    entries = [obtain(store, each) for each in (one, other)]
    for entry in entries:
        os.close(cache._held.pop(entry.path))
    monkeypatch.setattr(gc, "KernelStore", lambda: store)
    for mine, theirs in ((one, f"kernel {identity.beside(other, other.sources[0])}-x86_64"), (other, "kernel 5.4-x86_64")):
        assert [item.name for item in gc._kernels(Matrix({"5.4": mine}), 0)] == [theirs]
