"""The package source: .deb and .rpm files by address and from repositories, built by the distributions' own tools and served over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix import kernels
from kmatrix.fetch.archive import zstd
from kmatrix.fetch.rpm import version_key
from kmatrix.host.errors import InfraError, InputError, KmatrixError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels import trust
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import package
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import CONFIG, Archive, Served, Signer, arm64_image, bare_rpm, bzimage, deb, kernel, kernel_deb, leftovers, module
from .publish import MODULES, rpm, rpm_index, rpm_repository

RELEASE = "5.4.286-1.el9.x86_64"


def spec(*urls: str, **options: object) -> SourceSpec:
    given = {"url": urls} if urls else {}
    listed = {
        name: (value,) if name in ("sha256", "key", "fingerprint") and isinstance(value, str) else value
        for name, value in options.items()
    }
    return SourceSpec("package", options=given | listed)


def obtain(store: KernelStore, source: SourceSpec, arch: Arch = "x86_64") -> KernelEntry:
    return kernels.obtain(kernel("5.4", (5, 4), source), arch, store, reporter=Quiet())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def core(release: str = RELEASE, image: bytes | None = None) -> dict[str, bytes]:
    """kernel-core, as in RHEL 8 and later: all below lib/modules."""
    tree = f"lib/modules/{release}"
    modules = {f"{tree}/kernel/fs/overlayfs/overlay.ko": module("overlay"), f"{tree}/kernel/drivers/gpu/big.ko": module("big")}
    return {
        f"{tree}/vmlinuz": image or bzimage(release),
        f"{tree}/config": CONFIG.encode(),
        f"{tree}/modules.builtin": b"\n",
    } | modules


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Path:
    return rpm(tmp_path_factory.mktemp("rpm"), "kernel-core", core(), signer=signer)


@pytest.mark.parametrize("payload", ["w3.zstdio", "w2.xzdio", "w2.gzdio", "w2.bzdio", "w2.lzdio"])
def test_rpm_by_digest(store: KernelStore, tmp_path: Path, web: Served, payload: str) -> None:
    file = rpm(tmp_path / "web", "kernel", core(), payload=payload)
    entry = obtain(store, spec(f"{web.uri}/{file.name}", sha256=sha256(file)))
    assert (entry.release, entry.btf) == (RELEASE, True)
    assert entry.modules is not None
    assert [path.name for path in entry.modules.rglob("*.ko")] == ["overlay.ko"]
    assert entry.source["artifacts"] == [
        {"url": f"{web.uri}/{file.name}", "sha256": sha256(file), "size": file.stat().st_size, "trust": "sha256 in kernels.toml"}
    ]
    assert leftovers(store.root) == []


def test_rpm_by_signature(store: KernelStore, tmp_path: Path, web: Served, signed: Path, signer: Signer) -> None:
    shutil.copy(signed, tmp_path / "web")
    (tmp_path / "web/KEY").write_text(signer.armoured())
    source = spec(f"{web.uri}/{signed.name}", key=f"{web.uri}/KEY", fingerprint=signer.fingerprint())
    entry = obtain(store, source)
    assert entry.source["artifacts"][0]["trust"] == "the package's own signature"
    again = obtain(KernelStore(tmp_path / "again"), trust.pinned(spec(f"{web.uri}/other.rpm"), entry.source))
    assert again.digest == entry.digest
    (tmp_path / "web/KEY").unlink()  # what is pinned needs no key server
    assert obtain(KernelStore(tmp_path / "pinned"), trust.pinned(source, entry.source)).digest == entry.digest


def test_a_key_of_another_fingerprint(store: KernelStore, tmp_path: Path, web: Served, signed: Path, signer: Signer) -> None:
    shutil.copy(signed, tmp_path / "web")
    source = spec(f"{web.uri}/{signed.name}", key=str(signer.keyring), fingerprint="0" * 40)
    with pytest.raises(InfraError, match="signature is not good"):
        obtain(store, source)
    with pytest.raises(InputError, match="nothing says which it must be"):
        obtain(store, spec(f"{web.uri}/{signed.name}", key=f"{web.uri}/KEY"))


@pytest.mark.parametrize("where", ["header", "payload"])
def test_a_signed_rpm_changed(store: KernelStore, tmp_path: Path, web: Served, signed: Path, signer: Signer, where: str) -> None:
    data = bytearray(signed.read_bytes())
    at = data.index(b"kernel-core\0", 500) if where == "header" else len(data) - 100
    data[at] ^= 1
    (tmp_path / "web/k.rpm").write_bytes(data)
    with pytest.raises(InfraError, match=r"signature is not good|payload is not the one that was signed"):
        obtain(store, spec(f"{web.uri}/k.rpm", key=str(signer.keyring)))
    assert store.refs() == []


def test_an_unsigned_rpm(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    file = rpm(tmp_path / "web", "kernel", core())
    with pytest.raises(InfraError, match="not signed"):
        obtain(store, spec(f"{web.uri}/{file.name}", key=str(signer.keyring)))


def test_signed_by_a_stranger(store: KernelStore, tmp_path: Path, web: Served, signed: Path) -> None:
    stranger = Signer.make(tmp_path / "stranger")
    stranger.close()
    shutil.copy(signed, tmp_path / "web")
    with pytest.raises(InfraError, match="none of the known keys"):
        obtain(store, spec(f"{web.uri}/{signed.name}", key=str(stranger.keyring)))


def test_ubuntus_layout(store: KernelStore, tmp_path: Path, web: Served) -> None:
    """Image and modules in two packages, packed with zstd (and the modules in them too)."""
    release = "5.4.0-216-generic"
    tree = f"lib/modules/{release}"
    image = deb({f"boot/vmlinuz-{release}": arm64_image(release)}, compress="zst")
    parts = {
        f"boot/config-{release}": CONFIG.encode(),
        f"{tree}/kernel/fs/overlayfs/overlay.ko.zst": zstd.compress(module("overlay")),
    }
    (tmp_path / "web/image.deb").write_bytes(image)
    (tmp_path / "web/modules.deb").write_bytes(deb(parts | {f"{tree}/modules.builtin": b""}, compress="zst"))
    digests = tuple(sha256(tmp_path / "web" / name) for name in ("image.deb", "modules.deb"))
    entry = obtain(store, spec(f"{web.uri}/image.deb", f"{web.uri}/modules.deb", sha256=digests), "arm64")
    assert entry.release == release
    assert entry.modules is not None
    assert [path.name for path in entry.modules.rglob("*.ko*")] == ["overlay.ko"]


def test_nothing_vouches(store: KernelStore, tmp_path: Path, web: Served) -> None:
    (tmp_path / "web/k.deb").write_bytes(kernel_deb("5.4.9-amd64"))
    with pytest.raises(InputError, match="nothing says what"):
        obtain(store, spec(f"{web.uri}/k.deb"))
    assert web.count("k.deb") == 0
    entry = obtain(store, spec(f"{web.uri}/k.deb", trust="first-use"))
    assert entry.source["artifacts"][0]["trust"] == "first use"
    assert list(entry.source["pin"]["sha256"]) == [entry.source["artifacts"][0]["sha256"]]
    (tmp_path / "web/k.deb").write_bytes(kernel_deb("5.4.10-amd64"))  # pinned, another one is refused
    pinned = trust.pinned(spec(f"{web.uri}/k.deb", trust="first-use"), entry.source)
    with pytest.raises(InfraError, match="sha256 differs"):
        obtain(KernelStore(tmp_path / "again"), pinned)


def test_a_deb_by_key(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    (tmp_path / "web/k.deb").write_bytes(kernel_deb("5.4.9-amd64"))
    with pytest.raises(InputError, match="no other kind carries a signature"):
        obtain(store, spec(f"{web.uri}/k.deb", key=str(signer.keyring)))


def test_a_password_is_not_kept(store: KernelStore, tmp_path: Path, web: Served) -> None:
    """Not in an error, a manifest or a lock; and what is pinned is asked for with it again."""
    (tmp_path / "web/k.deb").write_bytes(kernel_deb("5.4.9-amd64"))
    address = web.uri.replace("://", "://user:hunter2@")
    source = spec(f"{address}/k.deb", trust="first-use")
    entry = obtain(store, source)
    assert entry.source["artifacts"][0]["url"] == f"{web.uri}/k.deb"
    assert not [file for file in store.root.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
    assert trust.pinned(source, entry.source).options["url"] == (f"{address}/k.deb",)
    repository = spec(repository=f"{address}/repo/")
    assert trust.pinned(repository, entry.source).options["url"] == (f"{address}/k.deb",)
    assert trust.pinned(spec("http://user:hunter2@elsewhere.example/"), entry.source).options["url"] == (f"{web.uri}/k.deb",)
    for wrong in (
        spec(f"{address}/none.deb", trust="first-use"),
        spec(f"{address}/k.deb"),
        spec(f"{address}/k.deb", sha256="0" * 64),
    ):
        with pytest.raises(KmatrixError) as caught:
            obtain(KernelStore(tmp_path / "2"), wrong)
        assert "hunter2" not in str(caught.value)
        assert web.uri in str(caught.value)


# --- repositories


@pytest.fixture
def repository(tmp_path: Path, web: Served, signer: Signer) -> str:
    """kernel-core and kernel-modules in three versions, the newest without its modules; and another series."""
    need_programs("createrepo_c", apt="createrepo-c")
    folder = tmp_path / "web/x86_64"
    folder.mkdir()
    for version, release in (("5.4.9", "1"), ("5.4.10", "2"), ("5.4.11", "1"), ("5.10.1", "1")):
        name = f"{version}-{release}.x86_64"
        rpm(folder, "kernel-core", core(name), version=version, release=release, signer=signer)
        if version != "5.4.11":
            extra = {f"lib/modules/{name}/kernel/net/sched/cls_bpf.ko": module("cls_bpf")}
            rpm(folder, "kernel-modules", extra, version=version, release=release, signer=signer)
    done = subprocess.run(["createrepo_c", "--quiet", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "web/mirror.list").write_text(f"{web.uri}/$basearch\n")
    return web.uri


def test_the_newest_of_a_repository(store: KernelStore, repository: str, signer: Signer) -> None:
    names = ("kernel-core", "kernel-modules")
    options = {"packages": names, "series": "5.4", "key": str(signer.keyring)}
    entry = obtain(store, spec(repository=f"{repository}/{{machine}}/", **options))
    assert entry.release == "5.4.10-2.x86_64"
    assert entry.modules is not None
    assert {path.stem for path in entry.modules.rglob("*.ko")} == {"overlay", "cls_bpf"}
    by_list = spec(repository=f"{repository}/mirror.list", **(options | {"packages": ("kernel-core",)}))
    assert obtain(KernelStore(store.root / "2"), by_list).release == "5.4.11-1.x86_64"


def test_a_repository_without_it(store: KernelStore, repository: str, signer: Signer) -> None:
    with pytest.raises(Unavailable, match=r"has no kernel-uek 5.4 for x86_64"):
        obtain(store, spec(repository=f"{repository}/x86_64/", packages=("kernel-uek",), series="5.4", key=str(signer.keyring)))
    with pytest.raises(InputError, match="nothing says what"):
        obtain(store, spec(repository=f"{repository}/x86_64/", packages=("kernel-core",)))


@pytest.mark.parametrize(
    "rising",
    [
        ["0:4.18.0-553.9.1.el8_10", "0:4.18.0-553.16.1.el8_10", "0:4.18.0-553.16.1.el9_4", "0:4.19.0-1.el8", "1:4.14.1-1.amzn2"],
        ["0:5.14.0-427.el9", "0:5.14.0-427.el9_4", "0:5.14.0-427.13.1.el9_4", "0:5.14.0-503.11.1.el9_5"],
        ["0:6.1~rc9-1", "0:6.1-1", "0:6.1^git1-1", "0:6.1.a-1", "0:6.1.1-1", "0:6.01.2-1", "0:6.10~1-1", "0:6.10-1"],
    ],
)
def test_rpms_order_of_versions(rising: list[str]) -> None:
    """As rpm's own `rpm.vercmp` has it (compared by hand with 4.18 for 8281 pairs)."""
    for count, version in enumerate(rising):
        assert all(version_key(older) < version_key(version) for older in rising[:count])
    assert version_key("0:5.0_1-1") == version_key("0:5.0.1-1") == version_key("5.00.01-01")


def almalinux(web: Path, signed: Path) -> str:
    """BaseOS/<machine>/os/, packages in Packages/, a list packed with zstd, modular metadata beside it."""
    (web / "x86_64/os/Packages").mkdir(parents=True)
    shutil.copy(signed, web / "x86_64/os/Packages")
    rpm_repository(web / "x86_64/os", zst=True, modules=MODULES)
    return "{machine}/os/"


def amazon_2023(web: Path, signed: Path) -> str:
    """core/mirrors/latest/<machine>/mirror.list names core/guids/<guid>/<machine>/, whose packages stand in a blobstore."""
    guid, blob = "guids/78a1f37d/x86_64", "blobstore/97cf1747"
    (web / "core" / guid).mkdir(parents=True)
    (web / blob).mkdir(parents=True)
    shutil.copy(signed, web / "core" / guid)
    rpm_repository(web / "core" / guid, prefix=f"../../../../{blob}/")
    shutil.move(web / "core" / guid / signed.name, web / blob)
    (web / "core/mirrors/latest/x86_64").mkdir(parents=True)
    (web / "core/mirrors/latest/x86_64/mirror.list").write_text("../../../guids/78a1f37d/$basearch/\n")
    return "core/mirrors/latest/{machine}/mirror.list"


def amazon_2(web: Path, signed: Path) -> str:
    """Absolute lines without a slash at their end; the first is one that is gone."""
    (web / "2/core/2.0/x86_64/6b0225cc").mkdir(parents=True)
    shutil.copy(signed, web / "2/core/2.0/x86_64/6b0225cc")
    rpm_repository(web / "2/core/2.0/x86_64/6b0225cc")
    (web / "2/core/latest/x86_64").mkdir(parents=True)
    (web / "2/core/latest/x86_64/mirror.list").write_text("{uri}/2/core/2.0/$basearch/gone\n{uri}/2/core/2.0/$basearch/6b0225cc\n")
    return "2/core/latest/{machine}/mirror.list"


def oracle(web: Path, signed: Path) -> str:
    """The packages are got through getPackage/."""
    (web / "OL8/UEKR6/x86_64").mkdir(parents=True)
    shutil.copy(signed, web / "OL8/UEKR6/x86_64")
    rpm_repository(web / "OL8/UEKR6/x86_64", prefix="getPackage/")
    (web / "OL8/UEKR6/x86_64/getPackage").mkdir()
    shutil.move(web / "OL8/UEKR6/x86_64" / signed.name, web / "OL8/UEKR6/x86_64/getPackage")
    return "OL8/UEKR6/{machine}/"


@pytest.mark.parametrize("layout", [almalinux, amazon_2023, amazon_2, oracle])
def test_publishers_layouts(
    store: KernelStore, tmp_path: Path, web: Served, signed: Path, signer: Signer, layout: Callable[[Path, Path], str]
) -> None:
    """As the sources of kernels.toml find them."""
    place = layout(tmp_path / "web", signed)
    for listing in (tmp_path / "web").rglob("mirror.list"):
        listing.write_text(listing.read_text().replace("{uri}", web.uri))
    options = {"packages": ("kernel-core",), "series": "5.4", "key": str(signer.keyring)}
    entry = obtain(store, spec(repository=f"{web.uri}/{place}", **options))
    assert entry.release == RELEASE
    assert entry.source["artifacts"][0]["trust"] == "the package's own signature"
    assert ".." not in entry.source["artifacts"][0]["url"]


def test_a_list_without_a_mirror(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    (tmp_path / "web/mirror.list").write_text("# none\n\n")
    with pytest.raises(Unavailable, match="names no mirror"):
        obtain(store, spec(repository=f"{web.uri}/mirror.list", packages=("kernel",), series="5.4", key=str(signer.keyring)))


RHEL = {
    f"kernel-core-{number}.rpm": ("kernel-core", f"0:5.4.0-{release}", bare_rpm(core(f"5.4.0-{release}.x86_64")))
    for number, release in enumerate(("553.16.1.el8_10", "553.9.1.el8_10", "80.el8"))
}


def test_rhels_versions(store: KernelStore, tmp_path: Path, web: Served) -> None:
    """Underscores in them; and by version, in each way that one may be written."""
    rpm_index(tmp_path / "web", RHEL)
    options = {"packages": ("kernel-core",), "trust": "first-use"}
    assert obtain(store, spec(repository=web.uri, **options)).release == "5.4.0-553.16.1.el8_10.x86_64"
    for number, version in enumerate(("0:5.4.0-80.el8", "5.4.0-80.el8")):
        older = obtain(KernelStore(tmp_path / str(number)), spec(repository=web.uri, **options, version=version))
        assert older.release == "5.4.0-80.el8.x86_64"
    with pytest.raises(Unavailable, match=r"has no kernel-core 5\.4\.1 for x86_64"):
        obtain(KernelStore(tmp_path / "x"), spec(repository=web.uri, **options, version="5.4.1"))


def test_an_old_package_under_a_new_name(store: KernelStore, tmp_path: Path, web: Served, signed: Path, signer: Signer) -> None:
    """Signed, and not the one that the index calls it."""
    data = signed.read_bytes()
    options = {"repository": web.uri, "packages": ("kernel-core",), "key": str(signer.keyring)}
    rpm_index(tmp_path / "web", {"k.rpm": ("kernel-core", "0:5.4.999-1", data)})
    with pytest.raises(InfraError, match=r"is kernel-core 0:5\.4\.286-1, and the index calls it kernel-core 0:5\.4\.999-1"):
        obtain(store, spec(**options))
    version = "0:5.4.286-1"
    rpm_index(tmp_path / "web", {"k.rpm": ("kernel-core", version, data)})
    assert obtain(store, spec(**options)).release == RELEASE


@pytest.mark.parametrize("index", ["repomd.xml", "primary.xml.gz"])
def test_an_index_that_is_none(store: KernelStore, tmp_path: Path, web: Served, index: str) -> None:
    """A captive portal's page; and the next source is tried (test_sources)."""
    rpm_index(tmp_path / "web", RHEL)
    page = b"<html><body>please log in<br></body>"
    file = tmp_path / "web/repodata" / index
    if index == "primary.xml.gz":
        repomd = tmp_path / "web/repodata/repomd.xml"
        repomd.write_text(repomd.read_text().replace(sha256(file), hashlib.sha256(page).hexdigest()))
    file.write_bytes(page)
    with pytest.raises(InputError, match="is no sound index of a repository: mismatched tag") as caught:
        obtain(store, spec(repository=web.uri, packages=("kernel-core",), trust="first-use"))
    assert caught.value.where == f"{web.uri}/repodata/repomd.xml"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('href="kernel-core-0', 'href="file:///etc/passwd', "leads to 'file:///etc/passwd"),
        ('href="kernel-core-0', 'href="http://[', "leads to 'http://"),
        ('ver="5.4.0"', 'v="5.4.0"', "KeyError 'ver'"),
        ('epoch="0"', 'epoch="x"', "no sound index"),
        ('pkgid="YES">', 'pkgid="YES">md5:', "is no sha256"),
    ],
)
def test_an_index_that_lies(store: KernelStore, tmp_path: Path, web: Served, old: str, new: str, says: str) -> None:
    rpm_index(tmp_path / "web", RHEL)
    repomd, primary = (tmp_path / "web/repodata" / name for name in ("repomd.xml", "primary.xml.gz"))
    before, text = sha256(primary), gzip.decompress(primary.read_bytes()).decode()
    assert old in text
    primary.write_bytes(gzip.compress(text.replace(old, new).encode()))
    repomd.write_text(repomd.read_text().replace(before, sha256(primary)))
    with pytest.raises(KmatrixError, match=says):
        obtain(store, spec(repository=web.uri, packages=("kernel-core",), trust="first-use"))


def test_an_index_that_is_a_bomb(store: KernelStore, tmp_path: Path, web: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    rpm_index(tmp_path / "web", RHEL)
    monkeypatch.setattr(package, "_INDEX_UNPACKED", 500)
    with pytest.raises(InputError, match="unpacks to more than"):
        obtain(store, spec(repository=web.uri, packages=("kernel-core",), trust="first-use"))
    monkeypatch.setattr(package, "_INDEX", 100)
    with pytest.raises(InfraError, match="is larger than"):
        obtain(store, spec(repository=web.uri, packages=("kernel-core",), trust="first-use"))


def test_ubuntus_archive(store: KernelStore, tmp_path: Path, web: Served, signer: Signer) -> None:
    """A metapackage leads to the image, and that to the modules; an older image that is still there is passed over."""
    archive = Archive(tmp_path / "web/ubuntu", signer, suite="focal-updates", origin="Ubuntu")
    for abi in (215, 216):
        release = f"5.4.0-{abi}-generic"
        if abi == 216:  # in two versions, of which the newer stands first
            archive.add(
                f"linux-image-{release}",
                f"5.4.0-{abi}.10",
                "amd64",
                deb({f"boot/vmlinuz-{release}": bzimage(release)}),
                f"linux-modules-{release}",
            )
        modules = f"linux-modules-{release}"
        archive.add(
            f"linux-image-{release}",
            f"5.4.0-{abi}.1",
            "amd64",
            deb({f"boot/vmlinuz-{release}": bzimage(release)}),
            f"kmod, {modules}",
        )
        parts = {f"boot/config-{release}": CONFIG.encode(), f"lib/modules/{release}/kernel/fs/a.ko": module("a")}
        archive.add(modules, f"5.4.0-{abi}.1", "amd64", deb(parts))
    archive.add("linux-image-generic", "5.4.0.216", "amd64", deb({}), "linux-image-5.4.0-216-generic, linux-firmware")
    archive.publish()
    options = {"suite": "focal-updates", "packages": ("linux-image-generic",), "key": str(signer.keyring)}
    entry = obtain(store, spec(repository=f"{web.uri}/ubuntu", **options))
    assert entry.release == "5.4.0-216-generic"
    assert entry.modules is not None
    assert {artifact["trust"] for artifact in entry.source["artifacts"]} == {"the signed Release of focal-updates"}
    assert f"linux-image-{entry.release}_5.4.0-216.10_amd64.deb" in {Path(a["url"]).name for a in entry.source["artifacts"]}
    with pytest.raises(Unavailable, match=r"has no package linux-image-generic for arm64|has no packages for arm64"):
        obtain(KernelStore(tmp_path / "2"), spec(repository=f"{web.uri}/ubuntu", **options), "arm64")
