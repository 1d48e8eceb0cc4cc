"""The `sources` of kernels.toml, checked: one model for each kind of source has the options that it takes.

An option that would not be looked at is refused: a digest that nobody compares, or a fingerprint that any key has, is worse than none.
Nothing here reads a file; what the sources do is in kmatrix/kernels/sources/, one module a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict, Wrong
from kmatrix.matrix.arch import ARCHES

ARCHIVE = re.compile(r"(.*\.tar)\.(xz|gz|zst|bz2)")
"""The address of one source archive; another is a folder of them."""
REMOTE = re.compile(r"(https?|git|ssh|file)://.+")
"""The address of a repository that git fetches from; another is a folder on this machine."""
REFERENCE = re.compile(
    r"(?P<registry>localhost|[^/\s]*[.:][^/\s]*)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
"""REGISTRY/REPOSITORY[:TAG][@DIGEST]."""
_ADDRESS = re.compile(r"https?://[^/\s]+(/.*)?|(file|copy):/.*")


def _text(value: str) -> str:
    if not value.strip():
        raise Wrong("is empty", "write what it is, or leave it out")
    return value


def _series(value: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)+", value):
        raise Wrong(f"{value!r} is no series of releases", 'write it as "6.1"')
    return value


def _fingerprint(value: str) -> str:
    digits = "".join(value.split()).upper()
    if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", digits):
        raise Wrong(
            f"{value!r} is no fingerprint: a key's whole one has 40 hexadecimal digits (64 of late)",
            "gpg --show-keys FILE shows it",
        )
    return digits


def _one_or_more(value: Any) -> Any:
    if value == []:
        raise Wrong("is empty", "write what it is, or leave it out")
    return [value] if isinstance(value, str) else value


_ONE_OR_MORE = BeforeValidator(_one_or_more)
_Text = Annotated[str, AfterValidator(_text)]
_Texts = Annotated[tuple[_Text, ...], Field(strict=False), _ONE_OR_MORE]
_Series = Annotated[str, AfterValidator(_series)]
_Sha256s = Annotated[tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...], Field(strict=False), _ONE_OR_MORE]
_Fingerprints = Annotated[tuple[Annotated[str, AfterValidator(_fingerprint)], ...], Field(strict=False), _ONE_OR_MORE]


class SourceModel(Strict):
    """One entry of `sources`. A kind of source is a class below: its fields are the options that it takes in kernels.toml."""

    kind: str
    arches: Annotated[tuple[str, ...], Field(strict=False), _ONE_OR_MORE] = ARCHES
    untried: bool = False

    one_of: ClassVar[tuple[str, ...]] = ()
    """Options of which it needs exactly one, if there are any."""

    @model_validator(mode="before")
    @classmethod
    def _takes(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        kind = data["kind"]
        if wrong := [str(name) for name in data if name not in cls.model_fields]:
            raise Wrong(
                f"a {kind} source takes no {', '.join(wrong)}{did_you_mean(wrong[0], cls.model_fields)}",
                f"its keys: {', '.join(sorted(cls.model_fields))}",
            )
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        if not data.keys() >= set(required):
            raise ValueError(f"a {kind} source needs {', '.join(sorted(set(required) - {'kind'}))}")
        if cls.one_of and len(data.keys() & set(cls.one_of)) != 1:
            raise ValueError(f"a {kind} source needs one of {', '.join(cls.one_of)}")
        return data

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for wrong in (*self.misplaced(), *self.unused(), *self.reasons()):
            raise wrong
        return self

    def options(self) -> dict[str, str | tuple[str, ...]]:
        """What was given for the source's kind."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in SourceModel.model_fields}
        return {name: value for name, value in given.items() if value is not None}

    def misplaced(self) -> Iterator[Wrong]:
        """What does not say where something is."""
        return iter(())

    def unused(self) -> Iterator[Wrong]:
        """What would not be looked at."""
        return iter(())

    def reasons(self) -> Iterator[Wrong]:
        """More than one reason to believe what comes (only one is looked at), or a reason that is none."""
        options = self.options()
        keys = options.get("key", ())
        if "fingerprint" in options and not keys:
            yield Wrong("a fingerprint, and no key of that fingerprint", 'add key = "…" (a file or an address)')
        if "fingerprint" not in options and (fetched := next((key for key in keys if _ADDRESS.fullmatch(key)), None)):
            yield Wrong(f"the key {fetched} is fetched, and nothing says which it must be", 'add fingerprint = "…"')
        found = [*self.exact(), *(name for name in ("sha256", "commit", "key", "trust") if name in options)]
        if len(found) > 1:
            yield Wrong(
                f"{found[0]} says what it must be, and {' and '.join(found[1:])} would not be looked at", "keep one of them"
            )

    def exact(self) -> tuple[str, ...]:
        """The part of an option that says by itself exactly what must come, if there is one."""
        return ()


def _addresses(name: str, given: Iterable[str]) -> Iterator[Wrong]:
    for each in given:
        if not _ADDRESS.fullmatch(each):
            yield Wrong(f"{name}: {each!r} is no address", "write https://…, http://…, or file:///… for what is on this machine")


def _one_url(kind: str, urls: tuple[str, ...]) -> Iterator[Wrong]:
    if len(urls) > 1:
        yield Wrong(f"url: a {kind} source has one", "write one source for each")


# --- the kinds: docs/kernels-toml.md says what their options mean
#
# How a file is known to be the right one: its digest, or a signature by a key; without either, only by an explicit trust = "first-use".


class DebianModel(SourceModel):
    """kernels/sources/debian.py."""

    kind: Literal["debian"]
    suite: _Text
    series: _Series | None = None
    """None: the newest of the suite, whatever its series."""
    version: _Text | None = None
    """A package's version, or upstream's such as 6.1.172."""
    flavour: Literal["rt", "cloud", "16k"] | None = None


class ImportModel(SourceModel):
    """kernels/sources/imported.py."""

    kind: Literal["import"]


class BuildModel(SourceModel):
    """kernels/build.py."""

    kind: Literal["build"]
    tree: _Text | None = None


class OciModel(SourceModel):
    """kernels/sources/oci.py."""

    kind: Literal["oci"]
    ref: _Text
    trust: Literal["first-use"] | None = None

    def misplaced(self) -> Iterator[Wrong]:
        """A reference that names no image."""
        match = REFERENCE.fullmatch(re.sub(r"\{(machine|debian)\}", "x", self.ref))
        if match is None or not (match["tag"] or match["digest"]):
            fix = "write REGISTRY/REPOSITORY:TAG, or REGISTRY/REPOSITORY@sha256:…"
            yield Wrong(f"ref: {self.ref!r} names no image in a registry", fix)

    def exact(self) -> tuple[str, ...]:
        """A digest in the reference."""
        return ("@sha256:…",) if "@sha256:" in self.ref else ()


class PackageModel(SourceModel):
    """kernels/sources/package.py."""

    kind: Literal["package"]
    url: _Texts | None = None
    repository: _Text | None = None
    packages: _Texts | None = None
    suite: _Text | None = None
    series: _Series | None = None
    version: _Text | None = None
    sha256: _Sha256s | None = None
    key: _Texts | None = None
    fingerprint: _Fingerprints | None = None
    trust: Literal["first-use"] | None = None

    one_of: ClassVar[tuple[str, ...]] = ("url", "repository")

    def misplaced(self) -> Iterator[Wrong]:
        """Addresses that are none, and a repository of which no package is named."""
        if self.repository is not None and self.packages is None:
            yield Wrong("a repository holds many packages: name the kernel's in packages", "add packages")
        yield from _addresses("url", self.url or ())
        yield from _addresses("repository", (self.repository,) if self.repository else ())

    def unused(self) -> Iterator[Wrong]:
        """What chooses from a repository, of a package by its address; and the other way about."""
        if self.url is not None:
            if more := [name for name in ("packages", "suite", "series", "version") if getattr(self, name)]:
                yield Wrong(f"{', '.join(more)}: for a repository, and url is the package itself", f"leave out {', '.join(more)}")
            if self.sha256 is not None and len(self.sha256) != len(self.url):
                yield Wrong(f"{len(self.url)} addresses and {len(self.sha256)} digests", "give one sha256 for each url, in order")
        if self.repository is not None:
            if self.sha256 is not None:
                yield Wrong(
                    "sha256 is of one package, and a repository has many", "give the package's own address as url, or a key"
                )
            if self.suite is not None and (self.series or self.version):
                yield Wrong(
                    "series and version: an apt repository's kernel is chosen by name", "leave them out, and name it in packages"
                )


class MainlineModel(SourceModel):
    """kernels/sources/mainline.py."""

    kind: Literal["mainline"]
    url: _Texts
    series: _Series
    version: _Text | None = None
    key: _Texts | None = None
    fingerprint: _Fingerprints | None = None
    trust: Literal["first-use"] | None = None

    def misplaced(self) -> Iterator[Wrong]:
        """More than one folder, or one that is no address."""
        yield from _one_url(self.kind, self.url)
        yield from _addresses("url", self.url)


class TarballModel(SourceModel):
    """kernels/sources/tarball.py."""

    kind: Literal["tarball"]
    url: _Texts
    series: _Series | None = None
    version: _Text | None = None
    sha256: _Sha256s | None = None
    key: _Texts | None = None
    fingerprint: _Fingerprints | None = None
    trust: Literal["first-use"] | None = None

    def misplaced(self) -> Iterator[Wrong]:
        """More than one archive or folder, or one that is no address."""
        yield from _one_url(self.kind, self.url)
        yield from _addresses("url", self.url)

    def unused(self) -> Iterator[Wrong]:
        """What is of one archive, of a folder of them; and the other way about."""
        if not ARCHIVE.fullmatch(self.url[0]):
            if self.sha256 is not None:
                yield Wrong("sha256 is of one archive, and url is a folder of them", "give the archive's own address as url")
        elif self.series or self.version:
            yield Wrong("series and version choose from a folder, and url is one archive", "leave them out, or give the folder")
        if len(self.sha256 or ()) > 1:
            yield Wrong("sha256: a tarball source has one", "write one source for each")


class GitModel(SourceModel):
    """kernels/sources/git.py."""

    kind: Literal["git"]
    url: _Texts
    ref: _Text
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None
    key: _Texts | None = None
    fingerprint: _Fingerprints | None = None
    trust: Literal["first-use"] | None = None

    def misplaced(self) -> Iterator[Wrong]:
        """What git is not let fetch from, and what it would take for an option."""
        yield from _one_url(self.kind, self.url)
        for each in self.url:
            if each.startswith("-") or (":" in each.split("/")[0] and not REMOTE.fullmatch(each)):
                yield Wrong(f"url: {each!r} is nothing that git is let fetch from", "write https://…, or the path of a folder")
        if self.ref.startswith("-"):
            yield Wrong(f"ref: {self.ref!r} is no ref", "name a tag or branch")


_Kinds = DebianModel | ImportModel | BuildModel | OciModel | PackageModel | MainlineModel | TarballModel | GitModel

KINDS: Mapping[str, type[SourceModel]] = {get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(_Kinds)}
"""The kinds of source, by their names in kernels.toml."""


def _known_kind(data: Any) -> Any:
    if isinstance(data, Mapping) and data.get("kind") not in KINDS:
        if "kind" not in data:
            raise Wrong("says no kind", f"add kind: {', '.join(KINDS)}")
        kind = data["kind"]
        raise ValueError(f"unknown source kind {kind!r}{did_you_mean(str(kind), KINDS)}; known: {', '.join(KINDS)}")
    return data


AnySource = Annotated[Annotated[_Kinds, Field(discriminator="kind")], BeforeValidator(_known_kind)]
"""An entry of `sources`: its kind says which model it is checked by."""
