"""The `sources` of kernels.toml, checked: what each kind takes, and that nothing is given which would not be looked at.

A digest that nobody compares, or a fingerprint that any key has, is worse than none. Nothing here reads a file; what the sources do is in
kmatrix/kernels/, one module a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict
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


@dataclass(frozen=True)
class SourceOptions:
    """The options that a kind of source takes in kernels.toml."""

    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    """Exactly one of these, where there are any."""
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every option."""
        return (*self.required, *self.one_of, *self.optional)


# How a file is known to be the right one: its digest, or a signature by a key; without either, only by an explicit trust = "first-use".
_TRUST = ("sha256", "key", "fingerprint", "trust")
SOURCE_OPTIONS: Mapping[str, SourceOptions] = {
    "debian": SourceOptions(("suite", "series"), optional=("version",)),
    "import": SourceOptions(),
    "build": SourceOptions(optional=("tree",)),
    "oci": SourceOptions(("ref",), optional=("trust",)),
    "package": SourceOptions((), ("url", "repository"), ("packages", "suite", "series", "version", *_TRUST)),
    "mainline": SourceOptions(("url", "series"), optional=("version", "key", "fingerprint", "trust")),
    "tarball": SourceOptions(("url",), optional=("series", "version", *_TRUST)),
    "git": SourceOptions(("url", "ref"), optional=("commit", "key", "fingerprint", "trust")),
}
"""The kinds of source, and the options each takes (docs/kernels-toml.md says what they mean)."""
_EVERY_KIND = ("kind", "arches", "untried")


class _Wrong(ValueError):
    """What is wrong with a source, and what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def _text(value: str) -> str:
    if not value.strip():
        raise _Wrong("is empty", "write what it is, or leave it out")
    return value


def _series(value: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)+", value):
        raise _Wrong(f"{value!r} is no series of releases", 'write it as "6.1"')
    return value


def _fingerprint(value: str) -> str:
    digits = "".join(value.split()).upper()
    if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", digits):
        raise _Wrong(
            f"{value!r} is no fingerprint: a key's whole one has 40 hexadecimal digits (64 of late)",
            "gpg --show-keys FILE shows it",
        )
    return digits


def _one_or_more(value: Any) -> Any:
    if value == []:
        raise _Wrong("is empty", "write what it is, or leave it out")
    return [value] if isinstance(value, str) else value


_ONE_OR_MORE = BeforeValidator(_one_or_more)
_Text = Annotated[str, AfterValidator(_text)]
_Texts = Annotated[tuple[_Text, ...], Field(strict=False), _ONE_OR_MORE]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class SourceModel(Strict):
    """One entry of `sources`."""

    kind: str
    arches: Annotated[tuple[str, ...], Field(strict=False), _ONE_OR_MORE] = ARCHES
    untried: bool = False
    suite: _Text | None = None
    series: Annotated[str, AfterValidator(_series)] | None = None
    version: _Text | None = None
    tree: _Text | None = None
    ref: _Text | None = None
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None
    url: _Texts | None = None
    repository: _Text | None = None
    packages: _Texts | None = None
    sha256: Annotated[tuple[_Sha256, ...], Field(strict=False), _ONE_OR_MORE] | None = None
    key: _Texts | None = None
    fingerprint: Annotated[tuple[Annotated[str, AfterValidator(_fingerprint)], ...], Field(strict=False), _ONE_OR_MORE] | None = (
        None
    )
    trust: Literal["first-use"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _takes(cls, data: Any) -> Any:
        kind = data.get("kind") if isinstance(data, Mapping) else None
        if not isinstance(kind, str):
            return data
        if kind not in SOURCE_OPTIONS:
            raise ValueError(
                f"unknown source kind {kind!r}{did_you_mean(kind, SOURCE_OPTIONS)}; known: {', '.join(SOURCE_OPTIONS)}"
            )
        known = (*_EVERY_KIND, *SOURCE_OPTIONS[kind].all)
        if wrong := [str(name) for name in data if name not in known]:
            raise _Wrong(
                f"a {kind} source takes no {', '.join(wrong)}{did_you_mean(wrong[0], known)}",
                f"its keys: {', '.join(sorted(known))}",
            )
        return data

    @model_validator(mode="after")
    def _is_whole(self) -> SourceModel:
        known, given = SOURCE_OPTIONS[self.kind], set(self.options())
        if set(known.required) - given:
            raise ValueError(f"a {self.kind} source needs {', '.join(sorted(known.required))}")
        if known.one_of and len(given & set(known.one_of)) != 1:
            raise ValueError(f"a {self.kind} source needs one of {', '.join(known.one_of)}")
        if self.repository is not None and self.packages is None:
            raise ValueError("a repository holds many packages: name the kernel's in packages")
        for wrong in (*self._places(), *self._unused(), *self._reasons()):
            raise wrong
        return self

    def options(self) -> dict[str, str | tuple[str, ...]]:
        """What was given for the source's kind."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in _EVERY_KIND}
        return {name: value for name, value in given.items() if value is not None}

    def _places(self) -> Iterator[_Wrong]:
        """What does not say where something is."""
        if len(self.url or ()) > 1 and self.kind != "package":
            yield _Wrong(f"url: a {self.kind} source has one", "write one source for each")
        for name, each in (
            *(("url", url) for url in self.url or ()),
            *((("repository", self.repository),) if self.repository else ()),
        ):
            if self.kind == "git":
                if each.startswith("-") or (":" in each.split("/")[0] and not REMOTE.fullmatch(each)):
                    yield _Wrong(f"url: {each!r} is nothing that git is let fetch from", "write https://…, or the path of a folder")
            elif not _ADDRESS.fullmatch(each):
                yield _Wrong(
                    f"{name}: {each!r} is no address", "write https://…, http://…, or file:///… for what is on this machine"
                )
        if self.kind == "git" and (self.ref or "").startswith("-"):
            yield _Wrong(f"ref: {self.ref!r} is no ref", "name a tag or branch")
        if self.kind == "oci":
            match = REFERENCE.fullmatch(re.sub(r"\{(machine|debian)\}", "x", self.ref or ""))
            if match is None or not (match["tag"] or match["digest"]):
                fix = "write REGISTRY/REPOSITORY:TAG, or REGISTRY/REPOSITORY@sha256:…"
                yield _Wrong(f"ref: {self.ref!r} names no image in a registry", fix)

    def _unused(self) -> Iterator[_Wrong]:
        """What would not be looked at."""
        if self.kind == "tarball":
            if not ARCHIVE.fullmatch((self.url or ("",))[0]):
                if self.sha256 is not None:
                    yield _Wrong("sha256 is of one archive, and url is a folder of them", "give the archive's own address as url")
            elif self.series or self.version:
                yield _Wrong(
                    "series and version choose from a folder, and url is one archive", "leave them out, or give the folder"
                )
            if len(self.sha256 or ()) > 1:
                yield _Wrong("sha256: a tarball source has one", "write one source for each")
        if self.kind == "package" and self.url is not None:
            if more := [name for name in ("packages", "suite", "series", "version") if getattr(self, name)]:
                yield _Wrong(f"{', '.join(more)}: for a repository, and url is the package itself", f"leave out {', '.join(more)}")
            if self.sha256 is not None and len(self.sha256) != len(self.url):
                yield _Wrong(f"{len(self.url)} addresses and {len(self.sha256)} digests", "give one sha256 for each url, in order")
        if self.kind == "package" and self.repository is not None:
            if self.sha256 is not None:
                yield _Wrong(
                    "sha256 is of one package, and a repository has many", "give the package's own address as url, or a key"
                )
            if self.suite is not None and (self.series or self.version):
                yield _Wrong(
                    "series and version: an apt repository's kernel is chosen by name", "leave them out, and name it in packages"
                )

    def _reasons(self) -> Iterator[_Wrong]:
        """More than one reason to believe what comes: only one is looked at."""
        if self.fingerprint is not None and self.key is None:
            yield _Wrong("a fingerprint, and no key of that fingerprint", 'add key = "…" (a file or an address)')
        if self.fingerprint is None and (fetched := next((key for key in self.key or () if _ADDRESS.fullmatch(key)), None)):
            yield _Wrong(f"the key {fetched} is fetched, and nothing says which it must be", 'add fingerprint = "…"')
        digest = "@sha256:…" if "@sha256:" in (self.ref or "") and self.kind == "oci" else None
        reasons = [digest, *(name for name in ("sha256", "commit", "key", "trust") if getattr(self, name) is not None)]
        if len(found := [reason for reason in reasons if reason]) > 1:
            yield _Wrong(
                f"{found[0]} says what it must be, and {' and '.join(found[1:])} would not be looked at", "keep one of them"
            )
