"""The `debian` source: a suite's kernel package, for either arch whatever the host's, verified from the suite's signature down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debian.debian_support import NativeVersion as Version

from kmatrix.fetch import apt, archive
from kmatrix.host.errors import Unavailable, without_credentials
from kmatrix.host.progress import Reporter
from kmatrix.kernels import layout
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.trust import Artifact, provenance
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

Package = Mapping[str, str]


def select(packages: Sequence[Package], series: str, arch: str, version: str | None = None) -> Package | None:
    """The newest kernel of `series` ("6.1") for Debian's `arch` ("amd64") among Packages stanzas, or the one of `version`; or None.

    What the metapackage linux-image-<arch> depends on, if it is of that series; else the one of the highest version (a suite may hold
    several ABIs). Kernels of another flavour (-cloud, -rt, -16k), unsigned images and debug packages are no candidates.
    """
    candidates = {
        p["Package"]: p
        for p in sorted(packages, key=lambda p: Version(p["Version"]))  # of one in several versions, the newest
        if is_plain_kernel(p["Package"], series, arch) and version in (None, p["Version"])
    }
    if not candidates:
        return None
    for meta in packages:
        if meta["Package"] == f"linux-image-{arch}":
            for name in re.findall(r"linux-image-[^\s,(|]+", meta.get("Depends", "")):
                if name in candidates:
                    return candidates[name]
    return max(candidates.values(), key=lambda p: Version(p["Version"]))


def is_plain_kernel(name: str, series: str, arch: str) -> bool:
    """Whether a package is a kernel of `series` in the plain flavour: linux-image-6.1.0-56-amd64, linux-image-6.12.107+deb13-arm64."""
    match = re.fullmatch(rf"linux-image-{re.escape(series)}((?:[.+~-][^-]*)*)-{arch}", name)
    # After the version there may be parts such as "56" or "0.deb11.21"; a flavour's begins with a letter, or is a page size.
    return match is not None and all(re.match(r"\d", part) and part != "16k" for part in match[1].split("-")[1:])


class DebianSource:
    """Fetches a kernel from Debian's archive: from `mirror` if given, else from the mirror of the host's apt configuration."""

    kind = "debian"
    fetches = True
    slow = False

    def __init__(self, mirror: str | None = None, root: Path = apt.APT_ROOT) -> None:
        self._mirror = mirror
        self._root = root

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"Debian {source['suite']} {source['version']}"

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Download, verify and lay out the newest kernel of the suite.

        Raises Unavailable when there is no such kernel, no mirror or no network, InfraError when a signature or digest is bad.
        """
        label = f"{kernel.name}-{arch}"
        debian_arch = INFO[arch].debian
        suite_name, series, version = spec.options["suite"], spec.options["series"], spec.options.get("version")
        with reporter.step(f"{label}: Debian {suite_name}'s package index") as step:
            suite = apt.open_suite(suite_name, mirror=self._mirror, root=self._root)
            found = suite.find(debian_arch, rf"linux-image-(.*-)?{debian_arch}", advance=step.advance)
        chosen = select(found, series, debian_arch, version)
        if chosen is None:
            raise Unavailable(f"Debian {suite_name} has no kernel {version or series} for {debian_arch}", where=suite.archive.uri)
        file = into.parent / "package.deb"  # beside the tree, in the staging folder: gone with it
        with reporter.step(f"{label}: fetching {chosen['Package']} {chosen['Version']}") as step:
            url = without_credentials(suite.download(chosen, file, advance=step.advance))
        with reporter.step(f"{label}: unpacking") as step:
            laid_out = layout.lay_out([archive.deb(file, url)], arch, into, where=url, step=step)
        file.unlink()
        vouched = "nobody ([trusted=yes])" if suite.archive.trusted else f"Debian {suite_name}'s signed Release"
        artifact = Artifact(url, chosen["SHA256"], int(chosen["Size"]), vouched)
        about = {"suite": suite_name, "package": chosen["Package"], "version": chosen["Version"]}
        source = provenance("debian", [artifact], {"version": chosen["Version"]}, **about, url=url, sha256=chosen["SHA256"])
        return layout.staged(laid_out, source)
