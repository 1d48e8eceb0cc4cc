"""Everything that comes over the network comes through here: whole and verified, or not at all.

A transfer that breaks off goes on where it stopped (Range, If-Range), after a pause, in this process or in the next. `network` has the
one door that it goes through.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kmatrix.fetch.network import mirrored
from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError, Unavailable, without_credentials
from kmatrix.host.later import later
from kmatrix.host.progress import WAITING, Quiet, Reporter

if TYPE_CHECKING:
    import requests
    import urllib3

    from kmatrix.fetch import session, trouble
else:  # whether a source can fetch is asked in every run, and rarely does one
    requests, urllib3 = later("requests"), later("urllib3")
    session, trouble = later("kmatrix.fetch.session"), later("kmatrix.fetch.trouble")

ATTEMPTS = 4
"""Tries of a transfer that get no further than the one before."""

_SLOWEST = 120.0, 120 << 10  # seconds, and the bytes that at least must come in so many: less is no transfer
_PATIENCE = 60.0  # seconds that a server's Retry-After is heeded for
_CHUNK = 1 << 18
_LIMIT = 16 << 30  # bytes of a file whose size nobody has said

Progress = Callable[[int, int | None], None]
Expect = Callable[[str, str | None], str | None]
"""Given an address and the sha256 that somebody vouches for, the sha256 that must come; raises a KmatrixError where the two differ."""


# --- what a thread's transfers have to know of the work that they are for

_local = threading.local()


@contextlib.contextmanager
def working_for(reporter: Reporter, expect: Expect | None = None) -> Iterator[None]:
    """While the block lasts, this thread's transfers show their waits as steps of `reporter`, which ends them when they are not wanted any
    more; and what they fetch is what `expect` says.
    """
    before = getattr(_local, "work", None)
    _local.work = reporter, expect
    try:
        yield
    finally:
        _local.work = before


def _work() -> tuple[Reporter, Expect | None]:
    return getattr(_local, "work", None) or (Quiet(), None)


def _expected(url: str, digest: str | None) -> str | None:
    """`digest`, or else the one that whoever fetches expects of `url`."""
    expect = _work()[1]
    if expect is None or (digest is not None and _digest_of(digest)[0] != "sha256"):
        return digest
    return expect(url, digest) or digest


# --- transfers


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
    limit: int = _LIMIT,
) -> tuple[int, str]:
    """Fetch `url` into `out` (from its beginning): `size` bytes with `digest`, which is sha256 in hex or `sha512:HEX`; None for what is
    not known. Returns the size and sha256 found.

    `advance(done, size)` is progress. Raises Unavailable when it cannot be fetched, InfraError when it is not what it must be, or larger
    than `limit` bytes.
    """
    return _Transfer(url, size, _expected(url, digest), headers or {}, advance, limit).run(out)


def fetch_file(
    url: str,
    size: int | None,
    digest: str | None,
    to: Path,
    advance: Progress | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    keep: bool = False,
) -> tuple[int, str]:
    """As `fetch`, into the file `to`, by way of <cache>/downloads: what an interrupted or killed process had of it is not fetched again.

    However many processes ask for the same at once, one fetches and the others wait. With `keep` (and a digest) the file stays in the
    cache as well, until `kmatrix kernels gc`, for the next who asks: a source archive is built for two arches.
    """
    folder = paths.cache_dir("downloads")
    try:
        return _fetch_file(url, size, _expected(url, digest), to, advance, headers or {}, folder, keep=keep)
    except OSError as error:
        if (said := paths.cache_error(error, folder)) is not None:
            raise said from error
        raise


def _fetch_file(
    url: str,
    size: int | None,
    digest: str | None,
    to: Path,
    advance: Progress | None,
    headers: Mapping[str, str],
    folder: Path,
    *,
    keep: bool,
) -> tuple[int, str]:
    name = "-".join(_digest_of(digest)) if digest is not None else f"url-{hashlib.sha256(url.encode()).hexdigest()}"
    part, about, whole = (folder / f"{name}{suffix}" for suffix in (".part", ".json", ""))
    with cache.locked(folder / f"{name}.lock", urlsplit(url).path.rsplit("/", 1)[-1], _work()[0]):
        transfer = _Transfer(url, size, digest, headers, advance, note=about)
        if digest is None:  # nothing tells whether one that another process left behind is still what the server has
            whole.unlink(missing_ok=True)
        elif whole.exists():
            with whole.open("rb") as stream:
                transfer.take_up(stream)
            if transfer.is_right():
                _place(whole, to, keep=True)
                return transfer.found()
            whole.unlink()
            transfer = _Transfer(url, size, digest, headers, advance, note=about)
        with part.open("a+b") as out:
            transfer.take_up(out)
            try:
                found = transfer.run(out)
            except InfraError as error:
                if not isinstance(error, Unavailable):  # wrong, not incomplete: nothing to go on from
                    part.unlink()
                    about.unlink(missing_ok=True)
                raise
        about.unlink(missing_ok=True)
        part.rename(whole)
        _place(whole, to, keep=keep and digest is not None)
        return found


def _place(whole: Path, to: Path, *, keep: bool) -> None:
    """Put a file of the cache where it was asked for: as a link where it stays in the cache too, and the file systems are one."""
    to.unlink(missing_ok=True)
    try:
        (to.hardlink_to(whole) if keep else whole.replace(to))
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(whole, to)
        if not keep:
            whole.unlink()


def _digest_of(digest: str) -> tuple[str, str]:
    """(algorithm, hex) of a digest as written: bare hex is sha256."""
    algorithm, colon, value = digest.partition(":")
    return (algorithm, value.lower()) if colon else ("sha256", digest.lower())


@dataclass
class _Transfer:
    """One file on its way. `seen` bytes of it are in the output, and in the two sums."""

    url: str
    size: int | None
    digest: str | None
    headers: Mapping[str, str]
    advance: Progress | None
    limit: int = _LIMIT
    note: Path | None = None
    """Where the server's name for this version of the file (its validator) is kept for another process."""
    seen: int = field(default=0, init=False)
    validator: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._begin_sums()

    def _begin_sums(self) -> None:
        self._sha256 = hashlib.sha256()
        self._wanted: str | None
        self._algorithm, self._wanted = _digest_of(self.digest) if self.digest is not None else ("sha256", None)
        self._sum = self._sha256 if self._algorithm == "sha256" else hashlib.new(self._algorithm)

    def _count(self, chunk: bytes) -> None:
        self.seen += len(chunk)
        self._sha256.update(chunk)
        if self._sum is not self._sha256:
            self._sum.update(chunk)

    def is_right(self) -> bool:
        """Whether what was seen is what it must be."""
        return self.size in (None, self.seen) and self._wanted in (None, self._sum.hexdigest())

    def found(self) -> tuple[int, str]:
        """Size and sha256 of what was seen."""
        return self.seen, self._sha256.hexdigest()

    def take_up(self, out: IO[bytes]) -> None:
        """Go on from what `out` holds already."""
        out.seek(0)
        while chunk := out.read(_CHUNK):
            self._count(chunk)
        if self.note is not None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                kept = json.loads(self.note.read_text())
                self.validator = kept["validator"] if kept["url"] == without_credentials(mirrored(self.url)) else None

    def run(self, out: IO[bytes]) -> tuple[int, str]:
        """Fetch what is missing."""
        if self.seen == 0:
            self._restart(out)
        _attempt(self.url, lambda: self._once(out), self)
        return self.found()

    def _restart(self, out: IO[bytes]) -> None:
        out.seek(0)
        out.truncate()
        self.seen, self.validator = 0, None
        self._begin_sums()

    def _once(self, out: IO[bytes]) -> None:
        """One connection's worth. Raises _CutShort where it is not all there, InfraError where it is all there and wrong."""
        if self.size is not None and self.seen >= self.size:
            if self.is_right():
                return
            self._restart(out)
        if self.digest is None and self.validator is None:  # nothing would tell the end of one version from that of another
            self._restart(out)
        answer = _open(self.url, self.headers, start=self.seen, validator=self.validator, verified=self._wanted is not None)
        if answer.start != self.seen:
            self._restart(out)
        resumed = self.seen > 0
        self._keep(answer.validator)
        end = self.size if self.size is not None else answer.total
        since, had = time.monotonic(), self.seen
        try:
            for chunk in answer.chunks:
                self._count(chunk)
                if time.monotonic() - since > _SLOWEST[0]:
                    if self.seen - had < _SLOWEST[1] and self.seen != end:
                        raise _CutShort(f"the server sends less than {_SLOWEST[1] / _SLOWEST[0] / 1024:.1g} KiB a second")
                    since, had = time.monotonic(), self.seen
                if self.seen > (self.size if self.size is not None else self.limit):
                    break
                out.write(chunk)
                if self.advance is not None:
                    self.advance(self.seen, end)
        except urllib3.exceptions.ProtocolError as error:
            raise _CutShort(f"it ended after {self.seen} of {end or '?'} bytes") from error
        finally:
            out.flush()
        if end is not None and self.seen < end:
            raise _CutShort(f"it ended after {self.seen} of {end} bytes")
        if self.size is None and self.seen > self.limit:
            raise self._wrong(f"is larger than {self.limit >> 20} MiB")
        if self.is_right():
            return
        if resumed:  # the pieces may be of two versions: once more, whole
            self._restart(out)
            self._once(out)
            return
        _expected(self.url, self._sha256.hexdigest())  # a lock says better what it is and should be
        raise self._wrong(f"is not what it must be ({self._algorithm} differs)")

    def _wrong(self, what: str) -> InfraError:
        return InfraError(
            f"{what}: it was changed, or the mirror is broken",
            where=mirrored(self.url),
            fix="try again later, or name another mirror in kernels.toml: [mirrors]",
        )

    def _keep(self, validator: str | None) -> None:
        self.validator = validator
        if self.note is not None:
            self.note.write_text(json.dumps({"url": without_credentials(mirrored(self.url)), "validator": validator}))


@dataclass
class _Answer:
    """A file on the way, from byte `start` on."""

    chunks: Iterable[bytes]
    start: int = 0
    total: int | None = None
    validator: str | None = None


def _open(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    start: int = 0,
    validator: str | None = None,
    verified: bool = False,
) -> _Answer:
    """Ask for `url` from byte `start` on; an answer that is from the beginning after all says so. `verified`: see session.verifying."""
    address = mirrored(url)
    parts = urlsplit(address)
    if parts.scheme in ("file", "copy"):
        return _Answer(_file_chunks(Path(unquote(parts.path)), address))
    wanted = dict(headers or {})
    if start:
        wanted["Range"] = f"bytes={start}-"
        if validator is not None:
            wanted["If-Range"] = validator
    with session.verifying(verified=verified) as client:
        answer = client.get(url, stream=True, headers=wanted)
    if answer.status_code == 416 and start:  # nothing after `start`: what is here is of another version
        answer.close()
        return _open(url, headers, verified=verified)
    answer.raise_for_status()
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and (found is None or int(found[1]) != start):
        raise _CutShort("the server answers with another part than was asked for")
    length = answer.headers.get("Content-Length", "")
    # A weak validator does not tell bytes apart, and may not be used in If-Range (RFC 9110, 13.1.5).
    etag = answer.headers.get("ETag", "")
    return _Answer(
        _body(answer),
        start if answer.status_code == 206 else 0,
        (start if answer.status_code == 206 else 0) + int(length) if length.isdigit() else None,
        etag if etag.startswith('"') else answer.headers.get("Last-Modified"),
    )


def _body(answer: requests.Response) -> Iterator[bytes]:
    with answer:
        # Not iter_content: it would undo a Content-Encoding that some servers put on .xz files, and the digest is of the file. And what has
        # come so far, not whole chunks: of a server that sends a byte a minute there would be none for weeks.
        while chunk := answer.raw.read1(_CHUNK, decode_content=False):
            yield chunk


class _CutShort(Exception):
    """A transfer that ended early: worth another try."""


def _attempt(url: str, once: Callable[[], None], transfer: _Transfer | None = None) -> None:
    """Run one transfer, again after a passing trouble (connection lost, server busy), up to ATTEMPTS times without getting further."""
    attempt = 1
    furthest = 0
    while True:
        try:
            once()
            return
        except (_CutShort, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            answer = error.response if isinstance(error, requests.HTTPError) else None
            if attempt >= ATTEMPTS or not trouble.passing(error):
                said, fix = trouble.plain(error)
                raise Unavailable(f"cannot be fetched: {said}", where=mirrored(url), fix=fix) from error
            if transfer is not None and transfer.seen - furthest >= _SLOWEST[1]:
                furthest, attempt = transfer.seen, 1
            _pause(_delay(attempt, answer), f"{urlsplit(mirrored(url)).hostname}: {trouble.plain(error)[0]}")
            attempt += 1


def _delay(attempt: int, answer: requests.Response | None) -> float:
    """Seconds before the next try: twice as long each time, not in step with others, and no sooner than the server asks."""
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    return max(2.0 ** (attempt - 1) * random.uniform(0.75, 1.25), min(float(asked), _PATIENCE) if asked.isdigit() else 0.0)


def _pause(seconds: float, why: str) -> None:
    """Wait, and say for what. The words are the same each time: a reporter shows them once (kmatrix.host.progress)."""
    end = time.monotonic() + seconds
    with _work()[0].step(f"{WAITING}to try again: {why}") as step:
        while (left := end - time.monotonic()) > 0:
            step.advance(0)  # which ends it when it is not wanted any more: an interrupt reaches the main thread alone
            time.sleep(min(left, 0.2))


def _file_chunks(path: Path, url: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise Unavailable(f"cannot be read: {error.strerror}", where=url) from error
