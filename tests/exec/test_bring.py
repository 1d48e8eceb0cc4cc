"""What goes along with a command: found on the host before a VM runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.host import ext4
from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import ARCHES, INFO, Arch, host_arch
from kmatrix.objects import program
from kmatrix.runs import bring, carried, libraries
from kmatrix.runs.carried import Item
from kmatrix.vm.guest_image import GuestImage, ImageStore

HOST = host_arch() or "x86_64"
OTHER: Arch = "arm64" if HOST == "x86_64" else "x86_64"
MAIN = "int main(void) { return 0; }"


@pytest.fixture(scope="module")
def image_of(need: Callable[[str], None]) -> Callable[[Arch], GuestImage]:
    def find(arch: Arch) -> GuestImage:
        need(f"6.1-{arch}")
        image = ImageStore().find(arch)
        if image is None:
            pytest.skip(f"there is no guest image for {arch} yet: kmatrix images build --arch {arch}")
        return image

    return find


@pytest.fixture
def image(image_of: Callable[[Arch], GuestImage]) -> GuestImage:
    return image_of(HOST)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    def compile_(name: str, *flags: str, source: str = MAIN, arch: Arch = HOST) -> Path:
        compiler = "gcc" if arch == HOST else f"{INFO[arch].machine}-linux-gnu-gcc"
        need_programs(compiler)
        to = tmp_path / name
        subprocess.run([compiler, "-x", "c", "-", "-o", to, *flags], input=source, text=True, check=True)
        return to

    return compile_


def guests(plan: bring.Plan) -> dict[str, Path]:
    return {item.guest: item.path for item in plan.items}


def test_a_file_that_is_named_goes_along_at_its_path(image: GuestImage, tmp_path: Path) -> None:
    for name in ("run.sh", "in.txt", "word"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    plan = bring.plan(["./run.sh", "./in.txt", "word", "--flag=./in.txt", "/etc/passwd", "/proc/self/stat", "."], tmp_path, image)
    assert set(guests(plan)) == {f"{tmp_path}/run.sh", f"{tmp_path}/in.txt"}, "a word without / is a word; the guest has a passwd"
    assert plan.cwd == str(tmp_path)
    assert not bring.plan(["uname", "-a"], tmp_path, image).items


def test_a_test_of_go_has_its_test_data(image: GuestImage, tmp_path: Path) -> None:
    (tmp_path / "testdata").mkdir()
    (tmp_path / "pkg.test").write_text("")
    (tmp_path / "other").write_text("")
    assert f"{tmp_path}/testdata" in guests(bring.plan(["./pkg.test", "-test.v"], tmp_path, image))
    assert f"{tmp_path}/testdata" not in guests(bring.plan(["./other"], tmp_path, image))


def test_a_package_of_a_go_module_has_the_test_data_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the folder of go.mod, and where it is small; what is not brought is known, for the report."""
    package = tmp_path / "module" / "link" / "internal"
    package.mkdir(parents=True)
    data = [folder / "testdata" for folder in (package, *package.parents[:3])]
    for each in data:
        each.mkdir()
        (each / "x.elf").write_bytes(bytes(100))
    own, link, module, _ = data
    assert bring.go_data(package) == bring.GoData((own,), (link,)), "without a go.mod no folder above is the tests'"
    (tmp_path / "module" / "go.mod").write_text("module m\n")
    assert bring.go_data(package) == bring.GoData((own, link, module), ())
    assert bring.go_data(tmp_path / "module") == bring.GoData((module,), ())
    monkeypatch.setattr(bring, "_SMALL", 150)
    (link / "y.elf").write_bytes(bytes(100))
    assert bring.go_data(package) == bring.GoData((own, module), (link,))


def test_coverage_and_profiles_come_back(image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOCOVERDIR", "cov")
    monkeypatch.setenv("LLVM_PROFILE_FILE", str(tmp_path / "prof" / "x-%p-%2m.profraw"))
    plan = bring.plan(["true", f"-test.coverprofile={tmp_path}/c.out"], tmp_path, image)
    assert plan.back == (tmp_path / "c.out", tmp_path / "cov", tmp_path / "prof" / "x-*-*.profraw")
    assert plan.folders == (str(tmp_path), f"{tmp_path}/cov", f"{tmp_path}/prof")
    assert plan.env["GOCOVERDIR"] == "cov"
    plan = bring.plan(
        ["true", "-test.cpuprofile=cpu.out", f"-test.outputdir={tmp_path}/out"], tmp_path, image, env={"GOCOVERDIR": ""}
    )
    assert plan.back[0] == tmp_path / "out" / "cpu.out"


def test_a_program_of_the_other_arch_is_refused(image_of: Callable[[Arch], GuestImage], build: Callable[..., Path]) -> None:
    path = build("prog", "-static", arch=OTHER)
    with pytest.raises(InputError, match=f"prog: it is a program for .*: a guest of {HOST} cannot run it"):
        bring.plan([str(path)], path.parent, image_of(HOST))
    assert guests(bring.plan([str(path)], path.parent, image_of(OTHER))) == {str(path): path}


@pytest.mark.parametrize("arch", ARCHES)
def test_what_the_guest_has_of_libraries_is_not_brought(
    arch: Arch, image_of: Callable[[Arch], GuestImage], build: Callable[..., Path]
) -> None:
    path = build("prog", arch=arch)
    assert program.read(path) is not None
    assert guests(bring.plan([str(path)], path.parent, image_of(arch))) == {str(path): path}


def test_a_librarys_own_libraries_are_brought_too(
    image: GuestImage, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ("-shared", "-fPIC", "-Wl,--no-as-needed")
    folder = build("libbelow.so", *shared, "-Wl,-soname,libbelow.so", source="int below(void) { return 0; }").parent
    build("libabove.so", *shared, "-Wl,-soname,libabove.so", f"-L{folder}", "-lbelow", source="int above(void) { return 0; }")
    path = build(
        "prog", f"-L{folder}", "-labove", f"-Wl,-rpath-link,{folder}", source="int above(void); int main(void) { return above(); }"
    )
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    brought = guests(bring.plan([str(path)], folder, image))
    assert set(brought) == {str(path), f"{libraries.FOLDER}/libabove.so", f"{libraries.FOLDER}/libbelow.so"}
    (folder / "libbelow.so").unlink()
    with pytest.raises(InputError, match=r"libabove\.so, which it needs, needs the library libbelow\.so"):
        bring.plan([str(path)], folder, image)


def test_a_library_that_is_nowhere_is_named(image: GuestImage, build: Callable[..., Path]) -> None:
    folder = build("libgone.so", "-shared", "-fPIC", "-Wl,-soname,libgone.so.3", source="int gone(void) { return 0; }").parent
    path = build("prog", f"-L{folder}", "-lgone", source="int gone(void); int main(void) { return gone(); }")
    with pytest.raises(
        InputError, match=r"prog: it needs the library libgone\.so\.3, which is neither in the guest nor in this host's"
    ):
        bring.plan([str(path)], folder, image)


def test_a_library_is_found_where_the_program_says_or_the_host_looks(
    image: GuestImage, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "int there(void); int main(void) { return there(); }"
    library = build("libthere.so", "-shared", "-fPIC", "-Wl,-soname,libthere.so", source="int there(void) { return 0; }")
    folder = library.parent
    own = build("own", f"-L{folder}", "-lthere", "-Wl,-rpath,$ORIGIN", source=source)
    assert guests(bring.plan([str(own)], folder, image)) == {str(own): own, str(library): library}
    looked = build("looked", f"-L{folder}", "-lthere", source=source)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    plan = bring.plan([str(looked)], folder, image)
    assert guests(plan) == {str(looked): looked, f"{libraries.FOLDER}/libthere.so": library}
    assert plan.env["LD_LIBRARY_PATH"] == libraries.FOLDER


def test_an_interpreter_that_is_nowhere_is_named(image: GuestImage, build: Callable[..., Path], tmp_path: Path) -> None:
    path = build("prog", "-Wl,--dynamic-linker=/lib/ld-none.so.1")
    with pytest.raises(InputError, match=r"its interpreter /lib/ld-none\.so\.1 is neither on this host nor in the guest"):
        bring.plan([str(path)], tmp_path, image)
    for line, name in (("#!/usr/bin/nosuch -x", "/usr/bin/nosuch"), ("#!/usr/bin/env -S nosuch -x", "nosuch")):
        (tmp_path / "script").write_text(line + "\n")
        with pytest.raises(InputError, match=f"script: its interpreter {name} is not in the guest"):
            bring.plan(["./script"], tmp_path, image)
    (tmp_path / "script").write_text("#!/usr/bin/env python3\n")
    bring.plan(["./script"], tmp_path, image)


def test_a_newer_glibc_than_the_guests_is_said(
    image: GuestImage, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build("prog")
    monkeypatch.setattr(libraries, "_glibc", lambda _: (2, 1))
    with pytest.raises(InputError, match=r"it needs glibc 2\.\d+, and the guest has 2\.1"):
        bring.plan([str(path)], path.parent, image)


def test_a_damaged_program_is_said(image: GuestImage, build: Callable[..., Path]) -> None:
    path = build("prog")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="prog: it is not a whole ELF file"):
        bring.plan([str(path)], path.parent, image)


def test_a_command_that_is_nowhere_is_said(image: GuestImage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\./prog: there is no such file, neither on this host nor in the guest"):
        bring.plan(["./prog"], tmp_path, image)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"\./folder: it is a folder"):
        bring.plan(["./folder"], tmp_path, image)


@pytest.mark.parametrize(
    ("text", "folder", "words"),
    [
        ("nosuch", False, "--file: there is no file nosuch"),
        (".", False, "it is a folder: use --dir"),
        ("file", True, "it is a file: use --file"),
        ("file:relative", False, "there is no file file:relative|relative is not an absolute path"),
    ],
)
def test_what_cannot_be_brought_is_said(
    text: str, folder: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=words):
        Item.parse(text, folder=folder)


def test_a_place_of_the_kernels_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be put at /proc/x"), carried.disk([Item(tmp_path / "file", "/proc/x")]):
        pass


def test_too_much_for_the_disk_is_said(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(carried._MOST + 1)
    with (
        pytest.raises(InputError, match=r"MiB are to be brought, and the disk takes 12288"),
        carried.disk([Item(tmp_path / "file", "/x")]),
    ):
        pass


def test_a_disk_holds_the_files_and_gives_back_what_was_left(tmp_path: Path) -> None:
    need_programs("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / 'a b\n"c').write_bytes(os.urandom(70_000))
    (tree / "deep" / "link").symlink_to("er")
    os.mkfifo(tree / "pipe")
    (tmp_path / "file").write_text("content")
    (tmp_path / "file").chmod(0o751)
    items = [Item(tmp_path / "file", "/x/file"), Item(tree, "/x/tree")]
    with carried.disk(items) as disk:
        assert disk.places == (("0", "/x/file"), ("1", "/x/tree"))
        ext4.extract(disk.fd, "/files", tmp_path)
    out = tmp_path / "files"
    assert (out / "0").read_text() == "content"
    assert (out / "0").stat().st_mode & 0o777 == 0o751
    assert (out / "1" / "deep" / "link").readlink() == Path("er")
    assert not (out / "1" / "pipe").exists()
    assert len((out / "1" / "deep" / "er" / 'a b\n"c').read_bytes()) == 70_000
