"""Files fetched over http(s), or read from a mirror on disk: whole and verified, or not at all. A passing trouble is tried again."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from kmatrix.errors import InfraError, Unavailable

SCHEMES = ("http", "https", "file", "copy")
"""What an address may begin with; `copy:` is apt's other word for `file:`."""

_TIMEOUT = (15, 60)  # seconds to connect, and between two reads
_ATTEMPTS = 3
_CHUNK = 1 << 18
_HEADERS = {"User-Agent": "kmatrix", "Accept-Encoding": "identity"}

Progress = Callable[[int, int | None], None]


def session() -> requests.Session:
    """For whoever speaks more than a plain GET (a registry's handshake): proxies, headers and timeouts as for every other request."""
    made = _Session()
    made.headers.update(_HEADERS)
    made.proxies.update(dict(proxies()))
    return made


class _Session(requests.Session):
    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", _TIMEOUT)
        return super().request(method, url, *args, **kwargs)


def get(url: str, limit: int = 16 << 20, *, headers: Mapping[str, str] | None = None) -> bytes:
    """The whole of a small file whose size and digest are not known beforehand, `limit` bytes at most.

    Raises Unavailable when it cannot be fetched.
    """
    out = io.BytesIO()
    fetch(url, None, None, out, headers=headers, limit=limit)
    return out.getvalue()


def fetch(
    url: str,
    size: int | None,
    digest: str | None,
    out: IO[bytes],
    advance: Progress | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    limit: int = 4 << 30,
) -> tuple[int, str]:
    """Fetch `url` into `out` (from its beginning); it must be `size` bytes with the sha256 `digest` (hex); None for what is not known.

    Returns size and digest as found. `advance(done, size)` is progress. Raises Unavailable when it cannot be fetched, InfraError when
    it is not what it must be, or larger than `limit` bytes.
    """
    found = (0, "")

    def once() -> None:
        nonlocal found
        out.seek(0)
        out.truncate()
        seen, sha = 0, hashlib.sha256()
        for chunk in _chunks(url, headers):
            seen += len(chunk)
            if seen > (limit if size is None else size):
                break
            sha.update(chunk)
            out.write(chunk)
            if advance is not None:
                advance(seen, size)
        if size is None and seen > limit:
            raise InfraError(f"is larger than {limit >> 20} MiB: not what it should be", where=url)
        if size is not None and seen < size:
            raise _CutShort(f"it ended after {seen} of {size} bytes")
        if (size is not None and seen > size) or (digest is not None and sha.hexdigest() != digest.lower()):
            raise InfraError(
                "is not what it must be (sha256 differs): it was changed, or the mirror is broken",
                where=url,
                fix="try again later, or from another mirror",
            )
        found = seen, sha.hexdigest()

    _attempt(url, once)
    return found


class _CutShort(Exception):
    """A transfer that ended early: worth another try."""


def _attempt(url: str, once: Callable[[], None]) -> None:
    """Run one transfer, again after a passing trouble (connection lost, server busy), up to _ATTEMPTS times."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return once()
        except (_CutShort, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            status = error.response.status_code if isinstance(error, requests.HTTPError) and error.response is not None else None
            passing = status is None or status in (429, 500, 502, 503, 504)
            if attempt == _ATTEMPTS or not passing:
                raise Unavailable(
                    f"cannot be fetched: {_plain(error)}",
                    where=url,
                    fix="check the network and the mirror (apt-get update uses the same), or name another in kernels.toml: [mirrors] debian = …",
                ) from error
            _pause(attempt)
    raise AssertionError("not reached")


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _plain(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.ConnectionError):
        return f"no connection to {urlsplit(str(error.request.url)).netloc if error.request else 'the server'}"
    return str(error)


def _chunks(url: str, headers: Mapping[str, str] | None = None) -> Iterable[bytes]:
    parts = urlsplit(url)
    if parts.scheme in ("file", "copy"):
        yield from _file_chunks(Path(unquote(parts.path)), url)
        return
    with session() as client, client.get(url, stream=True, headers=dict(headers or {})) as answer:
        answer.raise_for_status()
        # Not iter_content: it would undo a Content-Encoding that some servers put on .xz files, and the digest is of the file.
        length = answer.headers.get("Content-Length", "")
        seen = 0
        for chunk in answer.raw.stream(_CHUNK, decode_content=False):
            seen += len(chunk)
            yield chunk
        if length.isdigit() and seen < int(length):
            raise _CutShort(f"it ended after {seen} of {length} bytes")


def _file_chunks(path: Path, url: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise Unavailable(f"cannot be read: {error.strerror}", where=url) from error


@lru_cache(maxsize=1)
def proxies() -> tuple[tuple[str, str], ...]:
    """The proxies apt is told to use (Acquire::http::Proxy), if any; those of the environment are requests' own business."""
    binary = shutil.which("apt-config")
    if binary is None:
        return ()
    done = subprocess.run([binary, "dump", "--format", "%f=%v%n"], capture_output=True, text=True, check=False)
    found = re.findall(r"^Acquire::(https?)::proxy=(\S+)$", done.stdout, re.MULTILINE | re.IGNORECASE)
    return tuple((scheme.lower(), proxy) for scheme, proxy in found if proxy.upper() != "DIRECT")
