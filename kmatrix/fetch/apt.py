"""Debian archives, read the way apt reads them: the host's configured mirror, a signature checked by gpgv, and sha256 from there on.

The chain is InRelease (signed) → Packages.xz (sha256 in the Release) → a .deb (sha256 in Packages). Nothing unverified is parsed.
No host name stands here: the mirror comes from the host's apt configuration or from `[mirrors]` in kernels.toml.

Left out on purpose: Valid-Until is not looked at. It guards against a mirror that withholds updates, which matters to a machine that
runs the packages in the open, and not to a test VM; hosts with a frozen mirror have it switched off too.
"""

from __future__ import annotations

import io
import lzma
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from debian.deb822 import Deb822
from debian.debian_support import NativeVersion as Version

from kmatrix.fetch.download import Progress, fetch, fetch_file, get
from kmatrix.fetch.gpgv import Keys, dearmor, verify
from kmatrix.fetch.network import SCHEMES, proxies
from kmatrix.host.errors import InfraError, Unavailable

__all__ = [
    "APT_ROOT",
    "KEYRING",
    "Archive",
    "Source",
    "Suite",
    "archives",
    "dearmor",
    "open_suite",
    "proxies",
    "read_sources",
    "stanzas",
]

APT_ROOT = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""All keys of Debian's releases, from the package debian-archive-keyring."""

_UNPACKED = 1 << 30
"""Bytes of a Packages index (Debian's main: 60 million)."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUITES = {"stable", "testing", "unstable", "oldstable", "oldoldstable", "sid", "experimental"} | {
    *("buster", "bullseye", "bookworm", "trixie", "forky", "duke")
}


@dataclass(frozen=True)
class Source:
    """One archive as the host's apt configuration has it.

    `signed_by` is the option's value, unread: paths, fingerprints or a whole armoured key; empty where there is none.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Archive:
    """A suite on a mirror, and what its signature is checked with.

    `keyrings` are binary or armoured key files; `keys`, armoured keys written in the configuration itself; `fingerprints`, where there
    are any, the only keys accepted. `trusted` (apt's `[trusted=yes]`) means that no signature is asked for.
    """

    uri: str
    suite: str
    keyrings: tuple[Path, ...] = ()
    keys: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    trusted: bool = False

    @property
    def trust(self) -> Keys:
        """The keys in the form that a signature is verified with."""
        return Keys(self.keyrings, self.keys, self.fingerprints)

    def url(self, path: str) -> str:
        """The address of `path` below the archive's root."""
        return f"{self.uri.rstrip('/')}/{path}"


def read_sources(root: Path = APT_ROOT) -> list[Source]:
    """The binary archives of the apt configuration under `root`, in apt's order; files that apt would not read are not read."""
    folder = root / "sources.list.d"
    extra = sorted(folder.iterdir()) if folder.is_dir() else []
    sources: list[Source] = []
    for path in [root / "sources.list", *extra]:
        parse = parse_sources if path.suffix == ".sources" else parse_list if path.suffix == ".list" else None
        if parse is None or not path.is_file():
            continue
        try:
            text = path.read_text(errors="replace")
        except OSError:  # a file only root may read: apt as this user would not see it either
            continue
        sources += parse(text, str(path))
    return sources


def parse_list(text: str, origin: str = "") -> list[Source]:
    """The sources of a one-line-style file (sources.list(5)); lines that are none are passed over, as by apt."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+\S+)*)\s*", line.split("#", 1)[0])
        if not match:
            continue
        options = dict(word.split("=", 1) for word in (match[1] or "").split() if "=" in word)
        options = {key.lower(): value for key, value in options.items()}
        found.append(
            Source(
                uri=match[2],
                suite=match[3],
                components=tuple(match[4].split()),
                signed_by=options.get("signed-by", "").replace(",", " "),
                trusted=_is_yes(options.get("trusted", "")),
                origin=origin,
            )
        )
    return [source for source in found if _usable(source)]


def parse_sources(text: str, origin: str = "") -> list[Source]:
    """The sources of a deb822-style file (sources.list(5)): one for each URI × suite of each stanza that is enabled."""
    found = []
    for stanza in Deb822.iter_paragraphs(text.splitlines(keepends=True)):
        if "deb" not in stanza.get("Types", "").split() or not _is_yes(stanza.get("Enabled", "yes")):
            continue
        for uri in stanza.get("URIs", "").split():
            for suite in stanza.get("Suites", "").split():
                found.append(
                    Source(
                        uri=uri,
                        suite=suite,
                        components=tuple(stanza.get("Components", "").split()),
                        signed_by=stanza.get("Signed-By", "").strip(),
                        trusted=_is_yes(stanza.get("Trusted", "")),
                        origin=origin,
                    )
                )
    return [source for source in found if _usable(source)]


def _is_yes(value: str) -> bool:
    return value.strip().lower() in ("yes", "true", "1", "on", "enable", "with")


def _usable(source: Source) -> bool:
    # A suite that ends in '/' is a flat repository, which Debian's archive is not.
    return urlsplit(source.uri).scheme in SCHEMES and not source.suite.endswith("/")


def archives(suite: str, mirror: str | None = None, root: Path = APT_ROOT) -> list[Archive]:
    """Where `suite` may be had, likeliest first: `mirror` if given, else the Debian mirrors that the host's apt is configured with.

    A host on another suite gives its mirror all the same. Whether a mirror really is Debian's is only known from its Release (see
    `open_suite`): third parties use Debian's suite names as well.
    """
    if mirror is not None:
        return [Archive(mirror, suite, _default_keyrings(root))]
    sources = [s for s in read_sources(root) if "main" in s.components and s.suite.split("-")[0].split("/")[0] in _SUITES]
    # "-security" lives in another archive; "-updates" and "-backports" are in the main one.
    security = suite.endswith("-security")
    named = [s for s in sources if s.suite == suite or bool(re.search(r"-security$|/updates$", s.suite)) is security]
    if security:  # a mirror that has both has them side by side
        beside = (replace(s, uri=re.sub(r"/debian/?$", "/debian-security", s.uri)) for s in sources if s not in named)
        named += [s for s in beside if s.uri.endswith("/debian-security")]
    sources = sorted(named, key=lambda s: s.suite != suite)
    found: dict[str, Archive] = {}
    for source in sources:
        found.setdefault(source.uri.rstrip("/"), _archive(source, suite, root))
    return list(found.values())


def _archive(source: Source, suite: str, root: Path) -> Archive:
    if "BEGIN PGP PUBLIC KEY BLOCK" in source.signed_by:
        return Archive(source.uri, suite, _existing(KEYRING), (source.signed_by,), trusted=source.trusted)
    words = source.signed_by.split()
    paths = tuple(Path(word) for word in words if word.startswith("/"))
    fingerprints = tuple(word.rstrip("!").upper() for word in words if not word.startswith("/"))
    if not paths:
        return Archive(source.uri, suite, _default_keyrings(root), (), fingerprints, source.trusted)
    # A configuration may name one release's key alone, and the suite wanted be of another release: Debian's whole keyring goes with it.
    return Archive(source.uri, suite, tuple(dict.fromkeys([*paths, *_existing(KEYRING)])), (), fingerprints, source.trusted)


def _existing(*paths: Path) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.is_file())


def _default_keyrings(root: Path) -> tuple[Path, ...]:
    """Debian's own keyring; where it is not installed, the keys that apt trusts."""
    parts = sorted((root / "trusted.gpg.d").glob("*")) if (root / "trusted.gpg.d").is_dir() else []
    keys = [path for path in parts if path.suffix in (".gpg", ".asc")]
    return _existing(KEYRING) or _existing(root / "trusted.gpg", *keys)


@dataclass(frozen=True)
class Suite:
    """A suite whose Release has been verified: the root of trust for everything fetched through it."""

    archive: Archive
    release: Mapping[str, str]
    files: Mapping[str, tuple[int, str]] = field(repr=False)
    """Index files by path below dists/SUITE/: (bytes, sha256)."""

    def packages(self, arch: str, *, component: str = "main", advance: Progress | None = None) -> bytes:
        """The text of the Packages index for `arch` (Debian's name: amd64, arm64), verified.

        Raises Unavailable when the suite has none or it cannot be fetched, InfraError when it is not what the Release says.
        """
        name = f"{component}/binary-{arch}/Packages.xz"
        if name not in self.files:
            raise Unavailable(f"{self.archive.suite} has no packages for {arch} ({name})", where=self.archive.uri)
        size, digest = self.files[name]
        folder = f"dists/{self.archive.suite}/{component}/binary-{arch}"
        # By hash, the index cannot change between the Release and this request (a mirror being updated).
        paths = [f"{folder}/by-hash/SHA256/{digest}"] if _is_yes(self.release.get("Acquire-By-Hash", "")) else []
        data = io.BytesIO()
        for last, path in enumerate([*paths, f"{folder}/Packages.xz"], start=-len(paths)):
            try:
                fetch(self.archive.url(path), size, digest, data, advance)
                break
            except Unavailable:
                if not last:
                    raise
        with _sound(self.archive.url(f"{folder}/Packages.xz")):
            data.seek(0)
            with lzma.open(data) as stream:
                text = stream.read(_UNPACKED + 1)
            if len(text) > _UNPACKED:
                raise ValueError(f"it unpacks to more than {_UNPACKED >> 20} MiB")
            return text

    def find(self, arch: str, pattern: str, *, advance: Progress | None = None) -> list[Mapping[str, str]]:
        """The stanzas of the packages for `arch` whose whole name matches the regular expression `pattern`.

        Each has its Version, Filename, Size and SHA256. Raises what `packages` raises, and InfraError for one that has not.
        """
        packages = self.packages(arch, advance=advance)
        with _sound(f"{self.archive.uri} {self.archive.suite}"):
            found = list(stanzas(packages, pattern))
            for package in found:
                Version(package["Version"])
                if not (package["Filename"] and int(package["Size"]) >= 0 and _SHA256.fullmatch(package["SHA256"])):
                    raise ValueError(f"{package['Package']} has no place, size or sha256")
            return found

    def download(self, package: Mapping[str, str], to: Path, *, advance: Progress | None = None) -> str:
        """Fetch the .deb of a Packages stanza into the file `to`; returns its address.

        Raises Unavailable when it cannot be fetched, InfraError when it is not what Packages says: `to` is not there then.
        """
        url = self.archive.url(package["Filename"])
        fetch_file(url, int(package["Size"]), package["SHA256"], to, advance)
        return url


@contextmanager
def _sound(where: str) -> Iterator[None]:
    """Says what an index that is none makes its readers stumble over as one error."""
    try:
        yield
    except (lzma.LZMAError, EOFError, ValueError, KeyError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InfraError(f"is malformed: {what}", where=where, fix="check the mirror") from error


def stanzas(packages: bytes, pattern: str) -> Iterator[Mapping[str, str]]:
    """The stanzas of a Packages file whose package name matches `pattern` whole (only those are parsed: the file has 60 000)."""
    for match in re.finditer(rb"^Package: (\S+)\n(?:.+\n)*", packages, re.MULTILINE):
        if re.fullmatch(pattern, match[1].decode()):
            yield Deb822(match[0])


def open_foreign(uri: str, suite: str, keys: Keys | None) -> Suite:
    """Fetch the Release of `suite` in another distribution's archive at `uri`, and verify it with `keys`; None asks for no signature.

    Raises Unavailable when it cannot be fetched, InfraError when the signature is bad.
    """
    files, texts, fingerprints = (keys.files, keys.texts, keys.fingerprints) if keys is not None else ((), (), ())
    return _open(Archive(uri, suite, files, texts, fingerprints, trusted=keys is None), origin=None)


def open_suite(suite: str, *, mirror: str | None = None, root: Path = APT_ROOT) -> Suite:
    """Fetch and verify the Release of Debian's `suite`, from `mirror` or the first of the host's mirrors that has it.

    Raises Unavailable when there is no mirror or none has the suite, InfraError when a signature is bad.
    """
    candidates = archives(suite, mirror, root)
    if not candidates:
        raise Unavailable(
            "the host's apt configuration names no Debian mirror",
            where=str(root),
            fix='name one in kernels.toml: [mirrors] debian = "http://…/debian" (and apt-get install debian-archive-keyring)',
        )
    said: list[InfraError] = []
    for archive in candidates:
        try:
            return _open(archive)
        except InfraError as error:
            said.append(error)
    # A bad signature outranks a 404: it is the thing to know.
    raise next((error for error in said if not isinstance(error, Unavailable)), said[0])


def _open(archive: Archive, *, origin: str | None = "Debian") -> Suite:
    base = f"dists/{archive.suite}"
    where = archive.url(f"{base}/InRelease")
    try:
        signed = get(where)
    except Unavailable:
        where = archive.url(f"{base}/Release")
        plain = get(where)
        if not archive.trusted:
            verify(plain, archive.trust, where=where, signature=get(where + ".gpg"))
        text = plain
    else:
        text = _unwrap(signed) if archive.trusted else verify(signed, archive.trust, where=where)
    with _sound(where):
        release = Deb822(text)
    if origin is not None and release.get("Origin") not in (origin, f"{origin} Backports"):
        raise Unavailable(f"is not {origin}'s archive: its Release says Origin: {release.get('Origin')}", where=where)
    if archive.suite not in (release.get("Codename"), release.get("Suite")):
        raise InfraError(f"is the Release of {release.get('Codename')}, not of {archive.suite}", where=where)
    files = {}
    with _sound(where):
        for line in release.get("SHA256", "").splitlines():
            words = line.split()
            if len(words) == 3:
                if not _SHA256.fullmatch(words[0]):
                    raise ValueError(f"{words[0][:70]!r} is no sha256")
                files[words[2]] = (int(words[1]), words[0])
    return Suite(archive, release, files)


def _unwrap(signed: bytes) -> bytes:
    """The text of an InRelease, its signature left unread (for `[trusted=yes]` only)."""
    match = re.search(rb"-----BEGIN PGP SIGNED MESSAGE-----\n(?:.+\n)*\n(.*?)\n-----BEGIN PGP SIGNATURE-----", signed, re.DOTALL)
    return match[1] if match else signed
