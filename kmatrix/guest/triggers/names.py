"""Triggers on the names and owners of files: what makes, moves and removes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from .. import bpf
from ..child import Known
from ..namespaces import own_pid
from .deed import Deed, checked, kind
from .kind import GID, UID, WORK, Kind, Spec

PLACE = {"place": ("folder", "mount"), "name": ("short", "long")}
"""Options of all that have a path: in a folder, or below the mount of another file system; and a name of some bytes, or of the 255 that a name
may have at most (NAME_MAX)."""
_NAME_MAX = 255

_O_CREAT = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
MODE, CHANGED_MODE = 0o640, 0o400


def make_folder(spec: Spec) -> None:
    """Make the folder of the triggers' user, and below another one a mount of its own. Raises OSError."""
    path = folder(spec)
    os.makedirs(path, mode=0o755, exist_ok=True)
    if spec.get("place") == "mount" and not os.path.ismount(path):
        checked(bpf.libc.mount(b"kmatrix", path.encode(), b"tmpfs", 0, b"mode=755"), f"mount {path}")
    os.chown(path, UID, GID)


def folder(spec: Spec) -> str:
    """Where the file is."""
    return f"{WORK}/{'mount/of/tmpfs' if spec.get('place') == 'mount' else 'folder'}"


def path_of(spec: Spec, what: str) -> str:
    """A path for a file: a new one for each process, so that no event of another one has it."""
    name = f"{what}-{own_pid()}"
    return f"{folder(spec)}/{name.ljust(_NAME_MAX, '-') if spec.get('name') == 'long' else name}"


def a_file(path: str, content: bytes = b"kmatrix\n") -> None:
    """Make a file of the triggers' user."""
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, MODE)
    os.chown(path, UID, GID)


def facts(path: str) -> Known:
    """What the kernel calls a file by: its inode's number, and its file system's device as the kernel has it (MAJOR << 20 | MINOR)."""
    found = os.lstat(path)
    return {"path": path, "name": os.path.basename(path), "ino": found.st_ino, "dev": device(found.st_dev)}


def device(number: int) -> int:
    """A device's number as the kernel has it (MKDEV in include/linux/kdev_t.h); stat(2)'s form differs."""
    return os.major(number) << 20 | os.minor(number)


FACTS = {
    "path": "the file",
    "name": "the last part of the path",
    "ino": "its inode's number",
    "dev": "its device, as the kernel has it",
}
"""What `facts` says."""


def _create(spec: Spec) -> Deed:
    """Create a file by openat(2)."""
    path = path_of(spec, "created")

    def do() -> Known:
        fd = os.open(path, _O_CREAT, MODE)
        os.close(fd)
        return {"ret": fd} | facts(path)

    # Where it is comes before: a collector that looks at the path when the file is made finds it in `known` even if that fails.
    return Deed({"path": path, "name": os.path.basename(path), "flags": _O_CREAT, "mode": MODE}, do, lambda: os.unlink(path))


def _between(move: Callable[[str, str], None]) -> Callable[[Spec], Deed]:
    """A deed of rename(2) or link(2)."""

    def prepare(spec: Spec) -> Deed:
        old, new = path_of(spec, "old"), path_of(spec, "new")
        a_file(old)

        def again() -> None:
            if move is os.rename:
                os.rename(new, old)
            else:
                os.unlink(new)

        return Deed({**facts(old), "new_path": new, "new_name": os.path.basename(new)}, lambda: move(old, new), again)

    return prepare


def _unlink(spec: Spec) -> Deed:
    path = path_of(spec, "removed")
    a_file(path)
    return Deed(facts(path), lambda: os.unlink(path), lambda: a_file_of_own(path))


def a_file_of_own(path: str) -> None:
    """Make a file, as the triggers' user."""
    with open(path, "wb"):
        pass


def _symlink(spec: Spec) -> Deed:
    path, target = path_of(spec, "link"), f"{WORK}/where-it-points"

    def do() -> Known:
        os.symlink(target, path)
        return facts(path)

    return Deed({"path": path, "name": os.path.basename(path), "target": target}, do, lambda: os.unlink(path))


def _chmod(spec: Spec) -> Deed:
    path = path_of(spec, "mode")
    a_file(path)
    return Deed({**facts(path), "mode": CHANGED_MODE, "old_mode": MODE}, lambda: os.chmod(path, CHANGED_MODE))


def _chown(spec: Spec) -> Deed:
    path = path_of(spec, "owner")
    a_file(path)
    os.chown(path, 0, 0)
    return Deed({**facts(path), "owner": UID, "group": GID}, lambda: os.chown(path, UID, GID))


def _row(name: str, prepare: Callable[[Spec], Deed], known: Mapping[str, str], *, root: bool = False) -> Kind:
    return kind(name, prepare, {**FACTS, **known}, options=PLACE, root=root, before=make_folder)


_NEW = {"new_path": "the new name, as a path", "new_name": "its last part"}

KINDS: Mapping[str, Kind] = {
    "create": _row("create", _create, {"flags": "of openat(2)", "mode": "its permissions: 0640", "ret": "the file descriptor"}),
    "rename": _row("rename", _between(os.rename), _NEW),
    "link": _row("link", _between(os.link), _NEW),
    "symlink": _row("symlink", _symlink, {"target": "what the link points to"}),
    "unlink": _row("unlink", _unlink, {}),
    "chmod": _row("chmod", _chmod, {"mode": "the new permissions: 0400", "old_mode": "those before: 0640"}),
    "chown": _row("chown", _chown, {"owner": "the new owner: 4201", "group": "the new group: 4202"}, root=True),
}
