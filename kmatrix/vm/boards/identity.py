"""What is known of a real machine since the last run: its kernel, and what was probed there. Kept in the cache, by the host's name."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kmatrix.host import paths
from kmatrix.host import version as versions
from kmatrix.host.errors import InfraError
from kmatrix.kernels.entry import KernelEntry
from kmatrix.matrix.arch import Arch, parse_arch
from kmatrix.matrix.hosts import Host
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.vm.machine import agent_digest

_SCHEMA = 1


@dataclass(frozen=True)
class Identity:
    """A machine's kernel and what it can do."""

    release: str
    version: str
    """What uname -v says: it tells two builds of one release apart."""
    machine: str
    boot_id: str
    node: str
    model: str
    cpus: int
    memory_mib: int
    config: str | None = field(repr=False)
    """Its configuration, gzip in base64."""
    probe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the agent's probe found there."""
    agent: str = ""
    """The digest of the agent that probed."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Identity:
        """From what the supervisor says."""
        return cls(**{name: said[name] for name in cls.__dataclass_fields__ if name in said})

    @property
    def kernel(self) -> str:
        """What tells its kernel from any other, in words."""
        return f"{self.release} ({self.version})"

    def is_like(self, other: Identity) -> bool:
        """Whether it is the same kernel on the same machine."""
        return (self.release, self.version, self.machine) == (other.release, other.version, other.machine)

    @property
    def probed(self) -> bool:
        """Whether what was probed is what today's agent would find."""
        return bool(self.probe) and self.agent == agent_digest()

    def arch(self, host: Host) -> Arch:
        """The machine's arch. Raises InputError for one that kmatrix does not have."""
        return parse_arch(self.machine, where=f"{host.where} ({host.ssh})")

    def target(self, host: Host) -> Target:
        """The target: its features are what was probed, unless kernels.toml says otherwise. Raises InfraError, and InputError for its arch."""
        series = versions.series(self.release)
        if series is None:
            raise InfraError(f"{host.name}: {self.release!r} is no kernel's release", where=host.where)
        found = {name: there for name, there in self.probe.get("features", {}).items() if there is not None}
        kernel = Kernel(
            host.name,
            series,
            summary=f"a real machine: {self.told(host)}",
            overrides={**found, **host.overrides},
            declared_in=host.declared_in,
            distribution="of the machine",
            host=host,
        )
        return Target(kernel, self.arch(host))

    def told(self, host: Host) -> str:
        """The machine in a line."""
        return f"{self.model or self.node}, kernel {self.release}, {host.ssh}"

    def entry(self, host: Host, folder: Path) -> KernelEntry:
        """Its kernel as one of the store is described: it has no image, for it runs already."""
        digest = hashlib.sha256(f"{host.name} {self.kernel} {self.machine}".encode()).hexdigest()
        config = folder / f"{host.name}.config"
        if self.config is not None:
            paths.write_whole(config, gzip.decompress(base64.b64decode(self.config)))
        btf = bool(self.probe.get("features", {}).get("btf"))
        source = {"kind": "host", "ssh": host.ssh, "model": self.model}
        given = config if self.config is not None else None
        manifest = {"files": [], "release": self.release}
        return KernelEntry(digest, folder, self.arch(host), self.release, source, btf, folder, None, None, given, manifest)


def folder() -> Path:
    """Where identities are kept."""
    return paths.cache_dir("hosts")


def read(host: Host) -> Identity | None:
    """What is known of the host; None where it was never seen, or what is there cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads((folder() / f"{host.name}.json").read_text(encoding="utf-8"))
        if known.pop("schema") == _SCHEMA and known.pop("ssh") == host.ssh:
            return Identity(**known)
    return None


def write(host: Host, identity: Identity) -> None:
    """Keep it. Raises StoreError where the cache cannot be written."""
    place = folder()
    try:
        paths.write_whole(place / f"{host.name}.json", json.dumps({"schema": _SCHEMA, "ssh": host.ssh, **asdict(identity)}))
    except OSError as error:
        raise paths.cache_error(error, place) or error from None
