"""Transfers from a server on the loopback that keeps to HTTP's words on ranges and misbehaves on request."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest

from kmatrix.fetch import download, network
from kmatrix.fetch import session as session_module
from kmatrix.fetch.session import session
from kmatrix.host import paths
from kmatrix.host.errors import InfraError, StoreError, Unavailable
from kmatrix.host.progress import Quiet

DATA = random.Random(1).randbytes(3 << 20)  # the same in the processes that a test starts
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server:
    """Serves `data` at every address. `cuts` are the bytes after which its next answers break off; `statuses` its next refusals."""

    def __init__(self) -> None:
        self.data = DATA
        self.etag: str | None = '"one"'
        self.ranges = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.retry_after = "7"
        self.slowly = 0.0
        """Seconds between two bytes, where not 0."""
        self.asked: list[dict[str, str]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
                if served.statuses:
                    self.send_response(served.statuses.pop(0))
                    self.send_header("Retry-After", served.retry_after)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if served.slowly:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(served.data)))
                    self.end_headers()
                    while served.slowly:
                        try:
                            self.wfile.write(b"x")
                        except OSError:
                            break
                        time.sleep(served.slowly)
                    self.close_connection = True
                    return
                body, status = served.data, 200
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                fresh = self.headers.get("If-Range", served.etag) == served.etag
                if wanted and served.ranges and fresh:
                    start = int(wanted[1])
                    if start >= len(body):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    body, status = body[start:], 206
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{len(served.data) - 1}/{len(served.data)}")
                if served.etag:
                    self.send_header("ETag", served.etag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: served.cuts.pop(0)] if served.cuts else body)
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}/a/linux.tar.xz"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _own_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As conftest's, and for other processes too."""
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(network.OFFLINE, raising=False)
    yield
    network.use_mirrors({})


def in_downloads() -> list[str]:
    return sorted(path.name for path in paths.cache_dir("downloads").iterdir() if path.suffix != ".lock")


def fetch(server: Server, to: Path, **more: object) -> None:
    download.fetch_file(server.url, len(DATA), DIGEST, to, **more)  # type: ignore[arg-type]


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = [1 << 20, 1 << 20]
    fetch(server, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA
    assert [each.get("range") for each in server.asked] == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]
    assert [each.get("if-range") for each in server.asked] == [None, '"one"', '"one"']
    assert in_downloads() == []


def test_in_memory_too(server: Server) -> None:
    server.cuts = [1 << 20]
    out = io.BytesIO()
    download.fetch(server.url, len(DATA), DIGEST, out)
    assert out.getvalue() == DATA
    assert server.asked[1]["range"] == f"bytes={1 << 20}-"


def test_getting_further_is_no_failed_attempt(server: Server, tmp_path: Path) -> None:
    server.cuts = [200_000] * (2 * download.ATTEMPTS)
    fetch(server, tmp_path / "out")
    assert len(server.asked) == 2 * download.ATTEMPTS + 1


@pytest.mark.parametrize("changes", [{"ranges": False}, {"etag": '"two"'}, {"etag": None}])
def test_a_server_that_cannot_go_on_starts_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """No ranges; another version meanwhile; another version that does not say so, which only the digest shows."""
    other = bytes(len(DATA))
    server.data, server.cuts = other if "etag" in changes else DATA, [1 << 20]
    if changes.get("etag", "") is None:
        server.etag = None

    def change(_seconds: float, _why: str) -> None:
        server.data = DATA
        for name, value in changes.items():
            setattr(server, name, value)

    monkeypatch.setattr(download, "_pause", change)
    fetch(server, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA


def test_the_next_process_goes_on(server: Server, tmp_path: Path) -> None:
    """Killed in the middle: what it had is in the cache, with the server's name for the version."""
    script = (
        "import os, sys; from pathlib import Path; from kmatrix.fetch import download, network\n"
        "def advance(done, total):\n    if done > 1_000_000: os._exit(9)\n"
        "download.fetch_file(sys.argv[1], None, sys.argv[2], Path(sys.argv[3]), advance)"
    )
    done = subprocess.run([sys.executable, "-c", script, server.url, DIGEST, str(tmp_path / "out")], check=False)
    assert done.returncode == 9
    assert in_downloads() == [f"sha256-{DIGEST}.json", f"sha256-{DIGEST}.part"]
    had = (paths.cache_dir("downloads") / f"sha256-{DIGEST}.part").stat().st_size
    assert 0 < had < len(DATA)
    fetch(server, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA
    assert server.asked[-1]["range"] == f"bytes={had}-"
    assert server.asked[-1]["if-range"] == '"one"'


@pytest.mark.parametrize("left", [b"x" * 1000, DATA + b"more", DATA[:-1] + b"\0"])
def test_a_damaged_partial_file_is_not_built_upon(server: Server, tmp_path: Path, left: bytes) -> None:
    (paths.cache_dir("downloads") / f"sha256-{DIGEST}.part").write_bytes(left)
    download.fetch_file(server.url, None, DIGEST, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA


def test_wrong_content_is_said_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.data = bytes(len(DATA))
    with pytest.raises(InfraError, match="sha256 differs") as caught:
        fetch(server, tmp_path / "out")
    assert not isinstance(caught.value, Unavailable)
    assert len(server.asked) == 1
    assert in_downloads() == []
    assert not (tmp_path / "out").exists()


def test_an_endless_answer_ends(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="differs"):
        download.fetch_file(server.url, 1000, DIGEST, tmp_path / "out")


def test_another_digest(server: Server, tmp_path: Path) -> None:
    download.fetch_file(server.url, None, f"sha512:{hashlib.sha512(DATA).hexdigest()}", tmp_path / "out")
    with pytest.raises(InfraError, match="sha512 differs"):
        download.fetch_file(server.url, None, f"sha512:{'0' * 128}", tmp_path / "out")


def test_a_busy_server_is_waited_for(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download, "_pause", lambda seconds, _: waited.append(seconds))
    server.statuses = [503, 429]
    fetch(server, tmp_path / "out")
    assert waited == [7.0, 7.0]  # as the server asks
    server.statuses = [404]
    with pytest.raises(Unavailable, match="404"):
        download.get(server.url)
    assert len(waited) == 2


def test_pauses_grow(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download, "_pause", lambda seconds, _: waited.append(seconds))
    server.cuts = [0] * 10
    server.etag = None
    with pytest.raises(Unavailable, match="ended after 0 of"):
        download.fetch(server.url, len(DATA), DIGEST, io.BytesIO())
    assert len(waited) == download.ATTEMPTS - 1
    assert all(0.7 * 2**number < pause < 1.3 * 2**number for number, pause in enumerate(waited))


def test_a_stalled_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_TIMEOUT", (1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="does not answer"):
        download.fetch_file(f"http://127.0.0.1:{silent.getsockname()[1]}/x", None, DIGEST, tmp_path / "out")


def test_a_server_that_hardly_sends_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then ends no read, and would go on for weeks."""
    monkeypatch.setattr(download, "_SLOWEST", (0.3, 1 << 10))
    server.slowly = 0.02
    with pytest.raises(Unavailable, match="sends less than"):
        fetch(server, tmp_path / "out")
    assert len(server.asked) == download.ATTEMPTS


def test_no_range_was_asked_for_and_refused(server: Server) -> None:
    server.statuses = [416] * 3
    with pytest.raises(Unavailable, match="the server says 416"):
        download.get(server.url)
    assert len(server.asked) == 1


def test_what_no_digest_tells_is_asked_for(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed when it had all, and before it was put where it was wanted, leaves a file that the server may have changed since."""
    with monkeypatch.context() as patch:
        patch.setattr(download, "_place", lambda *_arguments, **_more: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            download.fetch_file(server.url, None, None, tmp_path / "out")
    server.data = b"newer"
    download.fetch_file(server.url, None, None, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"newer"


def test_the_sha256_that_is_expected(server: Server, tmp_path: Path) -> None:
    """A lock's: checked as the file comes, where nobody else knows one, and against what somebody else says."""
    other = "0" * 64

    def expect(url: str, digest: str | None) -> str | None:
        if digest not in (None, other):
            raise InfraError(f"refused: {url} has {digest}")
        return other

    with download.working_for(Quiet(), expect):
        with pytest.raises(InfraError, match=f"refused: {server.url} has {DIGEST}"):
            download.fetch_file(server.url, None, None, tmp_path / "out")
        asked = len(server.asked)
        with pytest.raises(InfraError, match="refused"):
            download.fetch_file(server.url, None, DIGEST, tmp_path / "out")
        assert len(server.asked) == asked
    assert in_downloads() == []
    fetch(server, tmp_path / "out")


@pytest.mark.parametrize("folder", ["/dev/null/x", "/proc/x"])
def test_a_cache_that_cannot_be(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("KMATRIX_CACHE", folder)
    with pytest.raises(StoreError, match="the cache cannot be written") as caught:
        fetch(server, tmp_path / "out")
    assert caught.value.where == f"{folder}/downloads"
    assert "KMATRIX_CACHE (or XDG_CACHE_HOME)" in str(caught.value.fix)


def test_a_file_where_the_cache_has_a_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/downloads").write_text("")
    with pytest.raises(StoreError, match=r"File exists \(.*/cache/downloads\)"):
        fetch(server, tmp_path / "out")


_OBTAINS = """
from contextlib import contextmanager
from kmatrix import kernels
from kmatrix.host import progress
from kmatrix.matrix.load import load_matrix
class Loud(progress.Quiet):
    @contextmanager
    def step(self, label):
        print(label, flush=True)
        with super().step(label) as step:
            yield step
kernels.obtain_all([load_matrix().target("5.4-x86_64")], kernels.KernelStore(), reporter=Loud())
"""


@pytest.mark.parametrize("waits", ["the store's lock", "another's transfer", "a busy server"])
def test_an_interrupt_ends_what_waits(server: Server, tmp_path: Path, waits: str) -> None:
    """It reaches the main thread alone, and the waiting is done in others."""
    text = f'sources = [{{ kind = "package", url = "{server.url}", sha256 = "{DIGEST}" }}]\n'
    (tmp_path / "kernels.toml").write_text(f'schema = 1\nextends = false\n[kernels."5.4"]\nversion = "5.4"\n{text}')
    server.statuses = [503] * 100
    if waits == "a busy server":
        server.retry_after = "50"
    label, folder = ("5.4-x86_64", "kernels/locks") if "store" in waits else (f"sha256-{DIGEST}", "downloads")
    (tmp_path / "cache" / folder).mkdir(parents=True)
    holding = (
        filelock.FileLock(tmp_path / "cache" / folder / f"{label}.lock") if waits != "a busy server" else contextlib.nullcontext()
    )
    with holding:
        process = subprocess.Popen([sys.executable, "-c", _OBTAINS], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert any("waiting" in step for step in iter(process.stdout.readline, ""))
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
        assert time.monotonic() - sent < 10
    assert len(server.asked) == (1 if waits == "a busy server" else 0)


# --- who asks


def test_credentials(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/.netrc's and an address's own are for requests that bring none: a token is not replaced."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    download.get(server.url, headers={"Authorization": "Bearer T"})
    download.get(server.url)
    download.get(server.url.replace("://", "://me:secret@"))
    basic = [f"Basic {base64.b64encode(text).decode()}" for text in (b"u:p", b"me:secret")]
    assert [each["authorization"] for each in server.asked] == ["Bearer T", *basic]


def test_a_password_is_not_said(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("://", "://me:secret@")
    server.cuts = [1 << 20] + [0] * 10
    with pytest.raises(Unavailable) as caught:
        download.fetch_file(url, None, DIGEST, tmp_path / "out")
    assert "secret" not in repr(caught.value) + str(caught.value)
    assert str(caught.value.where) == server.url
    (note,) = [path for path in paths.cache_dir("downloads").iterdir() if path.suffix == ".json"]
    assert json.loads(note.read_text()) == {"url": server.url, "validator": '"one"'}
    server.cuts = []
    download.fetch_file(url, None, DIGEST, tmp_path / "out")
    assert server.asked[-1]["range"] == f"bytes={1 << 20}-"


# --- what is the matter


def test_no_address_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download, "_pause", lambda seconds, _: waited.append(seconds))
    for url in ("http://", "ftp://x/y", "x/y"):
        with pytest.raises(Unavailable, match="that is no address") as caught:
            download.get(url)
        assert "kernels.toml" in str(caught.value.fix)
    assert waited == []


def with_tls(folder: Path, handler: type[BaseHTTPRequestHandler]) -> tuple[HTTPServer, Path]:
    """A server on the loopback that speaks https, and its certificate, which nobody knows."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tls = HTTPServer(("127.0.0.1", 0), handler)
    tls.socket = context.wrap_socket(tls.socket, server_side=True)
    threading.Thread(target=tls.serve_forever, args=(0.02,), daemon=True).start()
    return tls, certificate


def test_a_redirect_from_https_to_http_is_followed_for_a_known_digest_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leads(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            # Relative within https is no step down; what it leads to then is.
            self.send_header("Location", "/b" if self.path == "/a" else f"{server.url}/x")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base
            pass

    tls, certificate = with_tls(tmp_path, Leads)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    url = f"https://127.0.0.1:{tls.server_address[1]}/a"
    try:
        with pytest.raises(InfraError) as caught:
            download.get(url)
        assert f"leads from https to {server.url}/x" in caught.value.message
        assert caught.value.where == url.replace("/a", "/b")
        assert server.asked == []  # not even asked
        download.fetch_file(url, len(DATA), DIGEST, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == DATA
        with pytest.raises(InfraError):  # what was known of one file is not known of the next
            download.get(url)
    finally:
        tls.shutdown()
        tls.server_close()


def test_what_keeps_from_connecting(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, no TLS, a certificate nobody knows, a dead proxy: each said as what it is, with what to do."""

    def said(url: str) -> tuple[str, str]:
        with pytest.raises(Unavailable) as caught:
            download.get(url)
        return caught.value.message, str(caught.value.fix)

    assert said("http://127.0.0.1:1/x")[0] == "cannot be fetched: no connection to 127.0.0.1:1 (Connection refused)"
    message, fix = said(server.url.replace("http:", "https:"))
    assert "no TLS with 127.0.0.1 (" in message
    assert "https" in fix
    tls, _ = with_tls(tmp_path, BaseHTTPRequestHandler)
    waited: list[float] = []
    monkeypatch.setattr(download, "_pause", lambda seconds, _: waited.append(seconds))
    message, fix = said(f"https://127.0.0.1:{tls.server_address[1]}/x")
    tls.shutdown()
    tls.server_close()
    assert message.startswith("cannot be fetched: the certificate of 127.0.0.1 is not trusted (")
    assert "self-signed" in message
    assert "REQUESTS_CA_BUNDLE" in fix
    assert waited == []
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    message, fix = said("http://kernels.invalid/x")
    assert message == "cannot be fetched: no connection to kernels.invalid through the proxy (Connection refused)"
    assert "http_proxy" in fix


def _fetch_elsewhere(url: str, to: Path) -> None:
    download.fetch_file(url, None, DIGEST, to, keep=True)


def test_ten_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fetch_elsewhere, args=(server.url, tmp_path / str(number))) for number in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert all((tmp_path / str(number)).read_bytes() == DATA for number in range(10))
    assert len(server.asked) == 1


def test_a_kept_file_that_was_damaged_is_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "out", keep=True)
    kept = paths.cache_dir("downloads") / f"sha256-{DIGEST}"
    kept.unlink()
    kept.write_bytes(b"something else")
    fetch(server, tmp_path / "again", keep=True)
    assert (tmp_path / "again").read_bytes() == DATA
    assert len(server.asked) == 2


# --- mirrors and proxies


def test_a_mirror_stands_in_for_an_address(server: Server, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/file").write_bytes(b"from disk")
    network.use_mirrors(
        {
            "https://kernels.invalid/": f"http://{server.address}/mirror",
            "https://kernels.invalid/pub/": (tmp_path / "local").as_uri(),
            "debian": "http://debian.invalid",  # a source's own word: its module sees to it
        }
    )
    download.fetch_file("https://kernels.invalid/v6.x/linux.tar.xz", len(DATA), DIGEST, tmp_path / "out")
    assert server.asked[0]["path"] == "/mirror/v6.x/linux.tar.xz"
    assert download.get("https://kernels.invalid/pub/file") == b"from disk"
    assert session().get("https://kernels.invalid/v2/").content == DATA
    assert network.mirrored("https://kernels.invalid.example/") == "https://kernels.invalid.example/"


def test_the_environments_proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "proxies", lambda: (("http", "http://127.0.0.1:9"),))  # apt's, which the environment overrules
    monkeypatch.setenv("http_proxy", f"http://{server.address}")
    download.fetch_file("http://kernels.invalid/linux.tar.xz", len(DATA), DIGEST, tmp_path / "out")
    assert server.asked[0]["path"] == "http://kernels.invalid/linux.tar.xz"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download.get(server.url) == DATA
    assert server.asked[1]["path"] == "/a/linux.tar.xz"


# --- offline

_WATCHED = """
import json, sys
seen = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen", "os.system"):
        seen.append([event, repr(args)])
sys.addaudithook(watch)
from kmatrix.cli import main
sys.argv = ["kmatrix", *sys.argv[2:]]
try:
    main()
finally:
    with open(sys.orig_argv[sys.orig_argv.index("-c") + 2], "w") as file:
        json.dump(seen, file)
"""


def watched(tmp_path: Path, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """`kmatrix …` with every connection and every program it starts written down (CPython's audit events)."""
    seen = tmp_path / "seen.json"
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(seen), *arguments],
        env=os.environ | {"KMATRIX_CACHE": str(tmp_path / "cache")} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    events = json.loads(seen.read_text())
    return done, [event for event in events if "apt-config" not in event[1]]


def test_offline_connects_to_nothing(server: Server, tmp_path: Path) -> None:
    """The same command with and without: the watch that sees the one's connections sees none of the other's."""
    kernel = '[kernels."6.1"]\nversion = "6.1"\nsources = [{ kind = "debian", suite = "bookworm", series = "6.1" }]\n'
    mirrors = f'[mirrors]\ndebian = "http://{server.address}/debian"\n'
    (tmp_path / "kernels.toml").write_text(f"schema = 1\nextends = false\n{mirrors}{kernel}")
    server.statuses = [404] * 10
    done, events = watched(tmp_path, "kernels", "fetch", "6.1", "--arch", "arm64")
    assert done.returncode == 3
    assert "socket.connect" in [event for event, _ in events]
    asked = len(server.asked)
    for arguments, environment in (((), {network.OFFLINE: "1"}), (("--offline",), {})):
        for command in (("kernels", "fetch", "6.1", "--arch", "arm64"), ("images", "build", "--arch", "arm64"), ("prepare",)):
            done, events = watched(tmp_path, *arguments, *command, **environment)
            assert done.returncode == 3 or command == ("prepare",), done.stderr
            assert events == []
            assert "offline" in done.stderr or command == ("prepare",)
    assert len(server.asked) == asked


def test_offline_reads_mirrors_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.OFFLINE, "1")
    (tmp_path / "file").write_bytes(b"here")
    assert download.get((tmp_path / "file").as_uri()) == b"here"
    with pytest.raises(Unavailable, match="offline"):
        session().get("http://127.0.0.1:1/")
    monkeypatch.setenv(network.OFFLINE, "0")
    assert not network.offline()
