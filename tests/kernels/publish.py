"""Servers on the loopback that publish kernels as others do: a container registry, and what stands between it and us and misbehaves."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from conftest import lacking, need_programs
from kmatrix.fetch.archive import zstd

from .fabricate import Signer

OCI = "application/vnd.oci.image"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def http(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of `handler`; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- layers


def layer(files: Mapping[str, bytes], *, pack: str = "gzip", extra: Sequence[tarfile.TarInfo] = ()) -> bytes:
    """A layer with these files, and `extra` members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    plain = out.getvalue()
    return {"gzip": lambda: gzip.compress(plain, 1), "zstd": lambda: zstd.compress(plain, 1), "none": lambda: plain}[pack]()


# --- a registry


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """Debian's docker-registry, on a port of the loopback."""

    address: str
    """HOST:PORT."""
    root: Path
    authorization: Callable[[str], dict[str, str]] = lambda _scope: {}

    def blob(self, repository: str, data: bytes) -> dict[str, object]:
        """Push a blob; returns its descriptor but for the media type."""
        headers = self.authorization(f"repository:{repository}:pull,push")
        base = f"http://{self.address}/v2/{repository}"
        started = requests.post(f"{base}/blobs/uploads/", headers=headers, timeout=30)
        started.raise_for_status()
        place = requests.compat.urljoin(base, started.headers["Location"])  # type: ignore[attr-defined]
        done = requests.put(place, params={"digest": digest_of(data)}, data=data, headers=headers, timeout=60)
        done.raise_for_status()
        return {"digest": digest_of(data), "size": len(data)}

    def manifest(self, repository: str, name: str, body: Mapping[str, object]) -> dict[str, object]:
        """Push a manifest or an index under a tag or its digest; returns its descriptor."""
        data = json.dumps(body).encode()
        headers = self.authorization(f"repository:{repository}:pull,push") | {"Content-Type": str(body["mediaType"])}
        name = name or digest_of(data)
        done = requests.put(f"http://{self.address}/v2/{repository}/manifests/{name}", data=data, headers=headers, timeout=30)
        assert done.ok, done.text
        return {"mediaType": body["mediaType"], "digest": digest_of(data), "size": len(data)}

    def push(self, repository: str, tag: str, images: Mapping[str, Sequence[bytes]]) -> str:
        """Push an index with an image (layers, lowest first) for each of Go's arches; returns its digest."""
        manifests = []
        for arch, layers in images.items():
            config = json.dumps({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
            descriptors = []
            for data in layers:
                kind = "zstd" if data.startswith(b"\x28\xb5\x2f\xfd") else "gzip"
                descriptors.append(self.blob(repository, data) | {"mediaType": f"{OCI}.layer.v1.tar+{kind}"})
            body = {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": self.blob(repository, config) | {"mediaType": f"{OCI}.config.v1+json"},
                "layers": descriptors,
            }
            manifests.append(self.manifest(repository, "", body) | {"platform": {"os": "linux", "architecture": arch}})
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
        return str(self.manifest(repository, tag, index)["digest"])


@contextmanager
def registry(root: Path, extra: str = "") -> Iterator[Registry]:
    """A running docker-registry that keeps its images in `root`; `extra` is more of its configuration."""
    program = shutil.which("docker-registry")
    if program is None:
        lacking("docker-registry is not installed: apt-get install docker-registry")
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    config = root / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', relativeurls: true}}\n{extra}"
    )
    with (root / "log").open("w") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _wait(f"http://127.0.0.1:{port}/v2/", root / "log")
            yield Registry(f"127.0.0.1:{port}", root)
        finally:
            process.kill()
            process.wait()


def _wait(url: str, log: Path) -> None:
    for _ in range(200):
        with contextlib.suppress(requests.ConnectionError):
            requests.get(url, timeout=5)
            return
        time.sleep(0.05)
    raise AssertionError(f"the registry does not come up: {log.read_text()}")


# --- with tokens, as public registries have them


@contextmanager
def registry_with_tokens(root: Path) -> Iterator[tuple[Registry, list[str]]]:
    """A registry that asks everyone for a token, and the server that issues them; the second is the scopes that were asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    certificate = builder.sign(key, hashes.SHA256())
    root.mkdir(parents=True, exist_ok=True)
    (root / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    def token(scope: str) -> str:
        kind, repository, actions = scope.split(":")
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]}
        access = [{"type": kind, "name": repository, "actions": actions.split(",")}]
        times = {"nbf": int(time.time()) - 60, "iat": int(time.time()) - 60, "exp": int(time.time()) + 300}
        claims = {"iss": "us", "aud": "registry", "sub": "", "jti": secrets.token_hex(8), "access": access, **times}
        signed = b".".join(_unpadded(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + _unpadded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()

    asked: list[str] = []

    class Tokens(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (scope,) = parse_qs(urlsplit(self.path).query)["scope"]
            asked.append(scope)
            answer = json.dumps({"token": token(scope.replace(",push", ""))}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with http(Tokens) as realm:
        extra = (
            f"auth: {{token: {{realm: '{realm}/token', service: registry, issuer: us, rootcertbundle: {root}/certificate.pem}}}}\n"
        )
        with registry(root, extra) as found:
            found.authorization = lambda scope: {"Authorization": f"Bearer {token(scope)}"}
            yield found, asked


def _unpadded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# --- git


@contextmanager
def git_server(root: Path) -> Iterator[str]:
    """The repositories under `root` over git's own HTTP (its CGI program answers); `root`/stalled never gets to an end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path.startswith("/stalled/"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                time.sleep(5)
                return
            length = int(self.headers.get("Content-Length") or 0)
            answer = subprocess.run(
                ["git", "http-backend"],
                input=self.rfile.read(length),
                capture_output=True,
                check=True,
                env=os.environ
                | {
                    "GIT_PROJECT_ROOT": str(root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": url.path,
                    "QUERY_STRING": url.query,
                    "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                    "CONTENT_LENGTH": str(length),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
                },
            )
            head, _, body = answer.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with http(Handler) as address:
        yield address


# --- what goes wrong


class Gate:
    """Passes requests on to `upstream`, and spoils the answers to those whose path ends in `ending` in the way `fault` says."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.ending: tuple[str, ...] = ()
        self.fault = ""
        self.requests: list[str] = []

    @contextmanager
    def open(self) -> Iterator[str]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                gate.requests.append(f"{self.command} {self.path}")
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                answer = requests.request(
                    self.command,
                    gate.upstream + self.path,
                    headers=headers,
                    data=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
                    timeout=30,
                    allow_redirects=False,
                )
                body, spoilt = answer.content, self.command != "HEAD" and bool(gate.fault) and self.path.endswith(gate.ending)
                if spoilt and gate.fault == "portal":
                    body = b"<html><body>please log in<br></body>"
                status = 404 if spoilt and gate.fault == "404" else answer.status_code
                if spoilt and gate.fault == "corrupt":
                    body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
                self.send_response(status)
                for name, value in answer.headers.items():
                    if name.lower() not in (
                        "content-length",
                        "connection",
                        "date",
                        "server",
                        "content-encoding",
                        "transfer-encoding",
                    ):
                        self.send_header(name, value)
                self.send_header(
                    "Content-Length", answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                )
                self.end_headers()
                if self.command == "HEAD":
                    return
                if spoilt and gate.fault in ("truncated", "stalled"):
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    if gate.fault == "stalled":
                        time.sleep(2)
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        with http(Handler) as address:
            yield address


# --- RPM packages


def rpm_index(folder: Path, packages: Mapping[str, tuple[str, str, bytes]], *, machine: str = "x86_64") -> None:
    """The index of a repository by hand, so that it can lie: file → (name, EPOCH:VERSION-RELEASE, content)."""
    text = '<metadata xmlns="http://linux.duke.edu/metadata/common">'
    for file, (name, version, data) in packages.items():
        epoch, ver, rel = re.split("[:-]", version)
        text += (
            f'<package type="rpm"><name>{name}</name><arch>{machine}</arch><version epoch="{epoch}" ver="{ver}" rel="{rel}"/>'
            f'<checksum type="sha256" pkgid="YES">{hashlib.sha256(data).hexdigest()}</checksum>'
            f'<size package="{len(data)}"/><location href="{file}"/></package>'
        )
        if "/" not in file:
            (folder / file).write_bytes(data)
    primary = gzip.compress((text + "</metadata>").encode())
    (folder / "repodata").mkdir(exist_ok=True)
    (folder / "repodata/primary.xml.gz").write_bytes(primary)
    (folder / "repodata/repomd.xml").write_text(
        '<repomd xmlns="http://linux.duke.edu/metadata/repo"><data type="primary">'
        f'<checksum type="sha256">{hashlib.sha256(primary).hexdigest()}</checksum><location href="repodata/primary.xml.gz"/></data></repomd>'
    )


MODULES = """---
document: modulemd
version: 2
data:
  name: kernel-tools
  stream: "rhel9"
  summary: what a module of RHEL looks like in its modules.yaml
  description: none
  license: {module: [MIT]}
  artifacts: {rpms: ["kernel-core-0:9.9.9-1.x86_64"]}
...
"""


def rpm_repository(folder: Path, *, zst: bool = False, modules: str = "", prefix: str = "") -> None:
    """The index of the packages below `folder`, made by createrepo_c as publishers do.

    `zst`: as createrepo_c of today packs it. `modules` is the text of a modules.yaml (RHEL's modular metadata); `prefix` stands before each
    package's place (Amazon's packages stand in a blobstore beside the repositories).
    """
    need_programs("createrepo_c", apt="createrepo-c")
    subprocess.run(["createrepo_c", "--quiet", f"--location-prefix={prefix}", str(folder)], check=True, capture_output=True)
    data = folder / "repodata"
    if modules:
        (folder / "modules.yaml").write_text(modules)
        subprocess.run(
            ["modifyrepo_c", "--mdtype=modules", str(folder / "modules.yaml"), str(data)], check=True, capture_output=True
        )
    if zst:  # createrepo_c has --general-compress-type=zstd from 1.0 on
        (primary,) = data.glob("*-primary.xml.gz")
        packed = zstd.compress(gzip.decompress(primary.read_bytes()))
        name = f"{hashlib.sha256(packed).hexdigest()}-primary.xml.zst"
        (data / name).write_bytes(packed)
        index = (data / "repomd.xml").read_text()
        old = hashlib.sha256(primary.read_bytes()).hexdigest()
        index = index.replace(primary.name, name).replace(f">{old}<", f">{hashlib.sha256(packed).hexdigest()}<")
        (data / "repomd.xml").write_text(index)
        primary.unlink()


def rpm(
    folder: Path,
    name: str,
    files: Mapping[str, bytes],
    *,
    version: str = "5.4.286",
    release: str = "1",
    machine: str = "x86_64",
    payload: str = "w3.zstdio",
    signer: Signer | None = None,
) -> Path:
    """An RPM package made by rpmbuild, signed by rpmsign; `payload` as in rpm's macro _binary_payload."""
    need_programs("rpmbuild", apt="rpm")
    root = folder / f"rpm-{name}-{version}"
    for path, data in files.items():
        (root / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "files" / path).write_bytes(data)
    (root / "package.spec").write_text(
        f"Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: a kernel\nLicense: GPL-2.0\nAutoReqProv: no\n"
        f"%description\nA kernel.\n%install\ncp -a {root}/files/. %{{buildroot}}\n%files\n"
        + "".join(f"/{path}\n" for path in files)
    )
    macros = {"_topdir": str(root), "_binary_payload": payload, "_build_id_links": "none", "__os_install_post": "%{nil}"}
    command = [
        "rpmbuild",
        "-bb",
        "--quiet",
        f"--target={machine}-linux",
        *(f"--define={key} {value}" for key, value in macros.items()),
    ]
    done = subprocess.run([*command, str(root / "package.spec")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (root / "RPMS").rglob("*.rpm")
    if signer is not None:
        define = [
            f"--define=_gpg_name {signer.fingerprint()}",
            f"--define=_gpg_path {signer.home}",
            f"--define=__gpg {shutil.which('gpg')}",
        ]
        done = subprocess.run(["rpmsign", "--addsign", *define, str(built)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return Path(shutil.move(built, folder / built.name))
