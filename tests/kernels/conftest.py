from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.fetch import download
from kmatrix.host import paths
from kmatrix.kernels.store import KernelStore

from .fabricate import Served, Signer, apt_root, debian_archive, serve
from .publish import Registry, registry


@pytest.fixture
def store(tmp_path: Path) -> KernelStore:
    return KernelStore(tmp_path / "store")


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    need_programs("gpg", "gpgv", apt="gnupg gpgv")
    signer = Signer.make(tmp_path_factory.mktemp("gpg") / "home")
    yield signer
    signer.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "web").mkdir()
    with serve(tmp_path / "web") as server:
        yield server


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_pause", lambda _seconds, _why: None)


@pytest.fixture(autouse=True)
def _own_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Partial files of the tests' servers do not go into the user's cache."""
    cache_dir = paths.cache_dir
    (tmp_path / "downloads").mkdir()
    monkeypatch.setattr(paths, "cache_dir", lambda kind: tmp_path / kind if kind == "downloads" else cache_dir(kind))


@pytest.fixture
def archive(tmp_path: Path, signer: Signer):
    return debian_archive(tmp_path / "archive", signer)


@pytest.fixture
def served(archive) -> Iterator[Served]:
    with serve(archive.root) as server:
        yield server


@pytest.fixture
def apt_config(tmp_path: Path, served: Served, signer: Signer) -> Path:
    return apt_root(tmp_path / "apt", served.uri, signer.keyring)
