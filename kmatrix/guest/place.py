"""What a run brings along is put where it has to be, and what it leaves is gathered: both over a disk of the run's own.

The disk is an ext4 file system that the host made (kmatrix/runs/carried.py); it was there, unread, when the guest's memory was saved.
Its files are bound to their places, so nothing is copied, and pages come in as they are used.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import os
import shutil
from contextlib import suppress
from typing import Any

from . import netdev
from .mounts import MS_BIND, MS_NODEV, MS_REC, mount
from .observe import RUNS_ARE_COUNTED
from .sysctl import file_of

SERIAL = "kmatrix-carried"
DISK = "/run/kmatrix/carried"
CORES = f"{DISK}/cores"
BACK = f"{DISK}/back"
_UNDER = "/run/kmatrix/under"

BLKFLSBUF = 0x1261


def prepare(
    disk: bool = False,
    places: list[tuple[str, str]] | None = None,
    folders: list[str] | None = None,
    sysctl: dict[str, str] | None = None,
    cores: bool = False,
    user: bool = False,
) -> dict[str, Any]:
    """Mount the disk, bind its files to their `places` (path in the disk, path in the guest), make `folders`, set `sysctl`.

    With `cores`, programs leave core dumps on the disk. With `user`, root's own folder is open to others. What kmatrix had set for cells of
    its own is as a kernel has it: a test may look at it.
    """
    with suppress(OSError):  # there from 5.1 on
        _write(RUNS_ARE_COUNTED, "0")
    missing = [f"{name}: {words}" for name, words in ((n, _set(n, value)) for n, value in (sysctl or {}).items()) if words]
    if missing:
        raise ValueError("; ".join(missing))
    if user:
        os.chmod("/root", 0o755)
    if disk:
        _mount_disk()
    for source, target in sorted(places or (), key=lambda place: place[1].count("/")):
        _bind(f"{DISK}/files/{source}", target)
    for folder in folders or ():
        there = os.path.isdir(folder)
        _make(folder)
        if user and not there:
            os.chmod(folder, 0o1777)
    if cores:
        os.makedirs(CORES, exist_ok=True)
        os.chmod(CORES, 0o1777)
        _write("/proc/sys/kernel/core_pattern", f"{CORES}/core.%e.%p")
        with suppress(OSError):
            _write("/proc/sys/kernel/core_uses_pid", "0")
    try:
        netdev.pair()
        network = None
    except OSError as error:
        network = error.strerror
    return {"network": network}


def gather(paths: list[str]) -> dict[str, Any]:
    """Copy what is at `paths` to the disk, each to BACK/<its number>, and have it all on the disk. Which of them are there, and the cores.

    A name with `*` stands for the files of its folder that match, which come into a folder.
    """
    os.makedirs(BACK, exist_ok=True)
    found = []
    for number, path in enumerate(paths):
        folder, name = os.path.split(path)
        if "*" in name and os.path.isdir(folder):
            os.makedirs(f"{BACK}/{number}")
            for each in fnmatch.filter(os.listdir(folder), name):
                if os.path.isfile(f"{folder}/{each}"):
                    shutil.copy2(f"{folder}/{each}", f"{BACK}/{number}/{each}")
        elif os.path.isdir(path):
            shutil.copytree(path, f"{BACK}/{number}", symlinks=True, dirs_exist_ok=True)
        elif os.path.isfile(path):
            shutil.copy2(path, f"{BACK}/{number}")
        else:
            continue
        found.append(number)
    os.sync()
    return {"found": found, "cores": sorted(os.listdir(CORES)) if os.path.isdir(CORES) else []}


def _mount_disk() -> None:
    if os.path.ismount(DISK):
        return
    device = _device()
    handle = os.open(device, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, BLKFLSBUF)  # whatever the kernel read of it at boot was another file
    finally:
        os.close(handle)
    os.makedirs(DISK, exist_ok=True)
    mount(device, DISK, "ext4", MS_NODEV)


def _device() -> str:
    for name in sorted(os.listdir("/sys/block")):
        with suppress(OSError), open(f"/sys/block/{name}/serial") as file:
            if file.read().strip() == SERIAL:
                return f"/dev/{name}"
    raise OSError(errno.ENODEV, f"the guest has no disk {SERIAL!r}")


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        _make(target)
    else:
        _make(os.path.dirname(target))
        _writable(os.path.dirname(target))
        if os.path.islink(target):
            os.unlink(target)
        with open(target, "ab"):
            pass
    mount(source, target, "", MS_BIND)


def _make(folder: str) -> None:
    """Make the folder, also where the image is read-only."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        parent = folder
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        _writable(parent)
        os.makedirs(folder, exist_ok=True)


def _writable(folder: str) -> None:
    """Have a folder of the read-only image take new files: a tmpfs over it, with links to what it had."""
    if not os.statvfs(folder).f_flag & os.ST_RDONLY:
        return
    folder = os.path.realpath(folder)
    under = f"{_UNDER}/{len(os.listdir(_UNDER)) if os.path.isdir(_UNDER) else 0}"
    os.makedirs(under)
    mount(folder, under, "", MS_BIND | MS_REC)
    mount("tmpfs", folder, "tmpfs", 0, "mode=755")
    for name in os.listdir(under):
        os.symlink(f"{under}/{name}", f"{folder}/{name}")


def _set(name: str, value: str) -> str | None:
    """Set a sysctl; why it cannot be set."""
    try:
        _write(file_of(name), value)
    except FileNotFoundError:
        return "this kernel has no such sysctl"
    except OSError as error:
        return f"it does not take {value!r} ({error.strerror})"
    return None


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())
