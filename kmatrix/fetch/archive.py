"""Archives from elsewhere, read without trusting them: .deb, .rpm, tar layers of a container image, source tarballs.

A kernel's files are never unpacked to where an archive says: an archive is a stream of members, and what is wanted of it is read and
written under a name of our own. A source tree is the exception (`unpack_tree`). Either way a name that leads out ends it with an error,
links are not followed, devices are not made, and sizes and counts have limits: an archive is believed to be the publisher's by digest or
signature before it comes here, and is still not given the run of the machine.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import posixpath
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, cast
from xml.etree import ElementTree

from debian.arfile import ArError, ArFile

from kmatrix.fetch import rpm
from kmatrix.host.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

FILES = 200_000
"""Members of the largest archive that is read (a kernel's source tree has 90 000)."""
TOTAL = 8 << 30
"""Bytes that one may unpack to (a kernel's source tree: 1.5 GB; a distribution's modules: 1 GB)."""
FILE = 512 << 20
"""Bytes of one file that is read into memory."""
_HEADER = 1 << 20  # of a tar header's own text (long names, pax records)
_NAME = 255  # bytes of a file's name: what every file system that matters allows

FIX = "get it from its publisher again, or from another source"
"""What to do about an archive that is broken, or means harm."""


@dataclass(frozen=True)
class Member:
    """A regular file of a package: its path (relative, as packed), its size and a way to read it before the next one is asked for."""

    path: str
    size: int
    read: Callable[[], bytes]


Package = Callable[[], Iterator[Member]]
"""One pass over a package's regular files."""


def package(path: Path, magic: bytes, where: str | None = None) -> Package | None:
    """The package in the file `path` that begins with `magic` (8 bytes); None where it is neither a .deb nor an .rpm.

    `where` is what errors call it (its address), here and below: a file that was fetched stands under a name that says nothing to anyone.
    """
    if magic.startswith(b"!<arch>\n"):
        return deb(path, where)
    return rpm_package(path, where) if magic.startswith(rpm.LEAD) else None


def deb(path: Path, where: str | None = None) -> Package:
    """A .deb file, read as a stream: nothing is unpacked but what is asked for. Raises InputError when it is no sound one."""
    name = where or str(path)

    def members() -> Iterator[Member]:
        with sound(name, "Debian package"), path.open("rb") as stream:
            data = [member for member in ArFile(fileobj=stream).getmembers() if member.name.startswith("data.tar")]
            if len(data) != 1:
                raise ValueError("it has no data.tar")
            for member, _ in _tar(cast(IO[bytes], data[0]), name):
                if member is not None:
                    yield member

    return members


def rpm_package(path: Path, where: str | None = None) -> Package:
    """An .rpm file, read as a stream. Raises InputError when it is no sound one."""
    name = where or str(path)

    def members() -> Iterator[Member]:
        with sound(name, "RPM package"), path.open("rb") as stream:
            stream.seek(rpm.read(stream, name).payload)
            yield from _cpio(decompressed(stream), name)

    return members


def layers(paths: Sequence[Path], where: str | None = None) -> Package:
    """The root file system that a container image's layers (tar archives, lowest first) make: the uppermost file of each path.

    A layer hides what is below it by whiteouts: `.wh.NAME` a path, `.wh..wh..opq` all of its folder.
    """

    def members() -> Iterator[Member]:
        gone: set[str] = set()
        for path in reversed(paths):
            here: set[str] = set()
            with sound(where or path, "layer"), path.open("rb") as stream:
                for member, name in _tar(stream, where or str(path)):
                    folder, _, base = name.rpartition("/")
                    if base == ".wh..wh..opq":
                        here.add(folder)
                    elif base.startswith(".wh."):
                        here.add(f"{folder}/{base[4:]}".lstrip("/"))
                    elif not _below(name, gone):
                        if member is not None:
                            yield member
                        if not name.endswith("/"):
                            here.add(name)
            gone |= here

    return members


def _below(path: str, folders: set[str]) -> bool:
    """Whether `path` or a folder that it is in is one of `folders` ("" is the root)."""
    parts = path.split("/")
    return "" in folders or any("/".join(parts[:count]) in folders for count in range(1, len(parts) + 1))


def folder(path: Path) -> Package:
    """A folder with boot/ and lib/modules/ (or usr/lib/modules/). Links that lead out (lib/modules/…/build) are not followed."""

    def members() -> Iterator[Member]:
        for place in ("boot", "lib/modules", "usr/lib/modules"):
            base = path / place
            for file in sorted(base.rglob("*")) if base.is_dir() else ():
                if file.is_file():
                    yield Member(file.relative_to(path).as_posix(), file.stat().st_size, partial(read_file, file))

    return members


def read_file(path: Path) -> bytes:
    """The content of a file of the user's. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), fix="check the path") from None


def unpack_tree(path: Path, into: Path, advance: Callable[[int], None] | None = None, where: str | None = None) -> None:
    """Unpack the tar archive `path` into the empty folder `into`: regular files, folders and links that stay inside, modes made plain.

    Done here and not by tarfile, whose filters came in the course of Python 3.11. No symbolic link exists before all files are written, so
    none is written through one. Raises InputError for anything that leads out, a device, or more than FILES or TOTAL; `into` is to be
    thrown away then.
    """
    root, links = into.resolve(), dict[str, str]()
    with sound(where or path, "archive"), path.open("rb") as stream, _open_tar(decompressed(stream)) as tar:
        for count, (info, name) in enumerate(_members(tar, where or str(path)), 1):
            if info.issym():
                links[name] = info.linkname
            elif not name:
                continue
            elif info.isdir():
                (into / name).mkdir(parents=True, exist_ok=True)
            elif info.isreg() or info.islnk():
                _place(tar, info, into, name, where or str(path))
            else:
                raise ValueError(f"{name!r} is neither file, folder nor link")
            if advance is not None and count % 100 == 0:
                advance(count)
        for name, target in links.items():
            folder = posixpath.dirname(name)
            out = target.startswith("/") or posixpath.normpath(posixpath.join(folder, target)).split("/")[0] == ".."
            if out or Path(os.path.realpath(into / folder)) != root / folder:
                raise _leads_out(f"{name} -> {target}", where or str(path))
            (into / folder).mkdir(parents=True, exist_ok=True)
            (into / name).symlink_to(target)
        for name in links:  # one may lead out by way of another
            if not Path(os.path.realpath(into / name)).is_relative_to(root):
                raise _leads_out(name, where or str(path))


@dataclass(frozen=True)
class TarEntry:
    """A member of a tar archive, of any kind. `content` of a file is to be read before the next member is asked for."""

    path: str
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    target: str = ""
    """What a link leads to: as written for a symbolic one, an earlier member's path for a hard one."""
    executable: bool = False
    content: IO[bytes] | None = None


def tar_entries(path: Path, where: str | None = None) -> Iterator[TarEntry]:
    """The members of a tar archive, for who places them himself. Raises InputError as `unpack_tree` does, but for symbolic links."""
    with sound(where or path, "archive"), path.open("rb") as stream, _open_tar(decompressed(stream)) as tar:
        for info, name in _members(tar, where or str(path)):
            if info.isreg():
                yield TarEntry(name, "file", "", bool(info.mode & 0o100), tar.extractfile(info))
            elif info.islnk():
                yield TarEntry(name, "hardlink", _checked_name(info.linkname, where or str(path)))
            elif info.issym():
                yield TarEntry(name, "symlink", info.linkname)
            else:
                yield TarEntry(name, "folder" if info.isdir() else "other")


def _place(tar: tarfile.TarFile, info: tarfile.TarInfo, into: Path, name: str, where: str) -> None:
    """Write a regular file of a source tree, or make it the same file as one before it."""
    place = into / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # of two members with a name the later one counts
    if info.islnk():
        before = into / _checked_name(info.linkname, where)
        if not before.is_file():
            raise ValueError(f"{name!r} is a link to a file that is not there before it")
        os.link(before, place)
        return
    file = tar.extractfile(info)
    assert file is not None
    with place.open("xb") as out:
        while chunk := file.read(1 << 20):
            out.write(chunk)
    place.chmod(0o755 if info.mode & 0o100 else 0o644)
    os.utime(place, (info.mtime, info.mtime))


@contextmanager
def sound(where: Path | str, what: str) -> Iterator[None]:
    """Says what the readers of an archive's (or an answer's) layers stumble over as one error; `where` is what the user knows it by."""
    try:
        yield
    except MALFORMED as error:
        raise InputError(f"is no sound {what}: {_words(error)}", where=str(where), fix=FIX) from error
    except OSError as error:
        if error.errno in _NAMES:
            raise InputError(
                f"is no sound {what}: {error.strerror} ({_brief(str(error.filename))})", where=str(where), fix=FIX
            ) from error
        if error.errno is not None:  # the system's own, a full disk; python-debian and bz2 raise it bare for what they cannot read
            raise
        raise InputError(f"is no sound {what}: {error}", where=str(where), fix=FIX) from error


def _words(error: BaseException) -> str:
    """What an error says, in one line; of those that say nothing to a reader, what they are."""
    text = " ".join(str(error).split())
    return text if text and not isinstance(error, KeyError | TypeError) else f"{type(error).__name__} {_brief(text)}".strip()


def _brief(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:40]}…{text[-40:]}"


_NAMES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""What the system says of names that cannot stand beside each other, such as `a` and `a/b` for two files."""

MALFORMED = (
    *(ArError, tarfile.TarError, lzma.LZMAError, zlib.error, zstd.ZstdError, gzip.BadGzipFile),
    *(EOFError, struct.error, ValueError, IndexError, OverflowError, KeyError, TypeError, UnicodeError),
    *(RecursionError, ElementTree.ParseError),
)

_DECOMPRESSORS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (b"]\0\0", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
    (b"\x28\xb5\x2f\xfd", zstd.ZstdFile),
)


def decompressed(stream: IO[bytes], limit: int | None = None) -> IO[bytes]:
    """What `stream` holds from where it is on, decompressed as its first bytes say; it ends with an error past `limit` (TOTAL) bytes."""
    start = stream.tell()
    magic = stream.read(6)
    stream.seek(start)
    for known, opened in _DECOMPRESSORS:
        if magic.startswith(known):
            return cast(IO[bytes], _Limited(opened(stream), limit or TOTAL))
    return cast(IO[bytes], _Limited(stream, limit or TOTAL))


class _Limited(io.RawIOBase):
    """A stream that ends with an error where it gives more than `limit` bytes: a bomb."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._seen = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        data = self._stream.read(size)
        self._seen += len(data)
        if self._seen > self._limit:
            raise ValueError(f"it unpacks to more than {self._limit >> 20} MiB")
        return data

    def tell(self) -> int:
        return self._seen


class _TarInfo(tarfile.TarInfo):
    """A tar header; one whose own text (which tarfile reads into memory) is larger than any name is refused."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in tarfile.REGULAR_TYPES and self.size > _HEADER:
            raise tarfile.ReadError("a header of it is larger than any name")
        proceed: Callable[[tarfile.TarFile], tarfile.TarInfo] = super()._proc_member  # type: ignore[misc]
        return proceed(tar)


def _open_tar(stream: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo)


def _members(tar: tarfile.TarFile, where: str) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The archive's members and their checked names. A sparse file is refused: it takes no room in the archive, and any in what it unpacks to."""
    total = 0
    for count, info in enumerate(tar, 1):
        name = _checked_name(info.name, where)
        _check_count(count, where)
        if info.issparse() or info.size < 0:
            raise ValueError(f"{name!r} is a sparse file")
        total += info.size
        if total > TOTAL:
            raise ValueError(f"it unpacks to more than {TOTAL >> 20} MiB")
        yield info, name


def _tar(stream: IO[bytes], where: str) -> Iterator[tuple[Member | None, str]]:
    """Every member's name, cleaned; with the member where it is a regular file. A folder's name ends in "/"."""
    with _open_tar(decompressed(stream)) as tar:
        for info, name in _members(tar, where):
            if info.isreg():
                file = tar.extractfile(info)
                assert file is not None
                yield Member(name, info.size, partial(_read, file, info.size, where)), name
            else:
                yield None, name + "/" * info.isdir()


def _cpio(stream: IO[bytes], where: str) -> Iterator[Member]:
    """The regular files of a cpio archive in the "newc" format (cpio(5)), which is what RPM packs."""
    for count in range(1, FILES + 2):
        _check_count(count, where)
        header = _exactly(stream, 110)
        if header[:6] not in (b"070701", b"070702"):
            raise ValueError(f"its payload has a header {header[:6]!r} that is not cpio's")
        fields = [int(header[at : at + 8], 16) for at in range(6, 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        if name_size > _HEADER:
            raise ValueError("a name in it is too long")
        raw = _exactly(stream, name_size + -(110 + name_size) % 4)[: name_size - 1]
        if raw == b"TRAILER!!!":
            return
        rest = _Rest(stream, size)
        name = _checked_name(raw.decode(errors="surrogateescape"), where)
        if mode & 0o170000 == 0o100000:
            yield Member(name, size, partial(_read, rest, size, where))
        rest.skip()
        _exactly(stream, -size % 4)


class _Rest(io.RawIOBase):
    """The next `size` bytes of a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int | None = -1) -> bytes:
        data = _exactly(self._stream, self._left if size is None or size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def skip(self) -> None:
        while self._left:
            self.read(1 << 20)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise EOFError("it is cut short")
        data += more
    return data


def _read(file: Any, size: int, where: str) -> bytes:
    with sound(where, "archive"):
        if size > FILE:
            raise ValueError(f"a file in it has {size >> 20} MiB")
        data: bytes = file.read()
        return data


def _check_count(count: int, where: str) -> None:
    if count > FILES:
        raise InputError(f"holds more than {FILES} files: not what it should be", where=where, fix=FIX)


def _checked_name(name: str, where: str) -> str:
    """The name, relative and without "./"; InputError where it leads out of the archive, or cannot be a file's as it stands.

    A control character in a name (a newline) would make a line of digests mean two things.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/") or "\0" in name:
        raise _leads_out(name, where)
    if any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 or 0xD800 <= ord(each) < 0xE000 for each in name):
        raise InputError(f"holds a name that is no text ({_brief(ascii(name))}): nothing of it is used", where=where, fix=FIX)
    if any(len(part.encode()) > _NAME for part in parts):
        raise InputError(f"holds a name of more than {_NAME} bytes ({_brief(name)}): nothing of it is used", where=where, fix=FIX)
    return "/".join(parts)


def _leads_out(name: str, where: str) -> InputError:
    return InputError(f"holds a path that leads out of it ({_brief(repr(name))}): nothing of it is used", where=where, fix=FIX)


def bounded(data: bytes, limit: int = FILE) -> bytes:
    """A file packed with xz, gzip or zstd, unpacked; ValueError, or the format's own error, when it is unsound or larger than `limit`."""
    stream = decompressed(io.BytesIO(data))
    out = bytearray()
    while chunk := stream.read(1 << 20):
        out += chunk
        if len(out) > limit:
            raise ValueError(f"it unpacks to more than {limit >> 20} MiB")
    return bytes(out)
