"""What a run takes, made ready to be brought to a worker: kernels, guest images, and the project's files. Each has a digest for a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.host import paths
from kmatrix.kernels.entry import KernelEntry
from kmatrix.runs.workers.take import Kind
from kmatrix.vm.guest_image import GuestImage


@dataclass(frozen=True)
class Parcel:
    """Files under a digest. `files` is as kmatrix.runs.workers.take has it."""

    kind: Kind
    id: str
    root: Path
    """The folder here that the files' paths are relative to."""
    files: Sequence[Sequence[Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        name = {"kernel": self.meta.get("release"), "image": f"{self.meta.get('arch')}", "project": f"{len(self.files)} files"}
        return f"{'guest image' if self.kind == 'image' else self.kind} {name[self.kind]}"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(file[1]) for file in self.files if len(file) > 2)


def of_kernel(name: str, entry: KernelEntry) -> Parcel:
    """A kernel of the store, for the store of a worker; `name` is what kernels.toml calls it."""
    manifest = entry.manifest
    files = [[file["path"], file["size"], file["sha256"], 0o444, 0] for file in manifest["files"]]
    meta = {
        "name": name,
        "arch": entry.arch,
        "release": entry.release,
        "source": dict(entry.source),
        "btf": manifest["btf"],
        "btf_found": manifest.get("btf_found", ""),
        "notes": list(manifest.get("notes", ())),
    }
    return Parcel("kernel", entry.digest, entry.path, files, meta)


def of_image(image: GuestImage) -> Parcel:
    """A guest image."""
    known = {"root.ext4": image.digest, "busybox": str(image.manifest["busybox"])}
    files = []
    for path in sorted(image.folder.iterdir()):
        if path.is_file():
            status = path.stat()
            digest = known.get(path.name) or paths.sha256(path)
            files.append([path.name, status.st_size, digest, status.st_mode & 0o777, status.st_mtime_ns])
    return Parcel("image", image.digest, image.folder, files, {"arch": image.arch, "key": image.key})
