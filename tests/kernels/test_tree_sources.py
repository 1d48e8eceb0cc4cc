"""The tarball and git sources: what is verified before it is built. The tree is a stand-in for a kernel's, built by its own makefile."""

from __future__ import annotations

import hashlib
import io
import lzma
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from kmatrix import kernels
from kmatrix.fetch import network
from kmatrix.host.errors import InfraError, InputError, KmatrixError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels import trust
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import git
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import Served, Signer, kernel, leftovers, serve
from .publish import git_server
from .test_build import HOST, _write_makefile, tree  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def _buildable(tree: Path) -> None:  # noqa: F811
    _write_makefile(tree)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "v5.x").mkdir()
    with serve(tmp_path) as server:
        yield server


def obtain(store: KernelStore, kind: str, *, mirrors: Mapping[str, str] | None = None, **options: object) -> KernelEntry:
    listed = {name: (value,) if name in ("url", "key", "sha256") else value for name, value in options.items()}
    return kernels.obtain(kernel("5.4", (5, 4), SourceSpec(kind, options=listed)), HOST, store, reporter=Quiet(), mirrors=mirrors)


# --- tarball


@pytest.fixture
def release(tmp_path: Path, tree: Path, web: Served, signer: Signer) -> Callable[..., str]:  # noqa: F811
    """release("5.4.9"): a release in a folder as kernel.org's, signed in both ways; returns the archive's address."""
    listed: dict[str, str] = {}

    def publish(version: str, *, sums: bool = True) -> str:
        plain = io.BytesIO()
        makefile = (tree / "Makefile").read_text().replace("SUBLEVEL = 9", f"SUBLEVEL = {version.rpartition('.')[2]}")
        (tree / "Makefile").write_text(makefile)
        with tarfile.open(fileobj=plain, mode="w") as tar:
            tar.add(tree, f"linux-{version}")
        name, folder = f"linux-{version}.tar.xz", tmp_path / "v5.x"
        (folder / name).write_bytes(lzma.compress(plain.getvalue()))
        (folder / f"linux-{version}.tar.sign").write_bytes(signer.detached(plain.getvalue()))
        listed[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if sums:
            text = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
            (folder / "sha256sums.asc").write_bytes(signer.clearsign(text.encode()))
        return f"{web.uri}/v5.x/{name}"

    return publish


def test_the_newest_release_of_a_folder(store: KernelStore, web: Served, release: Callable[..., str], signer: Signer) -> None:
    for version in ("5.4.9", "5.4.10", "5.15.200"):
        release(version)
    entry = obtain(store, "tarball", url=f"{web.uri}/v5.x/", key=str(signer.keyring))
    assert entry.source["version"] == "5.4.10"
    (artifact,) = entry.source["artifacts"]
    assert artifact["url"] == f"{web.uri}/v5.x/linux-5.4.10.tar.xz"
    assert artifact["trust"] == "the signed sha256sums.asc"
    assert entry.source["compiler"]
    assert leftovers(store.root) == []
    older = obtain(KernelStore(store.root / "2"), "tarball", url=f"{web.uri}/v5.x/", key=str(signer.keyring), version="5.4.9")
    assert older.source["version"] == "5.4.9"


def test_by_the_archives_own_signature(store: KernelStore, release: Callable[..., str], signer: Signer) -> None:
    url = release("5.4.9", sums=False)
    entry = obtain(store, "tarball", url=url, key=str(signer.keyring))
    assert entry.source["artifacts"][0]["trust"] == "the archive's signature"


def test_another_archive_under_the_signature(
    store: KernelStore, tmp_path: Path, release: Callable[..., str], signer: Signer
) -> None:
    url = release("5.4.9", sums=False)
    file = tmp_path / "v5.x/linux-5.4.9.tar.xz"
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()) + bytes(512)))
    with pytest.raises(InfraError, match="changed after it was signed"):
        obtain(store, "tarball", url=url, key=str(signer.keyring))
    assert store.refs() == []
    assert leftovers(store.root) == []


def test_tarball_by_digest_or_nothing(store: KernelStore, tmp_path: Path, release: Callable[..., str]) -> None:
    url = release("5.4.9", sums=False)
    with pytest.raises(InputError, match="nothing says what"):
        obtain(store, "tarball", url=url)
    digest = hashlib.sha256((tmp_path / "v5.x/linux-5.4.9.tar.xz").read_bytes()).hexdigest()
    entry = obtain(store, "tarball", url=url, sha256=digest)
    assert entry.source["artifacts"][0]["trust"] == trust.GIVEN


def test_an_old_release_under_a_new_name(store: KernelStore, tmp_path: Path, release: Callable[..., str], signer: Signer) -> None:
    """The publisher's own, signed, and not the one that is asked for."""
    old = release("5.4.9", sums=False)
    new, folder = old.replace("5.4.9", "5.4.10"), tmp_path / "v5.x"
    for ending in ("tar.xz", "tar.sign"):
        (folder / f"linux-5.4.9.{ending}").rename(folder / f"linux-5.4.10.{ending}")
    with pytest.raises(InfraError, match=r"linux-5\.4\.10\.tar\.xz: holds Linux 5\.4\.9"):
        obtain(store, "tarball", url=new, key=str(signer.keyring))
    assert store.refs() == []
    digest = hashlib.sha256((folder / "linux-5.4.10.tar.xz").read_bytes()).hexdigest()
    assert obtain(store, "tarball", url=new, sha256=digest).source["version"] == "5.4.9"  # exactly that one was asked for


def test_the_first_release_of_a_series(store: KernelStore, tree: Path, release: Callable[..., str], signer: Signer) -> None:  # noqa: F811
    """Its archive has two numbers, and its makefile three."""
    (tree / "Makefile").write_text((tree / "Makefile").read_text().replace("SUBLEVEL = 9", "SUBLEVEL = 0"))
    assert obtain(store, "tarball", url=release("5.4"), key=str(signer.keyring)).source["version"] == "5.4.0"


def test_no_such_release(store: KernelStore, web: Served, release: Callable[..., str], signer: Signer) -> None:
    release("5.15.2")
    with pytest.raises(Unavailable, match=r"has no release 5\.4"):
        obtain(store, "tarball", url=f"{web.uri}/v5.x/", key=str(signer.keyring))


# --- git


@pytest.fixture
def repository(tree: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:  # noqa: F811
    """repository("tag", "-s", …): git in the tree's repository, which has one commit."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Someone")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "someone@example.org")
    monkeypatch.setenv("GNUPGHOME", str(signer.home))

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    return git


def test_a_local_repository(store: KernelStore, tree: Path, repository: Callable[..., str]) -> None:  # noqa: F811
    commit = repository("rev-parse", "HEAD")
    (tree / "image").write_bytes(b"not committed")
    entry = obtain(store, "git", url=str(tree), ref="main")
    assert entry.release == "5.4.9"
    assert entry.source["commit"] == commit
    assert entry.source["pin"] == {"commit": commit}
    assert entry.source["trust"] == "a repository on this machine"


@pytest.fixture
def remote(tmp_path: Path, tree: Path, repository: Callable[..., str]) -> Iterator[str]:  # noqa: F811
    """The repository's address, as a forge has it."""
    repository("clone", "--quiet", "--bare", str(tree), str(tmp_path / "forge/linux.git"))
    with git_server(tmp_path / "forge") as address:
        yield f"{address}/linux.git"


def test_a_remote_repository(store: KernelStore, tmp_path: Path, repository: Callable[..., str], remote: str) -> None:
    """Over git's HTTP, by branch, by pinned commit, and by another commit than there is."""
    commit = repository("rev-parse", "HEAD")
    with pytest.raises(InputError, match="nothing says what main of"):
        obtain(store, "git", url=remote, ref="main")
    assert obtain(store, "git", url=remote, ref="main", trust="first-use").source["commit"] == commit
    again = KernelStore(tmp_path / "2")
    assert obtain(again, "git", url=remote, ref="main", commit=commit).source["trust"] == "the commit in kernels.toml"
    with pytest.raises(KmatrixError):
        obtain(KernelStore(tmp_path / "3"), "git", url=remote, ref="main", commit="0" * 40)
    with pytest.raises(Unavailable, match=r"git says: .*nothing"):
        obtain(KernelStore(tmp_path / "3"), "git", url=remote, ref="nothing", trust="first-use")


@pytest.mark.parametrize(("path", "said"), [("/nosuch.git", "not found"), ("/stalled/linux.git", "Operation too slow")])
def test_a_remote_that_fails(store: KernelStore, remote: str, path: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "_STALLED", 1)
    with pytest.raises(Unavailable, match=said):
        obtain(store, "git", url=remote.replace("/linux.git", path), ref="main", trust="first-use")
    assert leftovers(store.root) == []


def test_a_mirror_of_the_forge(store: KernelStore, remote: str) -> None:
    mirrors = {"https://forge.example": remote.removesuffix("/linux.git")}
    entry = obtain(store, "git", mirrors=mirrors, url="https://forge.example/linux.git", ref="main", trust="first-use")
    assert entry.release == "5.4.9"


def test_a_signed_tag(store: KernelStore, tmp_path: Path, tree: Path, repository: Callable[..., str], signer: Signer) -> None:  # noqa: F811
    repository("-c", f"user.signingKey={signer.fingerprint()}", "tag", "--sign", "--message=signed", "v5.4.9")
    repository("tag", "--annotate", "--message=unsigned", "v5.4.9-unsigned")
    key = str(signer.keyring)
    assert obtain(store, "git", url=str(tree), ref="v5.4.9", key=key).source["trust"] == "the signed tag"
    with pytest.raises(InfraError, match="is no signed tag"):
        obtain(KernelStore(tmp_path / "2"), "git", url=str(tree), ref="v5.4.9-unsigned", key=key)
    assert (
        obtain(KernelStore(tmp_path / "3"), "git", url=str(tree), ref="refs/tags/v5.4.9", key=key).source["trust"]
        == "the signed tag"
    )
    repository("update-ref", "refs/tags/v5.4.10", "refs/tags/v5.4.9")  # an old release under a new name
    with pytest.raises(InfraError, match=r"v5\.4\.10: is the signed tag 'v5\.4\.9'"):
        obtain(KernelStore(tmp_path / "2"), "git", url=str(tree), ref="v5.4.10", key=key)
    stranger = Signer.make(tmp_path / "stranger")
    stranger.close()
    with pytest.raises(InfraError, match="none of the known keys"):
        obtain(KernelStore(tmp_path / "2"), "git", url=str(tree), ref="v5.4.9", key=str(stranger.keyring))


def test_a_remote_repository_offline(store: KernelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.OFFLINE, "1")
    with pytest.raises(Unavailable, match="offline"):
        obtain(store, "git", url="https://127.0.0.1:1/linux.git", ref="main", trust="first-use")


@pytest.mark.parametrize("url", ["ext::sh -c touch% evil", "-u./evil", "https://x.example --upload-pack=evil"])
def test_what_git_would_run(store: KernelStore, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KmatrixError):
        obtain(store, "git", url=url, ref="main", trust="first-use")
    with pytest.raises(InputError, match="one ref"):
        obtain(store, "git", url="https://x.example/y", ref="--upload-pack=touch evil", trust="first-use")
    assert not list(tmp_path.rglob("evil"))
