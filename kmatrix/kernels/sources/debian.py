"""The `debian` source: a suite's kernel package, for either arch whatever the host's, verified from the suite's signature down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debian.debian_support import NativeVersion as Version

from kmatrix.host.errors import Unavailable, without_credentials
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.kernels import layout
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.identity import is_version
from kmatrix.kernels.trust import Artifact, provenance
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

if TYPE_CHECKING:
    from kmatrix.fetch import apt, archive
else:  # most runs ask only what the source is
    apt, archive = later("kmatrix.fetch.apt"), later("kmatrix.fetch.archive")

Package = Mapping[str, str]
_IMAGES = "linux-(image|base|binary|modules)-(.*-)?{0}(-16k)?"
"""The names of kernels' packages, and of those that they are split into, for one of Debian's arches."""

_SPLIT = re.compile(r"linux-(?:base|binary|modules)-[^\s,(|]+")
"""What an image's package is split into from 6.19 on: linux-image-X is empty there, and needs these three."""


def select(
    packages: Sequence[Package], series: str | None, arch: str, version: str | None = None, flavour: str | None = None
) -> Package | None:
    """The newest kernel of `series` ("6.1"; None for any) for Debian's `arch` ("amd64") among Packages stanzas; or None.

    `version` holds it to one: the package's ("6.1.172-1"), or upstream's ("6.1.172"). Else it is what the metapackage linux-image-<arch>
    depends on, if that is of the series, and the one of the highest version otherwise (a suite may hold several ABIs). `flavour` is
    rt (PREEMPT_RT), cloud (fewer drivers) or 16k (arm64, pages of 16 KiB), None the plain kernel. Unsigned images and debug packages are no candidates.
    """
    candidates = {
        p["Package"]: p
        for p in sorted(packages, key=lambda p: Version(p["Version"]))  # of one in several versions, the newest
        if flavour_of(p["Package"], series, arch) == (flavour or "") and is_version(p["Version"], version)
    }
    if not candidates:
        return None
    meta_name = f"linux-image-{_with_flavour(arch, flavour)}"
    for meta in packages:
        if meta["Package"] == meta_name:
            for name in re.findall(r"linux-image-[^\s,(|]+", meta.get("Depends", "")):
                if name in candidates:
                    return candidates[name]
    return max(candidates.values(), key=lambda p: Version(p["Version"]))


def point_releases(packages: Sequence[Package], series: str, arch: str, flavour: str | None = None) -> set[str]:
    """The upstream releases of `series` ("6.1.172") that Packages stanzas have a kernel of."""
    versions = {p["Version"] for p in packages if flavour_of(p["Package"], series, arch) == (flavour or "")}
    return {found[0] for version in versions if (found := re.match(rf"{re.escape(series)}\.\d+", version)) is not None}


def _with_flavour(arch: str, flavour: str | None) -> str:
    """How a package's name ends: `amd64`, `rt-amd64`, `arm64-16k`."""
    if flavour is None:
        return arch
    return f"{arch}-{flavour}" if flavour == "16k" else f"{flavour}-{arch}"


def flavour_of(name: str, series: str | None, arch: str) -> str | None:
    """The flavour of a kernel's package of `series`, empty for the plain one; None for any other package.

    Names are linux-image-6.1.0-56-amd64, linux-image-6.12.107+deb13-rt-arm64, linux-image-6.18.15+deb13-arm64-16k, linux-image-7.3-amd64.
    """
    number = re.escape(series) if series is not None else r"\d+\.\d+"
    match = re.fullmatch(rf"linux-image-{number}((?:[.+~-][^-]*)*?)(?:-(rt|cloud))?-{arch}(?:-(16k))?", name)
    # After the version there may be parts such as "56" or "0.deb11.21".
    if match is None or not all(re.match(r"\d", part) and part != "16k" for part in match[1].split("-")[1:]):
        return None
    return match[2] or match[3] or ""


class DebianSource:
    """Fetches a kernel from Debian's archive: from `mirror` if given, else from the mirror of the host's apt configuration."""

    kind = "debian"
    fetches = True
    slow = False

    def __init__(self, mirror: str | None = None, root: Path | None = None) -> None:
        """`root` is a folder like /etc/apt in the place of the host's."""
        self._mirror = mirror
        self._root = root

    def _suite(self, name: str) -> apt.Suite:
        return apt.open_suite(name, mirror=self._mirror, root=self._root or apt.APT_ROOT)

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"Debian {source['suite']} {source['version']}"

    def releases(self, spec: SourceSpec, arch: Arch, reporter: Reporter) -> set[str]:
        """The point releases of the source's series that its suite has. Raises Unavailable, and InfraError for a bad signature."""
        suite_name, series = spec.options["suite"], str(spec.options["series"])
        with reporter.step(f"Debian {suite_name}'s package index ({arch})") as step:
            suite = self._suite(suite_name)
            found = suite.find(INFO[arch].debian, _IMAGES.format(INFO[arch].debian), advance=step.advance)
        return point_releases(found, series, INFO[arch].debian, spec.options.get("flavour"))

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Download, verify and lay out the newest kernel of the suite.

        Raises Unavailable when there is no such kernel, no mirror or no network, InfraError when a signature or digest is bad.
        """
        label = f"{kernel.name}-{arch}"
        debian_arch = INFO[arch].debian
        suite_name, series = spec.options["suite"], spec.options.get("series")
        version, flavour = spec.options.get("version"), spec.options.get("flavour")
        with reporter.step(f"{label}: Debian {suite_name}'s package index") as step:
            suite = self._suite(suite_name)
            found = suite.find(debian_arch, _IMAGES.format(debian_arch), advance=step.advance)
        chosen = select(found, series, debian_arch, version, flavour)
        if chosen is None:
            what = " ".join(filter(None, (version or series or "of any series", flavour)))
            raise Unavailable(f"Debian {suite_name} has no kernel {what} for {debian_arch}", where=suite.archive.uri)
        packages = [chosen, *_parts(chosen, found, suite.archive.uri)]
        vouched = "nobody ([trusted=yes])" if suite.archive.trusted else f"Debian {suite_name}'s signed Release"
        files, artifacts = [], []
        for number, package in enumerate(packages):
            file = into.parent / f"package-{number}.deb"  # beside the tree, in the staging folder: gone with it
            with reporter.step(f"{label}: fetching {package['Package']} {package['Version']}") as step:
                url = without_credentials(suite.download(package, file, advance=step.advance))
            files.append((file, url))
            artifacts.append(Artifact(url, package["SHA256"], int(package["Size"]), vouched))
        with reporter.step(f"{label}: unpacking") as step:
            unpacked = [archive.deb(file, url) for file, url in files]
            laid_out = layout.lay_out(unpacked, arch, into, where=artifacts[0].url, step=step)
        for file, _ in files:
            file.unlink()
        about = {"suite": suite_name, "package": chosen["Package"], "version": chosen["Version"]}
        source = provenance(
            "debian", artifacts, {"version": chosen["Version"]}, **about, url=artifacts[0].url, sha256=chosen["SHA256"]
        )
        return layout.staged(laid_out, source)


def _parts(image: Package, packages: Sequence[Package], where: str) -> list[Package]:
    """The packages that the image's is split into; none where it holds everything itself. Raises Unavailable where the suite lacks one."""
    by_name = {p["Package"]: p for p in packages if p["Version"] == image["Version"]}
    names = list(dict.fromkeys(_SPLIT.findall(image.get("Depends", ""))))
    if not any(name.startswith("linux-binary-") for name in names):
        return []
    if missing := [name for name in names if name not in by_name]:
        raise Unavailable(f"{image['Package']} {image['Version']} needs {missing[0]}, which the archive does not have", where=where)
    return [by_name[name] for name in names]
