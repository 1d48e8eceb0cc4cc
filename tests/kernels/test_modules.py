"""Which modules are kept, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from virtme.virtmods import MODALIASES

from kmatrix.fetch import archive
from kmatrix.host.errors import InfraError, InputError
from kmatrix.kernels import layout, modules

from .fabricate import bzimage, deb, kernel_deb, module


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("kernel/net/sched/cls_bpf.ko", True),
        ("kernel/net/sched/cls_bpf.ko.xz", True),
        ("kernel/fs/overlayfs/overlay.ko.zst", True),
        ("kernel/crypto/af_alg.ko", True),
        ("kernel/lib/crc-itu-t.ko", True),
        ("kernel/arch/x86/crypto/crc32c-intel.ko", True),
        ("kernel/drivers/net/veth.ko", True),
        ("kernel/drivers/net/virtio_net.ko", True),
        ("kernel/drivers/net/wireguard/wireguard.ko", True),
        ("kernel/drivers/block/virtio_blk.ko", True),
        ("kernel/drivers/virtio/virtio_pci.ko", True),
        ("kernel/drivers/watchdog/i6300esb.ko", True),
        ("extra/mine.ko", True),
        ("kernel/drivers/net/ethernet/intel/ice/ice.ko", False),
        ("kernel/drivers/net/wireless/x.ko", False),
        ("kernel/drivers/gpu/drm/i915/i915.ko", False),
        ("kernel/drivers/net/sungem_phy.ko", False),
        ("kernel/sound/core/snd.ko", False),
        ("kernel/net/bluetooth/bluetooth.ko", False),
        ("kernel/arch/x86/kvm/kvm.ko", False),
        ("kernel/fs/ocfs2/ocfs2.ko", False),
        ("kernel/lib/test_bpf.ko", False),
        ("modules.order", False),
        ("kernel/README", False),
    ],
)
def test_wanted(path: str, kept: bool) -> None:
    assert modules.wanted(path) is kept


@pytest.mark.parametrize(
    "name", ["fs/9p/9p", "net/9p/9pnet_virtio", "drivers/char/virtio_console", "fs/fuse/virtiofs", "net/unix/unix"]
)
def test_what_virtme_asks_for_is_kept(name: str) -> None:
    assert MODALIASES  # what these answer to
    assert modules.wanted(f"kernel/{name}.ko")


def test_dependencies() -> None:
    assert modules.dependencies(module("9p", "9pnet,netfs-core")) == {"9pnet", "netfs_core"}
    assert modules.dependencies(module("veth")) == set()


def test_a_dependency_that_was_left_out_is_taken_after_all(tmp_path: Path) -> None:
    release = "6.1.0-9-amd64"
    tree = f"lib/modules/{release}/kernel"
    file = tmp_path / "x.deb"
    file.write_bytes(
        deb(
            {
                f"boot/vmlinuz-{release}": bzimage(release),
                f"{tree}/drivers/gpu/base.ko": module("base"),
                f"{tree}/drivers/gpu/other.ko": module("other"),
                f"{tree}/drivers/gpu/middle-part.ko": module("middle_part", "base"),
                f"{tree}/fs/a.ko": module("a", "middle_part,built_in"),
                f"lib/modules/{release}/modules.builtin": b"kernel/built-in.ko\n",
            }
        )
    )
    into = tmp_path / "into"
    into.mkdir()
    layout.lay_out([archive.deb(file)], "x86_64", into, where="x")
    assert sorted(path.name for path in into.rglob("*.ko")) == ["a.ko", "base.ko", "middle-part.ko"]
    dep = (into / "lib/modules" / release / "modules.dep").read_text()
    assert "kernel/fs/a.ko:" in dep
    assert (into / "modules.ext4").stat().st_size > 0


def test_modules_of_another_kernel(tmp_path: Path) -> None:
    file = tmp_path / "x.deb"
    file.write_bytes(kernel_deb("6.1.0-9-amd64", bzimage("6.1.0-10-amd64")))
    with pytest.raises(InputError, match=r"modules of 6\.1\.0-9-amd64, and the image is 6\.1\.0-10-amd64"):
        layout.lay_out([archive.deb(file)], "x86_64", tmp_path, where="x")


@pytest.mark.parametrize("data", [b"", b"!<arch>\n", kernel_deb()[:-500], deb({"x": b"y"}, compress="gz")[:-30]])
def test_a_broken_package(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "x.deb"
    file.write_bytes(data)
    with pytest.raises(InputError, match="no sound Debian package"):
        layout.lay_out([archive.deb(file)], "x86_64", tmp_path, where="x")


def test_a_broken_module(tmp_path: Path) -> None:
    release = "6.1.0-9-amd64"
    file = tmp_path / "x.deb"
    file.write_bytes(deb({f"boot/vmlinuz-{release}": bzimage(release), f"lib/modules/{release}/kernel/fs/a.ko.xz": b"garbage"}))
    with pytest.raises(InputError, match="does not decompress"):
        layout.lay_out([archive.deb(file)], "x86_64", tmp_path, where="x")


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="no-such-tool is not installed") as caught:
        modules.find_tool("no-such-tool", "some-package")
    assert caught.value.fix == "apt-get install some-package"
