"""The images that runs use, taken apart; and the recipe built twice from the mirror."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from kmatrix.host.progress import Quiet
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.vm import guest_image
from kmatrix.vm.guest_image import GuestImage, ImageStore
from tests.images import inspect

LIMIT_MIB = 120


@pytest.fixture(scope="module", params=ARCHES)
def image(request: pytest.FixtureRequest) -> GuestImage:
    arch: Arch = request.param
    return guest_image.obtain(arch, reporter=Quiet())


@pytest.fixture(scope="module")
def tree(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inspect.extract(image.path, tmp_path_factory.mktemp(image.arch))


def programs(tree: Path) -> dict[Path, ELFFile]:
    found = {}
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            found[path] = ELFFile(path.open("rb"))
    return found


def inside(tree: Path, path: Path) -> Path:
    """What a link in the guest leads to, as a path on the host."""
    while path.is_symlink():
        goal = str(path.readlink())
        path = tree / goal.lstrip("/") if goal.startswith("/") else Path(os.path.normpath(path.parent / goal))
    return path


def test_it_is_small(image: GuestImage) -> None:
    assert image.path.stat().st_size == image.manifest["size"] < LIMIT_MIB << 20


def test_it_is_what_was_built(image: GuestImage) -> None:
    image.verify()


def test_everything_in_it_is_roots_and_of_one_moment(image: GuestImage) -> None:
    found = inspect.inodes(image.path).values()
    assert len(found) > 1000
    assert {inode.owner for inode in found} == {(0, 0)}
    assert set().union(*(inode.times for inode in found)) == {image.manifest["source_date_epoch"]}
    assert not any(inode.mode & 0o7000 for inode in found), "set-user-ID programs or sticky folders"


def test_every_program_is_for_its_arch_and_finds_its_libraries(image: GuestImage, tree: Path) -> None:
    elves = programs(tree)
    libraries = {path.name for path in (tree / "usr/lib").rglob("*.so*")}
    assert len(elves) > 100
    for path, elf in elves.items():
        assert elf["e_machine"] == INFO[image.arch].elf_machine, path
        dynamic = elf.get_section_by_name(".dynamic")
        needed = [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")] if dynamic else []
        assert set(needed) <= libraries, f"{path}: {set(needed) - libraries}"


def test_no_link_leads_nowhere(tree: Path) -> None:
    links = [path for path in tree.rglob("*") if path.is_symlink() and not str(path.readlink()).startswith("/proc/")]
    assert len(links) > 50
    assert [path for path in links if not inside(tree, path).exists()] == []


def test_busybox_on_the_host_is_static_and_of_the_arch(image: GuestImage) -> None:
    with image.busybox.open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_machine"] == INFO[image.arch].elf_machine
        assert elf.get_section_by_name(".interp") is None
    assert os.access(image.busybox, os.X_OK)


def test_the_library_is_compiled(image: GuestImage, tree: Path) -> None:
    library = tree / "usr/lib" / str(image.manifest["bytecode"])
    sources = {path for path in library.rglob("*.py") if "lib-dynload" not in path.parts}
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in library.rglob("*.pyc")}
    assert len(sources) > 400
    assert sources == compiled
    for path in library.rglob("*.pyc"):
        header = path.read_bytes()[:8]
        assert header[4:8] == b"\x01\0\0\0", f"{path}: not an unchecked hash"  # PEP 552: else Python stats and reads the source
    assert b"/usr/lib/python3" in next(library.glob("__pycache__/os.*.pyc")).read_bytes()
    assert str(tree).encode() not in next(library.glob("__pycache__/os.*.pyc")).read_bytes()


def test_the_manifest_names_every_package(image: GuestImage) -> None:
    packages = {package["name"]: package for package in image.manifest["packages"]}
    assert {"python3", "libbpf1", "bpftool", "openssh-server", "libc6"} <= packages.keys()
    assert all(package["version"] and len(package["sha256"]) == 64 for package in packages.values())


def test_built_twice_it_is_the_same_whoever_builds(tmp_path: Path, as_nobody: Path) -> None:
    """Two caches, and (as root) two users; what differs between two builds at the same time may only be their paths."""
    arch: Arch = "arm64"
    first = ImageStore(made(tmp_path / "a")).obtain(arch, reporter=Quiet())
    root = made(as_nobody / "somewhere else altogether")
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.chown(root, 65534, 65534)
                os.setgid(65534)
                os.setuid(65534)
            os.umask(0o077)
            ImageStore(root).obtain(arch, reporter=Quiet())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    second = ImageStore(root).find(arch)
    assert second is not None
    assert second.manifest == first.manifest
    same = subprocess.run(["cmp", str(first.path), str(second.path)], capture_output=True, text=True, check=False)
    assert same.returncode == 0, same.stdout
    assert first.busybox.read_bytes() == second.busybox.read_bytes()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
