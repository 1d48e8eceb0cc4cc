"""The debian source against an archive of our own on the loopback, signed with a throw-away key."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from kmatrix import kernels
from kmatrix.fetch import apt, download, network
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.layout import check_series
from kmatrix.kernels.sources import debian as sources_debian
from kmatrix.kernels.sources.debian import DebianSource
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import SourceSpec, Target
from kmatrix.matrix.selection import Matrix

from .fabricate import (
    Archive,
    Served,
    Signer,
    apt_root,
    deb,
    debian_archive,
    debian_kernel,
    kernel,
    kernel_deb,
    leftovers,
    serve,
    split_debs,
    staged,
)

KERNEL = debian_kernel()


@pytest.fixture(autouse=True)
def _our_archive(apt_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`obtain` uses the host's apt configuration: here, one that knows our archive alone."""
    monkeypatch.setattr(sources_debian, "DebianSource", lambda mirror: DebianSource(mirror, root=apt_config))


def obtain(store: KernelStore) -> KernelEntry:
    return kernels.obtain(KERNEL, "x86_64", store, reporter=Quiet())


def test_good(store: KernelStore, served: Served) -> None:
    entry = obtain(store)
    assert entry.release == "6.1.0-9-amd64"
    assert entry.btf
    assert entry.source["package"] == "linux-image-6.1.0-9-amd64"
    assert entry.source["url"].startswith(served.uri)
    assert entry.config is not None
    assert entry.modules is not None
    assert entry.modules_image is not None
    names = {path.stem for path in entry.modules.rglob("*.ko")}
    assert names == {"cls_bpf", "9p", "9pnet", "veth"}
    assert (entry.modules / "modules.dep").is_file()
    assert store.verify("6.1", "x86_64") == []
    assert leftovers(store.root) == []
    assert served.count(".deb") == 1
    assert served.count("Packages.xz") == 0  # by hash
    assert kernels.obtain(KERNEL, "x86_64", store, reporter=Quiet()) == entry
    assert served.count(".deb") == 1


def _nothing_stored(store: KernelStore) -> None:
    assert store.find("6.1", "x86_64") is None
    assert store.refs() == []
    assert leftovers(store.root) == []
    assert sorted(path.name for path in store.root.iterdir()) in (["locks", "tmp"], ["locks"], [])


def test_tampered_index(store: KernelStore, archive: Archive) -> None:
    for index in archive.files("dists/**/SHA256/*"):
        data = bytearray(index.read_bytes())
        data[-20] ^= 1
        index.write_bytes(data)
    with pytest.raises(InfraError, match="sha256 differs"):
        obtain(store)
    _nothing_stored(store)


def test_tampered_package(store: KernelStore, archive: Archive) -> None:
    (file,) = archive.files("pool/linux-image-6.1.0-9-amd64*.deb")
    data = bytearray(file.read_bytes())
    data[-30] ^= 1
    file.write_bytes(data)
    with pytest.raises(InfraError, match="sha256 differs") as caught:
        obtain(store)
    assert not isinstance(caught.value, Unavailable)
    assert str(caught.value.where).endswith(".deb")
    _nothing_stored(store)


def test_tampered_release(store: KernelStore, archive: Archive) -> None:
    (release,) = archive.files("dists/*/InRelease")
    release.write_bytes(release.read_bytes().replace(b"Label: Debian", b"Label: Debiam"))
    with pytest.raises(InfraError, match="changed after it was signed"):
        obtain(store)
    _nothing_stored(store)


def test_text_outside_the_signature_is_not_read(archive: Archive, served: Served) -> None:
    (release,) = archive.files("dists/*/InRelease")
    release.write_bytes(b"Origin: Evil\nCodename: bookworm\n\n" + release.read_bytes())
    assert apt.open_suite("bookworm", mirror=None, root=_root(archive, served)).release["Origin"] == "Debian"


def _root(archive: Archive, served: Served) -> Path:
    return apt_root(archive.root.parent / "apt2", served.uri, archive.signer.keyring)


def test_unsigned_release(store: KernelStore, archive: Archive) -> None:
    (release,) = archive.files("dists/*/InRelease")
    text = release.read_bytes().split(b"\n\n", 1)[1].split(b"-----BEGIN PGP SIGNATURE")[0]
    release.write_bytes(text)
    with pytest.raises(InfraError, match="signature is not good"):
        obtain(store)
    _nothing_stored(store)


def test_signed_by_a_stranger(store: KernelStore, archive: Archive, tmp_path: Path) -> None:
    archive.signer = Signer.make(tmp_path / "stranger")
    archive.publish()
    archive.signer.close()
    with pytest.raises(InfraError, match="none of the known keys"):
        obtain(store)
    _nothing_stored(store)


def test_detached_signature(store: KernelStore, archive: Archive) -> None:
    for release in archive.files("dists/*/InRelease"):
        release.unlink()
    archive.publish(inline=False, by_hash=False)
    assert obtain(store).release == "6.1.0-9-amd64"


def test_detached_signature_of_other_text(store: KernelStore, archive: Archive) -> None:
    for release in archive.files("dists/*/InRelease"):
        release.unlink()
    archive.publish(inline=False)
    (release,) = archive.files("dists/*/Release")
    release.write_bytes(release.read_bytes() + b"Extra: yes\n")
    with pytest.raises(InfraError, match="changed after it was signed"):
        obtain(store)


def test_trusted_asks_for_no_signature(archive: Archive, served: Served, tmp_path: Path) -> None:
    archive.signer = Signer.make(tmp_path / "stranger")
    archive.publish()
    archive.signer.close()
    root = tmp_path / "trusting"
    (root / "sources.list.d").mkdir(parents=True)
    (root / "sources.list").write_text(f"deb [trusted=yes] {served.uri} bookworm main\n")
    assert apt.open_suite("bookworm", root=root).find("amd64", "linux-image-amd64")


def test_missing_suite(store: KernelStore) -> None:
    kernel = debian_kernel("trixie", "6.12")
    with pytest.raises(Unavailable, match="404") as caught:
        kernels.obtain(kernel, "x86_64", store, reporter=Quiet())
    assert "mirrors" in str(caught.value.fix)
    _nothing_stored(store)


def test_missing_package(store: KernelStore, archive: Archive) -> None:
    for file in archive.files("pool/linux-image-6.1.0-9-amd64*.deb"):
        file.unlink()
    with pytest.raises(Unavailable, match="404"):
        obtain(store)
    _nothing_stored(store)


def test_no_such_arch(store: KernelStore) -> None:
    with pytest.raises(Unavailable, match="arm64"):
        kernels.obtain(KERNEL, "arm64", store, reporter=Quiet())


def test_not_debians_archive(store: KernelStore, archive: Archive) -> None:
    archive.origin = "Ubuntu"
    archive.publish()
    with pytest.raises(Unavailable, match="not Debian"):
        obtain(store)


def test_the_index_by_its_name_where_there_is_no_hash(store: KernelStore, archive: Archive, served: Served) -> None:
    for index in archive.files("dists/**/SHA256/*"):
        index.unlink()
    assert obtain(store).release == "6.1.0-9-amd64"
    assert served.count("Packages.xz") == 1


def test_cut_short_is_tried_again_then_said(store: KernelStore, served: Served) -> None:
    served.truncate = ".deb"
    with pytest.raises(Unavailable, match="cannot be fetched"):
        obtain(store)
    assert served.count(".deb") == download.ATTEMPTS
    _nothing_stored(store)


def test_a_short_file_on_disk(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(Unavailable, match="ended after 5 of 9 bytes"), (tmp_path / "out").open("wb") as out:
        download.fetch((tmp_path / "x").as_uri(), 9, "0" * 64, out)


def test_no_server(store: KernelStore, served: Served) -> None:
    served.close()
    with pytest.raises(Unavailable, match="no connection"):
        obtain(store)
    _nothing_stored(store)


class _Interrupts(Quiet):
    """Ctrl-C at the first block of the package."""

    def step(self, label: str):  # type: ignore[no-untyped-def]
        if "fetching" in label:
            raise KeyboardInterrupt
        return super().step(label)


def test_interrupted(store: KernelStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        kernels.obtain(KERNEL, "x86_64", store, reporter=_Interrupts())
    _nothing_stored(store)
    assert obtain(store).release == "6.1.0-9-amd64"


def test_file_mirror(store: KernelStore, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "KEYRING", archive.signer.keyring)
    monkeypatch.setattr(sources_debian, "DebianSource", DebianSource)
    entry = kernels.obtain(KERNEL, "x86_64", store, reporter=Quiet(), mirrors={"debian": archive.root.as_uri() + "/"})
    assert entry.source["url"].startswith("file:///")


def test_offline_a_mirror_on_disk_is_as_good(store: KernelStore, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "KEYRING", archive.signer.keyring)
    monkeypatch.setattr(sources_debian, "DebianSource", DebianSource)
    monkeypatch.setenv(network.OFFLINE, "1")
    served, on_disk = {"debian": "http://mirror.invalid/debian"}, {"debian": archive.root.as_uri()}
    assert "kmatrix is offline" in str(kernels.availability(KERNEL, "x86_64", store, mirrors=served))
    assert kernels.availability(KERNEL, "x86_64", store, mirrors=on_disk) is None
    assert kernels.obtain(KERNEL, "x86_64", store, reporter=Quiet(), mirrors=on_disk).release == "6.1.0-9-amd64"


def test_offline_every_kind_of_source(tmp_path: Path, store: KernelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its addresses must be on this machine, its key's too; a registry cannot be."""
    monkeypatch.setenv(network.OFFLINE, "1")
    mirrors = {"https://x.invalid/": tmp_path.as_uri()}
    here, there = ("https://x.invalid/a",), ("https://y.invalid/a",)
    cases = [
        (SourceSpec("package", options={"url": here, "sha256": ("0" * 64,)}), True),
        (SourceSpec("package", options={"url": (*here, *there)}), False),
        (SourceSpec("package", options={"url": here, "key": there}), False),
        (SourceSpec("package", options={"repository": "https://y.invalid/{machine}/", "packages": ("k",)}), False),
        (SourceSpec("git", options={"url": ("../linux",), "ref": "v5.4"}), True),
        (SourceSpec("git", options={"url": here, "ref": "v5.4"}), True),
        (SourceSpec("mainline", options={"url": there, "series": "5.4"}), False),
        (SourceSpec("oci", options={"ref": "x.invalid/a:1"}), False),
    ]
    for spec, can_be_had in cases:
        target = kernel("5.4", (5, 4), spec)
        reason = kernels.availability(target, "x86_64", store, asked=True, mirrors=mirrors)
        assert (reason is None) == can_be_had, spec


def test_trixies_layout(store: KernelStore, tmp_path: Path, signer: Signer) -> None:
    """usr/lib/modules, packed modules, and a kernel for the arch that the host is not."""
    archive = Archive(tmp_path / "trixie", signer, suite="trixie")
    release = "6.12.9+deb13-arm64"
    archive.add(f"linux-image-{release}", "6.12.9-1", "arm64", kernel_deb(release, suffix=".xz", prefix="usr/"))
    archive.publish()
    with serve(archive.root) as server:
        source = DebianSource(root=apt_root(tmp_path / "apt-trixie", server.uri, signer.keyring))
        kernel = debian_kernel("trixie", "6.12")
        entry = store.add("6.12", "arm64", lambda into: source.stage(kernel.sources[0], kernel, "arm64", into, Quiet()))
    assert entry.release == release
    assert entry.modules is not None
    assert sorted(path.suffix for path in entry.modules.rglob("*.ko*")) == [".ko"] * 4


def _sid(root: Path, signer: Signer, release: str, *, without: str = "") -> Archive:
    archive = Archive(root, signer, suite="sid")
    parts = {name: data for name, data in split_debs(release).items() if name != without}
    depends = ", ".join(f"{name}-{release} (= 7.2.9-1)" for name in ("linux-base", "linux-binary", "linux-modules"))
    archive.add(f"linux-image-{release}", "7.2.9-1", "amd64", deb({}), depends=f"kmod, {depends}")
    for name, data in parts.items():
        archive.add(f"{name}-{release}", "7.2.9-1", "amd64", data)
    archive.publish()
    return archive


def test_an_image_that_is_split_into_packages(store: KernelStore, tmp_path: Path, signer: Signer) -> None:
    """From 6.19 on; and a name that moves: no series is asked for, and the kernel may be newer than declared."""
    release = "7.2.9+deb14-amd64"
    moving = replace(kernel("latest", (6, 19), SourceSpec("debian", options={"suite": "sid"})), moving=True)
    with serve(_sid(tmp_path / "sid", signer, release).root) as server:
        source = DebianSource(root=apt_root(tmp_path / "apt-sid", server.uri, signer.keyring))
        entry = store.add("latest", "x86_64", lambda into: source.stage(moving.sources[0], moving, "x86_64", into, Quiet()))
        assert server.count(".deb") == 4
    assert (entry.release, entry.btf) == (release, True)
    assert entry.config is not None
    assert entry.modules is not None
    assert [artifact["url"].rpartition("/")[2].partition("-7")[0] for artifact in entry.source["artifacts"]] == [
        "linux-image",
        "linux-base",
        "linux-binary",
        "linux-modules",
    ]
    check_series(moving, release)
    with pytest.raises(InputError, match=r"says that 'latest' is a 7\.3"):
        check_series(replace(moving, version=(7, 3)), release)


def test_a_package_of_it_that_the_archive_lacks(store: KernelStore, tmp_path: Path, signer: Signer) -> None:
    release = "7.2.9+deb14-amd64"
    sid = kernel("7.2", (7, 2), SourceSpec("debian", options={"suite": "sid", "series": "7.2"}))
    with serve(_sid(tmp_path / "sid", signer, release, without="linux-binary").root) as server:
        source = DebianSource(root=apt_root(tmp_path / "apt-sid", server.uri, signer.keyring))
        with pytest.raises(Unavailable, match=r"needs linux-binary-7\.2\.9.*, which the archive does not have"):
            store.add("7.2", "x86_64", lambda into: source.stage(sid.sources[0], sid, "x86_64", into, Quiet()))
    assert leftovers(store.root) == []


def test_a_point_release_is_fetched_once(store: KernelStore, served: Served) -> None:
    """It is wanted by upstream's version, and the store has the package's."""
    options = {"suite": "bookworm", "series": "6.1", "version": "6.1.9"}
    point = kernel("6.1.9", (6, 1), SourceSpec("debian", options=options))
    first = kernels.obtain(point, "x86_64", store, reporter=Quiet())
    assert first.source["version"] == "6.1.9-1"
    assert kernels.obtain(point, "x86_64", store, reporter=Quiet()) == first
    assert store.refs() == [("6.1.9", "x86_64")]
    assert served.count(".deb") == 1
    other = replace(point, sources=(SourceSpec("debian", options={**options, "version": "6.1.8"}),))
    assert kernels.find(other, "x86_64", store) is None


def test_the_security_suite_stands_beside_the_main_archive(tmp_path: Path, signer: Signer) -> None:
    """Where apt knows the main archive alone, the security archive of the same mirror is tried; one that apt knows comes first."""
    root = apt_root(tmp_path / "apt", "http://mirror.example/debian/", signer.keyring)
    assert [each.uri for each in apt.archives("bookworm-security", root=root)] == ["http://mirror.example/debian-security"]
    (root / "sources.list").write_text("deb http://security.example/debian-security trixie-security main\n")
    assert [each.uri for each in apt.archives("bookworm-security", root=root)] == [
        "http://security.example/debian-security",
        "http://mirror.example/debian-security",
    ]
    assert [each.uri for each in apt.archives("bookworm", root=root)] == ["http://mirror.example/debian/"]


def test_several_side_by_side(store: KernelStore, archive: Archive) -> None:
    debian_archive(archive.root, archive.signer, "arm64")
    archive.packages |= debian_archive(archive.root, archive.signer, "arm64").packages
    archive.publish()
    targets = [
        Target(KERNEL, "x86_64"),
        Target(KERNEL, "arm64"),
        Target(debian_kernel("trixie", "6.12"), "arm64"),
        Target(KERNEL, "arm64"),
    ]
    results = kernels.obtain_all(targets, store, reporter=Quiet())
    assert [str(target) for target, _ in results] == ["6.1-x86_64", "6.1-arm64", "6.12-arm64"]
    assert [isinstance(result, KernelEntry) for _, result in results] == [True, True, False]


def test_an_interrupt_stops_all(store: KernelStore) -> None:
    class Reporter(Quiet):
        def step(self, label: str):  # type: ignore[no-untyped-def]
            if "unpacking" in label:
                raise KeyboardInterrupt
            return super().step(label)

    with pytest.raises(KeyboardInterrupt):
        kernels.obtain_all([Target(KERNEL, "x86_64")], store, reporter=Reporter())
    _nothing_stored(store)


def _obtain_elsewhere(root: Path, config: Path, results: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    sources_debian.DebianSource = lambda mirror: DebianSource(mirror, root=config)  # type: ignore[misc,assignment]
    results.put(kernels.obtain(KERNEL, "x86_64", KernelStore(root), reporter=Quiet()).digest)


def test_ten_processes_one_download(store: KernelStore, served: Served, apt_config: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_obtain_elsewhere, args=(store.root, apt_config, results)) for _ in range(10)]
    for worker in workers:
        worker.start()
    digests = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(digests) == 1
    assert served.count(".deb") == 1
    assert served.count("InRelease") == 1


def test_the_point_releases_of_a_series(store: KernelStore, served: Served) -> None:
    """Those that the archive has, and those in the store; a suite that is not there adds none."""
    assert served.count(".deb") == 0
    point = Matrix({"6.1": debian_kernel()}).kernel("6.1.99")
    assert kernels.point_releases(point, "x86_64", store, reporter=Quiet()) == ["6.1.8", "6.1.9"]
    store.add("6.1.7", "x86_64", staged)
    assert kernels.point_releases(point, "x86_64", store, reporter=Quiet()) == ["6.1.7", "6.1.8", "6.1.9"]
    assert served.count(".deb") == 0
