"""Every source that fetches, and what goes wrong on the way: one clear error, an untouched store, and the next source of the list tried."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Shell
from kmatrix import kernels
from kmatrix.fetch import session
from kmatrix.host.errors import InfraError, KmatrixError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import git
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import Archive, Served, Signer, arm64_image, bare_rpm, bzimage, deb, kernel, kernel_deb, leftovers, module
from .publish import Gate, Registry, git_server, layer, rpm_index

RELEASE = "5.4.286"


def tarball(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Publisher:
    """A kind of source, with its server."""

    def __init__(self, kind: str, folder: Path, upstream: str, signer: Signer, images: Registry) -> None:
        self.kind, self.folder, self.upstream, self.signer, self.images = kind, folder, upstream, signer, images

    def publish(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        """Publish a kernel of these files; the source's options (with GATE for the server's address), and the end of the payload's path."""
        return getattr(self, self.kind)(files, name)  # type: ignore[no-any-return]

    def oci(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        data = layer(files)
        self.images.push(f"faults/{name}", "5.4", {"amd64": [data]})
        return {"ref": f"GATE/faults/{name}:5.4", "trust": "first-use"}, hashlib.sha256(data).hexdigest()

    def package(
        self, files: dict[str, bytes], name: str, pack: Callable[[dict[str, bytes]], bytes] = deb
    ) -> tuple[dict[str, Any], str]:
        data = pack(files)
        (self.folder / f"{name}.pkg").write_bytes(data)
        return {"url": (f"http://GATE/{name}.pkg",), "sha256": (hashlib.sha256(data).hexdigest(),)}, f"{name}.pkg"

    def package_rpm(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        return self.package(files, name, bare_rpm)

    def mainline(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        folder = self.folder / name / "v5.4.286/amd64"
        folder.mkdir(parents=True)
        file = "linux-image-5.4.286-0504286-generic_5.4.286_amd64.deb"
        (folder / file).write_bytes(deb(files))
        sums = f"{hashlib.sha256(deb(files)).hexdigest()}  {file}\n".encode()
        (folder / "CHECKSUMS").write_bytes(sums)
        (folder / "CHECKSUMS.gpg").write_bytes(self.signer.detached(sums))
        return {"url": (f"http://GATE/{name}/",), "series": "5.4", "key": (str(self.signer.keyring),)}, file

    def tarball(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        (self.folder / name).mkdir()
        data = tarball(files)
        (self.folder / name / "linux-5.4.286.tar.xz").write_bytes(data)
        sums = f"{hashlib.sha256(data).hexdigest()}  linux-5.4.286.tar.xz\n".encode()
        (self.folder / name / "sha256sums.asc").write_bytes(self.signer.clearsign(sums))
        return {"url": (f"http://GATE/{name}/",), "key": (str(self.signer.keyring),)}, "linux-5.4.286.tar.xz"

    def package_index(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        """A repository of RPM packages."""
        (self.folder / name).mkdir()
        rpm_index(self.folder / name, {f"{name}.rpm": ("kernel", "0:5.4.286-1", bare_rpm(files))})
        return {"repository": f"http://GATE/{name}/", "packages": ("kernel",), "trust": "first-use"}, f"{name}.rpm"

    def package_apt(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        """A repository of Debian packages."""
        archive = Archive(self.folder / name, self.signer, suite="s")
        archive.add("linux-image-5.4.286", "5.4.286-1", "amd64", deb(files))
        archive.publish()
        options = {"repository": f"http://GATE/{name}", "suite": "s", "packages": ("linux-image-5.4.286",)}
        return options | {"key": (str(self.signer.keyring),)}, "linux-image-5.4.286_5.4.286-1_amd64.deb"

    def git(self, files: dict[str, bytes], name: str) -> tuple[dict[str, Any], str]:
        """A repository of a tree with these files; one with a path that leads out (which git would not have) is a link there."""
        tree = self.folder / name

        def git(*arguments: str) -> None:
            author = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
            subprocess.run(["git", "-C", str(tree), *author, *arguments], capture_output=True, check=True)

        tree.mkdir()
        git("init", "--quiet", "--initial-branch=main")
        for path, data in files.items():
            if ".." in path:
                (tree / "link").symlink_to(path)
            else:
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(data)
        git("add", ".")
        git("commit", "--quiet", "--message=one")
        return {"url": (f"http://GATE/{name}/.git",), "ref": "main", "trust": "first-use"}, "git-upload-pack"


KINDS = ("oci", "package", "package_rpm", "package_index", "package_apt", "mainline", "tarball", "git")
BUILT = ("tarball", "git")


@pytest.fixture(params=KINDS)
def publisher(request: pytest.FixtureRequest, tmp_path: Path, web: Served, signer: Signer) -> Publisher:
    images = request.getfixturevalue("images") if request.param == "oci" else None
    upstream = f"http://{images.address}" if images else request.getfixturevalue("forge") if request.param == "git" else web.uri
    return Publisher(request.param, tmp_path / "web", upstream, signer, images)


@pytest.fixture
def forge(tmp_path: Path, web: Served) -> Iterator[str]:  # noqa: ARG001 - which makes the folder
    with git_server(tmp_path / "web") as address:
        yield address


GOOD = {"boot/vmlinuz-5.4.286": bzimage(RELEASE)}
MODULES = f"lib/modules/{RELEASE}/extra"
FAULTS = {
    "404": (GOOD, "404"),
    "corrupt": (GOOD, "is not what it must be|sha256 differs"),
    "truncated": (GOOD, "cannot be fetched: it ended after"),
    "stalled": (GOOD, "cannot be fetched: (the server does not answer|.*timed out)"),
    "wrong-arch": ({"boot/vmlinuz-5.4.286": arm64_image(RELEASE)}, "for arm64, and x86_64 was asked for"),
    "malicious": (GOOD | {"../../../../evil": b"x"}, "leads out of it"),
    "portal": (GOOD, "is no sound|no complete build|signature is not good|sha256 differs|ended after|git says: "),
    "file-and-folder": (
        GOOD | {f"{MODULES}/a.ko": module("a"), f"{MODULES}/a.ko/b.ko": module("b")},
        "File exists|Not a directory",
    ),
    "long": (GOOD | {f"{MODULES}/{'n' * 300}.ko": module("a")}, "a name of more than 255 bytes"),
    "newline": (GOOD | {f"{MODULES}/a\nb.ko": module("a")}, "a name that is no text"),
}
# What a publisher's tools would not make, or a source tree has not.
NOT_OF = {"wrong-arch": BUILT, "file-and-folder": ("git",), "long": ("git",)}
# Git checks what it fetches, and says in its own words what is wrong with it.
OF_GIT = {
    "404": "git says: .*not found",
    "corrupt": "git says: ",
    "truncated": "git says: ",
    "stalled": "git says: .*(transfer closed|Operation too slow)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(store: KernelStore, tmp_path: Path, publisher: Publisher, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if publisher.kind in NOT_OF.get(fault, ()):
        pytest.skip(f"{publisher.kind} has no such thing")
    monkeypatch.setattr(session, "_TIMEOUT", (5, 0.4))
    monkeypatch.setattr(git, "_STALLED", 1)
    files, says = FAULTS[fault]
    says = OF_GIT.get(fault, says) if publisher.kind == "git" else says
    options, ending = publisher.publish(files, f"{publisher.kind}-{fault}")
    gate = Gate(publisher.upstream)
    gate.ending, gate.fault = ("" if fault == "portal" else ending,), fault  # a captive portal answers everything
    with gate.open() as address:
        options = _at(options, address)
        spec = SourceSpec(publisher.kind.split("_")[0], options=options)
        with pytest.raises(KmatrixError, match=says) as caught:
            obtain(store, spec)
        assert caught.value.message.count("\n") <= 1  # of what is not there, a line for each source that was asked
        assert store.refs() == []
        assert leftovers(store.root) == []
        # The next one in the list is tried, and what was passed over is said.
        good = tmp_path / "good.deb"
        good.write_bytes(kernel_deb("5.4.9-amd64"))
        other = SourceSpec("package", options={"url": (good.as_uri(),), "sha256": (hashlib.sha256(good.read_bytes()).hexdigest(),)})
        entry = obtain(store, spec, other)
    assert entry.release == "5.4.9-amd64"
    (note,) = entry.manifest["notes"]
    assert note.startswith(f"passed over {spec.kind}: ")
    assert leftovers(store.root) == []
    assert not list(tmp_path.rglob("evil"))


def _at(options: dict[str, Any], address: str) -> dict[str, Any]:
    def put(value: Any) -> Any:
        return value.replace("GATE", address.removeprefix("http://")) if isinstance(value, str) else tuple(map(put, value))

    return {name: put(value) for name, value in options.items()}


def obtain(store: KernelStore, *specs: SourceSpec) -> KernelEntry:
    return kernels.obtain(kernel("5.4", (5, 4), *specs), "x86_64", store, reporter=Quiet())


def test_without_a_fault(store: KernelStore, publisher: Publisher) -> None:
    """The faults above are what fails, not the way there (of a tree that is built: test_tree_sources)."""
    if publisher.kind in BUILT:
        return
    options, _ = publisher.publish(GOOD, f"{publisher.kind}-good")
    with Gate(publisher.upstream).open() as address:
        assert obtain(store, SourceSpec(publisher.kind.split("_")[0], options=_at(options, address))).release == RELEASE


def test_all_fail(store: KernelStore, tmp_path: Path, web: Served) -> None:
    specs = (
        SourceSpec("package", options={"url": (f"{web.uri}/nothing.deb",), "sha256": ("0" * 64,)}),
        SourceSpec("oci", options={"ref": "127.0.0.1:1/x:1", "trust": "first-use"}),
        SourceSpec("import"),
    )
    with pytest.raises(Unavailable) as caught:
        obtain(store, *specs)
    said = str(caught.value)
    assert "package: cannot be fetched: the server says 404" in said
    assert "oci: cannot be fetched: no connection to 127.0.0.1:1" in said
    assert "import: nothing given yet" in said
    assert "kmatrix kernels import 5.4 --arch x86_64 --image FILE" in said
    # One that is more than unavailable makes the whole more than that.
    bad = tmp_path / "bad.deb"
    bad.write_bytes(b"not it")
    with pytest.raises(InfraError, match="sha256 differs") as worse:
        obtain(store, SourceSpec("package", options={"url": (bad.as_uri(),), "sha256": ("0" * 64,)}), *specs)
    assert not isinstance(worse.value, Unavailable)


def test_untried_and_slow_sources_are_not_for_a_bare_run(store: KernelStore) -> None:
    package = {"url": ("http://127.0.0.1:1/x.deb",), "sha256": ("0" * 64,)}
    for spec in (SourceSpec("package", options=package, untried=True), SourceSpec("tarball", options=package)):
        target = kernel("5.4", (5, 4), spec)
        assert "kmatrix kernels fetch 5.4" in str(kernels.availability(target, "x86_64", store))
        assert kernels.availability(target, "x86_64", store, asked=True) is None
    assert kernels.availability(kernel("5.4", (5, 4), SourceSpec("package", options=package)), "x86_64", store) is None


KERNELS = """schema = 1
extends = false
[sets]
default = ["5.4"]
[kernels."5.4"]
version = "5.4"
sources = [{{ kind = "package", url = "{url}", sha256 = "{digest}", untried = true }}, {{ kind = "import" }}]
"""


def test_asked_for_by_name(tmp_path: Path, web: Served, run_in: Shell) -> None:
    """A bare run leaves an untried source alone, and says so; --kernels uses it before anything else, or is the error it gives."""
    (tmp_path / "c").mkdir()
    (tmp_path / "web/k.deb").write_bytes(kernel_deb("5.4.9-amd64"))
    digest = hashlib.sha256((tmp_path / "web/k.deb").read_bytes()).hexdigest()
    (tmp_path / "c/kernels.toml").write_text(KERNELS.format(url=f"{web.uri}/k.deb", digest=digest))
    cache = {"KMATRIX_CACHE": str(tmp_path / "cache")}

    def pytest_(*arguments: str) -> str:
        done = run_in("pytest", "-p", "no:cacheprovider", *arguments, cwd=tmp_path / "c", env=cache)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    assert "k.deb" not in pytest_()
    assert web.count("k.deb") == 0
    said = pytest_("--kernels=5.4", "--arch=x86_64", "--offline")
    assert said.startswith("4 ")
    assert "kmatrix is offline" in said
    assert pytest_("--kernels=5.4", "--arch=x86_64").startswith("5 ")  # it is had, and there is no test
    assert web.count("k.deb") == 1
    assert KernelStore(tmp_path / "cache/kernels").find("5.4", "x86_64") is not None
    said = pytest_("--kernels=5.4", "--arch=arm64")
    assert said.startswith("4 ")
    assert "package: is a kernel image for x86_64, and arm64 was asked for" in said
    assert "import: nothing given yet" in said
