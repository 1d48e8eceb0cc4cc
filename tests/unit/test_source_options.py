"""What a source in kernels.toml may say: nothing that is not looked at, nothing that leads nowhere, no key that any other would pass for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix import kernels
from kmatrix.host.errors import InputError
from kmatrix.matrix import schema, sources
from kmatrix.matrix.kernel import SourceSpec
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.schema import Document

SHA, COMMIT, KEY = "0" * 64, "0" * 40, "0123 4567 89AB CDEF 0123  4567 89AB CDEF 0123 4567"
URL = "https://x.example/k.rpm"
FOLDER = "https://x.example/v5.x/"
ARCHIVE = f"{FOLDER}linux-5.4.1.tar.xz"


def parse(source: dict[str, Any]) -> SourceSpec:
    found = schema.parse(Document("my.toml", {"schema": 1, "kernels": {"5.9": {"version": "5.9", "sources": [source]}}}))
    return found.kernel("5.9").sources[0]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        # Digests that would not be compared, and choices that would not be made.
        ({"kind": "tarball", "url": FOLDER, "sha256": SHA}, "sha256 is of one archive, and url is a folder of them"),
        ({"kind": "tarball", "url": ARCHIVE, "sha256": SHA, "series": "5.4"}, "series and version choose from a folder"),
        ({"kind": "tarball", "url": ARCHIVE, "sha256": [SHA, SHA]}, "a tarball source has one"),
        ({"kind": "tarball", "url": [ARCHIVE, ARCHIVE], "sha256": SHA}, "a tarball source has one"),
        ({"kind": "mainline", "url": [FOLDER, FOLDER], "series": "5.4", "trust": "first-use"}, "a mainline source has one"),
        ({"kind": "package", "repository": FOLDER, "packages": "k", "sha256": SHA}, "sha256 is of one package"),
        ({"kind": "package", "repository": FOLDER, "packages": "k", "suite": "s", "version": "1"}, "series and version: an apt"),
        (
            {"kind": "package", "url": URL, "sha256": SHA, "series": "5.4"},
            "series: for a repository, and url is the package itself",
        ),
        ({"kind": "package", "url": URL, "sha256": SHA, "version": "5.4"}, "version: for a repository"),
        ({"kind": "package", "url": [URL, URL], "sha256": SHA}, "2 addresses and 1 digests"),
        ({"kind": "package", "url": URL, "sha256": []}, "sha256: is empty"),
        (
            {"kind": "package", "url": URL, "sha256": SHA, "key": "k.asc"},
            "sha256 says what it must be, and key would not be looked at",
        ),
        ({"kind": "package", "url": URL, "key": "k.asc", "trust": "first-use"}, "key says what it must be, and trust would not"),
        (
            {"kind": "git", "url": "~/linux", "ref": "v5", "commit": COMMIT, "key": "k"},
            "commit says what it must be, and key would",
        ),
        ({"kind": "oci", "ref": f"x.example/k@sha256:{SHA}", "trust": "first-use"}, "@sha256:… says what it must be, and trust"),
        # Keys.
        ({"kind": "package", "url": URL, "key": "k.asc", "fingerprint": ""}, "'' is no fingerprint"),
        ({"kind": "package", "url": URL, "key": "k.asc", "fingerprint": "B"}, "'B' is no fingerprint"),
        ({"kind": "package", "url": URL, "key": "k.asc", "fingerprint": "89ABCDEF01234567"}, "is no fingerprint"),
        ({"kind": "package", "url": URL, "fingerprint": KEY}, "a fingerprint, and no key"),
        ({"kind": "package", "url": URL, "key": "https://x.example/KEY"}, "nothing says which it must be"),
        # Places.
        ({"kind": "package", "url": "kernel.rpm", "sha256": SHA}, "url: 'kernel.rpm' is no address"),
        ({"kind": "package", "url": "ftp://x.example/k.rpm", "sha256": SHA}, "url: 'ftp://x.example/k.rpm' is no address"),
        ({"kind": "package", "url": "http://", "sha256": SHA}, "url: 'http://' is no address"),
        ({"kind": "package", "repository": "/srv/repo", "packages": "k"}, "repository: '/srv/repo' is no address"),
        ({"kind": "git", "url": "ext::sh -c evil", "ref": "main"}, "is nothing that git is let fetch from"),
        ({"kind": "git", "url": "~/linux", "ref": "--upload-pack=evil"}, "is no ref"),
        ({"kind": "oci", "ref": "quay.io/x/kernels", "trust": "first-use"}, "ref: 'quay.io/x/kernels' names no image"),
        ({"kind": "oci", "ref": "kernels:5.4", "trust": "first-use"}, "names no image in a registry"),
        # Nothing.
        ({"kind": "debian", "suite": "", "series": "5.4"}, "suite: is empty"),
        ({"kind": "debian", "suite": "x", "series": ""}, "series: '' is no series"),
        ({"kind": "debian", "suite": "x", "series": "5"}, "series: '5' is no series"),
        ({"kind": "package", "repository": FOLDER, "packages": ["k", " "]}, "packages[1]: is empty"),
        ({"kind": "import", "arches": []}, "arches: is empty"),
        # Keys of the file: those of this kind are offered, and no others.
        ({"kind": "debian", "suite": "x", "sries": "5.4"}, "a debian source takes no sries; did you mean series"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_a_wrong_source(source: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(source)
    said = str(caught.value)
    assert says in said
    assert said.startswith('my.toml: kernels."5.9".sources[0]')
    assert caught.value.fix
    assert "; " not in caught.value.fix  # one thing is wrong, and it is said once


def test_the_keys_of_a_kind() -> None:
    with pytest.raises(InputError) as caught:
        parse({"kind": "debian", "suite": "x", "series": "5.4", "ref": "y"})
    assert caught.value.fix == "its keys: arches, flavour, kind, series, suite, untried, version"


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "tarball", "url": ARCHIVE, "sha256": SHA},
        {"kind": "tarball", "url": FOLDER, "series": "5.4", "version": "5.4.9", "key": "k.asc"},
        {"kind": "package", "url": ["https://{machine}.example/a.deb", "file:///srv/b.deb"], "sha256": [SHA, SHA]},
        {"kind": "package", "repository": "http://user:pw@x.example", "packages": "k", "version": "5.4", "trust": "first-use"},
        {"kind": "package", "url": URL, "key": "https://x.example/KEY", "fingerprint": KEY},
        {"kind": "git", "url": "../linux", "ref": "v5.4", "key": "my keys/k.asc"},
        {"kind": "git", "url": "ssh://git@x.example/linux.git", "ref": "main", "trust": "first-use"},
        {"kind": "oci", "ref": "quay.io/x/kernels-{debian}:5.4", "trust": "first-use"},
        {"kind": "oci", "ref": f"localhost:5000/k@sha256:{SHA}"},
        {"kind": "debian", "suite": "trixie-backports", "series": "6.18", "version": "6.18.1-1~bpo13+1"},
    ],
    ids=lambda source: source["kind"],
)
def test_a_sound_source(source: dict[str, Any]) -> None:
    spec = parse(source)
    assert set(spec.options) == set(source) - {"kind"}


def test_a_fingerprint_is_compared_without_its_spaces() -> None:
    spec = parse({"kind": "package", "url": URL, "key": "k", "fingerprint": KEY.lower()})
    assert spec.options["fingerprint"] == (KEY.replace(" ", ""),)


def test_what_nobody_vouches_for_is_the_last_resort() -> None:
    """In the shipped kernels.toml: a tag that may mean anything tomorrow stands behind what is signed."""
    for kernel in load_matrix(Path("/")).kernels.values():
        fetched = [source for source in kernel.sources if source.kind not in ("import", "build")]
        trusting = [source.options.get("trust") == "first-use" for source in fetched]
        assert trusting == sorted(trusting), kernel.name


@pytest.mark.parametrize(
    ("source", "key", "says"),
    [
        ({"suite": "x", "series": "5.4"}, "sources[0]", "says no kind"),
        ({"kind": "debain", "suite": "x"}, "sources[0]", "did you mean debian"),
        ({"kind": 5}, "sources[0]", "unknown source kind 5"),
        ({"kind": "debian", "series": "5.4"}, "sources[0]", "a debian source needs suite"),
        ({"kind": "package", "sha256": SHA}, "sources[0]", "a package source needs one of url, repository"),
        ({"kind": "package", "url": URL, "repository": URL, "packages": "k"}, "sources[0]", "needs one of url, repository"),
        ({"kind": "git", "url": "~/linux", "ref": "v5", "commit": "abc"}, "sources[0].commit", "match pattern"),
        ({"kind": "oci", "ref": 5}, "sources[0].ref", "must be a text in quotes"),
    ],
)
def test_where_it_is_wrong(source: dict[str, Any], key: str, says: str) -> None:
    """The kind's model checks the rest, and is not in the place that is named."""
    with pytest.raises(InputError, match=says) as caught:
        parse(source)
    assert f'my.toml: kernels."5.9".{key}: ' in str(caught.value)


def test_every_kind_is_a_source_and_has_a_model() -> None:
    assert set(sources.KINDS) == set(kernels.by_kind())


def test_an_entry_says_where_it_came_from() -> None:
    files = [{"url": "https://x.example/a.deb"}, {"url": "https://x.example/b.deb"}]
    assert kernels.origin({"kind": "package", "artifacts": files}) == "a.deb, b.deb"
    assert kernels.origin({"kind": "git", "url": "~/linux", "commit": COMMIT}) == "built from ~/linux at 000000000000"
    assert kernels.origin({"kind": "of tomorrow"}) == "a source of kind 'of tomorrow'"
