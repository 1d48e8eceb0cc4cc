"""The mainline source against a tree laid out as Ubuntu's, today's and that of before 2020, signed and unsigned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmatrix import kernels
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import mainline
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import CONFIG, Served, Signer, arm64_image, bzimage, deb, kernel, module, serve


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "mainline").mkdir()
    with serve(tmp_path / "mainline") as server:
        yield server


def build(
    root: Path,
    version: str,
    signer: Signer | None,
    *,
    arches: tuple[str, ...] = ("amd64", "arm64"),
    flat: bool = False,
    modules: bool = True,
) -> None:
    """A release's folder: headers, image and modules for each arch, checksums."""
    number = "".join(f"{int(part):02d}" for part in version.split("."))
    release = f"{version}-{number}-generic"
    stamp = f"{version}-{number}.202501010000"
    sums: dict[Path, str] = {}
    for arch in arches:
        folder = root / f"v{version}" / ("" if flat else arch)
        folder.mkdir(parents=True, exist_ok=True)
        image = bzimage(release, btf=False) if arch == "amd64" else arm64_image(release, btf=False)
        packages = {
            f"linux-headers-{release}_{stamp}_{arch}.deb": deb({"usr/x": b""}),
            f"linux-image-unsigned-{version}-{number}-lowlatency_{stamp}_{arch}.deb": deb({"usr/x": b""}),
            f"linux-image-unsigned-{release}_{stamp}_{arch}.deb": deb({f"boot/vmlinuz-{release}": image}),
        }
        if modules:
            parts = {f"boot/config-{release}": CONFIG.encode(), f"lib/modules/{release}/kernel/fs/a.ko": module("a")}
            packages[f"linux-modules-{release}_{stamp}_{arch}.deb"] = deb(parts)
        for name, data in packages.items():
            (folder / name).write_bytes(data)
            sums[folder] = sums.get(folder, "# Checksums-Sha256:\n") + f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    for folder, text in sums.items():
        (folder / "CHECKSUMS").write_text("# Checksums-Sha1:\n" + "0" * 40 + "  x\n" + text)
        if signer is not None:
            (folder / "CHECKSUMS.gpg").write_bytes(signer.detached((folder / "CHECKSUMS").read_bytes()))


def obtain(store: KernelStore, web: Served, arch: Arch = "x86_64", **options: object) -> KernelEntry:
    spec = SourceSpec("mainline", options={"url": (f"{web.uri}/",), "series": "5.4"} | options)
    return kernels.obtain(kernel("5.4", (5, 4), spec), arch, store, reporter=Quiet())


def test_the_newest_with_all_files(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    root = tmp_path / "mainline"
    for version in ("5.4.9", "5.4.10", "5.4.100", "5.40.1", "5.5.1"):
        build(root, version, signer)
    build(root, "5.4.101", signer, arches=("arm64",))
    build(root, "5.4.102", signer, modules=False)
    (root / "v5.4-rc8").mkdir()
    key = (str(signer.keyring),)
    entry = obtain(store, web, key=key)
    assert entry.release == "5.4.100-0504100-generic"
    assert entry.source["version"] == "v5.4.100"
    assert entry.modules is not None
    assert {artifact["trust"] for artifact in entry.source["artifacts"]} == {"the signed CHECKSUMS"}
    assert web.count("headers") == web.count("lowlatency") == 0
    assert obtain(store, web, "arm64", key=key).release == "5.4.101-0504101-generic"
    pinned = obtain(KernelStore(tmp_path / "2"), web, key=key, version="v5.4.9")
    assert pinned.release == "5.4.9-050409-generic"


def test_an_old_build_in_a_new_folder(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    """Its list is signed, its names say what it is."""
    build(tmp_path / "mainline", "5.4.9", signer)
    (tmp_path / "mainline/v5.4.9").rename(tmp_path / "mainline/v5.4.10")
    with pytest.raises(Unavailable, match=r"no complete build of 5\.4 for amd64; v5\.4\.10 lack files"):
        obtain(store, web, key=(str(signer.keyring),))


def test_the_first_of_a_series(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    build(tmp_path / "mainline", "5.4.0", signer)
    (tmp_path / "mainline/v5.4.0").rename(tmp_path / "mainline/v5.4")
    assert obtain(store, web, key=(str(signer.keyring),), version="5.4").release == "5.4.0-050400-generic"


def test_the_old_flat_layout(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    build(tmp_path / "mainline", "5.4.1", signer, flat=True)
    for arch in ("x86_64", "arm64"):
        assert obtain(store, web, arch, key=(str(signer.keyring),)).release == "5.4.1-050401-generic"


def test_a_page_that_lists_the_files_of_all_arches(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    root = tmp_path / "mainline"
    build(root, "5.4.1", signer)
    files = [path.relative_to(root / "v5.4.1").as_posix() for path in (root / "v5.4.1").rglob("*") if path.is_file()]
    (root / "v5.4.1/index.html").write_text("".join(f'<a href="{name}">{name}</a>\n' for name in files))
    for arch in ("amd64", "arm64"):
        (root / "v5.4.1" / arch / "index.html").write_text("nothing is listed here")
    assert obtain(store, web, key=(str(signer.keyring),)).release == "5.4.1-050401-generic"


def test_unsigned(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    build(tmp_path / "mainline", "5.4.1", None)
    with pytest.raises(InputError, match="nothing says what"):
        obtain(store, web)
    with pytest.raises(InfraError, match="CHECKSUMS is not signed"):
        obtain(store, web, key=(str(signer.keyring),))
    assert store.refs() == []
    entry = obtain(store, web, trust="first-use")
    assert {artifact["trust"] for artifact in entry.source["artifacts"]} == {"first use"}


def test_sums_changed_after_they_were_signed(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    build(tmp_path / "mainline", "5.4.1", signer)
    sums = tmp_path / "mainline/v5.4.1/amd64/CHECKSUMS"
    sums.write_bytes(sums.read_bytes() + b"\n")
    with pytest.raises(InfraError, match="changed after it was signed"):
        obtain(store, web, key=(str(signer.keyring),))


def test_none_is_complete(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    build(tmp_path / "mainline", "5.4.2", signer, arches=("arm64",))
    build(tmp_path / "mainline", "5.4.3", signer, modules=False)
    with pytest.raises(Unavailable, match=r"no complete build of 5\.4 for amd64; v5\.4\.3, v5\.4\.2 lack files"):
        obtain(store, web, key=(str(signer.keyring),))


def test_before_there_were_packages_of_modules() -> None:
    names = ["linux-image-4.14.1-041401-generic_4.14.1_amd64.deb", "linux-image-4.14.1-041401-lowlatency_4.14.1_amd64.deb"]
    assert mainline.packages(names, "amd64") == (names[0],)
