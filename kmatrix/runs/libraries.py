"""The libraries and interpreters of programs that are brought into a guest: the guest's own, or the host's, or an error that names them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from kmatrix.host import ext4
from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import INFO, Arch, host_arch
from kmatrix.objects import program
from kmatrix.objects.program import Program
from kmatrix.vm.guest_image import GuestImage

FOLDER = "/run/kmatrix/lib"
"""Of the guest: libraries that its image has not."""
_STATIC = "link it statically (Go: CGO_ENABLED=0; Rust: -C target-feature=+crt-static; C: -static)"
_PATH = ("/usr/local/bin", "/usr/bin", "/usr/sbin")


def in_image(image: GuestImage, path: str) -> bool:
    """Whether the guest image has something at that path (its /bin, /sbin, /lib and /lib64 are links to those in /usr)."""
    folder, _, name = path.rpartition("/")
    return name in _names(image.path, re.sub(r"^/(bin|sbin|lib|lib64)(?=/|$)", r"/usr/\1", folder) or "/")


@lru_cache(maxsize=256)
def _names(image: Path, folder: str) -> frozenset[str]:
    return ext4.names(image, folder)


def check(path: Path, image: GuestImage) -> dict[str, Path]:
    """What the program at `path` needs beside itself: path in the guest -> file of the host.

    Raises InputError for a program of another arch, and for an interpreter or a library that is neither here nor in the guest.
    """
    found = program.read(path)
    if found is None:
        _check_script(path, image)
        return {}
    if not found.runs_on(image.arch):
        here = f"a guest of {image.arch} cannot run it"
        fix = f"build it for {image.arch} (GOARCH={INFO[image.arch].debian}), or choose a target of its arch"
        raise InputError(f"it is a program for {found.arch_name}: {here}", where=str(path), fix=fix)
    return _closure(path, found, image)


def _check_script(path: Path, image: GuestImage) -> None:
    words = program.interpreter(path)
    if not words:
        return
    name = words[0]
    if Path(name).name == "env":
        rest = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        name = rest[0] if rest else name
    there = in_image(image, name) if "/" in name else any(in_image(image, f"{folder}/{name}") for folder in _PATH)
    if not there:
        fix = "bring it with --file, and name it as the command" if "/" not in name else f"bring it with --file {name}"
        raise InputError(f"its interpreter {name} is not in the guest", where=str(path), fix=fix)


def _closure(path: Path, first: Program, image: GuestImage) -> dict[str, Path]:
    brought: dict[str, Path] = {}
    if first.interpreter is not None and not in_image(image, first.interpreter):
        if not Path(first.interpreter).is_file():
            words = f"its interpreter {first.interpreter} is neither on this host nor in the guest"
            raise InputError(words, where=str(path), fix=_STATIC)
        brought[first.interpreter] = Path(first.interpreter).resolve()
    if first.interpreter is None:
        return {}
    names = {Path(first.interpreter).name}
    queue = [(path, first)]
    while queue:
        user, info = queue.pop()
        _check_glibc(user, info, image)
        for name in info.needed:
            if name in names or name.startswith(("libc.musl-", "ld-")):
                continue
            names.add(name)
            if _guest_has(image, name):
                continue
            library = _find(name, (*info.search, *first.search), image.arch)
            if library is None:
                asks = "it" if user == path else f"{user.name}, which it needs,"
                words = (
                    f"{asks} needs the library {name}, which is neither in the guest nor in this host's folders for {image.arch}"
                )
                looked = ", ".join(str(folder) for folder in _folders(image.arch)[:4])
                raise InputError(words, where=str(path), fix=f"install it for {image.arch} (looked in {looked}, …), or {_STATIC}")
            # Found by the program's own search path, it is where that says; else where the guest is told to look.
            own = str(library.parent) in (*info.search, *first.search)
            brought[str(library) if own else f"{FOLDER}/{name}"] = library.resolve()
            if (more := program.read(library)) is not None:
                queue.append((library, more))
    return brought


def _check_glibc(path: Path, info: Program, image: GuestImage) -> None:
    has = _glibc(image)
    if has and info.glibc > has:
        needs, there = (".".join(str(part) for part in version) for version in (info.glibc, has))
        raise InputError(f"it needs glibc {needs}, and the guest has {there}", where=str(path), fix=_STATIC)


def _glibc(image: GuestImage) -> tuple[int, int] | None:
    versions = [str(package["version"]) for package in image.manifest.get("packages", ()) if package["name"] == "libc6"]
    match = re.match(r"(\d+)\.(\d+)", versions[0]) if versions else None
    return (int(match[1]), int(match[2])) if match else None


def _guest_has(image: GuestImage, name: str) -> bool:
    triplet = f"{INFO[image.arch].machine}-linux-gnu"
    return any(in_image(image, f"{folder}/{name}") for folder in (f"/usr/lib/{triplet}", "/usr/lib"))


def _find(name: str, first: Iterable[str], arch: Arch) -> Path | None:
    for folder in (*(Path(each) for each in first), *_folders(arch)):
        path = folder / name
        if path.is_file() and (found := program.read(path)) is not None and found.runs_on(arch):
            return path
    return None


def _folders(arch: Arch) -> tuple[Path, ...]:
    """Where this host has libraries of an arch."""
    triplet = f"{INFO[arch].machine}-linux-gnu"
    given = [part for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    multiarch = [f"/usr/lib/{triplet}", f"/lib/{triplet}", f"/usr/local/lib/{triplet}"]
    own = ["/usr/local/lib", "/usr/lib64", "/lib64", "/usr/lib", "/lib"] if arch == host_arch() else [f"/usr/{triplet}/lib"]
    return tuple(Path(each) for each in (*given, *multiarch, *own))
