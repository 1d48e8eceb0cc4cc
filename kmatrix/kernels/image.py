"""What a kernel image says of itself: its architecture, release, configuration and whether it carries BTF.

Formats: x86 bzImage (Documentation/arch/x86/boot.rst), arm64 Image (Documentation/arch/arm64/booting.rst), the same gzip'ed, and
the EFI zboot wrapper (drivers/firmware/efi/libstub/zboot-header.S). Nothing is run; everything is read from the bytes.
"""

from __future__ import annotations

import bz2
import lzma
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.matrix.arch import Arch

if TYPE_CHECKING:
    from kmatrix.fetch import archive
else:
    archive = later("kmatrix.fetch.archive")

# No kernel decompresses to more than this; what does is a bomb or not a kernel.
_LIMIT = 512 << 20
_RELEASE = re.compile(rb"Linux version (\d+\.\d+[\w.+~-]*) \(")
# struct btf_header: magic 0xeb9f, version 1, flags 0, hdr_len 24, type_off 0 (pahole and the kernel write no other).
BTF_MAGIC = struct.pack("<HBBII", 0xEB9F, 1, 0, 24, 0)


@dataclass(frozen=True)
class ImageFacts:
    """What was read from a kernel image.

    `boot` is the image in the form QEMU's -kernel takes: for arm64 the plain Image (unzipped), for x86_64 the file as it is.
    `btf` and `config` are None where the payload is compressed in a way this machine cannot read; `note` says so.
    """

    arch: Arch
    release: str
    boot: bytes
    btf: bool | None
    config: str | None
    note: str | None = None


def read_image(data: bytes, arch: Arch, *, where: str) -> ImageFacts:
    """The facts of the kernel image `data`, which must be one for `arch`; `where` names it in errors.

    Raises InputError when it is no kernel image, is cut short, or is one for the other architecture.
    """
    if _is_bzimage(data):
        found: Arch = "x86_64"
    else:
        data = _unwrap_arm64(data, where)
        if data[56:60] != b"ARM\x64":
            raise InputError("is not a kernel image: neither an x86 bzImage nor an arm64 Image", where=where, fix=_wanted(arch))
        found = "arm64"
    if found != arch:
        raise InputError(f"is a kernel image for {found}, and {arch} was asked for", where=where, fix=f"--arch {found}")
    return _read_bzimage(data, where) if found == "x86_64" else _read_arm64(data, where)


def _wanted(arch: Arch) -> str:
    name = "arch/x86/boot/bzImage" if arch == "x86_64" else "arch/arm64/boot/Image"
    return f"give {name} of a build tree, or boot/vmlinuz-… of a distribution's package (a vmlinux does not boot)"


def _is_bzimage(data: bytes) -> bool:
    return len(data) > 0x250 and data[0x202:0x206] == b"HdrS" and data[0x1FE:0x200] == b"\x55\xaa"


def _read_bzimage(data: bytes, where: str) -> ImageFacts:
    setup_sectors = data[0x1F1] or 4  # 0 means 4, for boot loaders of the last century
    (version_at,) = struct.unpack_from("<H", data, 0x20E)
    (syssize,) = struct.unpack_from("<I", data, 0x1F4)  # of the protected-mode code, in 16-byte paragraphs
    setup = (setup_sectors + 1) * 512
    # Signed images (Debian's) have their signature appended, so more than this is in order; less is a file cut short.
    # From 6.x on, syssize rounds up past the last partial paragraph.
    if len(data) + 16 < setup + syssize * 16:
        raise InputError(f"is cut short: {len(data)} bytes, its header says {setup + syssize * 16}", where=where)
    words = data[version_at + 0x200 :].split(b"\0", 1)[0][:256].split()
    if not version_at or not words or not re.fullmatch(rb"\d+\.\d+[\w.+~-]*", words[0]):
        raise InputError("is an x86 boot image, but says no kernel release in its header", where=where)
    release = words[0].decode()
    payload_at, payload_length = struct.unpack_from("<II", data, 0x248)
    start = setup + payload_at
    try:
        vmlinux = _decompress(data[start : start + payload_length])
    except _Unreadable as error:
        return ImageFacts("x86_64", release, data, None, None, str(error))
    return ImageFacts("x86_64", release, data, has_btf(vmlinux), embedded_config(vmlinux))


def _read_arm64(data: bytes, where: str) -> ImageFacts:
    (image_size,) = struct.unpack_from("<Q", data, 16)  # effective size, bss included: the file may be shorter, by that
    match = _RELEASE.search(data)
    if match is None:
        raise InputError("is an arm64 Image, but holds no 'Linux version' string: it is cut short", where=where)
    if image_size and len(data) * 2 < image_size:
        raise InputError(f"is cut short: {len(data)} bytes for a kernel of {image_size}", where=where)
    return ImageFacts("arm64", match[1].decode(), data, has_btf(data), embedded_config(data))


def _unwrap_arm64(data: bytes, where: str) -> bytes:
    """The plain arm64 Image inside a gzip'ed or EFI-zboot one; `data` itself where there is nothing to unwrap."""
    try:
        for _ in range(2):
            if data[:2] == b"\x1f\x8b":
                data = _decompress(data)
            elif data[:2] == b"MZ" and data[4:8] == b"zimg" and len(data) >= 16:
                offset, size = struct.unpack_from("<II", data, 8)
                data = _decompress(data[offset : offset + size])
    except _Unreadable as error:
        raise InputError(f"is not a kernel image that can be read: {error}", where=where, fix=_wanted("arm64")) from error
    return data


def has_btf(vmlinux: bytes) -> bool:
    """Whether the uncompressed kernel carries a .BTF section: its header is looked for, and must add up."""
    at = vmlinux.find(BTF_MAGIC)
    while 0 <= at <= len(vmlinux) - 24:
        type_length, string_offset, string_length = struct.unpack_from("<III", vmlinux, at + 12)
        end = at + 24 + string_offset + string_length
        # A real one has types, strings right after them, and begins its strings with the empty one.
        if type_length > 1024 and string_offset == type_length and end <= len(vmlinux):
            strings = at + 24 + string_offset
            if vmlinux[strings] == 0 and vmlinux[end - 1] == 0:
                return True
        at = vmlinux.find(BTF_MAGIC, at + 1)
    return False


def embedded_config(vmlinux: bytes) -> str | None:
    """The configuration a kernel built with CONFIG_IKCONFIG carries (what /proc/config.gz shows), or None."""
    at = vmlinux.find(b"IKCFG_ST\x1f\x8b")
    if at < 0:
        return None
    try:
        return zlib.decompressobj(wbits=31).decompress(vmlinux[at + 8 :], 16 << 20).decode()
    except (zlib.error, UnicodeDecodeError):
        return None


class _Unreadable(Exception):
    """A payload that cannot be decompressed; says why."""


def _decompress(payload: bytes) -> bytes:
    """A bzImage's payload (or any single compressed blob), decompressed. Raises _Unreadable.

    Kernel payloads have the uncompressed size appended (four bytes) and some are padded, so data after the end is ignored.
    """
    if payload[:4] == b"\x7fELF":
        return payload
    for magic, make in _DECODERS:
        if payload.startswith(magic):
            decoder = make()
            try:
                data: bytes = decoder.decompress(payload, _LIMIT)
            except (zlib.error, lzma.LZMAError, archive.zstd.ZstdError, OSError) as error:
                raise _Unreadable(f"its payload does not decompress: {error}") from error
            if not decoder.eof:
                raise _Unreadable("its payload is cut short")
            return data
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return _by_lz4(payload)
    raise _Unreadable(f"its payload is compressed in an unknown way ({payload[:4].hex()})")


_DECODERS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    (b"]\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\x28\xb5\x2f\xfd", lambda: archive.zstd.ZstdDecompressor()),
)


def _by_lz4(payload: bytes) -> bytes:
    binary = shutil.which("lz4")
    if binary is None:
        raise _Unreadable("its payload is compressed with lz4, which is not installed (apt-get install lz4)")
    with tempfile.TemporaryFile() as packed:
        packed.write(payload)
        packed.seek(0)
        with subprocess.Popen([binary, "-dcq"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            data = process.stdout.read(_LIMIT + 1)
            process.kill()
    # It complains about the size appended to the payload after having written all of it: the output decides.
    if not len(payload) < len(data) <= _LIMIT:
        raise _Unreadable("its payload does not decompress with lz4")
    return data
