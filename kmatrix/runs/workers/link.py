"""A connection to a worker: ssh(1), and kmatrix.runs.workers.there at its other end. Each side says lines of JSON; data follows its line.

ssh runs with the user's configuration, keys and agent. It never asks anything, and an unknown host key, or another than the known one,
ends it whatever the configuration says.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kmatrix import __version__
from kmatrix.host.errors import InfraError, InputError, KmatrixError, StoreError
from kmatrix.runs.workers.address import Address
from kmatrix.runs.workers.build import build

OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=10"),  # a host that vanished ends the connection after half a minute
    *("-o", "ServerAliveCountMax=3"),
)
PATIENCE = 60.0
"""Seconds that a worker may take to say hello: its Python starts, and imports kmatrix."""
ANSWER = 900.0
"""Seconds that an answer may take: another kmatrix may be bringing the same thing there."""
MARK = "kmatrix-worker "
"""What the line begins with that a worker says first: a shell's start-up files may print before."""
NEEDED = (3, 11)

_BOOT = '"import sys;exec(eval(sys.stdin.readline()))"'
# Any Python must take this, also one that is too old.
_HELLO = """
import json, os, sys
os.environ.update(%(env)r)
said = {"python": list(sys.version_info[:3])}
if sys.version_info >= %(needed)r:
    try:
        import kmatrix
        said["kmatrix"] = kmatrix.__version__
        from kmatrix.runs.workers import there
        from kmatrix.runs.workers.build import build
        said["build"] = build()
    except Exception as error:
        said["trouble"] = "%%s: %%s" %% (type(error).__name__, error)
sys.stdout.write(%(mark)r + json.dumps(said) + "\\n")
sys.stdout.flush()
if "build" in said:
    there.serve()
"""


class Lost(InfraError):
    """The connection ended before the answer."""


class Link:
    """A connection, open. Closed by `close`, or at the end of a `with` block."""

    def __init__(self, address: Address) -> None:
        """Connect, and check that the same kmatrix is there. Raises InputError or InfraError with what to do."""
        self.address = address
        self._left = b""
        config = ("-F", address.config) if address.config else ()
        command = ["ssh", "-T", *OPTIONS, *config, *address.ssh.split(), f"{address.python} -c {_BOOT}"]
        try:
            self._ssh = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError:
            raise InfraError("ssh is not installed", where=str(address), fix="apt-get install openssh-client") from None
        try:
            self._check(self._hello())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what runs there ends by itself."""
        for pipe in (self._ssh.stdin, self._ssh.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self._ssh.wait(5)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        if self._ssh.stderr is not None:
            self._ssh.stderr.close()

    def ask(self, op: str, *, patience: float = ANSWER, **arguments: Any) -> dict[str, Any]:
        """What the worker answers. Raises what it raised there, and Lost where the connection ends."""
        self.say({"op": op, **arguments})
        return self.answer(patience)

    def say(self, line: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a line, with its data, to which there is no answer yet. Raises Lost where the connection has ended."""
        assert self._ssh.stdin is not None
        try:
            self._ssh.stdin.write(json.dumps(line).encode() + b"\n" + data)
            self._ssh.stdin.flush()
        except OSError:
            raise self._lost() from None

    def has_answer(self) -> bool:
        """Whether the worker has said something that was not read."""
        assert self._ssh.stdout is not None
        return bool(self._left) or bool(select.select([self._ssh.stdout], [], [], 0)[0])

    def answer(self, patience: float = ANSWER) -> dict[str, Any]:
        """The next answer."""
        said: dict[str, Any] = json.loads(self._line(patience))
        if (wrong := said.get("error")) is not None:
            kind = {"InputError": InputError, "StoreError": StoreError}.get(wrong["kind"], InfraError)
            where = f"{self.address}: {wrong['where']}" if wrong["where"] else str(self.address)
            raise kind(wrong["message"], where=where, fix=wrong["fix"])
        return said

    def _hello(self) -> dict[str, Any]:
        told = _HELLO % {"env": dict(self.address.env), "needed": NEEDED, "mark": MARK}
        assert self._ssh.stdin is not None
        with suppress(OSError):  # what ssh says of it is told below
            self._ssh.stdin.write(repr(told).encode() + b"\n")
            self._ssh.stdin.flush()
        end = time.monotonic() + PATIENCE
        while True:
            line = self._line(max(0.0, end - time.monotonic())).decode(errors="replace")
            if line.startswith(MARK):
                hello: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return hello

    def _check(self, hello: Mapping[str, Any]) -> None:
        """Raises InputError where the worker has not the same kmatrix, or no Python for it."""
        where, python = str(self.address), self.address.python
        version = ".".join(map(str, hello["python"]))
        install = (
            f"install kmatrix {__version__} there, from the wheel or the commit that is installed here ({python} -m pip install …)"
        )
        if tuple(hello["python"]) < NEEDED:
            needed = ".".join(map(str, NEEDED))
            fix = f"install Python {needed} or newer there, with kmatrix, and name it: --tx ssh={self.address.ssh}//python=/path/python"
            raise InputError(f"{python} there is Python {version}, and kmatrix needs {needed}", where=where, fix=fix)
        there = hello.get("kmatrix")
        if there is None:
            said = hello.get("trouble", "")
            raise InputError(f"{python} there has no kmatrix ({said})", where=where, fix=install)
        if there != __version__:
            raise InputError(f"kmatrix {there} is there, and {__version__} here", where=where, fix=install)
        if "build" not in hello:
            raise InputError(f"kmatrix there does not start: {hello.get('trouble')}", where=where, fix=install)
        if hello["build"] != build():
            raise InputError(f"kmatrix {there} there is not the one here: its files differ", where=where, fix=install)

    def _line(self, patience: float) -> bytes:
        assert self._ssh.stdout is not None
        end = time.monotonic() + patience
        while b"\n" not in self._left:
            ready = select.select([self._ssh.stdout], [], [], max(0.0, end - time.monotonic()))[0]
            if not ready:
                raise InfraError(f"no answer in {patience:.0f} s", where=str(self.address), fix="see what the host is busy with")
            data = os.read(self._ssh.stdout.fileno(), 1 << 16)
            if not data:
                raise self._lost()
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _lost(self) -> KmatrixError:
        """Why the connection ended, as far as ssh says."""
        try:
            status = self._ssh.wait(10)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            status = self._ssh.wait()
        assert self._ssh.stderr is not None
        said = self._ssh.stderr.read().decode(errors="replace").strip()
        return why_ended(self.address, status, said)


_KNOWN: Sequence[tuple[tuple[str, ...], type[KmatrixError], str, str]] = (
    (
        ("IDENTIFICATION HAS CHANGED", "differs from the key for the IP"),
        InfraError,
        "its host key is not the one in known_hosts: refused",
        "find out which machine answers there; if its key was changed on purpose, `ssh-keygen -R HOST` forgets the old one",
    ),
    (
        ("host key is known for", "Host key verification failed"),
        InputError,
        "its host key is not known: refused",
        "connect once by `ssh HOST`, and compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says there",
    ),
    (
        ("Permission denied", "Too many authentication failures"),
        InputError,
        "SSH lets you in with a password at most, and kmatrix gives none",
        "put your public key there (ssh-copy-id HOST), or start an agent that has it",
    ),
)
"""Words of ssh's, whose error it is, what they mean, and what to do."""


def why_ended(address: Address, status: int, said: str) -> KmatrixError:
    """The error for an ssh that ended with `status` and said `said` on standard error."""
    where, last = str(address), (said.splitlines() or ["no reason given"])[-1]
    if status == 255:
        for words, kind, what, fix in _KNOWN:
            if any(word in said for word in words):
                return kind(what, where=where, fix=fix.replace("HOST", address.ssh))
        return Lost(f"cannot be reached: {last}", where=where, fix=f"see whether `ssh {address.ssh} true` gets there")
    if status in (126, 127):
        fix = "install Python 3.11 or newer there, or name the one that has kmatrix: --tx ssh=HOST//python=/path/python"
        return InputError(f"there is no {address.python} there ({last})", where=where, fix=fix.replace("HOST", address.ssh))
    return Lost(f"the connection ended (status {status}): {last}", where=where, fix=f"see what `ssh {address.ssh} true` says")


def answers(address: Address) -> bool:
    """Whether the worker can be worked with now."""
    try:
        Link(address).close()
    except KmatrixError:
        return False
    return True
