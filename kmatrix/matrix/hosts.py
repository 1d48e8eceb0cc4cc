"""[hosts.NAME] of kernels.toml: a real machine that is a target, as a frozen value. What a file may say of one stands in `host_schema`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ADDRESS = re.compile(r"(?:ssh://)?(?:(?P<user>[^@/\s]+)@)?(?P<host>\[[0-9A-Fa-f:]+\]|[^@:/\s]+)(?::(?P<port>\d+))?/?")
"""Where SSH leads, as kmatrix takes it: `user@host:port`, with `ssh://` before it or without."""


@dataclass(frozen=True)
class Host:
    """A machine that SSH leads to: how to get there, and what to do when it is gone. Seconds throughout."""

    name: str
    ssh: str
    """`user@host`, and a port where it is not the usual one: `root@192.0.2.1:2222`."""
    identity: Path | None = None
    """A private key. Without one, the user's agent and keys are tried."""
    known_hosts: Path | None = None
    """The file that has its host key; None for the user's own."""
    folder: str = "/var/lib/kmatrix"
    """Where kmatrix keeps what it brings to the machine."""
    reboot: str | None = None
    """The command, run here, that has the machine start again; empty where it does so by itself; None where nobody can tell."""
    reboot_timeout: float = 300.0
    """How long it may take to come back."""
    connect_timeout: float = 30.0
    """How long a connection may take, and each answer on it."""
    silence: float = 20.0
    """After how long without a sign of life the machine counts as gone; it gives one a second."""
    wait: float = 1800.0
    """How long to wait for a machine that somebody else has."""
    overrides: Mapping[str, bool] = field(default_factory=dict)
    """Features that it is declared to have or lack: a probe that disagrees is a failure of the table."""
    declared_in: str = "kernels.toml"

    @property
    def where(self) -> str:
        """What errors call its entry."""
        return f"{self.declared_in}: hosts.{self.name}"
