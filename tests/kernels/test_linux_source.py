"""A real kernel from Debian's source of 6.1, with and without BTF, and booted: some minutes (`make test-build`).

Only where $KMATRIX_BUILD names an arch (x86_64, arm64).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from debian.debfile import DebFile
from debian.debian_support import Version

from conftest import lacking
from kmatrix import kernels
from kmatrix.fetch import apt
from kmatrix.host.errors import Unavailable
from kmatrix.host.progress import Terminal
from kmatrix.kernels import build
from kmatrix.kernels.build import Recipe
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import tarball
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import INFO, Arch, host_arch, parse_arch
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.matrix.load import load_matrix
from kmatrix.verdict.judge import feature_mismatches
from kmatrix.vm import VmSpec, boot, guest_image

from .fabricate import Served, Signer

KERNELS = """
schema = 1
[kernels."6.1-own"]
version = "6.1"
sources = [{{ kind = "tarball", url = "{url}/", key = "{key}" }}]
"""


@pytest.fixture
def arch() -> Arch:
    if "KMATRIX_BUILD" not in os.environ:
        pytest.skip("builds two kernels, some minutes: make test-build (KMATRIX_BUILD=arm64 for the other arch)")
    chosen = parse_arch(os.environ["KMATRIX_BUILD"])
    if chosen != host_arch() and shutil.which(f"{INFO[chosen].cross_prefix}gcc") is None:
        pytest.skip(f"needs {INFO[chosen].cross_prefix}gcc (apt-get install gcc-{INFO[chosen].cross_prefix}".rstrip("-") + ")")
    return chosen


@pytest.fixture
def source(arch: Arch, tmp_path: Path) -> Path:  # noqa: ARG001 - no download where nothing is built
    """The archive in Debian's package linux-source-6.1, verified as any package of Debian's."""
    try:
        suite = apt.open_suite("bookworm")
        package = max(suite.find("amd64", r"linux-source-6\.1"), key=lambda each: Version(each["Version"]))
        suite.download(package, tmp_path / "source.deb")
    except Unavailable as error:
        lacking(str(error))
    archive = tmp_path / f"linux-{package['Version'].split('-')[0]}.tar.xz"
    with (tmp_path / "source.deb").open("rb") as stream:
        data = DebFile(fileobj=stream).data.tgz()
        packed = data.extractfile(next(info for info in data if info.name.endswith("linux-source-6.1.tar.xz")))
        assert isinstance(data, tarfile.TarFile)
        assert packed is not None
        with archive.open("wb") as out:
            shutil.copyfileobj(packed, out)
    (tmp_path / "source.deb").unlink()
    return archive


def check_booted(kernel: Kernel, entry: KernelEntry, tmp_path: Path) -> None:
    """The guest finds the features that kernels.toml declares for this version, variant and arch: all of them, and no others."""
    image = guest_image.obtain(entry.arch, reporter=Terminal())
    with boot(VmSpec(entry, image), console=tmp_path / f"{kernel.name}.log") as vm:
        probe = vm.call("probe", timeout=120)
        assert vm.splat() is None
    assert feature_mismatches(Target(kernel, entry.arch), probe["features"], FEATURES) == []
    assert probe["features"]["btf"] == entry.btf


def test_a_kernel_with_and_without_btf(arch: Arch, source: Path, web: Served, signer: Signer, tmp_path: Path) -> None:
    """The first as kernel.org publishes a source, signed, and built on its way into the store; the second a variant of it, from a tree on disk.

    They differ in one option, and one that each file depends on: ccache makes the second quick, not make.
    """
    served = tmp_path / "web" / source.name
    served.hardlink_to(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    (served.parent / "sha256sums.asc").write_bytes(signer.clearsign(f"{digest}  {source.name}\n".encode()))
    (tmp_path / "kernels.toml").write_text(KERNELS.format(url=web.uri, key=signer.keyring))
    matrix, store = load_matrix(tmp_path), KernelStore(tmp_path / "store")

    kernel = matrix.kernel("6.1-own")
    entry = kernels.obtain(kernel, arch, store, reporter=Terminal())
    assert entry.btf
    assert entry.modules is None
    assert entry.source["artifacts"][0]["trust"] == "the signed sha256sums.asc"
    check_booted(kernel, entry, tmp_path)

    kernel = matrix.kernel("6.1-own-nobtf")
    tree = tarball.unpack(source, tmp_path / "source", kernel.name, Terminal(), where="linux-source")
    recipe = Recipe(tree, arch, out=tmp_path / "build")  # beside the tree, as the first is: ccache goes by relative paths
    entry = store.add(kernel.name, arch, lambda into: build.stage(recipe, kernel, into, Terminal()))
    assert not entry.btf
    assert not (recipe.tree / ".config").exists()
    check_booted(kernel, entry, tmp_path)
