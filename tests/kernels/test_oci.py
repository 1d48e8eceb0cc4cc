"""The oci source against Debian's docker-registry, with kernels pushed as little-vm-helper and ci-kernels push them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from kmatrix import kernels
from kmatrix.fetch import archive, session
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Quiet
from kmatrix.kernels import trust
from kmatrix.kernels.entry import KernelEntry
from kmatrix.kernels.sources import oci
from kmatrix.kernels.store import KernelStore
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import SourceSpec

from .fabricate import CONFIG, arm64_image, btf_section, bzimage, kernel, leftovers, module
from .publish import Gate, Registry, http, layer, registry, registry_with_tokens

RELEASE = "5.4.286"


def lvh(release: str = RELEASE, image: bytes | None = None, *, pack: str = "gzip") -> list[bytes]:
    """A kernel's layers in little-vm-helper's layout."""
    base = "data/kernels/5.4"
    image = image or bzimage(release, btf=False)
    boot = {
        f"{base}/boot/vmlinuz-{release}": image,
        f"{base}/boot/config-{release}": CONFIG.encode(),
        f"{base}/boot/System.map-{release}": b"0 T _text\n",
        f"{base}/boot/btf-{release}": btf_section(),
    }
    tree = f"{base}/lib/modules/{release}"
    modules = {
        f"{tree}/kernel/fs/overlayfs/overlay.ko": module("overlay"),
        f"{tree}/modules.builtin": b"",
        f"{tree}/modules.order": b"",
    }
    link = tarfile.TarInfo(f"{tree}/build")
    link.type, link.linkname = tarfile.SYMTYPE, "/usr/src/linux"
    return [layer(boot, pack=pack), layer(modules, pack=pack, extra=[link])]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def spec(ref: str, *, trusting: bool = True) -> SourceSpec:
    return SourceSpec("oci", options={"ref": ref} | ({"trust": "first-use"} if trusting else {}))


def obtain(store: KernelStore, ref: str, arch: Arch = "x86_64", *, trusting: bool = True) -> KernelEntry:
    return kernels.obtain(kernel("5.4", (5, 4), spec(ref, trusting=trusting)), arch, store, reporter=Quiet())


@pytest.mark.parametrize("pack", ["gzip", "zstd", "none"])
def test_lvh(store: KernelStore, server: Registry, pack: str) -> None:
    arm = lvh("5.4.286", arm64_image("5.4.286", btf=False), pack=pack)
    digest = server.push("lvh/kernel-images", f"5.4-{pack}", {"amd64": lvh(pack=pack), "arm64": arm})
    ref = f"{server.address}/lvh/kernel-images:5.4-{pack}"
    entry = obtain(store, ref)
    assert (entry.release, entry.btf) == (RELEASE, False)
    assert entry.btf_file is not None
    assert entry.btf_file.read_bytes() == btf_section()
    assert entry.config is not None
    assert entry.modules is not None
    assert [path.name for path in entry.modules.rglob("*.ko")] == ["overlay.ko"]
    assert obtain(store, ref, "arm64").arch == "arm64"
    assert entry.source["pin"] == {"ref": f"{server.address}/lvh/kernel-images@{digest}"}
    index, *layers = entry.source["artifacts"]
    assert index["trust"] == "first use"
    assert [artifact["trust"].startswith("the manifest sha256:") for artifact in layers] == [True, True]
    assert leftovers(store.root) == []


def test_ci_kernels(store: KernelStore, server: Registry) -> None:
    tree = f"usr/lib/modules/{RELEASE}"
    files = {"boot/vmlinuz": bzimage(RELEASE), f"{tree}/kernel/fs/fuse/fuse.ko": module("fuse")}
    digest = server.push("ci-kernels", "5.4", {"amd64": [layer(files)]})
    by_digest = obtain(store, f"{server.address}/ci-kernels@{digest}", trusting=False)
    assert (by_digest.release, by_digest.btf, by_digest.btf_file) == (RELEASE, True, None)
    assert by_digest.source["artifacts"][0]["trust"] == "sha256 in kernels.toml"
    assert by_digest.modules is not None


def test_a_manifest_without_an_index(store: KernelStore, server: Registry) -> None:
    data = layer({"boot/vmlinuz": bzimage(RELEASE)})
    body = {
        "schemaVersion": 2,
        "mediaType": oci._MANIFESTS[1],
        "config": server.blob("single", b"{}") | {"mediaType": "application/vnd.docker.container.image.v1+json"},
        "layers": [server.blob("single", data) | {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"}],
    }
    server.manifest("single", "5.4", body)
    assert obtain(store, f"{server.address}/single:5.4").release == RELEASE


def test_upper_layers_hide_what_is_below(store: KernelStore, server: Registry) -> None:
    """Whiteouts and replaced files: what a second RUN line of a Dockerfile leaves."""
    tree = f"lib/modules/{RELEASE}/kernel"
    lower = {
        "boot/vmlinuz-5.3.1": bzimage("5.3.1"),
        "boot/config-5.3.1": b"CONFIG_OLD=y\n",
        f"{tree}/fs/gone/gone.ko": module("gone"),
        f"{tree}/fs/a.ko": module("a"),
        f"{tree}/fs/fuse/fuse.ko": module("fuse", size=3000),
        f"{tree}/net/old/old.ko": module("old"),
    }
    upper = {
        "boot/.wh.vmlinuz-5.3.1": b"",
        "boot/.wh.config-5.3.1": b"",
        f"boot/vmlinuz-{RELEASE}": bzimage(RELEASE),
        f"{tree}/fs/.wh.gone": b"",
        f"{tree}/fs/fuse/fuse.ko": module("fuse"),
        f"{tree}/net/.wh..wh..opq": b"",
        f"{tree}/net/new.ko": module("new"),
    }
    server.push("whiteouts", "5.4", {"amd64": [layer(lower), layer(upper)]})
    entry = obtain(store, f"{server.address}/whiteouts:5.4")
    assert entry.modules is not None
    assert {path.stem for path in entry.modules.rglob("*.ko")} == {"a", "fuse", "new"}
    assert (entry.modules / "kernel/fs/fuse/fuse.ko").read_bytes() == module("fuse")


def test_a_token_is_asked_for(store: KernelStore, tmp_path: Path) -> None:
    with registry_with_tokens(tmp_path / "registry") as (server, asked):
        server.push("lvh/kernel-images", "5.4", {"amd64": lvh()})
        assert obtain(store, f"{server.address}/lvh/kernel-images:5.4").release == RELEASE
    assert asked
    assert set(asked) == {"repository:lvh/kernel-images:pull"}


@contextmanager
def lying_registry(answers: dict[str, tuple[int, bytes, dict[str, str]]]) -> Iterator[tuple[str, list[str]]]:
    """A registry by hand: the end of a path → status, body, headers. Gives HOST:PORT, and what it was sent as Authorization."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization") or "")
            found = next((answer for ending, answer in answers.items() if self.path.endswith(ending)), (404, b"", {}))
            status, body, headers = found
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with http(Handler) as address:
        yield address.removeprefix("http://"), sent


@pytest.mark.parametrize("realm", ["file://{file}", "copy:{file}", "ftp://127.0.0.1/x", "http://["])
def test_a_registry_has_no_say_in_what_is_read_here(store: KernelStore, tmp_path: Path, realm: str) -> None:
    """It names a file of this machine as where a token is to be had, and would be sent it."""
    (tmp_path / "secret.json").write_text('{"token": "secret"}')
    challenge = f'Bearer realm="{realm.format(file=tmp_path / "secret.json")}",service="x"'
    with (
        lying_registry({"/manifests/5.4": (401, b"", {"WWW-Authenticate": challenge})}) as (address, sent),
        pytest.raises(InfraError, match="which is not followed"),
    ):
        obtain(store, f"{address}/evil/k:5.4")
    assert sent
    assert not any(sent)


def test_where_links_lead() -> None:
    for base, link, follows in (
        ("http://127.0.0.1:5000/v2/x", "http://127.0.0.1:5001/token", True),
        ("http://127.0.0.1:5000/v2/x", "https://auth.example/token", True),
        ("https://r.example/v2/x", "https://auth.example/token", True),
        ("https://r.example/v2/x", "http://auth.example/token", False),
        ("https://r.example/v2/x", "file:///etc/passwd", False),
        ("https://r.example/repo/", "Packages/k.rpm", True),
        ("file:///srv/repo/", "Packages/k.rpm", True),
        ("file:///srv/repo/", "http://elsewhere.example/k.rpm", False),
    ):
        if follows:
            assert trust.linked(base, link).endswith(link)
        else:
            with pytest.raises(InfraError, match="which is not followed"):
                trust.linked(base, link)


def test_an_image_by_a_digest_that_is_not_compared(store: KernelStore) -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    index = json.dumps({"manifests": [{"digest": "sha512:abc", "platform": platform}]}).encode()
    manifest = json.dumps({"layers": []}).encode()
    with (
        lying_registry({"/manifests/5.4": (200, index, {}), "/manifests/sha512:abc": (200, manifest, {})}) as (address, sent),
        pytest.raises(InputError, match="an image has no sha256 but 'sha512:abc'"),
    ):
        obtain(store, f"{address}/k:5.4")
    assert len(sent) == 2  # the tag, asked for and fetched


@pytest.mark.parametrize(
    "body", [b"<html>please log in", b"[" * 100_000, b'{"manifests": 5}', b'{"manifests": [5]}', b"{}", b"\xff\xfe\xfd"]
)
def test_an_answer_that_is_no_manifest(store: KernelStore, body: bytes) -> None:
    with (
        lying_registry({"/manifests/5.4": (200, body, {})}) as (address, _),
        pytest.raises(InputError, match=r"is no sound image (manifest|index)"),
    ):
        obtain(store, f"{address}/k:5.4")


def test_a_tag_alone_is_refused(store: KernelStore, server: Registry) -> None:
    with pytest.raises(InputError, match="a tag may mean anything tomorrow") as caught:
        obtain(store, f"{server.address}/lvh/kernel-images:5.4", trusting=False)
    assert 'trust = "first-use"' in str(caught.value.fix)


def test_another_digest(store: KernelStore, server: Registry) -> None:
    """The registry's file is changed under the digest it has."""
    digest = server.push("changed", "5.4", {"amd64": [layer({"boot/vmlinuz": bzimage(RELEASE)})]})
    blob = server.root / f"data/docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
    blob.write_bytes(blob.read_bytes().replace(b"amd64", b"AMD64"))
    with pytest.raises((InfraError, Unavailable)):  # docker-registry notices by itself
        obtain(store, f"{server.address}/changed@{digest}", trusting=False)


def test_no_image_for_the_arch(store: KernelStore, server: Registry) -> None:
    server.push("x86only", "5.4", {"amd64": lvh()})
    with pytest.raises(Unavailable, match=r"has no image for arm64 \(it has amd64\)"):
        obtain(store, f"{server.address}/x86only:5.4", "arm64")


def test_no_such_tag_or_repository(store: KernelStore, server: Registry) -> None:
    for ref in ("lvh/kernel-images:9.9", "nothing/here:1"):
        with pytest.raises(Unavailable, match="404"):
            obtain(store, f"{server.address}/{ref}")


@pytest.mark.parametrize(
    "ref", ["", "x", "quay.io/x", "kernel-images:5.4", "quay.io/UPPER:5", "quay.io/x@sha256:12", "quay.io/x:a b"]
)
def test_what_is_no_reference(store: KernelStore, ref: str) -> None:
    with pytest.raises(InputError, match="names no image"):
        obtain(store, ref)


def test_references() -> None:
    digest = "sha256:" + "0" * 64
    for text, base in {
        "quay.io/lvh-images/kernel-images:5.4-main": "https://quay.io/v2/lvh-images/kernel-images",
        f"ghcr.io/cilium/ci-kernels:5.4@{digest}": "https://ghcr.io/v2/cilium/ci-kernels",
        "docker.io/library/x:1": "https://registry-1.docker.io/v2/library/x",
        "localhost:5000/x:1": "http://localhost:5000/v2/x",
        "127.0.0.1.example.org/x:1": "https://127.0.0.1.example.org/v2/x",
    }.items():
        assert oci.parse(text, "here").base == base


@pytest.mark.parametrize("fault", ["corrupt", "stalled"])
def test_a_manifest_on_the_way(store: KernelStore, server: Registry, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for by digest is checked here, whatever the registry says."""
    monkeypatch.setattr(session, "_TIMEOUT", (5, 0.4))
    digest = server.push("onway", "5.4", {"amd64": [layer({"boot/vmlinuz": bzimage(RELEASE)})]})
    gate = Gate(f"http://{server.address}")
    gate.ending, gate.fault = (digest,), fault
    with gate.open() as address, pytest.raises(InfraError, match=r"is not what its digest says|cannot be fetched"):
        obtain(store, f"{address.removeprefix('http://')}/onway@{digest}", trusting=False)
    assert leftovers(store.root) == []


def test_a_layer_too_large(store: KernelStore, server: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    server.push("large", "5.4", {"amd64": [layer({"boot/vmlinuz": bzimage(RELEASE)})]})
    monkeypatch.setattr(archive, "TOTAL", 100)
    with pytest.raises(InputError, match="not a kernel's"):
        obtain(store, f"{server.address}/large:5.4")
