"""Why a fetched file is believed: a digest or a signature, or else only because kernels.toml says `trust = "first-use"`.

Every source reports each file it used as an Artifact, in `StagedKernel.source["artifacts"]`, and in `source["pin"]` the options that, put
into its SourceSpec, make it get exactly that again: what a lock records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from kmatrix.fetch import network
from kmatrix.fetch.gpgv import Keys, armor
from kmatrix.host.errors import InfraError, InputError, without_credentials
from kmatrix.host.later import later
from kmatrix.host.progress import Reporter
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec

if TYPE_CHECKING:
    from kmatrix.fetch import download
else:
    download = later("kmatrix.fetch.download")

FIRST_USE = "first use"
GIVEN = "sha256 in kernels.toml"


@dataclass(frozen=True)
class Artifact:
    """A file that a kernel was made from."""

    url: str
    sha256: str
    size: int
    trust: str
    """Why it was believed, in words: a signature by whom, a digest from where, or FIRST_USE."""


def provenance(kind: str, artifacts: Iterable[Artifact], pin: Mapping[str, Any], **more: object) -> dict[str, object]:
    """`StagedKernel.source` of a kernel made from `artifacts`; `pin` are the options that name exactly them."""
    return {"kind": kind, **more, "artifacts": [asdict(artifact) for artifact in artifacts], "pin": dict(pin)}


def names(source: Mapping[str, Any]) -> str:
    """The names of the files that a kernel was made from, of its `source` by `provenance`."""
    return ", ".join(artifact["url"].rsplit("/", 1)[-1] for artifact in source["artifacts"])


def pinned(spec: SourceSpec, source: Mapping[str, Any]) -> SourceSpec:
    """`spec`, made to get exactly what `source` (of an entry, or a lock) was."""
    pin = dict(source.get("pin", {}))
    if "url" in pin:
        pin["url"] = tuple(_with_credentials(url, spec) for url in pin["url"])
    return replace(spec, options={**spec.options, **pin})


def _with_credentials(url: str, spec: SourceSpec) -> str:
    """`url` with the user and password that kernels.toml has for its server: they are in nothing that was recorded."""
    for given in (*spec.options.get("url", ()), spec.options.get("repository", "")):
        parts = urlsplit(given)
        credentials, at, host = parts.netloc.rpartition("@")
        if at and url.startswith(f"{parts.scheme}://{host}/"):
            return url.replace("://", f"://{credentials}@", 1)
    return url


def expand(text: str, arch: Arch) -> str:
    """An address of kernels.toml with {debian} (amd64, arm64) and {machine} (x86_64, aarch64) put in."""
    return text.replace("{debian}", INFO[arch].debian).replace("{machine}", INFO[arch].machine)


def linked(base: str, link: str) -> str:
    """The address that an index or registry at `base` gives by `link`: on the network where `base` is, and not on less than https where it is on that.

    Raises InfraError for another: what comes over the network has no say in which of this machine's files are read.
    """
    scheme = urlsplit(base).scheme
    with contextlib.suppress(ValueError):
        url = urljoin(base, link)
        if urlsplit(url).scheme in (("http", "https") if scheme == "http" else (scheme,)):
            return url
    raise InfraError(f"leads to {link!r}, which is not followed", where=base, fix="try again later, or from another source")


def fetch(
    url: str,
    to: Path,
    label: str,
    reporter: Reporter,
    *,
    trust: str,
    size: int | None = None,
    digest: str | None = None,
    headers: Mapping[str, str] | None = None,
    keep: bool = False,
) -> Artifact:
    """Fetch `url` into the file `to`: `size` bytes with the sha256 `digest`, where these are known. `trust` is why it is believed.

    With `keep` it stays in the cache as well: see `download.fetch_file`.

    Raises Unavailable when it cannot be fetched, InfraError when it is not what it must be.
    """
    with reporter.step(label) as step:
        size, digest = download.fetch_file(url, size, digest, to, step.advance, headers=headers, keep=keep)
    return Artifact(without_credentials(url), digest, size, trust)


def first_use(spec: SourceSpec) -> bool:
    """Whether kernels.toml says to believe what comes."""
    return spec.options.get("trust") == "first-use"


def keys(spec: SourceSpec, kernel: Kernel) -> Keys | None:
    """The keys of the source's `key` (files, relative to its kernels.toml, or addresses) and `fingerprint`; None where it names none, and where
    a digest (of a lock) says what must come: a key server that is gone is in nobody's way then.

    Raises InputError for an address without a fingerprint (the key would be whatever comes) and for a missing file, Unavailable when a key
    cannot be fetched.
    """
    if "sha256" in spec.options or "commit" in spec.options:
        return None
    given: tuple[str, ...] = spec.options.get("key", ())
    fingerprints = tuple(text.replace(" ", "").upper() for text in spec.options.get("fingerprint", ()))
    where = f'{kernel.declared_in}: kernels."{kernel.name}".sources'
    if not given:
        if fingerprints:
            raise InputError(
                "a fingerprint, and no key of that fingerprint", where=where, fix='add key = "…" (a file or an address)'
            )
        return None
    files, texts = [], []
    for each in given:
        if urlsplit(each).scheme in network.SCHEMES:
            if not fingerprints:
                raise InputError(
                    f"the key {each} is fetched, and nothing says which it must be", where=where, fix='add fingerprint = "…"'
                )
            texts.append(armor(download.get(each, 1 << 20)))
        else:
            path = Path(kernel.declared_in).parent / Path(each).expanduser()
            if not path.is_file():
                raise InputError(f"there is no key file {path}", where=where, fix="correct key")
            files.append(path)
    return Keys(tuple(files), tuple(texts), fingerprints)


def refuse(what: str, where: str) -> InputError:
    """The error for a file that nothing vouches for."""
    return InputError(
        f"nothing says what {what} must be: no digest, and no key that signed it",
        where=where,
        fix='give the source sha256 or key in kernels.toml, or trust = "first-use" (kmatrix kernels lock then holds it to that)',
    )
