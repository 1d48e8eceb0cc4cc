"""What a run brings into its guest: files and folders of the host, on a disk made for the run, and what it leaves there for the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kmatrix.host import cache, ext4, paths
from kmatrix.host.errors import InputError
from kmatrix.vm import virtme

_ROOM = 2 << 30
"""Bytes that a run can leave on its disk: core dumps, coverage, profiles. The file is sparse: it takes what is written."""
_MOST = virtme.CARRIED_BYTES - _ROOM - (2 << 30)
"""Bytes of files; the rest of the disk is for the file system's own."""
_NOT_OURS = ("/proc", "/sys", "/dev")


@dataclass(frozen=True)
class Item:
    """A file or folder of the host, and where it is to be in the guest."""

    path: Path
    guest: str

    @classmethod
    def parse(cls, text: str, *, folder: bool) -> Item:
        """PATH or PATH:GUEST, as on a command line. Raises InputError where there is no such file or folder."""
        path, colon, guest = text.rpartition(":")
        if not colon or (Path(text).exists() and not guest.startswith("/")):
            path, guest = text, ""
        option = "--dir" if folder else "--file"
        there = Path(path)
        if not (there.is_dir() if folder else there.is_file()):
            other = "; it is a folder: use --dir" if there.is_dir() else "; it is a file: use --file" if there.is_file() else ""
            raise InputError(f"there is no {'folder' if folder else 'file'} {path}{other}", where=option)
        if guest and not guest.startswith("/"):
            raise InputError(f"{guest} is not an absolute path", where=option, fix=f"{option} {path}:/{guest}")
        return cls(there, guest or str(there.absolute()))


@dataclass(frozen=True)
class Disk:
    """The file behind a guest's disk. It has no name any more: what it takes is free when the descriptor is closed."""

    fd: int
    places: tuple[tuple[str, str], ...]
    """(path below the disk's `files`, path in the guest)."""

    def take_back(self, numbers: Iterable[int], targets: Sequence[Path]) -> list[Path]:
        """Copy what the guest gathered to the host, number N to `targets[N]`: files, and what is in folders. The files written."""
        written: list[Path] = []
        with cache.staging(paths.cache_dir("carried")) as work:
            ext4.extract(self.fd, "/back", work)
            for number in numbers:
                written += _merge(work / "back" / str(number), targets[number])
        return written

    def take_cores(self, into: Path) -> list[Path]:
        """Move the core dumps to the folder `into`; their paths."""
        with cache.staging(paths.cache_dir("carried")) as work:
            ext4.extract(self.fd, "/cores", work)
            return _merge(work / "cores", into)


@contextmanager
def disk(items: Iterable[Item]) -> Iterator[Disk]:
    """A disk that has `items` on it; of two for one place, the last. Raises InputError for what cannot be brought, InfraError."""
    try:
        fd, places = _make(items)
    except OSError as error:
        raise paths.cache_error(error, paths.cache_dir("carried")) or error from None
    try:
        yield Disk(fd, places)
    finally:
        os.close(fd)


def _make(items: Iterable[Item]) -> tuple[int, tuple[tuple[str, str], ...]]:
    chosen = {os.path.normpath(item.guest): item.path for item in items}
    with cache.staging(paths.cache_dir("carried")) as work:
        tree = work / "tree"
        files = tree / "files"
        files.mkdir(parents=True)
        places = []
        for number, (guest, path) in enumerate(sorted(chosen.items())):
            if guest == "/" or any(PurePosixPath(guest).is_relative_to(place) for place in _NOT_OURS):
                raise InputError(f"{path} cannot be put at {guest} in the guest", fix="give it another place, as in PATH:/tmp/NAME")
            _copy(path, files / str(number))
            places.append((str(number), guest))
        size = sum(path.lstat().st_size for path in tree.rglob("*"))
        if size > _MOST:
            raise InputError(
                f"{size >> 20} MiB are to be brought, and the disk takes {_MOST >> 20}",
                fix="bring the parts that the command needs",
            )
        image = work / "disk"
        ext4.fill(tree, image, room=_ROOM, size=virtme.CARRIED_BYTES)
        fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        image.unlink()
    return fd, tuple(places)


def _copy(source: Path, target: Path) -> None:
    """A hard link where that can be, for mke2fs only reads it."""
    try:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, copy_function=_link, ignore=_special)
        else:
            _link(str(source.resolve()), str(target))
    except shutil.Error as error:
        first = error.args[0][0]
        raise InputError(f"cannot be read: {first[2]}", where=str(first[0])) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(source)) from None


def _link(source: str, target: str) -> str:
    with suppress(OSError):
        if os.access(source, os.R_OK):
            os.link(source, target, follow_symlinks=False)
            return target
    return shutil.copy2(source, target)


def _special(folder: str, names: list[str]) -> list[str]:
    """Sockets, pipes and devices, which stay behind."""
    there = ((name, Path(folder) / name) for name in names)
    return [name for name, path in there if not (path.is_symlink() or path.is_dir() or path.is_file())]


def _merge(source: Path, target: Path) -> list[Path]:
    """Move a file to `target`, or what is in a folder into it; the files."""
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        return [target]
    moved = []
    for file in sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink()):
        to = target / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, to)
        moved.append(to)
    return moved
