"""A directory as a read-only ext4 image: every file root's, every time stamp the same, the same bytes every time.

No mount, no root, no user namespace: mke2fs copies the tree, debugfs then sets owners and times inside the image. Only features that
every supported kernel mounts without further options are used, and no journal: nobody writes to these images.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kmatrix.host.errors import InfraError

_BLOCK = 4096
_INODE = 256
_RESERVED_INODES = 10
_SPARE_INODES = 4096
_FEATURES = "none,extent,filetype,large_file,sparse_super"
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))  # Debian's users have no sbin in PATH
_PROGRAMS = ("mke2fs", "debugfs")


def missing_programs() -> list[str]:
    """The programs of e2fsprogs that this host lacks."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_SEARCH) is None]


def version() -> str:
    """mke2fs's version; images are the same bytes for the same version."""
    text = subprocess.run([_program("mke2fs"), "-V"], capture_output=True, text=True, check=False).stderr
    match = re.search(r"mke2fs (\S+)", text)
    return match[1] if match else "unknown"


def make(
    tree: Path, image: Path, *, uuid: str, epoch: int, label: str = "", devices: Mapping[str, tuple[int, int]] | None = None
) -> None:
    """Write the files below `tree` to the new file `image`, with `epoch` (seconds) as the only time in it.

    `devices` are character devices to add: path in the image to (major, minor). Raises InfraError.
    """
    inodes, blocks = _count(tree)
    devices = devices or {}
    total_inodes = _RESERVED_INODES + 1 + inodes + len(devices)  # and lost+found
    total_blocks = blocks + total_inodes * _INODE // _BLOCK + 512 + blocks // 200
    with image.open("wb") as file:
        file.truncate(total_blocks * _BLOCK)
    extended = f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,nodiscard,no_copy_xattrs"
    command = [_program("mke2fs"), "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(_BLOCK), "-I", str(_INODE)]
    command += ["-N", str(total_inodes), "-m", "0", "-U", uuid, "-L", label, "-E", extended, "-d", str(tree), str(image)]
    _run(command, epoch)
    _normalise(image, epoch, inodes, devices)


def fill(tree: Path, image: Path, *, room: int, size: int) -> None:
    """Write the files below `tree` to the new file `image`, `size` bytes long (sparse), as an ext4 file system that is written to.

    `room` is how many bytes more it can take. Owners, modes and times are the files' own. Raises InfraError, OSError.
    """
    inodes, blocks = _count(tree)
    total_inodes = _RESERVED_INODES + 1 + inodes + _SPARE_INODES
    total_blocks = blocks + blocks // 100 + total_inodes * _INODE // _BLOCK + room // _BLOCK + 1024
    with image.open("wb") as file:
        file.truncate(size)
    command = [_program("mke2fs"), "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(_BLOCK), "-I", str(_INODE)]
    command += ["-N", str(total_inodes), "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0,nodiscard,no_copy_xattrs"]
    _run([*command, "-d", str(tree), str(image), str(total_blocks)], None)


def extract(image: int, path: str, into: Path) -> None:
    """Write the folder `path` of the file system that is open as the descriptor `image`, with all in it, into the folder `into`."""
    _run([_program("debugfs"), "-f", "-", f"/proc/self/fd/{image}"], None, f'rdump "{path}" "{into}"\n', fds=[image])


def names(image: Path, folder: str) -> frozenset[str]:
    """The names in a folder of the file system `image`; none where it has no such folder. Raises InfraError."""
    command = [_program("debugfs"), "-R", f'ls -p "{folder}"', str(image)]
    done = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, text=True, errors="surrogateescape", check=False)
    rows = (line.split("/") for line in done.stdout.splitlines())
    return frozenset(row[5] for row in rows if len(row) > 5) - {".", ".."}


def _count(tree: Path) -> tuple[int, int]:
    """(inodes, blocks) that the files below `tree` take."""
    seen = set()
    blocks = 0
    for folder, folders, files in os.walk(tree):
        names = folders + files
        blocks += 1 + sum(12 + len(os.fsencode(name)) for name in names) // _BLOCK
        for name in names:
            status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - thousands of them
            if status.st_ino not in seen and not stat.S_ISDIR(status.st_mode):
                blocks += -(-status.st_size // _BLOCK)
            seen.add(status.st_ino)
    return len(seen), blocks


def _normalise(image: Path, epoch: int, inodes: int, devices: Mapping[str, tuple[int, int]]) -> None:
    """Owner, group and times of every inode; mke2fs took them from the tree, where they are the builder's."""
    lines = ["sif <2> mode 040755", "ssv flags 1"]  # signed_directory_hash, which mke2fs sets by the host's char
    for path, (major, minor) in sorted(devices.items()):
        folder, _, name = path.rpartition("/")
        lines += [f"cd /{folder}", f"mknod {name} c {major} {minor}", f"sif {name} mode 020666"]
    first = _RESERVED_INODES + 1
    for inode in (2, *range(first, first + 1 + inodes + len(devices))):
        lines += [f"sif <{inode}> {field} 0" for field in ("uid", "gid")]
        lines += [f"sif <{inode}> {field} @{epoch}" for field in ("atime", "ctime", "mtime")]
    _run([_program("debugfs"), "-w", "-f", "-", str(image)], epoch, "\n".join(lines) + "\n")


def _run(command: Sequence[str], epoch: int | None, script: str | None = None, *, fds: Sequence[int] = ()) -> None:
    environment = {
        "PATH": _SEARCH,
        "LC_ALL": "C",  # mke2fs sorts names by the locale
        "TZ": "UTC",
        "MKE2FS_CONFIG": os.devnull,  # the host's own defaults are not ours
    }
    if epoch is not None:
        environment |= {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(command, input=script, env=environment, capture_output=True, text=True, check=False, pass_fds=fds)
    said = "\n".join(line for line in done.stderr.splitlines() if line.strip() and not re.match(r"(debugfs|mke2fs) \d", line))
    # debugfs ends with status 0 whatever failed, and is silent when all went well; mke2fs warns of the empty configuration.
    if done.returncode == 0 and (script is None or not said):
        return
    if os.strerror(errno.ENOSPC) in said and "Could not allocate" not in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), command[-1])
    raise InfraError(f"{Path(command[0]).name} failed (exit status {done.returncode}): {said}", where=command[-1])


def _program(name: str) -> str:
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise InfraError(f"{name} is not installed", fix="sudo apt-get install e2fsprogs")
    return found
