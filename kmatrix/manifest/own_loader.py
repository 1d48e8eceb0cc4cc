"""[loader]: a collector's own agent, which loads and attaches by itself."""

from __future__ import annotations

import re
import signal
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kmatrix.host.nearest import did_you_mean
from kmatrix.host.validation import Strict
from kmatrix.manifest.types import check_features, check_pattern
from kmatrix.matrix.arch import Arch

_DEB = re.compile(r"deb:[a-z0-9][a-z0-9+.-]+/[^/].*")


class Ready(Strict):
    """How a loader shows that it is ready: by a line that it prints, or by a file."""

    line: str | None = None
    """A regular expression, looked for in each line of its output."""
    file: str | None = None
    """A path in the guest; relative to the loader's folder."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Ready:
        if (self.line is None) == (self.file is None):
            raise ValueError('write { line = "a regular expression" } or { file = "a path" }')
        if self.line is not None:
            check_pattern(self.line)
        return self


class Loader(Strict):
    """The collector's own agent: it loads, attaches and reads by itself, and what it did is read off the kernel."""

    command: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Run as root in the folder that its files are put into."""
    files: dict[str, str | dict[Arch, str]] = {}
    """Name in the guest → file relative to the manifest (`{arch}`, `{goarch}` and a table by arch are understood), or `deb:PACKAGE/PATH`."""
    env: dict[str, str] = {}
    ready: Literal["attached", "exit"] | Ready = "attached"
    ready_timeout: Annotated[float, Field(gt=0, le=600)] = 15.0
    """Seconds until it must be ready, or have refused."""
    stop: str | tuple[str, ...] = "SIGTERM"
    """A signal's name, or a command."""
    stop_timeout: Annotated[float, Field(gt=0, le=600)] = 5.0
    events: Literal["stdout", "stderr"] = "stdout"
    """Where it prints its events."""
    refusal_exits: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(strict=False)] = ()
    """The exit statuses that are a refusal; none named means all but 0."""
    names: dict[str, str] = {}
    """Feature → a regular expression: how the loader's message names what is missing, where not by kmatrix' word."""

    @field_validator("files", mode="before")
    @classmethod
    def _a_list_is_names(cls, value: object) -> object:
        return {name: name for name in value} if isinstance(value, list) and all(isinstance(n, str) for n in value) else value

    @field_validator("files")
    @classmethod
    def _inside_its_folder(cls, value: dict[str, str | dict[Arch, str]]) -> dict[str, str | dict[Arch, str]]:
        for name, source in value.items():
            if not name or name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{name!r}: a file's name in the guest is relative to the loader's folder and stays in it")
            for text in (source,) if isinstance(source, str) else source.values():
                if text.startswith("deb:") and not _DEB.fullmatch(text):
                    raise ValueError(f"{text!r}: write deb:PACKAGE/path/in/it, such as deb:libbpf-tools/usr/sbin/opensnoop")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _a_list_is_a_command(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("stop")
    @classmethod
    def _known_signal(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("the stop command is empty")
        if isinstance(value, str) and value not in signal.Signals.__members__:
            raise ValueError(f"unknown signal {value!r}{did_you_mean(value, signal.Signals.__members__)}; or a command as a list")
        return value

    @field_validator("names")
    @classmethod
    def _names_of_features(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        check_features(tuple(value), info)
        for pattern in value.values():
            check_pattern(pattern)
        return value
