"""RPM packages: where their payload is, whether it is what was signed, and which of two versions is the newer.

The format: rpm.org, "RPM V4 Package format" and "Signatures and digests": a lead (96 bytes), a header of signatures, the header, the
payload (a compressed cpio archive). Numbers are big-endian.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kmatrix.fetch.gpgv import Keys, verify
from kmatrix.host.errors import InfraError, InputError

LEAD = b"\xed\xab\xee\xdb"
_HEADER = b"\x8e\xad\xe8\x01"
_INDEX, _DATA = 1 << 16, 256 << 20  # rpm's own limits of a header: entries, bytes

# Tags of the signature header: over the header alone (its payload digest then covers the rest), or over header and payload.
_HEADER_SIGNATURES = (268, 267)  # RPMSIGTAG_RSA, RPMSIGTAG_DSA
_OPENPGP = 278  # RPMSIGTAG_OPENPGP: rpm 6, base64, over the header
_WHOLE_SIGNATURES = (1002, 1005)  # RPMSIGTAG_PGP, RPMSIGTAG_GPG
_PAYLOAD_DIGEST, _PAYLOAD_ALGORITHM = 5092, 5093
_SHA256 = 8  # PGPHASHALGO_SHA256
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003


@dataclass(frozen=True)
class Rpm:
    """What the headers say. `header` and `payload` are offsets in the file."""

    signatures: Mapping[int, bytes]
    tags: Mapping[int, bytes]
    header: int
    payload: int

    def text(self, tag: int) -> str:
        """A tag's (first) string."""
        return self.tags.get(tag, b"").split(b"\0", 1)[0].decode(errors="replace")

    @property
    def name(self) -> str:
        """NAME EPOCH:VERSION-RELEASE."""
        epoch = int.from_bytes(self.tags.get(_EPOCH, b"")[:4], "big")
        return f"{self.text(_NAME)} {epoch}:{self.text(_VERSION)}-{self.text(_RELEASE)}"


def version_key(version: str) -> tuple[object, ...]:
    """A key by which EPOCH:VERSION-RELEASE sorts as rpm sorts it (rpm-version(7), rpmvercmp): by digits as numbers, letters below
    digits, `~` below the end, `^` just above it, and nothing else counting but to divide. Debian's order is another, and knows no `_`.
    """
    epoch, _, rest = version.rpartition(":")
    upstream, _, release = rest.partition("-")
    return (int(epoch or 0), *(tuple(_ranked(part)) for part in (upstream, release)))


def _ranked(text: str) -> Iterator[tuple[int, int, str]]:
    for part in re.findall(r"[0-9]+|[a-zA-Z]+|~|\^", text):
        if part.isdigit():
            yield (3, int(part), "")
        else:
            yield {"~": (-1, 0, ""), "^": (1, 0, "")}.get(part, (2, 0, part))
    yield (0, 0, "")


def read(stream: IO[bytes], where: str) -> Rpm:
    """The headers of the package that begins at `stream`'s beginning. Raises InputError when it is none."""
    stream.seek(0)
    if stream.read(96)[:4] != LEAD:
        raise InputError("is no RPM package", where=where)
    signatures, end = _read_header(stream, 96, where)
    header = end + -end % 8
    tags, payload = _read_header(stream, header, where)
    return Rpm(signatures, tags, header, payload)


def _read_header(stream: IO[bytes], at: int, where: str) -> tuple[dict[int, bytes], int]:
    """The tags of the header at offset `at` (each with the bytes up to the next one's), and where it ends."""
    stream.seek(at)
    head = stream.read(16)
    if len(head) != 16 or head[:4] != _HEADER:
        raise InputError("is no sound RPM package: a header is missing", where=where)
    count, size = struct.unpack(">II", head[8:])
    if count > _INDEX or size > _DATA:
        raise InputError("is no sound RPM package: a header is too large", where=where)
    index, data = stream.read(count * 16), stream.read(size)
    if len(index) + len(data) != count * 16 + size:
        raise InputError("is no sound RPM package: it is cut short", where=where)
    entries = list(struct.iter_unpack(">IIII", index))
    starts = sorted({offset for _, _, offset, _ in entries} | {size})
    following = dict(itertools.pairwise(starts))
    found = {}
    for tag, kind, offset, length in entries:
        end = offset + length if kind == 7 else following.get(offset, size)  # 7: binary, `length` bytes
        found[tag] = data[offset:end]
    return found, at + 16 + count * 16 + size


def verified(path: Path, keys: Keys, *, where: str, name: str | None = None) -> None:
    """Raises InfraError unless one of `keys` signed the package, payload and all, and it is the one that `Rpm.name` calls `name`, if given."""
    with path.open("rb") as stream:
        package = read(stream, where)
        if name is not None and package.name != name:  # it may be signed all the same: an old one, with the holes of its day
            raise InfraError(
                f"is {package.name}, and the index calls it {name}", where=where, fix="try again later, or from a mirror"
            )
        stream.seek(package.header)
        header = stream.read(package.payload - package.header)
        payload = stream.read()
    alone = [package.signatures[tag] for tag in _HEADER_SIGNATURES if tag in package.signatures]
    if _OPENPGP in package.signatures:
        alone += [base64.b64decode(part) for part in package.signatures[_OPENPGP].split(b"\0") if part]
    digest = package.text(_PAYLOAD_DIGEST)
    algorithm = package.tags.get(_PAYLOAD_ALGORITHM, b"")[:4]
    if alone and digest and algorithm == struct.pack(">I", _SHA256):
        _any(alone, header, keys, where)
        if hashlib.sha256(payload).hexdigest() != digest:
            raise InfraError(
                "its payload is not the one that was signed: it was changed", where=where, fix="try again, or from a mirror"
            )
        return
    whole = [package.signatures[tag] for tag in _WHOLE_SIGNATURES if tag in package.signatures]
    if not whole:
        raise InfraError("the package is not signed", where=where, fix="give its sha256 in kernels.toml instead of a key")
    _any(whole, header + payload, keys, where)


def _any(signatures: list[bytes], message: bytes, keys: Keys, where: str) -> None:
    for signature in signatures[:-1]:
        try:
            verify(message, keys, where=where, signature=signature)
            return
        except InfraError:
            continue
    verify(message, keys, where=where, signature=signatures[-1])
