"""The `oci` source: a kernel in a container image, from a registry (the OCI distribution protocol), whatever folder it is packed in.

Known layouts: little-vm-helper's `data/kernels/<version>/boot/…` and `…/lib/modules/…`, and ci-kernels' `/boot/vmlinuz` and
`/usr/lib/modules`. Every byte is checked on the way down: a layer against the manifest, the manifest against the index or the digest that
`ref` gives. A tag alone says nothing of what must come: that takes trust = "first-use".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmatrix.host.errors import InfraError, InputError, Unavailable
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.kernels import layout, trust
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.trust import Artifact
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

if TYPE_CHECKING:
    import requests

    from kmatrix.fetch import archive, download, session
    from kmatrix.matrix import sources
else:
    requests, session = later("requests"), later("kmatrix.fetch.session")
    archive, download = later("kmatrix.fetch.archive"), later("kmatrix.fetch.download")
    sources = later("kmatrix.matrix.sources")

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_LAYERS = 128
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LOCAL = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


@dataclass(frozen=True)
class Reference:
    """REGISTRY/REPOSITORY[:TAG][@DIGEST]."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def base(self) -> str:
        """The address of the repository in the registry's API."""
        # As for Docker: a registry on this machine needs no certificate.
        local = _LOCAL.fullmatch(self.registry) is not None
        host = "registry-1.docker.io" if self.registry == "docker.io" else self.registry
        return f"{'http' if local else 'https'}://{host}/v2/{self.repository}"

    def at(self, digest: str) -> str:
        """The reference to exactly that manifest."""
        return f"{self.registry}/{self.repository}@{digest}"


def parse(text: str, where: str) -> Reference:
    """The reference that `text` is; InputError when it is none."""
    match = sources.REFERENCE.fullmatch(text)
    if match is None or not (match["tag"] or match["digest"]):
        fix = "write REGISTRY/REPOSITORY:TAG, or REGISTRY/REPOSITORY@sha256:…"
        raise InputError(f"{text!r} names no image in a registry", where=where, fix=fix)
    return Reference(match["registry"], match["repository"], match["tag"], match["digest"])


class OciSource:
    """Fetches a container image with a kernel in it."""

    kind = "oci"
    fetches = True
    slow = False

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return str(source["ref"])

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Fetch the image's layers for `arch`, and lay out the kernel in them.

        Raises Unavailable when it cannot be had or is not there for `arch`, InfraError when it is not what its digests say, InputError when
        nothing vouches for it or it holds no kernel.
        """
        label, where = f"{kernel.name}-{arch}", f'{kernel.declared_in}: kernels."{kernel.name}".sources'
        reference = parse(trust.expand(spec.options["ref"], arch), where)
        if reference.digest is None and not trust.first_use(spec):
            raise trust.refuse(f"{spec.options['ref']} (a tag may mean anything tomorrow)", where)
        registry = _Registry(reference)
        with reporter.step(f"{label}: {reference.registry}'s {reference.repository}"):
            top, found = registry.manifest(arch)
        where = reference.at(found.digest)
        layers = _layers(found.body, where)
        vouched = f"the manifest {found.digest}" + ("" if reference.digest else f", believed at {trust.FIRST_USE}")
        believed = trust.GIVEN if reference.digest else trust.FIRST_USE
        artifacts = [Artifact(reference.at(top.digest), top.digest.removeprefix("sha256:"), top.size, believed)]
        files: list[Path] = []
        for number, (blob, size) in enumerate(layers):
            files.append(into.parent / f"layer{number}")
            url, step = f"{reference.base}/blobs/{blob}", f"{label}: fetching layer {number + 1} of {len(layers)}"
            known = blob.removeprefix("sha256:")
            artifacts.append(
                trust.fetch(
                    url, files[-1], step, reporter, size=size, digest=known, trust=vouched, headers=registry.authorization()
                )
            )
        with reporter.step(f"{label}: unpacking") as progress:
            laid_out = layout.lay_out([archive.layers(files, where)], arch, into, where=where, step=progress)
        source = trust.provenance(self.kind, artifacts, {"ref": reference.at(top.digest)}, ref=spec.options["ref"])
        return layout.staged(laid_out, source)


def _layers(manifest: Mapping[str, Any], where: str) -> list[tuple[str, int]]:
    """(digest, bytes) of each layer, lowest first."""
    with archive.sound(where, "image manifest"):
        try:
            found = [(str(layer["digest"]), int(layer["size"])) for layer in manifest["layers"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"it names no layers ({error})") from error
        if len(found) > _LAYERS or sum(size for _, size in found) > archive.TOTAL:
            raise ValueError(f"{len(found)} layers of {sum(size for _, size in found) >> 20} MiB: not a kernel's")
        if any(not _DIGEST.fullmatch(digest) or size < 0 for digest, size in found):
            raise ValueError("a layer has no sha256")
    return found


@dataclass(frozen=True)
class _Manifest:
    """A manifest, or an index of them."""

    digest: str
    size: int
    body: Mapping[str, Any]


class _Registry:
    """The conversation about one image: a manifest for an arch, and the token that a registry asks for first."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._token: dict[str, str] = {}

    def manifest(self, arch: Arch) -> tuple[_Manifest, _Manifest]:
        """What `ref` names, and the manifest for `arch` (the same where there is no index)."""
        wanted = self._reference.digest or str(self._reference.tag)
        top = self._get(wanted)
        if top.body.get("mediaType") not in _INDEXES and "manifests" not in top.body:
            return top, top
        where, platforms = self._reference.at(top.digest), []
        with archive.sound(where, "image index"):
            try:
                for each in top.body["manifests"]:
                    platform = each.get("platform", {})
                    if (platform.get("os"), platform.get("architecture")) == ("linux", INFO[arch].debian):
                        digest = str(each["digest"])
                        if not _DIGEST.fullmatch(digest):  # nothing would tell that what comes is what was meant
                            raise ValueError(f"an image has no sha256 but {digest[:80]!r}")
                        break
                    platforms.append(str(platform.get("architecture")))
                else:
                    digest = ""
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"it does not list its images ({error})") from error
        if digest:
            return top, self._get(digest)
        raise Unavailable(f"has no image for {INFO[arch].debian} (it has {', '.join(platforms) or 'none'})", where=where)

    def authorization(self) -> Mapping[str, str]:
        """What to send along with a request for a blob: a fresh token, where the registry wants one (they last some minutes)."""
        self._ask(f"{self._reference.base}/manifests/{self._reference.digest or self._reference.tag}")
        return self._token

    def _get(self, wanted: str) -> _Manifest:
        """A manifest by tag or digest."""
        url = f"{self._reference.base}/manifests/{wanted}"
        self._ask(url)
        data = download.get(url, 4 << 20, headers={"Accept": ", ".join(_INDEXES + _MANIFESTS), **self._token})
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if _DIGEST.fullmatch(wanted) and digest != wanted:
            raise InfraError(
                f"is not what its digest says: it is {digest}", where=url, fix="try again later, or from another mirror"
            )
        with archive.sound(url, "image manifest"):
            body = json.loads(data)
            if not isinstance(body, dict):
                raise ValueError("it is no object")
        return _Manifest(digest, len(data), body)

    def _ask(self, url: str) -> None:
        """Get a token if the registry wants one for `url` (RFC 6750's challenge, the Docker registry's token protocol)."""
        try:
            answer = session.session().head(url, headers={"Accept": ", ".join(_INDEXES + _MANIFESTS), **self._token})
            if answer.status_code == 401:
                self._token = self._new_token(answer.headers.get("WWW-Authenticate", ""), url)
        except requests.RequestException:
            return  # what is the matter is said by the request that fetches it, which is tried again

    def _new_token(self, challenge: str, url: str) -> dict[str, str]:
        parts = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if not challenge.lower().startswith("bearer") or "realm" not in parts:
            raise Unavailable(
                "wants a password: only what is public is fetched", where=url, fix="choose a public image, or a mirror of it"
            )
        asked = {name: parts[name] for name in ("service", "scope") if name in parts}
        # By the rule for the registry itself: what it says leads to no file of this machine, nor to a server that anyone may listen to.
        realm = requests.Request("GET", trust.linked(self._reference.base, parts["realm"]), params=asked).prepare().url
        with archive.sound(str(realm), "token"):
            answer = json.loads(download.get(str(realm), 1 << 20))
            token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
            if not isinstance(token, str):
                raise ValueError("the answer holds none")
        return {"Authorization": f"Bearer {token}"}
