"""The guest image: a root file system per arch, built from Debian packages after the recipe in images/.

mmdebstrap resolves, verifies and extracts the packages, mke2fs makes the file system. Neither needs root, a user namespace, a
mount or anything of the other arch to run: extracted packages are never configured, and the owner of every file is set to root
inside the image afterwards. The same packages give the same bytes, whoever builds and wherever (tests/images proves it).
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import Field

from kmatrix.fetch import apt
from kmatrix.host import cache, ext4, paths
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Reporter, Stoppable
from kmatrix.host.toml import read_toml
from kmatrix.host.validation import Strict, validate
from kmatrix.matrix.arch import INFO, Arch, host_arch

SCHEMA = 1
_FORMAT = 1  # of what this module makes out of a recipe: raised when that changes, so that every image is made anew
_RECIPE = paths.data("images")
_INIT = Path(__file__).parents[1] / "guest" / "init.py"
_INIT_IN_GUEST = "usr/sbin/kmatrix-init"
_BUSYBOX_IN_GUEST = "usr/bin/busybox"
_MERGED = ("bin", "sbin", "lib", "lib64")  # in the guest these are links into usr/, whatever a package says
_ROOM_MIB = 400  # taken while an image is built: packages, tree, image
_DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3)}  # the kernel opens the console before PID 1 can mount /dev
# sha256sum's list of the packages, written into the tree by a hook while they are still there.
_PACKAGES = "kmatrix-packages"
# Ends the whole process group when this process does, however it ends: standard input is a pipe that only we hold open.
_WITH_US = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) & exec "$@" 3<&-'
_HOOK = f'cd "$1"/var/cache/apt/archives && sha256sum *.deb > "$1"/{_PACKAGES}'

Names = Annotated[tuple[str, ...], Field(strict=False)]


class _RecipeFile(Strict):
    """images/image.toml. Paths in it have no leading slash; globs are fnmatch's, in which `*` crosses slashes."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    suite: str
    components: Names
    source_date_epoch: int
    uuid: str
    packages: Names
    remove: Names
    keep: Names
    directories: Names
    applets: Names
    symlinks: Mapping[str, str]
    modes: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """What goes into the image: image.toml, and files of our own over the packages' (rootfs/ and kmatrix-init)."""

    file: Path
    data: _RecipeFile
    files: Mapping[str, bytes]
    """Our files, by path in the image."""
    digest: str
    """sha256 of all of it."""

    @classmethod
    def load(cls, folder: Path | None = None) -> Recipe:
        """The recipe in `folder` (images/ if None). Raises InputError where it is wrong."""
        folder = folder or _RECIPE
        file, rootfs = folder / "image.toml", folder / "rootfs"
        data = validate(_RecipeFile, read_toml(file), where=str(file))
        files = {path.relative_to(rootfs).as_posix(): path.read_bytes() for path in rootfs.rglob("*") if path.is_file()}
        files[_INIT_IN_GUEST] = _INIT.read_bytes()
        # What is hashed is what is used: the files may be edited while an image is built.
        digest = hashlib.sha256(f"format {_FORMAT}\n{data.model_dump_json()}\n".encode())
        for path, content in sorted(files.items()):
            digest.update(f"{path} {len(content)}\n".encode() + content)
        return cls(file, data, files, digest.hexdigest())

    def wants(self, path: str) -> bool:
        """Whether the package's file `path` goes into the image."""

        def matches(globs: Names) -> bool:
            return any(fnmatch.fnmatchcase(path, glob) for glob in globs)

        return matches(self.data.keep) or not matches(self.data.remove)


@dataclass(frozen=True)
class GuestImage:
    """A built image in the cache. Immutable; all VMs of the arch share it, read-only."""

    arch: Arch
    key: str
    """sha256 of what it was asked to be: recipe, kmatrix-init, arch. Known without building, so a run finds it offline."""
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The root file system: raw ext4."""
        return self.folder / "root.ext4"

    @property
    def busybox(self) -> Path:
        """The arch's static busybox, on the host's file system: virtme's initramfs is made of it."""
        return self.folder / "busybox"

    @property
    def digest(self) -> str:
        """sha256 of `path`, as built."""
        return str(self.manifest["digest"])

    def verify(self) -> None:
        """Read it all again; raises InfraError if a byte has changed since it was built."""
        for path, digest in ((self.path, self.digest), (self.busybox, self.manifest["busybox"])):
            if paths.sha256(path) != digest:
                raise InfraError(
                    "is not what was built (its digest differs)",
                    where=str(path),
                    fix=f"kmatrix images build --force --arch {self.arch}",
                )


class ImageStore:
    """The images in the cache, one folder each: `<arch>-<key>`. Safe under parallel use."""

    def __init__(self, root: Path | None = None, recipe: Recipe | None = None) -> None:
        self.root = root or paths.cache_dir("images")
        self.recipe = recipe or Recipe.load()

    def key(self, arch: Arch) -> str:
        """The key of the image that the recipe in force asks for."""
        return hashlib.sha256(f"{self.recipe.digest} {arch}".encode()).hexdigest()

    def find(self, arch: Arch) -> GuestImage | None:
        """The image that the recipe in force asks for, if it was built. Never touches the network."""
        return _open(self._folder(arch))

    def obtain(
        self, arch: Arch, *, reporter: Reporter, mirrors: Mapping[str, str] | None = None, force: bool = False
    ) -> GuestImage:
        """The image, built if it is not there (or, with `force`, in any case).

        `mirrors` is kernels.toml's; without a "debian" in it, the mirror is the one that the host's apt is configured with.
        Raises InfraError.
        """
        found = None if force else self.find(arch)
        if found is not None:
            return found
        with self._lock(arch, reporter):
            found = None if force else self.find(arch)  # another process may have built it while this one waited
            return found or self._build(arch, reporter, mirrors)

    def entries(self) -> list[GuestImage]:
        """Every image in the cache, also of recipes no longer in force; sorted."""
        found = (_open(folder) for folder in sorted(self.root.iterdir()) if not folder.name.startswith("."))
        return [image for image in found if image is not None]

    def in_use(self, image: GuestImage) -> bool:
        """Whether it is the one that the recipe in force asks for."""
        return image.key == self.key(image.arch)

    def remove(self, image: GuestImage) -> None:
        """Delete it. VMs that run from it go on (they hold it open)."""
        with self._lock(image.arch):
            cache.remove_tree(image.folder)

    def _folder(self, arch: Arch) -> Path:
        return self.root / f"{arch}-{self.key(arch)[:12]}"

    def _lock(self, arch: Arch, reporter: Reporter | None = None) -> AbstractContextManager[None]:
        return cache.locked(self.root / f".{arch}.lock", f"guest image {arch}", reporter)

    def _build(self, arch: Arch, reporter: Reporter, mirrors: Mapping[str, str] | None) -> GuestImage:
        folder = self._folder(arch)
        for stale in self.root.glob(f".{arch}-*"):  # of builds by kmatrix 0.1 that were killed: the lock says that nobody is at one
            cache.remove_tree(stale)
        try:
            with cache.staging(self.root, arch) as staging:
                staging.chmod(0o755)  # a cache may be shared
                build(self.recipe, arch, self.key(arch), staging, reporter=reporter, mirrors=mirrors)
                cache.publish(self.root, staging, folder)
        except OSError as error:
            raise _disk_trouble(error, self.root) from error
        image = _open(folder)
        assert image is not None  # renamed there a moment ago
        return image


def obtain(arch: Arch, *, reporter: Reporter, mirrors: Mapping[str, str] | None = None) -> GuestImage:
    """The guest image for `arch`, from the cache or built now; in use by this process from now on. Raises InfraError."""
    while True:
        image = ImageStore().obtain(arch, reporter=reporter, mirrors=mirrors)
        if cache.hold(image.folder):  # else removed (`kmatrix kernels gc`) since it was found
            return image


def obtain_all(
    arches: Sequence[Arch], *, reporter: Reporter, mirrors: Mapping[str, str] | None = None, force: bool = False
) -> list[GuestImage]:
    """`obtain` for several arches side by side. Raises the first one's error; the others are finished then."""
    store = ImageStore()
    _stop.clear()
    watched = Stoppable(reporter, _stop)
    with ThreadPoolExecutor(len(arches)) as pool:
        futures = [pool.submit(store.obtain, arch, reporter=watched, mirrors=mirrors, force=force) for arch in arches]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            cancel()
            raise


def build(
    recipe: Recipe,
    arch: Arch,
    key: str,
    into: Path,
    *,
    reporter: Reporter,
    mirrors: Mapping[str, str] | None = None,
) -> None:
    """Build root.ext4, busybox and manifest.json in the empty folder `into`. Raises InfraError and OSError; may leave files."""
    _need_programs()
    data = recipe.data
    root = into / "root"
    scratch = into / "scratch"
    root.mkdir()
    scratch.mkdir()
    with reporter.step(f"guest image {arch}: packages"):
        suite = _open_suite(data.suite, (mirrors or {}).get("debian"))
        archive = suite.archive
        packages = _unpack(_mmdebstrap(data, data.packages, arch, archive, scratch), root, recipe.wants)
        python = _host_python(data, arch, archive, root, scratch)
    with reporter.step(f"guest image {arch}: file system"):
        _complete(recipe, root)
        bytecode = _compile(root, python)
        busybox, image = into / "busybox", into / "root.ext4"
        shutil.copyfile(root / _BUSYBOX_IN_GUEST, busybox)
        busybox.chmod(0o555)
        ext4.make(root, image, uuid=data.uuid, epoch=data.source_date_epoch, label="kmatrix", devices=_DEVICES)
        image.chmod(0o444)
    manifest = {
        "schema": SCHEMA,
        "arch": arch,
        "key": key,
        "digest": paths.sha256(image),
        "size": image.stat().st_size,
        "busybox": paths.sha256(busybox),
        "recipe": recipe.digest,
        "source_date_epoch": data.source_date_epoch,
        "mirror": {"uri": archive.uri, "suite": data.suite, "date": suite.release.get("Date")},
        "tools": {"mmdebstrap": _mmdebstrap_version(), "e2fsprogs": ext4.version()},
        "bytecode": bytecode,
        "packages": packages,
    }
    (into / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    cache.remove_tree(root)
    cache.remove_tree(scratch)


def _open(folder: Path) -> GuestImage | None:
    """The image in `folder`, or None if there is none or it is not whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        image = GuestImage(manifest["arch"], manifest["key"], folder, manifest)
        whole = image.path.stat().st_size == manifest["size"] and image.busybox.is_file() and manifest["schema"] == SCHEMA
        return image if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _need_programs() -> None:
    packages = ["mmdebstrap"] if shutil.which("mmdebstrap") is None else []
    packages += ["e2fsprogs"] if ext4.missing_programs() else []
    if packages:
        raise InfraError(
            f"the guest image cannot be built: {' and '.join(packages)} not installed",
            fix=f"sudo apt-get install --no-install-recommends {' '.join(packages)}",
        )


def _open_suite(suite: str, mirror: str | None) -> apt.Suite:
    try:
        return apt.open_suite(suite, mirror=mirror)
    except Unavailable as error:  # which is said of kernels
        raise InfraError(f"the guest image cannot be built: {error.message}", where=error.where, fix=error.fix) from error


def _mmdebstrap(data: _RecipeFile, packages: Sequence[str], arch: Arch, archive: apt.Archive, scratch: Path) -> Path:
    """The packages and all they depend on, verified and extracted, as a tar in `scratch`. Raises InfraError when mmdebstrap fails.

    `--mode=chrootless` only means "do not chroot". With `--variant=extract` nothing is ever run in the new root, so this mode
    lacks nothing, and asks for neither root nor a user namespace; for root it has the virtue of mounting nothing on the host.
    """
    trusted = "[trusted=yes] " if archive.trusted else ""
    tar, log = scratch / f"{arch}.tar", scratch / f"{arch}.log"
    command = [
        "sh",
        "-c",
        _WITH_US,
        "sh",
        "mmdebstrap",
        "--mode=chrootless",
        "--variant=extract",
        "--format=tar",
        "--skip=check/signed-by",
    ]
    command += [f"--architectures={INFO[arch].debian}", f"--include={','.join(packages)}", f"--extract-hook={_HOOK}"]
    command += [f"--keyring={_keys(archive, scratch)}", '--aptopt=Acquire::Languages "none"']
    command += ['--aptopt=APT::Sandbox::User "root"']  # apt's own user may not get into the cache
    command += [f'--aptopt=Acquire::{scheme}::Proxy "{proxy}"' for scheme, proxy in apt.proxies()]
    uri = re.sub(r"^file:", "copy:", archive.uri)  # apt would leave the packages where the hook does not see them
    command += [data.suite, str(tar), f"deb {trusted}{uri} {data.suite} {' '.join(data.components)}"]
    environment = os.environ | {"TMPDIR": str(scratch), "SOURCE_DATE_EPOCH": str(data.source_date_epoch), "LC_ALL": "C.UTF-8"}
    if _stop.is_set():
        raise InfraError("interrupted")
    with log.open("wb") as stderr:
        # A process group of its own: where its tar fails (a full disk), mmdebstrap sends SIGHUP to the whole of its group.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, env=environment, process_group=0)
    _running.add(process)
    try:
        status = process.wait()
    except BaseException:
        _kill(process)
        raise
    finally:
        _running.discard(process)
        assert process.stdin is not None
        process.stdin.close()
    if status != 0:
        raise _mmdebstrap_failure(status, log.read_text(errors="replace"), archive)
    return tar


_running: set[subprocess.Popen[bytes]] = set()
_stop = threading.Event()


def cancel() -> None:
    """End the builds under way in other threads of this process: Ctrl-C is only raised in the main one. They raise InfraError.

    None can be started in this process afterwards, but by `obtain_all`.
    """
    _stop.set()
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # All that it would clean up is in our scratch folder.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _keys(archive: apt.Archive, scratch: Path) -> Path:
    """A folder with the archive's keys as apt reads them from trusted.gpg.d."""
    folder = scratch / "keys"
    folder.mkdir(exist_ok=True)
    rings = [path.read_bytes() for path in archive.keyrings if os.access(path, os.R_OK)]
    armoured = [*archive.keys, *(ring.decode("ascii", "replace") for ring in rings if ring.lstrip().startswith(b"-----BEGIN"))]
    binary = [ring for ring in rings if not ring.lstrip().startswith(b"-----BEGIN")]
    for number, key in enumerate([*binary, *map(apt.dearmor, armoured)]):
        (folder / f"{number}.gpg").write_bytes(key)
    return folder


def _mmdebstrap_failure(status: int, log: str, archive: apt.Archive) -> Exception:
    full = os.strerror(errno.ENOSPC)
    if full in log:
        return OSError(errno.ENOSPC, full)
    # "E:" begins errors, of apt as of mmdebstrap; the last ones only say that the ones before were fatal.
    errors = [line[2:].strip() for line in log.splitlines() if line.startswith("E:")]
    telling = [line for line in errors if not re.match(r"(mmdebstrap|setup|apt) .*failed", line)] or errors
    said = "; ".join(dict.fromkeys(telling[:3])) or f"exit status {status}"
    return InfraError(
        f"mmdebstrap failed: {said}",
        where=archive.uri,
        fix="mend the mirror or the network (or packages in images/image.toml), then: kmatrix images build",
    )


def _mmdebstrap_version() -> str:
    done = subprocess.run(["mmdebstrap", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"^mmdebstrap (\S+)", done.stdout + done.stderr, re.MULTILINE)
    return match[1] if match else "unknown"


def _unpack(archive: Path, root: Path, wants: Callable[[str], bool]) -> list[dict[str, str]]:
    """Extract the files that are wanted from the tar into `root`; the packages that the tar was made of, by name."""
    packages: list[dict[str, str]] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            path = _merged(member.name)
            if path == _PACKAGES:
                packages = _parse_packages(_stream(tar, member).read().decode())
            elif wants(path):
                _extract(tar, member, root, path)
    archive.unlink()
    return packages


def _merged(name: str) -> str:
    """A member's path in the guest, where bin, sbin and lib are links into usr/."""
    path = os.path.normpath(name).lstrip("/")
    return f"usr/{path}" if "/" in path and path.split("/")[0] in _MERGED else path


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: str) -> None:
    target = root / path
    if member.isdir() or path in _MERGED:
        return  # folders are made for what is in them; the recipe has the links
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        target.hardlink_to(root / _merged(member.linkname))
    elif member.isreg():
        with target.open("wb") as file:
            shutil.copyfileobj(_stream(tar, member), file)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None  # a regular file
    return stream


def _parse_packages(sums: str) -> list[dict[str, str]]:
    """`sha256sum *.deb` as name, version and sha256: apt names the files name_version_arch.deb, with `:` as %3a."""
    packages = []
    for line in sums.splitlines():
        digest, _, file = line.partition("  ")
        name, version, _ = unquote(file).split("_", 2)
        packages.append({"name": name, "version": version, "sha256": digest})
    return packages


def _host_python(data: _RecipeFile, arch: Arch, archive: apt.Archive, root: Path, scratch: Path) -> Path | None:
    """A tree with the guest's Python that this host can run; None where the host is of neither arch.

    The image's own if it is for the host's arch, else the same suite's packages for the host's.
    """
    host = host_arch()
    if host is None or host == arch:
        return None if host is None else root
    tree = scratch / "python"
    tree.mkdir()
    _unpack(_mmdebstrap(data, ["python3-minimal"], host, archive, scratch), tree, lambda path: path.startswith("usr/"))
    return tree


def _compile(root: Path, python: Path | None) -> str | None:
    """Compile the guest's Python library; the program that did it, or None where this host cannot run it.

    Without bytecode the guest works, but compiles what it imports at every boot: seconds, where the CPU is emulated. Only the same
    version's bytecode counts, so the guest's own Python does it, started by its own dynamic loader. One process and a fixed hash
    seed: what is written depends on the order of work and on the order of sets.
    """
    if python is None:
        return None
    program = (python / "usr/bin/python3").resolve()
    loader = next((python / "usr/lib").glob("*-linux-gnu/ld-linux-*.so.*"))
    command = [str(loader), "--library-path", str(loader.parent), str(program), "-SB", "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/", str(root / "usr/lib" / program.name)]
    environment = {"PYTHONHOME": str(python / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(command, env=environment, umask=0o022, capture_output=True, text=True, check=False)
    except PermissionError:  # the cache is on a noexec mount
        return None
    if done.returncode != 0:
        raise InfraError(
            f"the guest's Python library does not compile: {done.stdout.strip() or done.stderr.strip()}", where=str(root)
        )
    return program.name


def _complete(recipe: Recipe, root: Path) -> None:
    """What packages do not bring: folders, links, applets, the files of rootfs/, kmatrix-init."""
    data = recipe.data
    for path in data.directories:
        (root / path).mkdir(parents=True, exist_ok=True)
    for path, content in recipe.files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)
        target.chmod(int(data.modes.get(path, "0644"), 8))
    brought = [name for name in data.applets for folder in ("bin", "sbin") if os.path.lexists(root / "usr" / folder / name)]
    if brought:
        raise InputError(
            f"packages bring {', '.join(brought)} already",
            where=str(recipe.file),
            fix="take them out of applets (or the packages' own into remove)",
        )
    for path, goal in {**data.symlinks, **{f"usr/bin/{name}": "busybox" for name in data.applets}}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(goal)
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)  # whatever the builder's umask


def _disk_trouble(error: OSError, root: Path) -> InfraError:
    free = shutil.disk_usage(root).free >> 20
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfraError(
            f"not enough disk space: {free} MiB free, building a guest image takes {_ROOM_MIB}",
            where=str(root),
            fix="make room, or set KMATRIX_CACHE to a folder on another disk",
        )
    return InfraError(f"the guest image cannot be written: {error}", where=str(root))
