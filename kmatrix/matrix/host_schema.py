"""[hosts.NAME] of kernels.toml, checked."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from kmatrix.host.errors import InputError
from kmatrix.host.validation import Strict
from kmatrix.matrix.hosts import ADDRESS, Host
from kmatrix.matrix.parameters import feature

_Seconds = Annotated[float, Field(gt=0, le=86400, strict=False)]


class HostModel(Strict):
    """An entry of [hosts]."""

    ssh: str
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    identity: str | None = None
    known_hosts: str | None = None
    folder: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)+$")] = Host.folder
    reboot: str | None = None
    reboot_timeout: _Seconds = Host.reboot_timeout
    connect_timeout: _Seconds = Host.connect_timeout
    silence: _Seconds = Host.silence
    wait: _Seconds = Host.wait
    features: dict[str, bool] = {}

    @field_validator("ssh")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not ADDRESS.fullmatch(value):
            raise ValueError(f"{value!r} is no address; write it as user@host or user@host:port, such as root@192.0.2.1")
        return value

    @field_validator("features")
    @classmethod
    def _known_features(cls, value: dict[str, bool]) -> dict[str, bool]:
        for name in value:
            feature(name)  # an unknown name is an error, with the nearest
        return value

    def value(self, name: str, where: str) -> Host:
        """The host that it describes. Paths are seen from the file's folder. Raises InputError."""
        address = ADDRESS.fullmatch(self.ssh)
        assert address is not None, "the model has seen to it"
        if self.port is not None and address["port"] is not None:
            raise InputError("the port is given twice", where=f"{where}: hosts.{name}", fix="give it in ssh, or as port")

        def path(text: str | None) -> Path | None:
            return None if text is None else Path(where).parent / Path(text).expanduser()

        return Host(
            name,
            self.ssh if self.port is None else f"{self.ssh.rstrip('/')}:{self.port}",
            identity=path(self.identity),
            known_hosts=path(self.known_hosts),
            folder=self.folder,
            reboot=self.reboot,
            reboot_timeout=self.reboot_timeout,
            connect_timeout=self.connect_timeout,
            silence=self.silence,
            wait=self.wait,
            overrides=self.features,
            declared_in=where,
        )


def check_names(hosts: dict[str, Host], taken: Collection[str]) -> None:
    """Raises InputError where a host has the name of a kernel or a set: `--kernels` could mean either."""
    for name, host in hosts.items():
        if name in taken:
            raise InputError(f"{name!r} is already a kernel or a set", where=host.where, fix="give the host another name")
