"""What a kernels.lock has to be, and the lock that it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kmatrix.host.validation import Strict, validate
from kmatrix.matrix.lockfile import Lock, Locked

_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _FileModel(Strict):
    url: str
    sha256: _Digest
    size: int | None = None


class _PinModel(Strict):
    """The options that make a source get exactly that again, with kernels.toml's types."""

    url: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    sha256: Annotated[tuple[_Digest, ...], Field(strict=False)] | None = None
    version: str | None = None
    ref: str | None = None
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None

    @model_validator(mode="after")
    def _a_digest_each(self) -> _PinModel:
        if self.sha256 is not None and len(self.sha256) != len(self.url or ()):
            raise ValueError(f"{len(self.url or ())} url and {len(self.sha256)} sha256: each url has one")
        return self


class _LockedModel(Strict):
    release: str
    source: str
    digest: _Digest
    pin: _PinModel = _PinModel()
    files: Annotated[tuple[_FileModel, ...], Field(strict=False)] = ()


class _LockModel(Strict):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    kernels: dict[str, dict[Literal["x86_64", "arm64"], _LockedModel]] = {}


def parse(data: object, *, path: Path) -> Lock:
    """The lock of a parsed kernels.lock. Raises InputError naming the file, the key and the fix."""
    model = validate(_LockModel, data, where=str(path))
    kernels = {
        (name, arch): Locked(name, arch, each.release, each.source, each.digest, _plain(each.pin), tuple(map(_plain, each.files)))
        for name, arches in model.kernels.items()
        for arch, each in arches.items()
    }
    return Lock(path, kernels)


def _plain(model: _FileModel | _PinModel) -> Mapping[str, Any]:
    return model.model_dump(exclude_none=True)
