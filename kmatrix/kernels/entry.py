"""One kernel of the store: what a source staged, its manifest, and whether its files are still what that says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.host import paths
from kmatrix.host.errors import InfraError
from kmatrix.matrix.arch import Arch

SCHEMA = 1
MTIME = 1_000_000_000
"""The modification time (seconds since 1970) of every file in an entry: one that differs shows a file touched since."""

# depmod's indices and the image of the modules; what a package brings of modules.* is not among them (modules.INDEX_FILES).
_MADE_HERE = re.compile(r"modules\.ext4|lib/modules/[^/]+/modules\.(?!(?:builtin|builtin\.modinfo|order)$).+")


@dataclass(frozen=True)
class StagedKernel:
    """What a source says of the kernel it has laid out in a staging folder (boot/, lib/modules/, modules.ext4).

    `btf` None means that nobody could tell; `btf_found` says how it was found. `source` goes into ref and manifest as it is.
    """

    release: str
    source: Mapping[str, Any]
    btf: bool | None
    btf_found: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelEntry:
    """A kernel in the store. All paths exist; `digest` (sha256 over the names and contents of its files) is its identity."""

    digest: str
    path: Path
    arch: Arch
    release: str
    """What `uname -r` says in the guest."""
    source: Mapping[str, Any]
    btf: bool
    """Whether /sys/kernel/btf/vmlinux will be there; False too where that could not be told (`manifest["btf"]` is null then)."""
    image: Path
    modules: Path | None
    """lib/modules/<release>, with modules.dep; None for a kernel that has all it needs built in."""
    modules_image: Path | None
    """lib/modules as an ext4 image, to be mounted on /lib/modules."""
    config: Path | None
    manifest: Mapping[str, Any] = field(repr=False, compare=False)
    btf_file: Path | None = None
    """BTF that came apart from the image, for a loader that takes it by path (libbpf's btf_custom_path): the kernel itself shows none."""

    @property
    def content(self) -> str:
        """sha256 over what came from the source: all but what kmod and e2fsprogs of the host that stored it made of the modules."""
        return _digest([file for file in self.manifest["files"] if not _MADE_HERE.fullmatch(str(file["path"]))])

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(file["size"]) for file in self.manifest["files"])


def entry_of(path: Path, digest: str, arch: Arch, manifest: Mapping[str, Any], source: Mapping[str, Any]) -> KernelEntry:
    """The entry in the folder `path`, as its manifest describes it."""
    files = {str(file["path"]) for file in manifest["files"]}
    release = str(manifest["release"])
    config, btf_file = f"boot/config-{release}", f"boot/btf-{release}"
    return KernelEntry(
        digest=digest,
        path=path,
        arch=arch,
        release=release,
        source=source,
        btf=bool(manifest["btf"]),
        image=path / "boot" / f"vmlinuz-{release}",
        modules=path / "lib/modules" / release if f"lib/modules/{release}/modules.dep" in files else None,
        modules_image=path / "modules.ext4" if "modules.ext4" in files else None,
        config=path / config if config in files else None,
        btf_file=path / btf_file if btf_file in files else None,
        manifest=manifest,
    )


class Damaged(Exception):
    """An entry is not what its manifest says."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the entry in the folder `path`. Raises Damaged when it is missing, or not the one that the folder is named for."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["schema"] != SCHEMA:
            raise Damaged(f"{path}/manifest.json has schema {manifest['schema']}, and this kmatrix knows {SCHEMA}")
        if _digest(manifest["files"]) != path.name:
            raise Damaged(f"{path}/manifest.json has changed: its digest no longer matches")
        for key in ("release", "arch", "btf", "source"):
            manifest[key]
    except FileNotFoundError:
        raise Damaged(f"{path}/manifest.json is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}/manifest.json cannot be read ({error})") from None
    return dict(manifest)


def check_file(path: str, listed: Mapping[str, Any]) -> None:
    """Raises Damaged unless the file is what the manifest lists: by its size, and by its content if it was touched since."""
    try:
        status = os.lstat(path)
    except OSError:
        raise Damaged(f"{path} is missing") from None
    if status.st_size != listed["size"]:
        raise Damaged(f"{path} has {status.st_size} bytes instead of {listed['size']}")
    if int(status.st_mtime) != MTIME:
        # Touched, or copied without its times: its content decides.
        if paths.sha256(Path(path)) != listed["sha256"]:
            raise Damaged(f"{path} has changed: its digest no longer matches")
        with contextlib.suppress(OSError):  # a cache this user may not write: it is read again next time
            os.utime(path, (MTIME, MTIME))


def seal(tree: Path, staged: StagedKernel, arch: Arch) -> str:
    """Write the manifest of a staged tree, fix times and modes, flush it; returns the digest."""
    image = f"boot/vmlinuz-{staged.release}"
    if not (tree / image).is_file():
        raise InfraError(f"the source staged no {image}: a bug in kmatrix")
    files = []
    for file in walk(tree):
        files.append({"path": file.relative_to(tree).as_posix(), "size": file.stat().st_size, "sha256": paths.sha256(file)})
    files.sort(key=lambda file: str(file["path"]))
    digest = _digest(files)
    manifest = {
        "schema": SCHEMA,
        "digest": digest,
        "release": staged.release,
        "arch": arch,
        "btf": staged.btf,
        "btf_found": staged.btf_found,
        "config": (tree / f"boot/config-{staged.release}").is_file(),
        "modules": (tree / f"lib/modules/{staged.release}/modules.dep").is_file(),
        "notes": list(staged.notes),
        "source": dict(staged.source),
        "files": files,
    }
    (tree / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for file in walk(tree):
        file.chmod(0o444)
        os.utime(file, (MTIME, MTIME))
    # The module files are many and are not flushed one by one: after a power cut `find` sees their sizes.
    for important in (image, "modules.ext4", "manifest.json"):
        if (tree / important).exists():
            paths.sync(tree / important)
    return digest


def _digest(files: list[Mapping[str, Any]] | list[dict[str, object]]) -> str:
    lines = sorted(f"{file['sha256']} {file['size']} {file['path']}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def walk(tree: Path) -> Iterator[Path]:
    """Every file in a folder."""
    for folder, _folders, names in os.walk(tree):
        for name in names:
            yield Path(folder) / name
