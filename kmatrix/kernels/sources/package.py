"""The `package` source: .deb and .rpm files by address, or the newest of a distribution's repository (apt's or rpm-md)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from debian.debian_support import NativeVersion as Version

from kmatrix.fetch import apt, archive, download, rpm
from kmatrix.fetch.gpgv import Keys
from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.progress import Reporter
from kmatrix.kernels import layout, trust
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.trust import Artifact
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

_COMMON = "{http://linux.duke.edu/metadata/common}"
_REPO = "{http://linux.duke.edu/metadata/repo}"
_INDEX, _INDEX_UNPACKED = 256 << 20, 1 << 30
"""Bytes of a repository's list of packages that are read at most, packed and not."""


@dataclass(frozen=True)
class Wanted:
    """A package to fetch, with what is known of it beforehand and why that is believed."""

    url: str
    size: int | None = None
    sha256: str | None = None
    vouched: str | None = None
    """Why `sha256` is believed; None where that of the package itself is still to be seen (its signature, or first use)."""
    name: str | None = None
    """What an RPM has to call itself (`rpm.Rpm.name`), where an index that nobody signed led to it."""


class PackageSource:
    """Fetches a kernel's packages: image and modules may be in several."""

    kind = "package"
    fetches = True
    slow = False

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return trust.names(source)

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Find, fetch and verify the packages, and lay out the kernel in them.

        Raises Unavailable when they cannot be had, InfraError when they are not what they must be, InputError when nothing says what that
        is, or they hold no kernel for `arch`.
        """
        label = f"{kernel.name}-{arch}"
        keys = trust.keys(spec, kernel)
        if "url" in spec.options:
            wanted = _given(spec, kernel, arch, keys)
        else:
            with reporter.step(f"{label}: the package index"):
                wanted = _apt(spec, kernel, arch, keys) if "suite" in spec.options else _rpm_md(spec, kernel, arch, keys)
        artifacts, packages = [], []
        for number, each in enumerate(wanted):
            file = into.parent / f"package{number}"
            artifacts.append(_fetch(each, file, keys, label, reporter))
            packages.append(_package(file, each.url))
        with reporter.step(f"{label}: unpacking") as step:
            laid_out = layout.lay_out(packages, arch, into, where=" + ".join(each.url for each in wanted), step=step)
        pin = {"url": tuple(a.url for a in artifacts), "sha256": tuple(a.sha256 for a in artifacts)}
        return layout.staged(laid_out, trust.provenance(self.kind, artifacts, pin))


def _given(spec: SourceSpec, kernel: Kernel, arch: Arch, keys: Keys | None) -> list[Wanted]:
    where = f'{kernel.declared_in}: kernels."{kernel.name}".sources'
    urls = [trust.expand(url, arch) for url in spec.options["url"]]
    digests = spec.options.get("sha256", ())
    if digests and len(digests) != len(urls):
        raise InputError(
            f"{len(urls)} addresses and {len(digests)} digests", where=where, fix="give one sha256 for each url, in order"
        )
    if not (digests or keys or trust.first_use(spec)):
        raise trust.refuse(urls[0], where)
    if digests:
        return [Wanted(url, sha256=digest, vouched=trust.GIVEN) for url, digest in zip(urls, digests, strict=True)]
    return [Wanted(url) for url in urls]


def _fetch(wanted: Wanted, file: Path, keys: Keys | None, label: str, reporter: Reporter) -> Artifact:
    step = f"{label}: fetching {wanted.url.rsplit('/', 1)[-1]}"
    vouched = wanted.vouched or (trust.FIRST_USE if keys is None else "the package's own signature")
    artifact = trust.fetch(wanted.url, file, step, reporter, size=wanted.size, digest=wanted.sha256, trust=vouched)
    if wanted.vouched is None and keys is not None:
        with file.open("rb") as stream:
            if stream.read(4) != rpm.LEAD:
                fix = "give its sha256 in kernels.toml, or the repository it is in (which is signed)"
                raise InputError("is no RPM package, and no other kind carries a signature", where=wanted.url, fix=fix)
        rpm.verified(file, keys, where=wanted.url, name=wanted.name)
    return artifact


def _package(file: Path, url: str) -> archive.Package:
    with file.open("rb") as stream:
        package = archive.package(file, stream.read(8), url)
    if package is None:
        raise InputError("is no Debian or RPM package", where=url)
    return package


# --- apt's repositories


def _apt(spec: SourceSpec, kernel: Kernel, arch: Arch, keys: Keys | None) -> list[Wanted]:
    """The packages named, and what they depend on of linux-image-… and linux-modules-…: a metapackage leads to the newest kernel."""
    uri, debian = trust.expand(spec.options["repository"], arch), INFO[arch].debian
    if keys is None and not trust.first_use(spec):
        raise trust.refuse(f"the repository {uri}", f'{kernel.declared_in}: kernels."{kernel.name}".sources')
    suite = apt.open_foreign(uri, spec.options["suite"], keys)
    found = sorted(suite.find(debian, r"linux-(image|modules)-.*"), key=lambda p: Version(p["Version"]))
    known = {p["Package"]: p for p in found}  # of several versions, the newest
    chosen: dict[str, Mapping[str, str]] = {}
    queue = list(spec.options["packages"])
    for name in queue:
        if name not in known:
            raise Unavailable(f"{spec.options['suite']} has no package {name} for {debian}", where=uri)
        depends = re.findall(r"(?:^|,)\s*(linux-(?:image|modules)-[^\s,(|]+)", known[name].get("Depends", ""))
        queue += [each for each in depends if each not in queue and each in known]
        if re.match(r"linux-(image|modules)(-[a-z]+)*-\d", name):
            chosen[name] = known[name]
    if not chosen:
        raise Unavailable(f"{', '.join(spec.options['packages'])} leads to no kernel", where=uri)
    vouched = trust.FIRST_USE if keys is None else f"the signed Release of {spec.options['suite']}"
    return [Wanted(suite.archive.url(p["Filename"]), int(p["Size"]), p["SHA256"], vouched) for p in chosen.values()]


# --- RPM's


@dataclass(frozen=True)
class _Listed:
    name: str
    version: str
    """EPOCH:VERSION-RELEASE."""
    url: str
    size: int
    sha256: str


def _rpm_md(spec: SourceSpec, kernel: Kernel, arch: Arch, keys: Keys | None) -> list[Wanted]:
    """The newest version of the series of which the repository has all the packages named."""
    base = trust.expand(spec.options["repository"], arch)
    if keys is None and not trust.first_use(spec):
        raise trust.refuse(f"the repository {base}", f'{kernel.declared_in}: kernels."{kernel.name}".sources')
    bases = _mirrors(base, arch) if base.endswith("mirror.list") else [base.rstrip("/") + "/"]
    if not bases:
        raise Unavailable("names no mirror", where=base)
    for each in bases[:-1]:
        with suppress(Unavailable):
            return _newest(each, spec, arch, keys)
    return _newest(bases[-1], spec, arch, keys)


def _mirrors(where: str, arch: Arch) -> list[str]:
    """The repositories that a mirror.list names, as Amazon's do: a line each, absolute or seen from the list, and $basearch for the machine."""
    lines = [line.strip() for line in download.get(where, 1 << 16).decode(errors="replace").splitlines()]
    named = [line.replace("$basearch", "{machine}") for line in lines if line and not line.startswith("#")]
    return [trust.linked(where, trust.expand(line, arch)).rstrip("/") + "/" for line in named]


def _newest(base: str, spec: SourceSpec, arch: Arch, keys: Keys | None) -> list[Wanted]:
    """The newest of one repository. Raises Unavailable where it cannot be read, or does not have all the packages."""
    names: tuple[str, ...] = spec.options["packages"]
    series, version = spec.options.get("series", ""), spec.options.get("version")
    versions: dict[str, dict[str, _Listed]] = {}
    for each in _primary(base, names, INFO[arch].machine):
        if (not series or re.match(rf"\d+:{re.escape(series)}[.-]", each.version)) and version in (None, *_spelt(each.version)):
            versions.setdefault(each.version, {})[each.name] = each
    whole = [version for version, found in versions.items() if set(names) <= set(found)]
    if not whole:
        raise Unavailable(f"has no {' and '.join(names)} {version or series}".rstrip() + f" for {INFO[arch].machine}", where=base)
    newest = versions[max(whole, key=rpm.version_key)]
    # The packages' own signatures are what is believed; the index only says where they are.
    vouched = None if keys is not None else trust.FIRST_USE
    return [Wanted(p.url, p.size, p.sha256, vouched, f"{p.name} {p.version}") for p in (newest[name] for name in names)]


def _spelt(version: str) -> tuple[str, str, str]:
    """The ways to write an EPOCH:VERSION-RELEASE."""
    rest = version.partition(":")[2]
    return version, rest, rest.partition("-")[0]


def _primary(base: str, names: Iterable[str], machine: str) -> Iterator[_Listed]:
    """The packages `names` of a repository's index (createrepo's repodata/)."""
    where = f"{base}repodata/repomd.xml"
    with archive.sound(where, "index of a repository"):
        index = ElementTree.fromstring(download.get(where, 1 << 20))
        for data in index.iter(f"{_REPO}data"):
            location, checksum = data.find(f"{_REPO}location"), data.find(f"{_REPO}checksum")
            if data.get("type") == "primary" and location is not None and checksum is not None:
                break
        else:
            raise InfraError("names no index of packages", where=where)
        packed = io.BytesIO()
        known = _sha256(checksum) if checksum.get("type") == "sha256" else None
        download.fetch(trust.linked(base, location.get("href", "")), None, known, packed, limit=_INDEX)
        packed.seek(0)
        wanted = set(names)
        steps = ElementTree.iterparse(archive.decompressed(packed, _INDEX_UNPACKED), events=("start", "end"))
        _, root = next(steps)
        for event, package in steps:
            if event == "start" or package.tag != f"{_COMMON}package":
                continue
            if package.findtext(f"{_COMMON}name") in wanted and package.findtext(f"{_COMMON}arch") == machine:
                yield _listed(package, base)
            root.clear()


def _listed(package: ElementTree.Element, base: str) -> _Listed:
    version, location, size = (package.find(f"{_COMMON}{name}") for name in ("version", "location", "size"))
    checksum = package.find(f"{_COMMON}checksum")
    if version is None or location is None or size is None or checksum is None or checksum.get("type") != "sha256":
        raise ValueError("an entry of it lacks its version, place, size or sha256")
    return _Listed(
        package.findtext(f"{_COMMON}name", ""),
        f"{int(version.get('epoch', '0'))}:{version.attrib['ver']}-{version.attrib['rel']}",
        trust.linked(base, location.attrib["href"]),
        int(size.attrib["package"]),
        _sha256(checksum),
    )


def _sha256(checksum: ElementTree.Element) -> str:
    text = (checksum.text or "").strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"{text[:70]!r} is no sha256")
    return text
