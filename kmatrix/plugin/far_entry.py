"""Runs on another machine before pytest-xdist's own code does, sent there as text. Standard library only: pytest is not loaded yet, and
must be before kmatrix is.

It stands where pytest was called, keeps the project from being removed, and has the records in a folder of its own.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any


def enter(told: Mapping[str, Any]) -> list[str]:
    """Stand there; returns pytest's arguments. Locks are as kmatrix.host.cache has them, and end with the process."""
    os.environ.update(told["environment"])
    os.makedirs(told["cwd"], exist_ok=True)  # noqa: PTH103 - light
    os.chdir(told["cwd"])
    fcntl.flock(os.open(told["project"], os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH)
    area = os.path.join(os.path.dirname(told["project"]), "tmp")  # noqa: PTH118, PTH120 - light
    os.makedirs(area, exist_ok=True)  # noqa: PTH103
    folder = tempfile.mkdtemp(prefix="records.", dir=area)
    fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [*told["args"], f"--kmatrix-dir={folder}"]


class Channel:
    """xdist's channel, whose first message has other arguments: those of the controller name files of its own."""

    def __init__(self, channel: Any, args: Sequence[str]) -> None:
        self._channel, self._args = channel, args

    def receive(self) -> Any:
        """The first message."""
        workerinput, _, options, path = self._channel.receive()
        return workerinput, self._args, options, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


if __name__ == "__channelexec__":
    _told, _channel = globals()["told"], globals()["channel"]
    _named = {"__name__": __name__, "channel": Channel(_channel, enter(_told))}
    exec(compile(_told["code"], "xdist/remote.py", "exec"), _named)
