"""The cilium loader, built when it is first asked for, and kept in the cache under a key of all that it is made of.

cilium/ebpf comes from the guest image's Debian suite, so that every machine has the same version, and Go from this machine. Where
KMATRIX_CILIUM_EBPF names a folder, that version of cilium/ebpf is taken: the one that an agent's go.mod has, or what Debian installed here.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host import cache, paths
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Quiet, Reporter
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.vm.loaders import debian

if TYPE_CHECKING:
    from kmatrix.fetch import archive
else:
    archive = later("kmatrix.fetch.archive")

SOURCE = Path(__file__).parent / "cilium"
FOLDER = "KMATRIX_CILIUM_EBPF"
"""The environment variable that names a folder with cilium/ebpf."""
PACKAGE = "golang-github-cilium-ebpf-dev"
_PACKAGES = (PACKAGE, "golang-golang-x-sys-dev", "golang-golang-x-exp-dev")
"""cilium/ebpf, and what it imports."""
INSTALLED = Path("/usr/share/gocode")
"""Where Debian's packages of Go sources are."""
IMPORT = "github.com/cilium/ebpf"
GET_GO = "apt-get install --no-install-recommends golang-go"
_SECONDS = 900
"""How long a build may take: half a minute on two cores, much longer on crowded ones."""


@dataclass(frozen=True)
class Built:
    """A loader as it is brought into the guest."""

    packed: Path
    """The program for the arch, compressed by gzip."""
    version: str
    """cilium/ebpf's."""


@dataclass(frozen=True)
class Library:
    """A version of cilium/ebpf that is here."""

    version: str
    identity: str
    """What a build of it depends on: a digest."""
    folder: Path | None = None
    """Its sources; None where they are in `packages`."""
    packages: tuple[Path, ...] = ()

    @property
    def gopath(self) -> Path | None:
        """The folder in which it lies beside what it imports, as in Debian's packages; None where its go.mod says where that is."""
        inside = self.folder is not None and str(self.folder).endswith(f"/src/{IMPORT}")
        return self.folder.parents[3] if self.folder is not None and inside else None


def cilium(arch: Arch, *, mirrors: Mapping[str, str] | None = None, reporter: Reporter | None = None) -> Built:
    """The cilium loader for an arch, from the cache or built now.

    Raises Unavailable where Go or cilium/ebpf cannot be had, InputError where KMATRIX_CILIUM_EBPF is wrong, InfraError where it does not
    compile.
    """
    reporter = reporter or Quiet()
    go = go_version()
    if go is None:
        raise Unavailable("the cilium loader is a Go program, and there is no Go here to build it", where="--loader", fix=GET_GO)
    library = find(mirrors=mirrors, reporter=reporter)
    key = hashlib.sha256("\n".join([_sources(), library.identity, library.version, go, arch]).encode()).hexdigest()[:32]
    root = paths.cache_dir("loaders")
    place = root / f"cilium-{library.version}-{arch}-{key}"
    with cache.locked(root / f".{place.name}.lock", f"cilium loader {arch}", reporter):
        if not (place / "cilium.gz").exists():
            with (
                reporter.step(f"cilium loader for {arch}: building with cilium/ebpf {library.version}"),
                cache.staging(root) as made,
            ):
                _build(library, arch, made)
                cache.publish(root, made / "out", place)
    cache.hold(place)
    return Built(place / "cilium.gz", library.version)


def go_version() -> str | None:
    """The Go on this machine, such as "go1.19.8"; None where there is none."""
    go = shutil.which("go")
    if go is None:
        return None
    try:
        said = subprocess.run([go, "version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bgo\d\S*", said)
    return found[0] if found else said.strip()


def find(*, mirrors: Mapping[str, str] | None = None, reporter: Reporter | None = None) -> Library:
    """cilium/ebpf: in the folder that KMATRIX_CILIUM_EBPF names, or fetched from the guest image's suite.

    Raises InputError and Unavailable.
    """
    given = os.environ.get(FOLDER)
    if given:
        return _in_folder(Path(given))
    try:
        files = tuple(debian.package(name, "x86_64", mirrors=mirrors, reporter=reporter) for name in _PACKAGES)
    except InfraError as error:
        here = INSTALLED / "src" / IMPORT
        other = f"{FOLDER}={here}" if here.is_dir() else f"apt-get install {PACKAGE}, and {FOLDER}={here}"
        raise Unavailable(
            f"cilium/ebpf cannot be fetched from Debian: {error.message}",
            where="--loader",
            fix=f"let kmatrix fetch once, or take this machine's: {other}",
        ) from None
    identity = hashlib.sha256("\n".join(paths.sha256(file) for file in files).encode()).hexdigest()
    return Library(_package_version(files[0]), identity, packages=files)


def here() -> str | None:
    """The version of cilium/ebpf that would be taken; None where it has to be fetched first. Raises InputError."""
    if given := os.environ.get(FOLDER):
        return _in_folder(Path(given)).version
    file = debian.place(PACKAGE, "x86_64")
    return _package_version(file) if file.exists() else None


def _in_folder(folder: Path) -> Library:
    folder = folder.absolute()
    if not (folder / "collection.go").is_file() or not (folder / "link").is_dir():
        raise InputError(
            f"{folder} has no cilium/ebpf: there is no collection.go and link/ in it",
            where=FOLDER,
            fix=f"name its folder: $(go list -m -f '{{{{.Dir}}}}' {IMPORT}), or {INSTALLED}/src/{IMPORT}",
        )
    digest = hashlib.sha256()
    for path in sorted(folder.resolve().rglob("*.go")):
        digest.update(f"{path.relative_to(folder.resolve())}\n".encode() + path.read_bytes())
    return Library(_version_of(folder.resolve()), digest.hexdigest(), folder)


def _version_of(folder: Path) -> str:
    """By the name that the module cache gives a folder, by Debian's package, or by git; else "unknown"."""
    named = re.search(r"@v([\w.+-]+)$", str(folder))
    if named:
        return named[1]
    if folder.is_relative_to(INSTALLED):
        said = _said(["dpkg-query", "-W", "-f", "${Version}", PACKAGE])
        return said.partition("-")[0] or "unknown"
    return _said(["git", "-C", str(folder), "describe", "--tags", "--always"]).removeprefix("v") or "unknown"


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@functools.cache
def _package_version(path: Path) -> str:
    """The upstream version of a Debian package, by its control data."""
    from debian.debfile import DebFile

    return str(DebFile(filename=str(path)).debcontrol()["Version"]).rpartition("-")[0]


def _sources() -> str:
    """A digest of our own part."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.glob("*.go")):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _build(library: Library, arch: Arch, scratch: Path) -> None:
    """Compile, and leave `cilium.gz` in scratch/out."""
    work, out = scratch / "work", scratch / "out"
    work.mkdir()
    out.mkdir()
    for path in SOURCE.glob("*.go"):
        shutil.copy(path, work)
    environment = dict(os.environ, CGO_ENABLED="0", GOOS="linux", GOARCH=INFO[arch].debian, GOFLAGS="", GOWORK="off")
    if library.folder is not None and library.gopath is None:
        folder = library.folder
        _write_module(folder, work)
        environment |= {"GO111MODULE": "on", "GOFLAGS": "-mod=mod"}
    else:
        gopath = library.gopath or _unpacked(library, scratch / "gopath")
        folder = gopath / "src" / IMPORT
        environment |= {"GO111MODULE": "off", "GOPATH": str(gopath)}
    environment.setdefault("HOME", str(scratch))  # Go's own cache is there
    flags = f"-s -w -X main.version={library.version}"
    command = ["go", "build", "-trimpath", "-tags", ",".join(_tags(folder)), "-ldflags", flags, "-o", str(scratch / "cilium"), "."]
    try:
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InfraError(f"the cilium loader was not built in {_SECONDS} s", where="--loader") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InfraError(
            f"the cilium loader does not compile with cilium/ebpf {library.version} and {go_version()}: {'; '.join(lines[-4:])}",
            where="--loader",
            fix=f"take a version of cilium/ebpf for this Go ({FOLDER}), or a newer Go",
        )
    with (scratch / "cilium").open("rb") as program, gzip.GzipFile(out / "cilium.gz", "wb", mtime=0) as packed:
        shutil.copyfileobj(program, packed)


_SINCE = {
    "tcx": "func AttachTCX(",
    "kprobe_multi": "func KprobeMulti(",
    "uprobe_multi": ") UprobeMulti(",
    "netkit": "func AttachNetkit(",
}
"""Build tag → the function of cilium/ebpf's link package that the files with the tag need, as it is declared."""


def _tags(folder: Path) -> list[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (folder / "link").glob("*.go"))
    return [tag for tag, function in _SINCE.items() if function in text]


def _unpacked(library: Library, path: Path) -> Path:
    """A GOPATH with what is in the packages."""
    prefix = f"{str(INSTALLED).lstrip('/')}/src/"
    for package in library.packages:
        for member in archive.deb(package)():
            if member.path.startswith(prefix) and member.path.endswith((".go", ".s")):
                place = path / "src" / member.path.removeprefix(prefix)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(member.read())
    return path


def _write_module(folder: Path, work: Path) -> None:
    """A module that requires the library from its folder, and the rest as the library's own go.mod does."""
    text = (folder / "go.mod").read_text(encoding="utf-8")
    version = re.search(r"^go \S+$", text, re.MULTILINE)
    required = "\n".join(re.findall(r"^(?:require \(.*?^\)|require [^(\n]+)$", text, re.MULTILINE | re.DOTALL))
    lines = ["module kmatrix/cilium", version[0] if version else "go 1.19", required]
    lines += [f"require {IMPORT} v0.0.0", f"replace {IMPORT} => {folder}"]
    (work / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if (folder / "go.sum").is_file():
        shutil.copy(folder / "go.sum", work)
