"""The `mainline` source: Ubuntu's builds of every upstream release, of which the newest of a series that was built for the arch is taken.

A folder vX.Y.Z/ has one for each arch (amd64/, arm64/) with packages, CHECKSUMS and CHECKSUMS.gpg; those of before 2020 hold the packages of
all arches themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin

from kmatrix.fetch.gpgv import Keys, verify
from kmatrix.host.errors import InfraError, Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.host.version import natural
from kmatrix.kernels import layout, trust
from kmatrix.kernels.entry import StagedKernel
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

if TYPE_CHECKING:
    from kmatrix.fetch import archive, download
else:  # most runs ask only what the source is
    archive, download = later("kmatrix.fetch.archive"), later("kmatrix.fetch.download")

_LOOKED_AT = 10
"""Releases tried, newest first: some builds failed for one arch, a whole series' worth did not."""


@dataclass(frozen=True)
class _Build:
    """What one folder offers: the packages' names, and the digests that CHECKSUMS gives them."""

    url: str
    files: tuple[str, ...]
    digests: dict[str, str]
    vouched: str


class MainlineSource:
    """Fetches a build of Ubuntu's mainline archive."""

    kind = "mainline"
    fetches = True
    slow = False

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"Ubuntu mainline {source['version']}"

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Find the newest release of the series with all files, fetch, verify and lay it out.

        Raises Unavailable when there is none, InfraError when a signature or digest is bad, InputError when nothing vouches for it.
        """
        label, base = f"{kernel.name}-{arch}", spec.options["url"][0].rstrip("/") + "/"
        keys = trust.keys(spec, kernel)
        if keys is None and not trust.first_use(spec):
            raise trust.refuse(base, f'{kernel.declared_in}: kernels."{kernel.name}".sources')
        with reporter.step(f"{label}: looking for a mainline build"):
            version, build = _newest(base, spec.options["series"], spec.options.get("version"), arch, keys)
        artifacts, packages = [], []
        for number, name in enumerate(build.files):
            file = into.parent / f"package{number}.deb"
            url, doing = urljoin(build.url, name), f"{label}: fetching {name}"
            artifacts.append(trust.fetch(url, file, doing, reporter, digest=build.digests[name], trust=build.vouched))
            packages.append(archive.deb(file, url))
        with reporter.step(f"{label}: unpacking") as step:
            laid_out = layout.lay_out(packages, arch, into, where=build.url, step=step)
        return layout.staged(laid_out, trust.provenance(self.kind, artifacts, {"version": version}, version=version))


def releases(listing: str, series: str) -> list[str]:
    """The releases of `series` ("5.4") that a folder's listing links to, newest first; candidates (-rc) are none."""
    found = set(re.findall(rf'href="(v{re.escape(series)}(?:\.\d+)?)/"', listing))
    return sorted(found, key=natural, reverse=True)


def packages(names: Iterable[str], debian: str) -> tuple[str, ...]:
    """Of the files of a build, the plain kernel's packages for Debian's arch: image and modules, or the image alone (before 4.18)."""
    generic = [
        name for name in names if re.fullmatch(rf"linux-(image(-unsigned)?|modules)-[^_]+-generic_[^_]+_{debian}\.deb", name)
    ]
    images = [name for name in generic if name.startswith("linux-image")]
    modules = [name for name in generic if name.startswith("linux-modules")]
    if not images or (images[0].startswith("linux-image-unsigned") and not modules):
        return ()
    return (images[0], *modules[:1])


def _newest(base: str, series: str, version: str | None, arch: Arch, keys: Keys | None) -> tuple[str, _Build]:
    listed = [f"v{version.removeprefix('v')}"] if version else releases(_listing(base), series)
    incomplete = []
    for each in listed[:_LOOKED_AT]:
        if build := _build(urljoin(base, f"{each}/"), each, arch, keys):
            return each, build
        incomplete.append(each)
    said = f"; {', '.join(incomplete)} lack files" if incomplete else ""
    raise Unavailable(f"has no complete build of {series} for {INFO[arch].debian}{said}", where=base)


def _links(folder: str) -> list[str]:
    return [unquote(link) for link in re.findall(r'href="([^"?]+)"', _listing(folder))]


def _listing(url: str) -> str:
    return download.get(url, 4 << 20).decode(errors="replace")


def _build(folder: str, version: str, arch: Arch, keys: Keys | None) -> _Build | None:
    """The build of `version` in `folder` for `arch`, in its own folder or (as once) among the others'; None where files are missing.

    What is signed is a list of names and digests: an old release's would be good in a new one's folder, but for the names.
    """
    debian, links = INFO[arch].debian, _links(folder)
    below = [link.removeprefix(f"{debian}/") for link in links if link.startswith(f"{debian}/")]
    if below:  # a page that lists the files of all arches, or one that links to the folder
        folder = urljoin(folder, f"{debian}/")
        links = below if any(below) else _links(folder)
    release = version.removeprefix("v") + ".0" * (version.count(".") == 1)
    files = packages([link for link in links if f"-{release}-" in link], debian)
    if not files or "CHECKSUMS" not in links:
        return None
    where = urljoin(folder, "CHECKSUMS")
    sums = download.get(where, 1 << 20)
    vouched = trust.FIRST_USE
    if keys is not None:
        if "CHECKSUMS.gpg" not in links:
            raise InfraError(
                "CHECKSUMS is not signed, and kernels.toml gives a key",
                where=where,
                fix='leave key out, and add trust = "first-use"',
            )
        fix = "try again later; the key is kernels.toml's"
        verify(sums, keys, where=where, signature=download.get(where + ".gpg", 1 << 16), fix=fix)
        vouched = "the signed CHECKSUMS"
    found = re.findall(r"^([0-9a-f]{64})[ *]+(?:\./)?(?:\S*/)?(\S+)$", sums.decode(errors="replace"), re.MULTILINE)
    digests = {name: digest for digest, name in found}
    if missing := [name for name in files if name not in digests]:
        raise InfraError(f"gives no sha256 for {', '.join(missing)}", where=where)
    return _Build(folder, files, digests, vouched)
