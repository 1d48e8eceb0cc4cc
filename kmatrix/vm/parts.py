"""What a machine works with, by what it asks of it: an engine that runs it, and a talk that it holds with its guest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol


class Engine(Protocol):
    """What runs the machine: QEMU, or a real machine's supervisor."""

    pid: int

    def wait(self, timeout: float) -> bool:
        """Wait for it to end by itself; whether it did."""

    def ended(self) -> str:
        """How it ended, in words."""

    def close(self) -> None:
        """End it, and let go of everything."""


class Send(Protocol):
    """Sends one message to the agent, with bytes behind it."""

    def __call__(self, message: dict[str, Any], raw: bytes = b"") -> None:
        """Send it."""


class Talk(Protocol):
    """The host's side of an op that goes on for long and says things meanwhile."""

    def sources(self) -> Iterable[int]:
        """Descriptors that may have something for the guest."""

    def pause(self) -> float:
        """Seconds after which `turn` wants to be called though nothing has happened."""

    def patience(self) -> float:
        """Seconds that the answer may still take."""

    def turn(self, ready: Collection[int], send: Send) -> None:
        """Say what there is to say; of the `sources`, those that are `ready` can be read."""

    def take(self, message: dict[str, Any], send: Send) -> None:
        """Hear a message of the guest's."""
