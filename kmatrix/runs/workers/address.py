"""Where a worker is: a destination of ssh(1), or what pytest-xdist's --tx takes (`ssh=user@host//python=/opt/k/bin/python`)."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kmatrix.host.errors import InputError

PYTHON = "python3"
"""The Python of a worker, where its address names none. (execnet's own default, `python`, is not there on Debian.)"""
ADDOPTS = "PYTEST_ADDOPTS"
_WHERE = "worker"


@dataclass(frozen=True)
class Address:
    """How a worker is reached, and with what Python it works."""

    ssh: str
    """ssh's own words: a destination, with options before it where there are some (`-p 2222 user@host`)."""
    python: str = PYTHON
    config: str | None = None
    """A configuration of ssh's own (-F)."""
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Environment variables that are set there, such as KMATRIX_CACHE."""

    def __str__(self) -> str:
        return self.ssh

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two addresses one worker's: the same machine, Python and cache."""
        return self.ssh, self.python, self.config, tuple(sorted(self.env.items()))


def parse(text: str) -> Address:
    """The address that `text` is: `user@host`, `ssh://user@host:port`, `-p 22 host`, or a --tx of ssh. Raises InputError."""
    if not text.startswith("ssh=") and "//" in text.removeprefix("ssh://"):
        raise InputError(f"{text!r} is no worker that SSH leads to", where=_WHERE, fix="write ssh=user@host//python=/path/python")
    words = [text] if not text.startswith("ssh=") else text.split("//")
    ssh, rest = words[0].removeprefix("ssh="), words[1:]
    options = dict(word.partition("=")[::2] for word in rest)
    env = {name.removeprefix("env:"): value for name, value in options.items() if name.startswith("env:")}
    if not ssh.split() or ssh.split()[-1].startswith("-"):
        raise InputError(f"{text!r} names no host", where=_WHERE, fix="write user@host, or ssh=user@host//python=/path/python")
    return Address(ssh, options.get("python", PYTHON), options.get("ssh_config"), env)


def in_environment(environment: Mapping[str, str] = os.environ) -> list[Address]:
    """The workers that $PYTEST_ADDOPTS names with --tx, each once. Raises InputError."""
    found = {}
    for spec in _tx(shlex.split(environment.get(ADDOPTS, ""))):
        spec = re.sub(r"^\d+\*", "", spec)
        if spec.startswith("ssh="):
            address = parse(spec)
            found[address.key] = address
    return list(found.values())


def _tx(words: Iterable[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if word == "--tx":
            yield next(rest, "")
        elif word.startswith("--tx="):
            yield word.removeprefix("--tx=")
