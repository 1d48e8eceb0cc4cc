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
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.host import lease, paths
from kmatrix.host.errors import InfraError, InputError, StoreError
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.matrix.arch import ARCHES, Arch

SCHEMA = 1
MTIME = 1_000_000_000
"""The modification time (seconds since 1970) of every file in an entry: one that differs shows a file touched since."""

# depmod's indices and the image of the modules; what a package brings of modules.* is not among them (modules.INDEX_FILES).
_MADE_HERE = re.compile(r"modules\.ext4|lib/modules/[^/]+/modules\.(?!(?:builtin|builtin\.modinfo|order)$).+")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


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


class KernelStore:
    """The kernels of one cache folder. Any number of processes and threads may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else paths.cache_dir("kernels")

    def find(self, name: str, arch: Arch) -> KernelEntry | None:
        """The entry that `name` × `arch` means, or None.

        Cheap (no file is read but the manifest), yet a damaged entry is not handed out: InfraError when the manifest is missing or
        changed, or a file is missing, of another size, or touched since and no longer what it was.
        """
        while (ref := self._ref(name, arch)) is not None:
            try:
                return self._load(arch, ref)
            except _Damaged as error:
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
        return sorted(found, key=_natural)

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
            with self._staging(f"{name}-{arch}", reporter) as folder:
                tree = folder / "tree"
                tree.mkdir()
                staged = stage(tree)
                digest = _seal(tree, staged, arch)
                if accept is not None:
                    accept(_entry(tree, digest, arch, json.loads((tree / "manifest.json").read_text()), staged.source))
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
            self._clean()
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
            manifest = _read_manifest(path)
        except _Damaged as error:
            return [str(error)]
        listed = {str(file["path"]): file for file in manifest["files"]}
        problems = [f"{relative}: is missing" for relative in listed if not (path / relative).is_file()]
        for file in _walk(path):
            relative = file.relative_to(path).as_posix()
            if relative == "manifest.json":
                continue
            if relative not in listed:
                problems.append(f"{relative}: is not in the manifest")
            elif _sha256(file) != listed[relative]["sha256"]:
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

    def _load(self, arch: Arch, ref: Mapping[str, Any]) -> KernelEntry:
        digest = str(ref["digest"])
        path = self.root / digest
        manifest = _read_manifest(path)
        for file in manifest["files"]:
            _check_file(path / file["path"], file)
        return _entry(path, digest, arch, manifest, ref["source"])

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
                for file in _read_manifest(target)["files"]:
                    _check_file(target / file["path"], file)
                return
            except _Damaged:
                _remove_tree(target)
        tree.rename(target)
        _sync(self.root)

    def _write_ref(self, name: str, arch: Arch, digest: str, staged: StagedKernel) -> None:
        path = self._ref_path(name, arch)
        path.parent.mkdir(parents=True, exist_ok=True)
        ref = {"schema": SCHEMA, "name": name, "arch": arch, "digest": digest, "source": dict(staged.source)}
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as stream:
            try:
                stream.write(json.dumps(ref, indent=1, sort_keys=True) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
                Path(stream.name).chmod(0o644)  # as the entries: another user of this store reads it too
                Path(stream.name).replace(path)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise
        _sync(path.parent)

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
            _remove_tree(self.root / digest)

    @contextmanager
    def _lock(self, name: str, reporter: Reporter | None = None) -> Iterator[None]:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with lease.exclusive(folder / f"{name}.lock", name, reporter or Quiet()):
            yield

    @contextmanager
    def _staging(self, label: str, reporter: Reporter | None) -> Iterator[Path]:
        """A folder in the store's file system, gone when the block ends.

        It is held by flock: one that nobody holds was left by a process that died, however it died (and in whatever PID namespace).
        """
        base = self.root / "tmp"
        with self._lock("store", reporter):
            self._clean()
            base.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{label}.", dir=base))
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _remove_tree(folder)
            os.close(handle)

    def _clean(self) -> None:
        """Delete what dead processes left in tmp/ (called with the store's lock held)."""
        base = self.root / "tmp"
        for folder in base.iterdir() if base.is_dir() else ():
            try:
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_tree(folder)
            except BlockingIOError:
                pass
            finally:
                os.close(handle)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Says a full disk or a cache that cannot be written as what it is."""
        try:
            yield
        except OSError as error:
            if (said := paths.cache_error(error, self.root)) is not None:
                raise said from error
            raise


def _entry(path: Path, digest: str, arch: Arch, manifest: Mapping[str, Any], source: Mapping[str, Any]) -> KernelEntry:
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


class _Damaged(Exception):
    """An entry is not what its manifest says."""


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a kernel", fix="use letters, digits, '.', '_' and '-'")


def _natural(item: tuple[str, Arch]) -> tuple[list[tuple[int, int, str]], int]:
    """5.4 before 5.15."""
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", item[0]) if part]
    return parts, ARCHES.index(item[1])


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["schema"] != SCHEMA:
            raise _Damaged(f"{path}/manifest.json has schema {manifest['schema']}, and this kmatrix knows {SCHEMA}")
        if _digest(manifest["files"]) != path.name:
            raise _Damaged(f"{path}/manifest.json has changed: its digest no longer matches")
        for key in ("release", "arch", "btf", "source"):
            manifest[key]
    except FileNotFoundError:
        raise _Damaged(f"{path}/manifest.json is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{path}/manifest.json cannot be read ({error})") from None
    return dict(manifest)


def _check_file(path: Path, listed: Mapping[str, Any]) -> None:
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        raise _Damaged(f"{path} is missing") from None
    if status.st_size != listed["size"]:
        raise _Damaged(f"{path} has {status.st_size} bytes instead of {listed['size']}")
    if int(status.st_mtime) != MTIME:
        # Touched, or copied without its times: its content decides.
        if _sha256(path) != listed["sha256"]:
            raise _Damaged(f"{path} has changed: its digest no longer matches")
        with contextlib.suppress(OSError):  # a cache this user may not write: it is read again next time
            os.utime(path, (MTIME, MTIME))


def _seal(tree: Path, staged: StagedKernel, arch: Arch) -> str:
    """Write the manifest of a staged tree, fix times and modes, flush it; returns the digest."""
    image = f"boot/vmlinuz-{staged.release}"
    if not (tree / image).is_file():
        raise InfraError(f"the source staged no {image}: a bug in kmatrix")
    files = []
    for file in _walk(tree):
        files.append({"path": file.relative_to(tree).as_posix(), "size": file.stat().st_size, "sha256": _sha256(file)})
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
    for file in _walk(tree):
        file.chmod(0o444)
        os.utime(file, (MTIME, MTIME))
    # The module files are many and are not flushed one by one: after a power cut `find` sees their sizes.
    for important in (image, "modules.ext4", "manifest.json"):
        if (tree / important).exists():
            _sync(tree / important)
    return digest


def _digest(files: list[Mapping[str, Any]] | list[dict[str, object]]) -> str:
    lines = sorted(f"{file['sha256']} {file['size']} {file['path']}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _walk(tree: Path) -> Iterator[Path]:
    for folder, _folders, names in os.walk(tree):
        for name in names:
            yield Path(folder) / name


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
