"""Real guests for the VM engine's tests: from the kernels and images that are in the cache, each booted once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import lacking, lacking_kernel
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import ARCHES, Arch, host_arch
from kmatrix.matrix.load import load_matrix
from kmatrix.vm import Snapshot, SnapshotStore, VmSpec
from kmatrix.vm.guest_image import ImageStore

SpecOf = Callable[[str, Arch], VmSpec]


@pytest.fixture(scope="session")
def spec_of() -> SpecOf:
    """The VmSpec of a kernel's name and arch, by TCG; skips where its kernel or the guest image is not in the cache."""

    def find(name: str, arch: Arch) -> VmSpec:
        kernel = KernelStore().find(name, arch)
        if kernel is None:
            why = f"no kernel {name}-{arch} in the store: kmatrix kernels fetch {name} --arch {arch}"
            lacking_kernel(load_matrix().kernel(name), why)
        image = ImageStore().find(arch)
        if image is None:
            lacking(f"no guest image for {arch}: kmatrix images build --arch {arch}")
        return VmSpec(kernel, image)

    return find


@pytest.fixture(scope="session", params=ARCHES)
def spec(request: pytest.FixtureRequest, spec_of: SpecOf) -> VmSpec:
    """A machine of each arch."""
    return spec_of("6.1", request.param)


@pytest.fixture(scope="session")
def native_spec(spec_of: SpecOf) -> VmSpec:
    """A machine of the host's arch, for what is the same on both."""
    return spec_of("6.1", host_arch() or "x86_64")


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> SnapshotStore:
    """A store of this session's own."""
    return SnapshotStore(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture
def snapshot(spec: VmSpec, snapshots: SnapshotStore) -> Snapshot:
    return snapshots.get(spec)


@pytest.fixture
def native(native_spec: VmSpec, snapshots: SnapshotStore) -> Snapshot:
    return snapshots.get(native_spec)


@pytest.fixture
def console(tmp_path: Path) -> Path:
    return tmp_path / "console.log"
