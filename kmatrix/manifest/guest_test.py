"""[test]: a test program that the collector's team has already, to be run on every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.types import Arches, Names, check_features
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.matrix.circumstances import LEAST_MIB


class TestCommand(Strict):
    """A command that runs in the guest of every target, and whose sub-tests are read from its output."""

    __test__ = False  # not for pytest to collect

    command: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Program and arguments. A path is relative to the manifest; {arch}, {goarch}, {machine} and {kernel} stand for the target's."""
    files: Names = ()
    """Files to bring into the guest beside the program, relative to the manifest."""
    dirs: Names = ()
    """Folders to bring, relative to the manifest."""
    env: dict[str, str] = {}
    timeout: Annotated[float, Field(gt=0, le=24 * 3600)] = 600.0
    """Seconds that the command may take."""
    format: str | None = None
    """The format of its output (a name of kmatrix.verdict.suites.read.FORMATS); None: it is recognised."""
    memory: Annotated[int, Field(ge=LEAST_MIB)] | None = None
    """MiB of the guest."""
    cpus: Annotated[int, Field(ge=1, le=64)] | None = None
    arches: Arches = ARCHES
    skip: Mapping[str, str | Annotated[tuple[str, ...], Field(strict=False)]] = {}
    """Patterns of sub-tests' names → the features without which a failure does not count, or why it never counts."""

    @field_validator("skip")
    @classmethod
    def _known_features(
        cls, skip: Mapping[str, str | tuple[str, ...]], info: ValidationInfo
    ) -> Mapping[str, str | tuple[str, ...]]:
        for pattern, needs in skip.items():
            if not needs:
                raise ValueError(
                    f"{pattern!r} has neither features nor a reason: name the features that the test needs, or say why"
                )
            if not isinstance(needs, str):
                check_features(needs, info)
        return skip

    @field_validator("files", "dirs")
    @classmethod
    def _inside(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if not path or PurePosixPath(path) == PurePosixPath("/"):
                raise ValueError(f"{path!r} is not a path of a file or folder below /")
        return paths

    def not_counted(self, has: Callable[[str], bool | None]) -> dict[str, str]:
        """The patterns whose failures do not count on a target, with why; `has` says whether the target has a feature."""
        found = {}
        for pattern, needs in self.skip.items():
            if isinstance(needs, str):
                found[pattern] = needs
            elif missing := [name for name in needs if has(name) is False]:
                found[pattern] = f"needs {' and '.join(missing)}"
        return found


def filled(word: str, kernel: str, arch: Arch) -> str:
    """A word of a command for one target: {arch} is kmatrix's name, {goarch} Go's, {machine} that of uname -m, {kernel} the kernel's."""
    info = INFO[arch]
    values = {"arch": arch, "goarch": info.debian, "machine": info.machine, "kernel": kernel, "target": f"{kernel}-{arch}"}
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word
