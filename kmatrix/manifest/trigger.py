"""[trigger]: what makes the events of a collector happen."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from kmatrix.host.validation import Strict
from kmatrix.manifest.types import Names


class Trigger(Strict):
    """What makes the events happen."""

    kind: Literal["open", "exec", "tcp_connect", "dns", "oom", "command"]
    """What the guest can do (kmatrix.guest.trigger)."""
    family: Literal["ipv4", "ipv6"] | None = None
    """Of a tcp_connect: the loopback address that is connected to; IPv4 where not said."""
    command: Names = ()
    files: Names = ()
    """Files, relative to the manifest, that the guest gets in the trigger's working directory."""
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _command_is_given(self) -> Trigger:
        if (self.kind == "command") != bool(self.command):
            raise ValueError('kind = "command" and command = [...] go together')
        if self.family is not None and self.kind != "tcp_connect":
            raise ValueError('family goes with kind = "tcp_connect"')
        return self
