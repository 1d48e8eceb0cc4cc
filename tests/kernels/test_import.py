"""The import source: the user's own images, folders and packages."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from kmatrix import kernels
from kmatrix.host.errors import InputError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import imported
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import CONFIG, arm64_image, bzimage, deb, kernel, kernel_deb, leftovers, module


def import_image(store: KernelStore, image: Path, arch="x86_64", **options) -> KernelEntry:  # type: ignore[no-untyped-def]
    return store.add("5.4", arch, lambda into: imported.stage_image(image, arch, into, **options))


def import_from(store: KernelStore, *paths: Path, arch="x86_64") -> KernelEntry:  # type: ignore[no-untyped-def]
    return store.add("5.4", arch, lambda into: imported.stage_package(paths, arch, into))


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_an_image(store: KernelStore, tmp_path: Path) -> None:
    entry = import_image(store, write(tmp_path / "bzImage", bzimage("5.4.286")))
    assert (entry.release, entry.btf, entry.modules, entry.modules_image) == ("5.4.286", True, None, None)
    assert entry.config is not None
    assert entry.config.read_text() == CONFIG  # the image's own
    assert entry.manifest["btf_found"] == "the .BTF section looked for in the image"


def test_an_arm64_image_is_stored_as_qemu_takes_it(store: KernelStore, tmp_path: Path) -> None:
    plain = arm64_image("5.4.286")
    entry = import_image(store, write(tmp_path / "Image.gz", gzip.compress(plain)), "arm64")
    assert entry.image.read_bytes() == plain


def test_a_configuration_beside_it(store: KernelStore, tmp_path: Path) -> None:
    image = write(tmp_path / "bzImage", bzimage("5.4.286", config=None))
    config = write(tmp_path / ".config", "CONFIG_MINE=y\n")
    entry = import_image(store, image, config=config)
    assert entry.config is not None
    assert entry.config.read_text() == "CONFIG_MINE=y\n"


def test_btf_from_the_configuration_where_the_image_cannot_be_read(store: KernelStore, tmp_path: Path) -> None:
    image = write(tmp_path / "bzImage", bzimage("5.4.286", pack="unknown"))
    entry = import_image(store, image, config=write(tmp_path / ".config", CONFIG))
    assert entry.btf
    assert entry.manifest["btf_found"].startswith("CONFIG_DEBUG_INFO_BTF in its configuration")


def test_btf_unknown(store: KernelStore, tmp_path: Path) -> None:
    entry = import_image(store, write(tmp_path / "bzImage", bzimage("5.4.286", pack="unknown")))
    assert not entry.btf
    assert entry.manifest["btf"] is None
    assert entry.manifest["btf_found"].startswith("unknown")


def test_promised_btf_that_is_not_there_is_noted(store: KernelStore, tmp_path: Path) -> None:
    entry = import_image(store, write(tmp_path / "bzImage", bzimage("5.4.286", btf=False)))
    assert not entry.btf
    assert entry.manifest["notes"] == ["CONFIG_DEBUG_INFO_BTF=y, but the image holds no BTF"]


@pytest.mark.parametrize("below", ["", "lib/modules/5.4.286", "usr/lib/modules/5.4.286", "5.4.286"])
def test_modules(store: KernelStore, tmp_path: Path, below: str) -> None:
    given = tmp_path / "given" / "5.4.286" if not below else tmp_path / "given"
    tree = given / below
    write(tree / "kernel/drivers/gpu/mine.ko.xz", lzma.compress(module("mine")))
    write(tree / "modules.order", "kernel/drivers/gpu/mine.ko\n")
    write(tree / "build/x.ko", b"not a module of it")
    entry = import_image(store, write(tmp_path / "bzImage", bzimage("5.4.286")), module_tree=given)
    assert entry.modules is not None
    assert entry.modules_image is not None
    # All that the user gives is taken: what a VM has no use for is theirs to decide.
    assert [path.name for path in entry.modules.rglob("*.ko*")] == ["mine.ko"]


def test_modules_of_another_release(store: KernelStore, tmp_path: Path) -> None:
    write(tmp_path / "given/lib/modules/5.4.1/kernel/a.ko", module("a"))
    with pytest.raises(InputError, match=r"no modules of 5\.4\.286"):
        import_image(store, write(tmp_path / "bzImage", bzimage("5.4.286")), module_tree=tmp_path / "given")


def test_a_deb(store: KernelStore, tmp_path: Path) -> None:
    entry = import_from(store, write(tmp_path / "x.deb", kernel_deb("5.4.0-9-amd64", bzimage("5.4.0-9-amd64"))))
    assert entry.release == "5.4.0-9-amd64"
    assert entry.modules is not None
    assert entry.source["from"] == [str(tmp_path / "x.deb")]


def test_image_and_modules_in_two_debs(store: KernelStore, tmp_path: Path) -> None:
    release = "5.4.0-100-generic"
    image = write(tmp_path / "image.deb", deb({f"boot/vmlinuz-{release}": bzimage(release)}, compress="gz"))
    rest = write(
        tmp_path / "modules.deb",
        deb({f"boot/config-{release}": b"CONFIG_X=y\n", f"lib/modules/{release}/kernel/fs/a.ko": module("a")}),
    )
    entry = import_from(store, image, rest)
    assert entry.modules is not None
    assert entry.config is not None
    assert entry.config.read_text() == "CONFIG_X=y\n"


def test_an_unpacked_package(store: KernelStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "boot/vmlinuz-5.4.286", bzimage("5.4.286"))
    write(root / "boot/System.map-5.4.286", b"map")
    write(root / "usr/lib/modules/5.4.286/kernel/net/a.ko", module("a"))
    (root / "usr/lib/modules/5.4.286/build").symlink_to("/")
    entry = import_from(store, root)
    assert entry.modules is not None
    assert entry.source["from"] == [str(root)]


def test_image_in_lib_modules(store: KernelStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "lib/modules/5.4.286/vmlinuz", bzimage("5.4.286"))
    write(root / "lib/modules/5.4.286/config", "CONFIG_Y=y\n")
    entry = import_from(store, root)
    assert entry.config is not None
    assert entry.config.read_text() == "CONFIG_Y=y\n"


def test_a_build_tree(store: KernelStore, tmp_path: Path) -> None:
    write(tmp_path / "arch/arm64/boot/Image", arm64_image("5.4.286"))
    write(tmp_path / ".config", "CONFIG_Z=y\n")
    entry = import_from(store, tmp_path, arch="arm64")
    assert entry.config is not None
    assert entry.config.read_text() == "CONFIG_Z=y\n"


def _bad(tmp_path: Path) -> dict[str, Path]:
    several = tmp_path / "several"
    for release in ("5.4.1", "5.4.2"):
        write(several / f"boot/vmlinuz-{release}", bzimage(release))
    return {
        "not a kernel image": write(tmp_path / "text", b"text" * 1000),
        "No such file": tmp_path / "missing",
        "Is a directory": several,
        "for arm64, and x86_64": write(tmp_path / "Image", arm64_image()),
    }


@pytest.mark.parametrize("message", ["not a kernel image", "No such file", "Is a directory", "for arm64, and x86_64"])
def test_bad_images(store: KernelStore, tmp_path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_image(store, _bad(tmp_path)[message])
    assert store.refs() == []
    assert leftovers(store.root) == []


def test_bad_packages(store: KernelStore, tmp_path: Path) -> None:
    _bad(tmp_path)
    (tmp_path / "empty").mkdir()
    for message, path in {
        "several kernels": tmp_path / "several",
        "no kernel image": tmp_path / "empty",
        "no Debian or RPM package": tmp_path / "text",
        "no sound RPM package": write(tmp_path / "x.rpm", b"\xed\xab\xee\xdb" + b"rpm" * 100),
        "cannot be read": tmp_path / "missing.deb",
    }.items():
        with pytest.raises(InputError, match=message):
            import_from(store, path)
    assert store.refs() == []
    assert leftovers(store.root) == []


def test_not_a_configuration(store: KernelStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a kernel configuration"):
        import_image(store, write(tmp_path / "bzImage", bzimage()), config=write(tmp_path / "x", "hello\n"))


# --- the kernels package: what is to be had


def test_availability(store: KernelStore) -> None:
    debian = kernel("6.1", (6, 1), SourceSpec("debian", ("x86_64",), {"suite": "bookworm", "series": "6.1"}))
    assert kernels.availability(debian, "x86_64", store) is None
    reason = kernels.availability(debian, "arm64", store)
    assert reason is not None
    assert "no source for arm64" in reason
    mine = kernel("5.4", (5, 4), SourceSpec("import"), SourceSpec("build"))
    reason = kernels.availability(mine, "x86_64", store)
    assert reason is not None
    assert "kmatrix kernels import 5.4 --arch x86_64 --image FILE" in reason
    assert "kmatrix kernels build 5.4 --arch x86_64 --tree DIR" in reason


def test_obtaining_what_nobody_fetches(store: KernelStore) -> None:
    with pytest.raises(Unavailable, match="not in the kernel store") as caught:
        kernels.obtain(kernel("5.4", (5, 4), SourceSpec("import")), "arm64", store, reporter=Quiet())
    assert caught.value.where == "5.4-arm64"
    assert caught.value.fix == "kmatrix kernels import 5.4 --arch arm64 --image FILE"


def test_availability_of_a_damaged_entry(store: KernelStore, tmp_path: Path) -> None:
    entry = import_image(store, write(tmp_path / "bzImage", bzimage("5.4.286")))
    entry.image.unlink()
    reason = kernels.availability(kernel("5.4", (5, 4), SourceSpec("import")), "x86_64", store)
    assert reason is not None
    assert "damaged" in reason
    assert "kmatrix kernels remove" in reason


def test_an_interrupted_read_is_no_package(tmp_path: Path) -> None:
    # A deb whose last member is cut short on a member boundary has no data.
    data = kernel_deb()
    path = write(tmp_path / "x.deb", data[: data.index(b"data.tar")])
    with pytest.raises(InputError, match="no sound Debian package"):
        imported.stage_package([path], "x86_64", tmp_path)
