"""Archives that mean harm, or are broken: one clear error, and nothing written outside."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.fetch import archive
from kmatrix.host.errors import InputError
from kmatrix.kernels import layout, modules

from .fabricate import CONFIG, bare_rpm, bzimage, cpio, deb, module
from .publish import layer

RELEASE = "5.4.286"
KERNEL = {f"boot/vmlinuz-{RELEASE}": bzimage(RELEASE), f"boot/config-{RELEASE}": CONFIG.encode()}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


READERS: dict[str, Callable[[Path, dict[str, bytes]], archive.Package]] = {
    "deb": lambda folder, files: archive.deb(write(folder / "x", deb(files))),
    "rpm": lambda folder, files: archive.rpm_package(write(folder / "x", bare_rpm(files))),
    "layers": lambda folder, files: archive.layers([write(folder / "x", layer(files))]),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Callable[[Path, dict[str, bytes]], archive.Package]:
    return READERS[request.param]


@pytest.mark.parametrize(
    "path",
    [
        f"lib/modules/{RELEASE}/kernel/fs/../../../../../../evil.ko",
        f"lib/modules/../{RELEASE}/evil.ko",
        "../lib/modules/x/evil.ko",
        "/lib/modules/x/evil.ko",
        "..",
    ],
)
def test_paths_that_lead_out(tmp_path: Path, reader: Callable[..., archive.Package], path: str) -> None:
    into = tmp_path / "deep/er/into"
    into.mkdir(parents=True)
    with pytest.raises(InputError, match="leads out of it"):
        layout.lay_out([reader(tmp_path, KERNEL | {path: module("evil")})], "x86_64", into, where="x")
    assert list(tmp_path.rglob("evil*")) == []


def test_a_release_that_leads_out(tmp_path: Path) -> None:
    """What the image says of itself names files, too."""
    for release in ("5.4/../../evil", "5.4.1/x"):
        with pytest.raises(InputError):
            layout.lay_out([READERS["deb"](tmp_path, {"boot/vmlinuz": bzimage(release)})], "x86_64", tmp_path, where="x")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"lib/modules/{RELEASE}/extra/{'n' * 300}.ko", "a name of more than 255 bytes"),
        (f"lib/modules/{RELEASE}/extra/a\nb.ko", "a name that is no text"),
        (f"lib/modules/{RELEASE}/extra/\udcff.ko", "a name that is no text"),
        (f"lib/modules/{RELEASE}/extra/a.ko/b.ko", r"is no sound kernel package: (File exists|Not a directory) \(.*a\.ko"),
    ],
    ids=["long", "newline", "bytes", "file-and-folder"],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, says: str) -> None:
    """As a layer has them: the one that can hold any name."""
    files = KERNEL | {f"lib/modules/{RELEASE}/extra/a.ko": module("a"), name: module("b")}
    with pytest.raises(InputError, match=says) as caught:
        layout.lay_out([READERS["layers"](tmp_path, files)], "x86_64", tmp_path, where="x")
    assert "\n" not in caught.value.message
    assert caught.value.fix == archive.FIX


def test_a_broken_archive_is_called_what_the_user_knows_it_by(tmp_path: Path) -> None:
    for data in (b"!<arch>\nx", b"\xed\xab\xee\xdb"):
        path = write(tmp_path / "package0", data)
        package = archive.package(path, data[:8], "http://here/k.pkg")
        assert package is not None
        with pytest.raises(InputError) as caught:
            list(package())
        assert caught.value.where == "http://here/k.pkg"
    with pytest.raises(InputError) as caught:
        list(archive.layers([write(tmp_path / "layer0", b"\x1f\x8bx")], "registry/x@sha256:0")())
    assert caught.value.where == "registry/x@sha256:0"


def test_too_many_files(tmp_path: Path, reader: Callable[..., archive.Package], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FILES", 20)
    with pytest.raises(InputError, match="more than 20 files"):
        layout.lay_out([reader(tmp_path, {f"usr/{n}": b"" for n in range(30)})], "x86_64", tmp_path, where="x")


def test_a_bomb(tmp_path: Path, reader: Callable[..., archive.Package], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed while it is read, also where nothing in it is wanted."""
    monkeypatch.setattr(archive, "TOTAL", 1 << 20)
    with pytest.raises(InputError, match="unpacks to more than 1 MiB"):
        layout.lay_out([reader(tmp_path, {"usr/zeros": bytes(8 << 20)})], "x86_64", tmp_path, where="x")


def test_a_file_too_large(tmp_path: Path, reader: Callable[..., archive.Package], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FILE", 1 << 20)
    with pytest.raises(InputError, match=r"a file in it has 2 MiB|2097152 bytes"):
        layout.lay_out([reader(tmp_path, {"boot/vmlinuz": bytes(2 << 20)})], "x86_64", tmp_path, where="x")


def test_a_module_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_LARGEST", 1 << 20)
    packed = lzma.compress(bytes(2 << 20), preset=0)
    files = KERNEL | {f"lib/modules/{RELEASE}/kernel/fs/a.ko.xz": packed}
    with pytest.raises(InputError, match="more than 1 MiB"):
        layout.lay_out([READERS["deb"](tmp_path, files)], "x86_64", tmp_path, where="x")


def test_links_and_devices_are_not_read(tmp_path: Path) -> None:
    """An image in a layer that is a link to the host's kernel, and a device among the modules."""
    evil = []
    for name, kind, target in (
        ("boot/vmlinuz", tarfile.SYMTYPE, "/etc/shadow"),
        ("boot/config-1", tarfile.LNKTYPE, "../../etc/shadow"),
        (f"lib/modules/{RELEASE}/kernel/a.ko", tarfile.CHRTYPE, ""),
        (f"lib/modules/{RELEASE}/kernel/b.ko", tarfile.FIFOTYPE, ""),
    ):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        evil.append(info)
    package = archive.layers([write(tmp_path / "x", layer(KERNEL, extra=evil))])
    (tmp_path / "into").mkdir()
    assert not layout.lay_out([package], "x86_64", tmp_path / "into", where="x").has_modules
    assert all(path.is_file() and not path.is_symlink() for path in (tmp_path / "into").rglob("*") if not path.is_dir())


@pytest.mark.parametrize("cut", [0, 50, 100, 130, -200, -60])
def test_cut_short(tmp_path: Path, cut: int) -> None:
    for name, data in {"deb": deb(KERNEL), "rpm": bare_rpm(KERNEL), "layers": layer(KERNEL)}.items():
        path = write(tmp_path / name, data[:cut] if cut else b"")
        package = {"deb": archive.deb, "rpm": archive.rpm_package, "layers": lambda p: archive.layers([p])}[name](path)
        with pytest.raises(InputError):
            layout.lay_out([package], "x86_64", tmp_path, where="x")


def test_a_header_of_its_own_size(tmp_path: Path) -> None:
    """A tar header's own text is read into memory: one of 64 MiB is refused."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    path = write(tmp_path / "x", info.tobuf() + bytes(64 << 20))
    with pytest.raises(InputError, match="larger than any name"):
        list(archive.layers([path])())


def chained(count: int = 3000) -> bytes:
    """Long-name headers of GNU's that each announce the next."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    return (header.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * count + tarfile.TarInfo("x").tobuf() + bytes(1024)


def sparse(name: str, size: int) -> bytes:
    """An archive with a file of `size` bytes that takes none in it."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410], header[482] = b"%011o\0" % 0 * 2, 0
    header[483:495] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def test_headers_without_end(tmp_path: Path) -> None:
    path = write(tmp_path / "x", chained())
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="recursion"):
        list(archive.layers([path])())
    with pytest.raises(InputError, match="recursion"):
        archive.unpack_tree(path, tmp_path / "into")


def test_a_sparse_file(tmp_path: Path) -> None:
    """8 TiB of nothing."""
    path = write(tmp_path / "x", sparse("linux/Kconfig", 1 << 43))
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="'linux/Kconfig' is a sparse file"):
        archive.unpack_tree(path, tmp_path / "into", where="http://here/linux.tar")
    with pytest.raises(InputError, match="is a sparse file"):
        list(archive.layers([path])())
    assert list((tmp_path / "into").iterdir()) == []


def test_pax_and_gnu_headers(tmp_path: Path) -> None:
    """Long names and fractional times: what tar and git archive write."""
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form, pax_headers={"comment": "a commit"}) as tar:
            info = tarfile.TarInfo("lib/" + "long" * 60)
            info.mtime = 1.5
            tar.addfile(info)
        assert [member.path for member in archive.layers([write(tmp_path / "x", out.getvalue())])()] == ["lib/" + "long" * 60]


def test_a_cpio_that_lies(tmp_path: Path) -> None:
    for data in (cpio(KERNEL).replace(b"070701", b"07070X", 1), cpio(KERNEL)[:94] + b"ffffffff" + cpio(KERNEL)[102:]):
        good = bare_rpm({})
        path = write(tmp_path / "x", good[: good.index(b"\x1f\x8b")] + data)
        with pytest.raises(InputError, match="no sound RPM package"):
            list(archive.rpm_package(path)())


# --- a source tree, which is unpacked to where it says


def tree(extra: list[tarfile.TarInfo], *, files: dict[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for name, data in (files or {"linux/Makefile": b"VERSION = 5\n"}).items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o6777
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_source_tree(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    archive.unpack_tree(write(tmp_path / "x", tree([link("linux/link", "Makefile")])), tmp_path / "into")
    makefile = tmp_path / "into/linux/Makefile"
    assert makefile.read_bytes() == b"VERSION = 5\n"
    assert makefile.stat().st_mode & 0o7777 == 0o755  # neither setuid nor for others to write
    assert (tmp_path / "into/linux/link").readlink() == Path("Makefile")


def test_all_that_a_source_tree_may_hold(tmp_path: Path) -> None:
    """Folders, links up and down, one file under two names, times, a name that comes twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"") -> None:
            info = link(name, target, kind)
            info.size, info.mtime, info.mode = len(data), 1e9, 0o644
            tar.addfile(info, io.BytesIO(data))

        add("./linux", tarfile.DIRTYPE)
        add("linux/empty/deep", tarfile.DIRTYPE)
        add("linux/scripts/dtc/include-prefixes/arm", tarfile.SYMTYPE, "../../../arch/arm/dts")
        add("linux/arch/arm/dts/a.dtsi", data=b"old")
        add("linux/arch/arm/dts/a.dtsi", data=b"dts")
        add("linux/hard", tarfile.LNKTYPE, "linux/arch/arm/dts/a.dtsi")
        add("linux/dangling", tarfile.SYMTYPE, "not/there")
    (tmp_path / "into").mkdir()
    archive.unpack_tree(write(tmp_path / "x", out.getvalue()), tmp_path / "into")
    linux = tmp_path / "into/linux"
    assert (linux / "empty/deep").is_dir()
    assert (linux / "scripts/dtc/include-prefixes/arm/a.dtsi").read_bytes() == b"dts"
    assert (linux / "hard").samefile(linux / "arch/arm/dts/a.dtsi")
    assert (linux / "hard").stat().st_mtime == 1e9
    assert (linux / "hard").stat().st_mode & 0o7777 == 0o644
    assert (linux / "dangling").is_symlink()


@pytest.mark.parametrize(
    "member",
    [
        link("linux/out", "/etc/passwd"),
        link("linux/out", "../../../etc/passwd"),
        link("linux/out", "../../outside", tarfile.LNKTYPE),
        link("linux/out", "linux/nothing", tarfile.LNKTYPE),
        link("linux/device", "", tarfile.CHRTYPE),
        link("linux/pipe", "", tarfile.FIFOTYPE),
        link("linux/Makefile", "x"),
        link("../outside", "x"),
        link("/outside", "x"),
    ],
    ids=["absolute", "relative", "hard", "hard-to-nothing", "device", "pipe", "on-a-file", "name", "root"],
)
def test_a_source_tree_that_leads_out(tmp_path: Path, member: tarfile.TarInfo) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError):
        archive.unpack_tree(write(tmp_path / "x", tree([member])), tmp_path / "into")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "into/linux/out").is_symlink()


def test_a_source_tree_through_a_link(tmp_path: Path) -> None:
    """A link to a folder outside, and then a file in it."""
    (tmp_path / "into").mkdir()
    through = tarfile.TarInfo("linux/sub/outside")
    with pytest.raises(InputError):
        archive.unpack_tree(write(tmp_path / "x", tree([link("linux/sub", "../.."), through])), tmp_path / "into")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("last", [[], [link("linux/a/b/out/outside", "x")]], ids=["", "and-through-it"])
def test_links_that_lead_out_together(tmp_path: Path, last: list[tarfile.TarInfo]) -> None:
    """Each looks as if it stayed inside; the second, by way of the first, is the folder above."""
    (tmp_path / "into").mkdir()
    links = [link("linux/a/b/up", "../.."), link("linux/a/b/out", "up/../.."), *last]
    with pytest.raises(InputError, match="leads out of it"):
        archive.unpack_tree(write(tmp_path / "x", tree(links)), tmp_path / "into")
    assert not (tmp_path / "outside").is_symlink()


def test_a_source_tree_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "into").mkdir()
    path = write(tmp_path / "x", tree([], files={"linux/zeros": bytes(8 << 20)}))
    monkeypatch.setattr(archive, "TOTAL", 1 << 20)
    with pytest.raises(InputError, match="more than 1 MiB"):
        archive.unpack_tree(path, tmp_path / "into")


def test_the_entries_of_a_tar_of_any_kind(tmp_path: Path) -> None:
    file = tmp_path / "root.tar"
    with tarfile.open(file, "w") as tar:
        for name, kind, link in (
            ("./usr", tarfile.DIRTYPE, ""),
            ("./usr/null", tarfile.CHRTYPE, ""),
            ("./bin", tarfile.SYMTYPE, "usr/bin"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
        info = tarfile.TarInfo("./usr/sh")
        info.size, info.mode = 4, 0o755
        tar.addfile(info, io.BytesIO(b"what"))
        info = tarfile.TarInfo("./usr/dash")
        info.type, info.linkname = tarfile.LNKTYPE, "./usr/sh"
        tar.addfile(info)
    found = [(e.path, e.kind, e.target, e.executable, e.content.read() if e.content else None) for e in archive.tar_entries(file)]
    assert found == [
        ("usr", "folder", "", False, None),
        ("usr/null", "other", "", False, None),
        ("bin", "symlink", "usr/bin", False, None),
        ("usr/sh", "file", "", True, b"what"),
        ("usr/dash", "hardlink", "usr/sh", False, None),
    ]


def test_an_entry_that_leads_out_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "root.tar"
    with tarfile.open(file, "w") as tar:
        tar.addfile(tarfile.TarInfo("../etc/passwd"))
    with pytest.raises(InputError, match="leads out"):
        list(archive.tar_entries(file))
