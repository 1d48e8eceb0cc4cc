"""What is read from a kernel image."""

from __future__ import annotations

import gzip

import pytest

from kmatrix.host.errors import InputError
from kmatrix.kernels.image import read_image

from .fabricate import CONFIG, arm64_image, btf_section, bzimage, zboot


@pytest.mark.parametrize("pack", ["gzip", "xz", "none"])
def test_bzimage(pack: str) -> None:
    data = bzimage("5.4.286", pack=pack)
    facts = read_image(data, "x86_64", where="x")
    assert (facts.arch, facts.release, facts.btf, facts.config) == ("x86_64", "5.4.286", True, CONFIG)
    assert facts.boot == data


def test_without_btf_and_config() -> None:
    for data, arch in ((bzimage(btf=False, config=None), "x86_64"), (arm64_image(btf=False, config=None), "arm64")):
        facts = read_image(data, arch, where="x")  # type: ignore[arg-type]
        assert (facts.btf, facts.config) == (False, None)


def test_a_btf_magic_alone_is_no_btf() -> None:
    for cut in (slice(0, 24), slice(0, 500)):  # its header, and a section cut off: neither adds up
        junk = btf_section()[cut] + b"\xff" * 5000
        assert read_image(arm64_image(btf=False, junk=junk), "arm64", where="x").btf is False
    header = bytearray(btf_section())
    header[16] += 1  # the strings do not begin where the types end
    assert read_image(arm64_image(btf=False, junk=bytes(header)), "arm64", where="x").btf is False


def test_an_unknown_packing_is_said() -> None:
    facts = read_image(bzimage(pack="unknown"), "x86_64", where="x")
    assert (facts.btf, facts.config) == (None, None)
    assert facts.note is not None
    assert "unknown way" in facts.note


def test_a_signature_after_the_image_is_fine() -> None:
    assert read_image(bzimage() + b"signature" * 100, "x86_64", where="x").btf is True


@pytest.mark.parametrize("wrap", [lambda data: data, gzip.compress, zboot, lambda data: gzip.compress(zboot(data))])
def test_arm64_is_unwrapped(wrap) -> None:  # type: ignore[no-untyped-def]
    plain = arm64_image("6.12.9+deb13-arm64")
    facts = read_image(wrap(plain), "arm64", where="x")
    assert (facts.arch, facts.release, facts.btf, facts.config) == ("arm64", "6.12.9+deb13-arm64", True, CONFIG)
    assert facts.boot == plain


@pytest.mark.parametrize("end", range(1, 25))
def test_cut_off_in_btfs_header(end: int) -> None:
    """It begins in the last bytes of the file."""
    data = arm64_image(btf=False) + btf_section()[:end]
    assert read_image(data, "arm64", where="x").btf is False


@pytest.mark.parametrize("length", [*range(16), 40, 59])
def test_cut_off_in_a_wrappers_header(length: int) -> None:
    with pytest.raises(InputError, match="is not a kernel image"):
        read_image(zboot(arm64_image())[:length], "arm64", where="x")


@pytest.mark.parametrize(
    ("data", "arch", "message"),
    [
        (b"", "x86_64", "not a kernel image"),
        (b"#!/bin/sh\n" * 100, "arm64", "not a kernel image"),
        (b"\x7fELF" + b"\0" * 1000, "x86_64", "not a kernel image"),
        (b"\x1f\x8b" + b"garbage" * 100, "arm64", "does not decompress"),
        (gzip.compress(b"text" * 100), "arm64", "not a kernel image"),
        (bzimage(), "arm64", "for x86_64, and arm64"),
        (arm64_image(), "x86_64", "for arm64, and x86_64"),
        (bzimage()[:-200], "x86_64", "cut short"),
        (bzimage()[:1100], "x86_64", "cut short"),
        (arm64_image()[:300], "arm64", "cut short"),
        (gzip.compress(arm64_image())[:-20], "arm64", "cut short"),
    ],
    # Made from the data they would hold gzip's time stamp, and differ between xdist's workers.
    ids=[
        "empty",
        "script",
        "elf",
        "bad-gzip",
        "gzipped-text",
        "x86-for-arm",
        "arm-for-x86",
        "x86-cut",
        "x86-header",
        "arm-header",
        "arm-cut",
    ],
)
def test_not_a_kernel_for_it(data: bytes, arch, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message) as caught:
        read_image(data, arch, where="the/file")
    assert caught.value.where == "the/file"
