"""A worker takes in a parcel: a kernel, a guest image, or the project's files. Whole files are checked by digest, a cut transfer goes on where it ended.

<cache>/incoming/<kind>-<id>/       what is on its way; `.part` ends the name of a file that is not whole
<cache>/projects/<id>/tree/…        a project as it was for one run, and its list of files
kernels and guest images go to their own stores
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError
from kmatrix.kernels.entry import KernelEntry, StagedKernel
from kmatrix.kernels.store import KernelStore
from kmatrix.vm.guest_image import ImageStore

Kind = Literal["kernel", "image", "project"]
_PART = ".part"
_LIMIT = 300.0
"""Seconds to wait for another kmatrix that takes in the same parcel."""
_DAYS = 14.0
"""Days after its last use that a project's files, or a transfer that was cut, stay."""


class Taking:
    """A parcel, being taken in."""

    def __init__(self, kind: Kind, id: str, files: Sequence[Sequence[Any]], meta: Mapping[str, Any]) -> None:  # noqa: A002
        """`files` are [path, bytes, sha256, mode, time of change in ns], or [path, target] for a link."""
        self.kind, self.id, self.meta = kind, id, meta
        self.files = [file for file in files if len(file) > 2]
        self.links = [file for file in files if len(file) == 2]
        self.folder = paths.cache_dir("incoming") / f"{kind}-{id}"

    @contextmanager
    def wanted(self) -> Iterator[dict[str, Any]]:
        """What is missing: `there` where nothing is, else `pieces`, as [number of the file, bytes that are here]. Holds the parcel's lock.

        Raises InfraError where another kmatrix has been taking it in for long.
        """
        with self._locked():
            place = self.place
            if place is not None:
                yield {"there": True, "place": place, "pieces": []}
                return
            _sweep(self.folder.parent)
            self.folder.mkdir(exist_ok=True)
            known = _contents() if self.kind == "project" else {}
            yield {"there": False, "place": None, "pieces": [*self._missing(known)]}

    def add(self, data: bytes, file: int, at: int, z: bool) -> None:
        """The next piece of a file, `z` packed by zlib. Raises InfraError where the file is then whole, and not what was announced."""
        path, whole, digest, *_ = self.files[file]
        part = self._part(path)
        data = zlib.decompress(data) if z else data
        with part.open("ab") as stream:
            if any(data):
                stream.write(data)
            else:
                stream.truncate(at + len(data))  # a hole: images are full of them
        if at + len(data) >= whole:
            if paths.sha256(part) != digest:
                part.unlink()
                raise InfraError("arrived damaged: its sha256 is another", where=path, fix="run it again: what was whole is kept")
            part.rename(self.folder / path)

    def finish(self) -> str:
        """Put the whole parcel where it belongs; returns where. Raises InfraError where it is not what was announced."""
        if lacking := [file[0] for file in self.files if not (self.folder / file[0]).is_file()]:
            raise InfraError(f"{len(lacking)} files did not arrive, {lacking[0]} among them", where=f"{self.kind} {self.id[:12]}")
        {"kernel": self._put_kernel, "image": self._put_image, "project": self._put_project}[self.kind]()
        cache.remove_tree(self.folder)
        place = self.place
        if place is None:
            raise InfraError("is not there, although it was put there", where=f"{self.kind} {self.id[:12]}", fix="run it again")
        return place

    def forget(self) -> None:
        """Give up the transfer where the disk is full: half a parcel there helps nobody."""
        with suppress(OSError):
            if shutil.disk_usage(self.folder.parent).free < 1 << 20:
                cache.remove_tree(self.folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with cache.locked(self.folder.with_suffix(".lock"), self.kind, limit=_LIMIT):
                yield
        except cache.Busy:
            fix = "wait for it, or end it"
            raise InfraError(f"another kmatrix has been bringing this {self.kind} for {_LIMIT:.0f} s", fix=fix) from None

    @property
    def place(self) -> str | None:
        """Where the parcel's content is; None where it is not here."""
        if self.kind == "kernel":
            return _kernel(self.id, self.meta)
        if self.kind == "image":
            image = ImageStore().find(self.meta["arch"])
            return str(image.folder) if image is not None and image.digest == self.id else None
        folder = paths.cache_dir("projects") / self.id
        if not (folder / "files.json").is_file():
            return None
        with suppress(OSError):
            os.utime(folder)
        return str(folder / "tree")

    def _missing(self, known: Mapping[str, Path]) -> Iterator[list[int]]:
        for number, (path, size, digest, *_) in enumerate(self.files):
            here = self.folder / path
            if here.is_file():
                continue  # it was checked when it was whole
            here.parent.mkdir(parents=True, exist_ok=True)
            if size == 0:
                here.touch()
                continue
            if (same := known.get(digest)) is not None:
                with suppress(OSError):
                    shutil.copyfile(same, here)
                    if paths.sha256(here) == digest:
                        continue
                here.unlink(missing_ok=True)
            part = self._part(path)
            yield [number, part.stat().st_size if part.is_file() else 0]

    def _part(self, path: str) -> Path:
        return self.folder / f"{path}{_PART}"

    def _move(self, into: Path) -> None:
        for path, _, _, mode, changed in self.files:
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).rename(target)
            target.chmod(mode)
            os.utime(target, ns=(changed, changed))

    def _put_kernel(self) -> None:
        meta = self.meta

        def stage(tree: Path) -> StagedKernel:
            self._move(tree)
            return StagedKernel(meta["release"], meta["source"], meta["btf"], meta["btf_found"], tuple(meta["notes"]))

        def accept(entry: KernelEntry) -> None:
            if entry.digest != self.id:
                raise InfraError(f"its digest is {entry.digest[:12]} there, and {self.id[:12]} here", where=meta["name"])

        store, name = KernelStore(), meta["name"]
        if (name, meta["arch"]) in store.refs():  # what this machine means by the name stays
            name = f"{name}.{self.id[:12]}"
        store.add(name, meta["arch"], stage, replace=True, accept=accept)

    def _put_image(self) -> None:
        store = ImageStore()
        with cache.staging(store.root, self.meta["arch"]) as staging:
            staging.chmod(0o755)
            self._move(staging)
            store.put(self.meta["arch"], self.meta["key"], staging)

    def _put_project(self) -> None:
        root = paths.cache_dir("projects")
        with cache.staging(root) as staging:
            self._move(staging / "tree")
            for path, target in self.links:
                (staging / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
                (staging / "tree" / path).symlink_to(target)
            (staging / "files.json").write_text(json.dumps([[file[0], file[2]] for file in self.files]))
            cache.publish(root, staging, root / self.id)
        for folder in root.iterdir():
            if len(folder.name) == 64 and folder.name != self.id and cache.idle_days(folder) > _DAYS:
                cache.remove_unused(folder)


def _kernel(digest: str, meta: Mapping[str, Any]) -> str | None:
    """The folder of a kernel of that digest in the store, whatever its name; None where there is none, or a damaged one."""
    store = KernelStore()
    for name, arch in store.refs():
        if arch == meta["arch"] and store.folder(name, arch) == store.root / digest:
            with suppress(InfraError):
                found = store.find(name, arch)
                return str(found.path) if found is not None else None
    return None


def _contents() -> dict[str, Path]:
    """The files of earlier projects, by sha256: what did not change is not sent again."""
    found = {}
    for listed in paths.cache_dir("projects").glob("*/files.json"):
        with suppress(OSError, ValueError):
            for path, digest in json.loads(listed.read_text()):
                found[digest] = listed.parent / "tree" / path
    return found


def _sweep(incoming: Path) -> None:
    """Remove what was cut long ago."""
    for folder in incoming.glob("*-*/"):
        if cache.idle_days(folder) > _DAYS:
            cache.remove_tree(folder)


def digest_of(files: Sequence[Sequence[Any]]) -> str:
    """The id of a project: a digest over its files' paths, contents and modes, and its links."""
    lines = sorted("\t".join(map(str, (file[0], file[2], file[3]) if len(file) > 2 else file)) for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
