"""What a command names on the host, found out before a VM runs: its program, libraries and test data, and what is to come back."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kmatrix.host.errors import InputError
from kmatrix.objects import program
from kmatrix.runs import libraries
from kmatrix.runs.carried import Item
from kmatrix.vm.guest_image import GuestImage

PASSED = ("CARGO_*", "RUST_*", "RUSTC_*", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "LLVM_PROFILE_FILE", "NO_COLOR", "CI")
"""Variables of the host's environment that the command has too, as patterns: what test runners say to their tests."""
_ELSEWHERE = ("/proc", "/sys", "/dev", "/run")
_GUESTS = ("/proc/", "/sys/", "/dev/", "/run/", "/tmp/", "/root/", "/var/")
"""Folders in which the guest may have files that its image has not: those of --file, or of the kernel's."""
_GO_OUTPUT = re.compile(
    r"--?test\.(?:coverprofile|cpuprofile|memprofile|blockprofile|mutexprofile|trace|gocoverdir|testlogfile)=(.+)"
)
_GO_OUTPUT_DIR = re.compile(r"--?test\.outputdir=(.+)")
_SMALL = 32 << 20
"""Bytes that a folder above a Go package may have to be brought unasked: copying more takes longer than a test should wait."""
_LLVM_PART = re.compile(r"%(?:\{\w+\}|\d*[a-zA-Z])")
"""What LLVM_PROFILE_FILE has filled in when the file is written: %p, %m, %4m, %{hostname}."""


@dataclass(frozen=True)
class Plan:
    """A command, and what goes along with it."""

    argv: tuple[str, ...]
    cwd: str
    """Of the guest: the host's path."""
    items: tuple[Item, ...]
    env: Mapping[str, str]
    folders: tuple[str, ...]
    """Folders that must be there in the guest."""
    back: tuple[Path, ...]
    """Files and folders that come back to the same path of the host. `*` in a name stands for any characters."""


def plan(
    argv: Sequence[str], cwd: Path, image: GuestImage, files: Iterable[Item] = (), env: Mapping[str, str] | None = None
) -> Plan:
    """What goes along with `argv`, given in the host's folder `cwd`, to a guest of `image`.

    Raises InputError for a program of another arch, and for an interpreter or a library that is neither here nor in the guest.
    """
    cwd = Path(os.path.normpath(cwd.absolute()))
    _check_there(argv, cwd, image)
    named = [path for word in argv if (path := _named(word, cwd, image)) is not None]
    items = [Item(path, str(path)) for path in named]
    first = _named(argv[0], cwd, image) if argv else None
    if first is not None and go_test(first):
        items += [Item(folder, str(folder)) for folder in go_data(cwd).brought]
    items += files
    needed: dict[str, Path] = libraries.check(first, image) if first is not None else {}
    for item in files:
        if item.path.is_file() and _is_program(item.path, image):
            needed |= libraries.check(item.path, image)
    items += [Item(path, guest) for guest, path in needed.items()]
    passed = {name: value for name, value in os.environ.items() if any(fnmatch.fnmatch(name, each) for each in PASSED)}
    passed |= env or {}
    if any(guest.startswith(libraries.FOLDER) for guest in needed):
        passed["LD_LIBRARY_PATH"] = ":".join(filter(None, (libraries.FOLDER, passed.get("LD_LIBRARY_PATH"))))
    back, folders = _back(argv, passed, cwd)
    return Plan(tuple(argv), str(cwd), tuple(items), passed, folders, back)


def _named(word: str, cwd: Path, image: GuestImage) -> Path | None:
    """The file of the host that a word of a command means; None for what the guest has itself."""
    if "/" not in word or any(word.startswith(f"{place}/") for place in _ELSEWHERE):
        return None
    path = Path(os.path.normpath(cwd / word))
    try:
        if not path.is_file():
            return None
    except OSError:  # a word that is too long for a path
        return None
    return None if word.startswith("/") and libraries.in_image(image, str(path)) else path


def _is_program(path: Path, image: GuestImage) -> bool:
    """Whether it is a dynamically linked program that such a guest can run."""
    found = program.read(path)
    return found is not None and found.interpreter is not None and found.runs_on(image.arch)


def _check_there(argv: Sequence[str], cwd: Path, image: GuestImage) -> None:
    """A command that is a path is a file, here or in the guest; one below a folder that only the guest has is left to the guest."""
    word = argv[0]
    path = os.path.normpath(cwd / word)
    if "/" not in word or Path(path).is_file() or libraries.in_image(image, path):
        return
    if word.startswith((".", "..")) or not word.startswith(_GUESTS):
        what = "it is a folder" if Path(path).is_dir() else "there is no such file, neither on this host nor in the guest"
        raise InputError(what, where=word, fix=f"build it, or correct the path (from {cwd})")


def go_test(path: Path) -> bool:
    """Whether it is a compiled Go test, by its name."""
    return path.name.endswith(".test") or "/go-build" in str(path)


@dataclass(frozen=True)
class GoData:
    """The `testdata` folders that a package's Go tests may read."""

    brought: tuple[Path, ...]
    left: tuple[Path, ...]
    """Those that the tests may want and that are not brought: too large, or beside a package whose module is not known."""


def go_data(package: Path) -> GoData:
    """The package's own `testdata`, and those of the folders above it up to its module's root (where go.mod is), where they are small.

    Packages of one module share them: `filepath.Glob("../testdata/*.elf")`.
    """
    own = package / "testdata"
    root = next((folder for folder in (package, *package.parents) if (folder / "go.mod").is_file()), None)
    above = [] if root == package else [folder for folder in package.parents if root is None or folder.is_relative_to(root)]
    found = [folder / "testdata" for folder in (above if root is not None else above[:1]) if (folder / "testdata").is_dir()]
    small = [folder for folder in found if root is not None and _is_small(folder)]
    brought = [*([own] if own.is_dir() else []), *small]
    return GoData(tuple(brought), tuple(folder for folder in found if folder not in small))


def _is_small(folder: Path) -> bool:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(place, name).lstat().st_size
            if size > _SMALL:
                return False
    return True


def _back(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """What comes back, and the folders that programs expect to be there for it."""
    back, folders = [], []
    base = next((match[1] for word in argv[1:] if (match := _GO_OUTPUT_DIR.fullmatch(word))), "")
    for word in argv[1:]:
        if match := _GO_OUTPUT.fullmatch(word):
            path = Path(os.path.normpath(cwd / base / match[1]))
            back.append(path)
            folders.append(str(path if path.is_dir() else path.parent))
    if env.get("GOCOVERDIR"):
        back.append(Path(os.path.normpath(cwd / env["GOCOVERDIR"])))
        folders.append(str(back[-1]))
    if env.get("LLVM_PROFILE_FILE"):
        path = Path(os.path.normpath(cwd / env["LLVM_PROFILE_FILE"]))
        back.append(path.with_name(_LLVM_PART.sub("*", path.name)))
        folders.append(str(path.parent))
    return tuple(dict.fromkeys(back)), tuple(dict.fromkeys(folders))
