"""The kernel store: a content-addressed cache of bootable kernels, safe under parallel use.

    <cache>/kernels/
      <digest>/           one kernel, never changed after it appeared
        manifest.json     what it is, and every file's size and sha256 (schema 1)
        boot/vmlinuz-<release>, boot/config-<release>, boot/btf-<release>
        lib/modules/<release>/…
        modules.ext4      lib/modules as a file system image, for the guest to mount
      refs/<name>-<arch>.json   which digest a target means, and where it came from
      locks/, tmp/

Names are resolved by refs, so the same kernel under two names is stored once. An entry is made in tmp/ and renamed into place: it is
there whole or not at all. What a killed process left in tmp/ is removed by the next one that adds or removes something.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError, InputError, StoreError
from kmatrix.host.progress import Reporter
from kmatrix.host.version import natural
from kmatrix.kernels.entry import SCHEMA, Damaged, KernelEntry, StagedKernel, check_file, entry_of, read_manifest, seal, walk
from kmatrix.matrix.arch import ARCHES, Arch

__all__ = ["KernelEntry", "KernelStore", "StagedKernel"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


class KernelStore:
    """The kernels of one cache folder. Any number of processes and threads may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else paths.cache_dir("kernels")

    def find(self, name: str, arch: Arch, *, whole: bool = True) -> KernelEntry | None:
        """The entry that `name` × `arch` means, or None.

        Cheap (no file is read but the manifest), yet a damaged entry is not handed out: InfraError when the manifest is missing or
        changed, or a file is missing, of another size, or touched since and no longer what it was. Without `whole` its modules, which are
        hundreds of files, are not looked at: for who asks what there is, and hands nothing out.
        """
        while (ref := self._ref(name, arch)) is not None:
            try:
                return self._load(arch, ref, whole=whole)
            except Damaged as error:
                # An entry replaced or removed while it was being looked at is no damage.
                if self._ref(name, arch) == ref:
                    raise self._damaged(name, arch, str(error)) from None
        return None

    def refs(self) -> list[tuple[str, Arch]]:
        """Every name × arch in the store, whether or not its entry is sound."""
        found = []
        for path in (self.root / "refs").glob("*.json"):
            for arch in ARCHES:
                if path.stem.endswith(f"-{arch}"):
                    found.append((path.stem.removesuffix(f"-{arch}"), arch))
        return sorted(found, key=lambda each: (natural(each[0]), ARCHES.index(each[1])))

    def entries(self) -> list[tuple[str, Arch, KernelEntry]]:
        """Every name × arch in the store with its entry. Raises InfraError on a damaged one (see `find`)."""
        return [(name, arch, entry) for name, arch in self.refs() if (entry := self.find(name, arch)) is not None]

    def folder(self, name: str, arch: Arch) -> Path | None:
        """Where the files of `name` × `arch` are, sound or not; None where there is no such name."""
        digest = self._ref_digest(name, arch)
        return self.root / digest if digest is not None else None

    def find_content(self, content: str, arch: Arch) -> KernelEntry | None:
        """A sound entry with that `KernelEntry.content`, under whatever name."""
        for name, each in self.refs():
            with contextlib.suppress(InfraError):  # a damaged one
                if each == arch and (entry := self.find(name, arch)) is not None and entry.content == content:
                    return entry
        return None

    def add(
        self,
        name: str,
        arch: Arch,
        stage: Callable[[Path], StagedKernel],
        *,
        replace: bool = False,
        accept: Callable[[KernelEntry], None] | None = None,
        reporter: Reporter | None = None,
    ) -> KernelEntry:
        """The entry of `name` × `arch`, made by `stage` (given an empty folder) unless it is there already.

        Whatever the number of processes that ask at once, `stage` runs in one of them and the others wait. With `replace` it runs even
        if there is an entry, and the name means the new one afterwards. `accept` is shown what was staged, and may raise. Raises what they
        raise, and InfraError when the disk is full or the cache cannot be written; nothing is left behind then.
        """
        _check_name(name)
        with self._guard(), self._lock(f"{name}-{arch}", reporter):
            if not replace and (entry := self.find(name, arch)) is not None:
                return entry
            with cache.staging(self.root, f"{name}-{arch}") as folder:
                tree = folder / "tree"
                tree.mkdir()
                staged = stage(tree)
                digest = seal(tree, staged, arch)
                if accept is not None:
                    accept(entry_of(tree, digest, arch, json.loads((tree / "manifest.json").read_text()), staged.source))
                with self._lock("store", reporter):
                    previous = self._ref_digest(name, arch)
                    self._publish(tree, digest)
                    self._write_ref(name, arch, digest, staged)
                    self._drop(previous)
            entry = self.find(name, arch)
            assert entry is not None
            return entry

    def remove(self, name: str, arch: Arch) -> bool:
        """Forget `name` × `arch`, and delete its files unless another name means them too. False when there was none."""
        with self._guard(), self._lock(f"{name}-{arch}"), self._lock("store"):
            cache.sweep(self.root)
            digest = self._ref_digest(name, arch)
            try:
                self._ref_path(name, arch).unlink()
            except FileNotFoundError:
                return False
            self._drop(digest)
            return True

    def orphans(self) -> list[Path]:
        """The folders of entries that no name means: left where a process was killed between storing one and naming it."""
        with self._guard(), self._lock("store"):
            named = {self._ref_digest(name, arch) for name, arch in self.refs()}
            return sorted(path for path in self.root.iterdir() if _DIGEST.fullmatch(path.name) and path.name not in named)

    def remove_orphan(self, folder: Path) -> bool:
        """Delete one of them. False where a name means it by now."""
        with self._guard(), self._lock("store"):
            self._drop(folder.name)
            return not folder.exists()

    def verify(self, name: str, arch: Arch) -> list[str]:
        """Every file of the entry read and its sha256 compared; the problems found, none for a sound entry."""
        ref = self._ref(name, arch)
        if ref is None:
            return ["is not in the store"]
        path = self.root / str(ref["digest"])
        try:
            manifest = read_manifest(path)
        except Damaged as error:
            return [str(error)]
        listed = {str(file["path"]): file for file in manifest["files"]}
        problems = [f"{relative}: is missing" for relative in listed if not (path / relative).is_file()]
        for file in walk(path):
            relative = file.relative_to(path).as_posix()
            if relative == "manifest.json":
                continue
            if relative not in listed:
                problems.append(f"{relative}: is not in the manifest")
            elif paths.sha256(file) != listed[relative]["sha256"]:
                problems.append(f"{relative}: its content has changed")
        return problems

    # --- inside

    def _ref_path(self, name: str, arch: Arch) -> Path:
        return self.root / "refs" / f"{name}-{arch}.json"

    def _ref(self, name: str, arch: Arch) -> dict[str, Any] | None:
        path = self._ref_path(name, arch)
        try:
            ref = json.loads(path.read_text())
            if _DIGEST.fullmatch(ref["digest"]) and isinstance(ref["source"], dict):
                return dict(ref)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            fix = "set KMATRIX_CACHE to a folder of your own, or have the owner of this one let you read it"
            raise StoreError(f"the kernel store cannot be read: {error.strerror} ({path})", where=str(self.root), fix=fix) from None
        except (ValueError, KeyError, TypeError):
            pass
        raise self._damaged(name, arch, f"{path} is damaged")

    def _load(self, arch: Arch, ref: Mapping[str, Any], *, whole: bool = True) -> KernelEntry:
        digest = str(ref["digest"])
        path = self.root / digest
        manifest = read_manifest(path)
        for file in manifest["files"]:
            if whole or not str(file["path"]).startswith("lib/modules/"):
                check_file(f"{path}/{file['path']}", file)
        return entry_of(path, digest, arch, manifest, ref["source"])

    def _damaged(self, name: str, arch: Arch, what: str) -> StoreError:
        return StoreError(
            f"its entry in the kernel store is damaged: {what}",
            where=f"{name}-{arch}",
            fix=f"kmatrix kernels remove {name} --arch {arch}, then get it again",
        )

    def _publish(self, tree: Path, digest: str) -> None:
        target = self.root / digest
        if target.exists():
            # The same content is there (under another name, or added again). A damaged one is replaced: its files are known by digest.
            try:
                for file in read_manifest(target)["files"]:
                    check_file(f"{target}/{file['path']}", file)
                return
            except Damaged:
                pass
        cache.publish(self.root, tree, target)

    def _write_ref(self, name: str, arch: Arch, digest: str, staged: StagedKernel) -> None:
        path = self._ref_path(name, arch)
        ref = {"schema": SCHEMA, "name": name, "arch": arch, "digest": digest, "source": dict(staged.source)}
        paths.write_whole(path, json.dumps(ref, indent=1, sort_keys=True) + "\n", durable=True)

    def _ref_digest(self, name: str, arch: Arch) -> str | None:
        """The digest that the ref names; None where there is no ref or a damaged one (which replacing and removing are to cure)."""
        try:
            ref = self._ref(name, arch)
        except InfraError:
            return None
        return None if ref is None else str(ref["digest"])

    def _drop(self, digest: str | None) -> None:
        """Delete the entry `digest` unless a ref still names it."""
        if digest is not None and all(self._ref_digest(name, arch) != digest for name, arch in self.refs()):
            cache.remove_tree(self.root / digest)

    @contextmanager
    def _lock(self, name: str, reporter: Reporter | None = None) -> Iterator[None]:
        with cache.locked(self.root / "locks" / f"{name}.lock", name, reporter):
            yield

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Says a full disk or a cache that cannot be written as what it is."""
        try:
            yield
        except OSError as error:
            if (said := paths.cache_error(error, self.root)) is not None:
                raise said from error
            raise


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a kernel", fix="use letters, digits, '.', '_' and '-'")
