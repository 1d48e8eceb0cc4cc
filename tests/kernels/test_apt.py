"""The host's apt configuration, read; and Debian's kernel chosen from an index."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import pytest

from kmatrix.fetch import apt, gpgv
from kmatrix.host.errors import InfraError
from kmatrix.kernels.sources.debian import flavour_of, select

from .fabricate import Signer


def test_one_line_sources() -> None:
    text = """
# deb http://commented.example/debian bookworm main
deb http://plain.example/debian bookworm main contrib   # a word
deb-src http://source.example/debian bookworm main
deb [ arch=amd64,arm64 signed-by=/k/a.gpg ] https://opts.example/debian/ trixie main
deb [trusted=yes] file:/srv/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://flat.example/ ./
"""
    assert [(s.uri, s.suite, s.components, s.signed_by, s.trusted) for s in apt.parse_list(text)] == [
        ("http://plain.example/debian", "bookworm", ("main", "contrib"), "", False),
        ("https://opts.example/debian/", "trixie", ("main",), "/k/a.gpg", False),
        ("file:/srv/debian", "bookworm", ("main",), "", True),
    ]


def test_deb822_sources() -> None:
    text = """Types: deb deb-src
# http://snapshot.example
URIs: http://a.example/debian http://b.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/x.gpg

Types: deb-src
URIs: http://c.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://d.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://e.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA
 -----END PGP PUBLIC KEY BLOCK-----
"""
    sources = apt.parse_sources(text)
    assert [(s.uri[7], s.suite) for s in sources] == [
        ("a", "bookworm"),
        ("a", "bookworm-updates"),
        ("b", "bookworm"),
        ("b", "bookworm-updates"),
        ("e", "bookworm"),
    ]
    assert "BEGIN PGP PUBLIC KEY BLOCK" in sources[-1].signed_by


def _config(root: Path, **files: str) -> Path:
    (root / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        (root / "sources.list.d" / name.replace("_", ".")).write_text(text)
    return root


def test_only_files_apt_reads(tmp_path: Path) -> None:
    root = _config(
        tmp_path, a_list="deb http://a.example/debian bookworm main\n", b_list_save="deb http://b.example/debian bookworm main\n"
    )
    (root / "sources.list").write_text("deb http://0.example/debian bookworm main\n")
    assert [s.uri for s in apt.read_sources(root)] == ["http://0.example/debian", "http://a.example/debian"]


def test_another_suite_comes_from_the_same_mirror(tmp_path: Path) -> None:
    root = _config(
        tmp_path,
        a_list="deb http://tool.example/apt tool-bookworm main\ndeb http://sec.example/debian-security bookworm-security main\n"
        "deb http://other.example/debian bookworm extras\n",
        b_list="deb http://m.example/debian/ bookworm main\ndeb http://m.example/debian bookworm-updates main\n",
        c_list="deb http://t.example/debian trixie main\n",
    )
    assert [(a.uri.rstrip("/"), a.suite) for a in apt.archives("trixie", root=root)] == [
        ("http://t.example/debian", "trixie"),  # the one that has it by name first
        ("http://m.example/debian", "trixie"),
    ]
    assert apt.archives("trixie", root=root)[1].url("dists/x") == "http://m.example/debian/dists/x"


def test_an_override_is_the_only_candidate(tmp_path: Path) -> None:
    root = _config(tmp_path, a_list="deb http://m.example/debian bookworm main\n")
    assert [a.uri for a in apt.archives("trixie", "http://mine.example/d", root)] == ["http://mine.example/d"]


def test_signed_by_paths_keys_and_fingerprints(tmp_path: Path) -> None:
    def one(name: str, option: str) -> apt.Archive:
        root = _config(tmp_path / name, a_list=f"deb [{option}] http://m.example/debian bookworm main\n")
        return apt.archives("bookworm", root=root)[0]

    assert one("path", "signed-by=/k/a.gpg,/k/b.asc").keyrings[:2] == (Path("/k/a.gpg"), Path("/k/b.asc"))
    assert one("print", "signed-by=0123456789abcdef0123456789ABCDEF01234567!").fingerprints == (
        "0123456789ABCDEF0123456789ABCDEF01234567",
    )
    assert one("trusted", "trusted=yes").trusted


def test_dearmor(signer: Signer) -> None:
    assert apt.dearmor(signer.armoured()) == signer.keyring.read_bytes()
    field = "\n".join(f" {line or '.'}" for line in signer.armoured().splitlines())
    assert apt.dearmor(field) == signer.keyring.read_bytes()


@pytest.mark.parametrize(
    ("status", "fingerprints", "accepted"),
    [
        ([["GOODSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], (), True),
        ([["GOODSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], ("AAAA1111",), True),
        ([["GOODSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], ("2222", "PRIM"), True),
        ([["GOODSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], ("1111",), False),
        ([["GOODSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], ("",), False),
        ([["GOODSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], ("2222",), False),
        ([["EXPKEYSIG", "K"], ["VALIDSIG", "AAAA1111", "PRIM"]], (), False),
        ([["ERRSIG", "K"], ["NO_PUBKEY", "K"], ["GOODSIG", "L"], ["VALIDSIG", "BB", "PRIM"]], (), True),
        ([["GOODSIG", "K"], ["VALIDSIG", "AA", "PRIM"], ["BADSIG", "L"]], (), False),
        ([], (), False),
    ],
)
def test_which_signatures_count(status: list[list[str]], fingerprints: tuple[str, ...], accepted: bool) -> None:
    assert gpgv._accepted(status, fingerprints) is accepted


@pytest.mark.parametrize(
    ("name", "flavour"),
    [
        ("linux-image-6.1.0-56-amd64", ""),
        ("linux-image-6.1-amd64", ""),
        ("linux-image-6.1.0-0.deb11.21-amd64", ""),
        ("linux-image-6.1.107+deb13-amd64", ""),
        ("linux-image-6.12.107+deb13-amd64", None),
        ("linux-image-6.1.0-56-cloud-amd64", "cloud"),
        ("linux-image-6.1.0-56-rt-amd64", "rt"),
        ("linux-image-6.1.0-56-amd64-unsigned", None),
        ("linux-image-6.1.0-56-amd64-dbg", None),
        ("linux-image-6.1.107+deb13-cloud-amd64", "cloud"),
        ("linux-image-6.1.107+deb13-amd64-16k", "16k"),
        ("linux-image-6.1.0-56-16k-amd64", None),
        ("linux-image-amd64", None),
    ],
)
def test_flavours(name: str, flavour: str | None) -> None:
    assert flavour_of(name, "6.1", "amd64") == flavour


def _package(name: str, version: str, depends: str = "") -> dict[str, str]:
    return {"Package": name, "Version": version, "Depends": depends}


def test_the_metapackage_decides() -> None:
    packages = [
        _package("linux-image-6.1.0-9-amd64", "6.1.90-1"),
        _package("linux-image-6.1.0-10-amd64", "6.1.100-1"),
        _package("linux-image-amd64", "6.1.90-1", "kmod | x, linux-image-6.1.0-9-amd64 (= 6.1.90-1)"),
    ]
    chosen = select(packages, "6.1", "amd64")
    assert chosen is not None
    assert chosen["Package"] == "linux-image-6.1.0-9-amd64"


def test_without_it_the_highest_version() -> None:
    packages = [
        _package("linux-image-6.1.0-9-amd64", "6.1.90-1"),
        _package("linux-image-6.1.0-10-amd64", "6.1.100-1"),  # 100 > 90, and 10 > 9, though not as text
        _package("linux-image-amd64", "6.12.1-1", "linux-image-6.12.1+deb13-amd64 (= 6.12.1-1)"),
    ]
    chosen = select(packages, "6.1", "amd64")
    assert chosen is not None
    assert chosen["Package"] == "linux-image-6.1.0-10-amd64"
    assert select(packages, "5.10", "amd64") is None


def test_only_the_stanzas_asked_for_are_parsed() -> None:
    text = b"Package: a\nVersion: 1\n\nPackage: linux-image-x\nVersion: 2\nDescription: x\n more\n\nPackage: linux-images\nVersion: 3\n\n"
    assert [(p["Package"], p["Version"]) for p in apt.stanzas(text, "linux-image-.*")] == [("linux-image-x", "2")]


@pytest.mark.parametrize(
    ("release", "packages", "says"),
    [
        (b" zz abc main/binary-amd64/Packages.xz\n", b"", "'zz' is no sha256"),
        (b" " + b"0" * 64 + b" abc main/binary-amd64/Packages.xz\n", b"", "invalid literal"),
        (b"", b"not packed with xz", "not in xz format|Input format not supported|is malformed"),
        (b"", lzma.compress(b"Package: k\nVersion: 1\n\n"), "it lacks 'Filename'"),
        (b"", lzma.compress(b"Package: k\nVersion: 1\nFilename: k\nSize: x\nSHA256: 0\n\n"), "invalid literal"),
        (
            b"",
            lzma.compress(b"Package: k\nVersion: 1\nFilename: k\nSize: 1\nSHA256: sha999:0\n\n"),
            "k has no place, size or sha256",
        ),
        (b"", lzma.compress(b"Package: k\nVersion: a b\nFilename: k\nSize: 1\nSHA256: 0\n\n"), "is malformed: "),
        (b"", lzma.compress(b"Package: k\nX: \xff\n\n"), "is malformed: "),
        (b"", lzma.compress(b"Package: k\n" + b"X: y\n" * 9999), "unpacks to more than"),
    ],
)
def test_an_archive_of_another_kind(
    release: bytes, packages: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Release or an index is no such thing: one error, whatever is wrong with it."""
    monkeypatch.setattr(apt, "_UNPACKED", 10_000)
    folder = tmp_path / "dists/s/main/binary-amd64"
    folder.mkdir(parents=True)
    (folder / "Packages.xz").write_bytes(packages)
    line = f" {hashlib.sha256(packages).hexdigest()} {len(packages)} main/binary-amd64/Packages.xz\n".encode()
    (tmp_path / "dists/s/InRelease").write_bytes(b"Suite: s\nSHA256:\n" + (release or line))
    with pytest.raises(InfraError, match=says) as caught:
        apt.open_foreign(tmp_path.as_uri(), "s", None).find("amd64", "k")
    assert "is malformed: " in caught.value.message


def test_no_keys_is_said() -> None:
    with pytest.raises(InfraError, match="no key"):
        gpgv.verify(b"x", gpgv.Keys(), where="there")
