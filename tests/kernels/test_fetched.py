"""What was fetched is booted: Debian's 6.1, published anew by servers of every kind, and fetched from them as a user would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmatrix import kernels
from kmatrix.cli import cli
from kmatrix.fetch.archive import zstd
from kmatrix.host.progress import Quiet
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import SourceSpec
from kmatrix.matrix.load import load_matrix
from kmatrix.vm import VmSpec, boot, guest_image

from .fabricate import Served, Signer, deb, kernel
from .publish import MODULES, Registry, layer, rpm, rpm_repository


@pytest.fixture(scope="module")
def original(need: Callable[[str], None]) -> Callable[[Arch], KernelEntry]:
    """Debian's 6.1 for an arch, from the user's store (where the VM's snapshots are, too)."""

    def find(arch: Arch) -> KernelEntry:
        need(f"6.1-{arch}")
        debian = SourceSpec("debian", options={"suite": "bookworm", "series": "6.1"})
        return kernels.obtain(kernel("6.1", (6, 1), debian), arch, KernelStore(), reporter=Quiet())

    return find


def boot_files(entry: KernelEntry, prefix: str = "") -> dict[str, bytes]:
    assert entry.config is not None
    return {
        f"{prefix}boot/vmlinuz-{entry.release}": entry.image.read_bytes(),
        f"{prefix}boot/config-{entry.release}": entry.config.read_bytes(),
    }


def module_files(
    entry: KernelEntry, prefix: str = "", pack: Callable[[bytes], bytes] = bytes, suffix: str = ""
) -> dict[str, bytes]:
    assert entry.modules is not None
    found = {}
    for path in sorted(entry.modules.rglob("*")):
        name = f"{prefix}lib/modules/{entry.release}/{path.relative_to(entry.modules)}"
        if path.suffix == ".ko":
            found[name + suffix] = pack(path.read_bytes())
        elif path.name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            found[name] = path.read_bytes()
    return found


def fetch_and_boot(store: KernelStore, arch: Arch, tmp_path: Path, spec: SourceSpec) -> KernelEntry:
    entry = kernels.obtain(kernel("6.1", (6, 1), spec), arch, store, reporter=Quiet())
    with boot(VmSpec(entry, guest_image.obtain(arch, reporter=Quiet())), tmp_path / "console.log") as vm:
        done = vm.run(["sh", "-c", "uname -r; ls /sys/kernel/btf | grep -c vmlinux"], timeout=60)
        assert done.stdout.decode().split() == [entry.release, "1" if entry.btf else "0"]
        if entry.modules is not None:
            assert vm.run(["modprobe", "overlay"], timeout=60).exit == 0
    return entry


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_little_vm_helpers_image(
    store: KernelStore, tmp_path: Path, images: Registry, original: Callable[[Arch], KernelEntry], arch: Arch
) -> None:
    base = "data/kernels/6.1/"
    entry = original(arch)
    layers = [layer(boot_files(entry, base), pack="zstd"), layer(module_files(entry, base), pack="zstd")]
    digest = images.push("lvh/kernel-images", "6.1", {INFO[arch].debian: layers})
    spec = SourceSpec("oci", options={"ref": f"{images.address}/lvh/kernel-images@{digest}"})
    fetched = fetch_and_boot(store, arch, tmp_path, spec)
    assert fetched.content == entry.content  # byte for byte what Debian's package has


def test_ci_kernels_image(store: KernelStore, tmp_path: Path, images: Registry, original: Callable[[Arch], KernelEntry]) -> None:
    entry = original("x86_64")
    files = {"boot/vmlinuz": entry.image.read_bytes()} | module_files(entry, "usr/")
    digest = images.push("ci-kernels", "6.1", {"amd64": [layer(files)]})
    spec = SourceSpec("oci", options={"ref": f"{images.address}/ci-kernels:6.1@{digest}"})
    fetch_and_boot(store, "x86_64", tmp_path, spec)


def test_signed_rpms(
    store: KernelStore, tmp_path: Path, web: Served, signer: Signer, original: Callable[[Arch], KernelEntry]
) -> None:
    """RHEL 9's repository: kernel-core, kernel-modules-core and kernel-modules, packed with zstd as their list is, and modular metadata."""
    entry = original("x86_64")
    assert entry.config is not None
    tree, packages = f"lib/modules/{entry.release}", tmp_path / "web/os/Packages"
    packages.mkdir(parents=True)
    core = {f"{tree}/vmlinuz": entry.image.read_bytes(), f"{tree}/config": entry.config.read_bytes()}
    modules = module_files(entry)
    some = {name: data for name, data in modules.items() if "/fs/" in name}
    rest = {name: data for name, data in modules.items() if name not in some}
    for name, files in {"kernel-core": core, "kernel-modules-core": some, "kernel-modules": rest}.items():
        rpm(packages, name, files, version="6.1.0", payload="w1.zstdio", signer=signer)
    rpm_repository(tmp_path / "web/os", zst=True, modules=MODULES)
    options = {
        "repository": f"{web.uri}/os/",
        "packages": ("kernel-core", "kernel-modules-core", "kernel-modules"),
        "key": (str(signer.keyring),),
    }
    fetched = fetch_and_boot(store, "x86_64", tmp_path, SourceSpec("package", options=options))
    assert {artifact["trust"] for artifact in fetched.source["artifacts"]} == {"the package's own signature"}


def test_a_mainline_build(tmp_path: Path, web: Served, signer: Signer, original: Callable[[Arch], KernelEntry]) -> None:
    """Image and modules in two packages packed with zstd, for arm64; `kmatrix kernels try` fetches, boots and probes it, and says what came."""
    entry = original("arm64")
    folder = tmp_path / "web/v6.1.9/arm64"
    folder.mkdir(parents=True)
    packed = module_files(entry, pack=lambda data: zstd.compress(data, 1), suffix=".zst")
    packages = {
        "linux-image-unsigned-6.1.9-060109-generic_6.1.9_arm64.deb": deb(boot_files(entry), compress="zst"),
        "linux-modules-6.1.9-060109-generic_6.1.9_arm64.deb": deb(packed, compress="zst"),
    }
    sums = ""
    for name, data in packages.items():
        (folder / name).write_bytes(data)
        sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    (folder / "CHECKSUMS").write_text(sums)
    (folder / "CHECKSUMS.gpg").write_bytes(signer.detached(sums.encode()))
    listed = f'{{ kind = "mainline", url = "{web.uri}/", series = "6.1", key = "{signer.keyring}", untried = true }}'
    gone = f'{{ kind = "mainline", url = "{web.uri}/gone/", series = "6.1", key = "{signer.keyring}", untried = true }}'
    declared = tmp_path / "kernels.toml"
    declared.write_text(f"""
schema = 1
[kernels.theirs]
version = "6.1"
features = {{ fentry = true }}
config = {{ FPROBE = false }}
sources = [{listed}, {gone}]
""")
    assert [spec.untried for spec in load_matrix(file=declared).kernels["theirs"].sources] == [True, True]
    done = CliRunner().invoke(cli, ["kernels", "try", "theirs-arm64", "--kernels-file", str(declared), "--json"])
    assert done.exit_code == 1  # one source is gone
    good, bad = json.loads(done.stdout)
    assert (good["good"], good["release"], good["differs"]) == (True, entry.release, {"fentry": False})
    assert {"btf", "ringbuf"} <= set(good["features"])
    assert (bad["good"], bad["stage"]) == (False, "fetch")
    assert "404" in bad["error"]
    # On arm64 it has been tried, and on x86_64 it has not.
    assert [(spec.arches, spec.untried) for spec in load_matrix(file=declared).kernels["theirs"].sources] == [
        (("arm64",), False), (("x86_64",), True), (("x86_64", "arm64"), True),
    ]  # fmt: skip
