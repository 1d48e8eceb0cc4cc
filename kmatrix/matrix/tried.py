"""tried.toml: which sources of kernels.toml were fetched from, booted and probed, when, and what came.

`kmatrix kernels try` writes it. A source that kernels.toml marks as untried is so no more where a tried.toml says that it was good.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from kmatrix.host.errors import without_credentials
from kmatrix.host.validation import Strict, validate
from kmatrix.host.version import natural
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.kernel import SourceSpec

TRIED_FILE = "tried.toml"
_HEAD = "# Written by `kmatrix kernels try`: which sources were fetched from, booted and probed. docs/kernels-toml.md#what-has-been-tried\n\n"
_ASIDE = ("kind", "arches", "untried", "key", "fingerprint", "trust")
"""What does not say where a kernel comes from."""


class Tried(Strict):
    """One source of one kernel for one arch, tried once."""

    kernel: str
    arch: Literal["x86_64", "arm64"]
    source: str
    """As `source_name` has it."""
    when: str
    """UTC: 2026-11-24T23:59:59Z."""
    good: bool
    """Whether its kernel was fetched, came up and answered the probe."""
    stage: Literal["fetch", "boot"] | None = None
    """Where it ended, if it was not good."""
    error: str | None = None
    release: str | None = None
    """What came, by uname."""
    digest: str | None = None
    """The digest of what came, as a lock has it."""
    features: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The features (without a parameter) that the guest's probe found."""
    differs: dict[str, bool] = {}
    """The features of which the guest says otherwise than kernels.toml: whether the guest has them."""
    boot_warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What the kernel warned of when it booted, as far as it matters to BPF programs."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about."""
        return self.kernel, self.arch, self.source


class _File(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    tried: Annotated[tuple[Tried, ...], Field(strict=False)] = ()


def source_name(kind: str, options: Mapping[str, Any]) -> str:
    """A source in one line, by what says where it is: `debian suite=bookworm series=6.1`. Passwords are left out."""

    def said(value: Any) -> str:
        texts = [value] if isinstance(value, str) else list(value)
        return ",".join(without_credentials(str(each)) for each in texts)

    return " ".join([kind, *(f"{name}={said(value)}" for name, value in sorted(options.items()) if name not in _ASIDE)])


def name_of(spec: SourceSpec) -> str:
    """The same of a source that was read."""
    return source_name(spec.kind, spec.options)


def parse(data: object, where: str) -> tuple[Tried, ...]:
    """The rows of a parsed tried.toml. Raises InputError."""
    return validate(_File, data, where=where).tried


def merged(*rows: Iterable[Tried]) -> list[Tried]:
    """Of each source, kernel and arch the newest row; sorted."""
    newest: dict[tuple[str, str, str], Tried] = {}
    for row in (row for each in rows for row in each):
        if row.key not in newest or newest[row.key].when <= row.when:
            newest[row.key] = row
    return sorted(newest.values(), key=lambda row: (natural(row.kernel), ARCHES.index(row.arch), row.source))


def render(rows: Iterable[Tried]) -> str:
    """The text of a tried.toml."""
    plain = [row.model_dump(exclude_none=True, exclude_defaults=True) for row in rows]
    listed = [{key: list(value) if isinstance(value, tuple) else value for key, value in row.items()} for row in plain]
    return _HEAD + tomli_w.dumps({"schema": 1, "tried": listed})


def applied(data: Mapping[str, Any], rows: Iterable[Tried]) -> Mapping[str, Any]:
    """A read kernels.toml, whose sources are not untried where a row says that they were good: all of a source's arches, or those that were."""
    good: dict[tuple[str, str], set[Arch]] = {}
    for row in rows:
        if row.good:
            good.setdefault((row.kernel, row.source), set()).add(row.arch)
    kernels = data.get("kernels")
    if not good or not isinstance(kernels, Mapping):
        return data
    changed = {**data, "kernels": dict(kernels)}
    for name, kernel in kernels.items():
        if isinstance(kernel, Mapping) and isinstance(sources := kernel.get("sources"), list):
            told = [each for source in sources for each in _told(str(name), source, good)]
            changed["kernels"][name] = {**kernel, "sources": told}
    return changed


def _told(kernel: str, source: Any, good: Mapping[tuple[str, str], set[Arch]]) -> list[Any]:
    """A source; two, where it is known of one of its arches alone. What is no source is left to whoever checks it."""
    if not isinstance(source, Mapping) or source.get("untried") is not True or not isinstance(source.get("kind"), str):
        return [source]
    found = good.get((kernel, source_name(source["kind"], source)), set())
    arches = source.get("arches", list(ARCHES))
    tried, rest = [a for a in arches if a in found], [a for a in arches if a not in found]
    parts = [] if not tried else [{**copy.deepcopy(dict(source)), "arches": tried, "untried": False}]
    return [*parts, *([{**source, "arches": rest} if tried else source] if rest else [])]


def beside(kernels_file: Path) -> Path:
    """Where the tried.toml of a kernels.toml is."""
    return kernels_file.with_name(TRIED_FILE)
