"""A real kernel, built from Debian's source of 6.1 with and without BTF, and booted: some minutes.

Only where $KMATRIX_BUILD names an arch (x86_64, arm64). $KMATRIX_SOURCE, a folder with the source unpacked, saves fetching and unpacking it.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest
from debian.debfile import DebFile

from kmatrix import apt, config, guest_image
from kmatrix.arch import INFO, host_arch, parse_arch
from kmatrix.errors import Unavailable
from kmatrix.kernels import build
from kmatrix.kernels.build import Recipe
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix import Arch
from kmatrix.progress import Quiet, Terminal
from kmatrix.vm import VmSpec, boot

KERNELS = 'schema = 1\n[kernels."6.1-own"]\nversion = "6.1"\nsources = [{ kind = "build" }]\n'
SMALL = Path(__file__).with_name("small.config")


@pytest.fixture
def arch() -> Arch:
    if "KMATRIX_BUILD" not in os.environ:
        pytest.skip("builds a kernel, some minutes: KMATRIX_BUILD=x86_64 (or arm64) pytest …")
    chosen = parse_arch(os.environ["KMATRIX_BUILD"])
    prefix = "" if chosen == host_arch() else INFO[chosen].cross_prefix
    lacking = [tool for tool in ("make", "flex", "bison", "bc", "pahole", "perl", f"{prefix}gcc") if shutil.which(tool) is None]
    if lacking:
        pytest.skip(f"building a kernel needs {', '.join(lacking)}")
    return chosen


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The tree of Debian's package linux-source-6.1, verified as any package of Debian's."""
    if given := os.environ.get("KMATRIX_SOURCE"):
        return Path(given)
    try:
        suite = apt.open_suite("bookworm")
        (package,) = suite.find("amd64", r"linux-source-6\.1")
        suite.download(package, tmp_path / "source.deb")
    except Unavailable as error:
        pytest.skip(str(error))
    with (tmp_path / "source.deb").open("rb") as stream:
        data = DebFile(fileobj=stream).data.tgz()
        member = next(info for info in data if info.name.endswith("linux-source-6.1.tar.xz"))
        packed = data.extractfile(member)
        assert packed is not None
        with tarfile.open(fileobj=packed, mode="r|xz") as tar:
            tar.extractall(tmp_path / "src", filter="tar")
    (tmp_path / "source.deb").unlink()
    return tmp_path / "src/linux-source-6.1"


def test_a_kernel_with_and_without_btf(arch: Arch, source: Path, tmp_path: Path) -> None:
    """The second is a variant, made in the first's folder (it saves little: without debug info every object is compiled again)."""
    (tmp_path / "kernels.toml").write_text(KERNELS)
    matrix, store = config.load_matrix(tmp_path), KernelStore(tmp_path / "store")
    image = guest_image.obtain(arch, reporter=Quiet())
    for name, has_btf in (("6.1-own", True), ("6.1-own-nobtf", False)):
        kernel = matrix.kernel(name)
        recipe = Recipe(source, arch, fragments=(SMALL,), out=tmp_path / "out")
        entry = store.add(name, arch, lambda into: build.stage(recipe, kernel, into, Terminal()))  # noqa: B023
        assert entry.btf == has_btf
        assert ("btf" in kernel.features(arch)) == has_btf
        assert entry.modules is None
        with boot(VmSpec(entry, image), console=tmp_path / f"{name}.log") as vm:
            probe = vm.call("probe", timeout=120)
            assert vm.splat() is None
        assert probe["features"]["btf"] == has_btf
        # What both can do for a collector, and what goes with BTF.
        for feature in ("ringbuf", "kprobes", "syscall_tracepoints", "cgroup_v2", "tc_clsact", "current_task_btf", "fentry"):
            assert probe["features"][feature] == (feature in kernel.features(arch)), feature
    assert not (source / ".config").exists()
