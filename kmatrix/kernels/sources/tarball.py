"""The `tarball` source: an upstream source archive, verified by kernel.org's signatures or a digest, then built.

A folder of releases (…/v5.x/) has a sha256sums.asc, clear-signed, that lists all of them; beside linux-X.tar.xz there is also
linux-X.tar.sign, a signature of the archive before it was compressed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from kmatrix.fetch.gpgv import Keys, verify
from kmatrix.host import version as versions
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.kernels import trust
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.trust import Artifact
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

if TYPE_CHECKING:
    from kmatrix.fetch import archive, download
    from kmatrix.kernels import build
    from kmatrix.matrix import sources
else:  # most runs ask only what the source is
    archive, download = later("kmatrix.fetch.archive"), later("kmatrix.fetch.download")
    build, sources = later("kmatrix.kernels.build"), later("kmatrix.matrix.sources")

_FIX = "try again later; the key is kernels.toml's"


class TarballSource:
    """Fetches a source archive, and builds it: some minutes."""

    kind = "tarball"
    fetches = True
    slow = True

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"built from {trust.names(source)}"

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Fetch, verify, unpack and build. Raises what `build.stage` raises, and:

        Unavailable when the archive cannot be had, InfraError when it is not what was signed, InputError when nothing vouches for it, or it
        is no sound source archive.
        """
        label, file = f"{kernel.name}-{arch}", into.parent / "source.tar"
        artifact = _fetch(spec, kernel, file, label, reporter)
        tree = unpack(file, into.parent / "source", label, reporter, where=artifact.url)
        if artifact.trust != trust.GIVEN:
            _check_version(tree, artifact.url)
        built = build.stage(build.Recipe(tree, arch), kernel, into, reporter)
        pin = {"url": (artifact.url,), "sha256": (artifact.sha256,)}
        about = {key: value for key, value in built.source.items() if key not in ("kind", "tree")}
        return replace(built, source=trust.provenance(self.kind, [artifact], pin, **about))


def unpack(file: Path, into: Path, label: str, reporter: Reporter, *, where: str) -> Path:
    """The tree in the source archive `file` (which is removed), unpacked into the new folder `into`; `where` is what errors call it."""
    into.mkdir()
    with reporter.step(f"{label}: unpacking the source") as step:
        archive.unpack_tree(file, into, step.advance, where)
    file.unlink()
    inside = list(into.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else into


def _check_version(tree: Path, url: str) -> None:
    """Raises InfraError where the tree is not the release that the archive's name says: an old one is signed all the same."""
    named = re.search(r"/linux-(\d+\.\d+(?:\.\d+)?)\.tar\.", url)
    version = build.tree_version(tree)
    if named and version not in (named[1], f"{named[1]}.0"):
        raise InfraError(f"holds Linux {version}", where=url, fix="try again later, or from a mirror")


def _fetch(spec: SourceSpec, kernel: Kernel, file: Path, label: str, reporter: Reporter) -> Artifact:
    """Fetch the archive into `file`, verified."""
    (url, *more), where = spec.options["url"], f'{kernel.declared_in}: kernels."{kernel.name}".sources'
    keys, digests = trust.keys(spec, kernel), spec.options.get("sha256", ())
    if more or len(digests) > 1:
        raise InputError("a tarball source has one url and one sha256", where=where, fix="write one source for each")
    is_folder = sources.ARCHIVE.fullmatch(url) is None
    if not (keys or trust.first_use(spec) or (digests and not is_folder)):
        raise trust.refuse(url, where)
    if is_folder:
        folder = url.rstrip("/") + "/"
        series = spec.options.get("series") or versions.text(kernel.version)
        listed = _sums(folder, keys)
        name = _newest(listed, series, spec.options.get("version"), folder)
        vouched = trust.FIRST_USE if keys is None else "the signed sha256sums.asc"
        return _get(urljoin(folder, name), file, label, reporter, listed[name], vouched)
    if digests:
        return _get(url, file, label, reporter, digests[0], trust.GIVEN)
    if keys is None:
        return _get(url, file, label, reporter, None, trust.FIRST_USE)
    folder, name = urljoin(url, "."), url.rsplit("/", 1)[-1]
    try:
        listed = _sums(folder, keys)
    except Unavailable:
        listed = {}
    if name in listed:
        return _get(url, file, label, reporter, listed[name], "the signed sha256sums.asc")
    signature = download.get(re.sub(sources.ARCHIVE, r"\1.sign", url), 1 << 16)
    artifact = _get(url, file, label, reporter, None, "the archive's signature")
    plain = file.with_suffix(".plain")
    with reporter.step(f"{label}: verifying"), archive.sound(url, "archive"):
        with file.open("rb") as packed, plain.open("wb") as out:
            shutil.copyfileobj(archive.decompressed(packed), out, 1 << 20)
        verify(plain, keys, where=url, signature=signature, fix=_FIX)
    plain.replace(file)
    return artifact


def _get(url: str, file: Path, label: str, reporter: Reporter, digest: str | None, vouched: str) -> Artifact:
    return trust.fetch(url, file, f"{label}: fetching {url.rsplit('/', 1)[-1]}", reporter, digest=digest, trust=vouched, keep=True)


def _sums(folder: str, keys: Keys | None) -> dict[str, str]:
    """The digests of a folder's archives by name, from its sha256sums.asc (signed by `keys`, where they are given)."""
    where = urljoin(folder, "sha256sums.asc")
    data = download.get(where, 16 << 20)
    text = data if keys is None else verify(data, keys, where=where, fix=_FIX)
    found = re.findall(r"^([0-9a-f]{64})  (\S+)$", text.decode(errors="replace"), re.MULTILINE)
    return {name: digest for digest, name in found}


def _newest(listed: dict[str, str], series: str, version: str | None, where: str) -> str:
    """The name of the archive of `version`, or else of the newest release of `series`."""
    names = {match[1]: name for name in listed if (match := re.fullmatch(rf"linux-({re.escape(series)}(?:\.\d+)?)\.tar\.xz", name))}
    if version is not None:
        names = {known: name for known, name in names.items() if known == version}
    if not names:
        raise Unavailable(f"has no release {version or series}", where=where)
    return names[max(names, key=versions.natural)]
