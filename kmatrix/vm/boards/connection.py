"""The way to a real machine: one SSH connection, over which commands run side by side."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import paramiko

from kmatrix.host.errors import InfraError, InputError
from kmatrix.kernels import adopt
from kmatrix.matrix.hosts import Host

_PIECE = 1 << 17


class Said(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Connection:
    """A connection that stands. Raises InfraError where it does not come about, or ends."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._resources = ExitStack()
        if host.known_hosts is not None and not host.known_hosts.is_file():
            raise InfraError(
                f"there is no file of known hosts {host.known_hosts}",
                where=f"{host.where}.known_hosts",
                fix="give the file that has the machine's host key, or leave known_hosts out for ~/.ssh/known_hosts",
            )
        try:
            remote = self._resources.enter_context(
                adopt.connected(host.ssh, identity=host.identity, known_hosts=host.known_hosts, timeout=host.connect_timeout)
            )
        except InputError as error:  # an unknown key: nothing was wrong with the request itself
            known = host.known_hosts or Path("~/.ssh/known_hosts")
            fix = (
                "compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the machine itself; "
                f"then write its line into {known}"
            )
            raise InfraError(f"{host.name}: {error.message}", where=host.where, fix=fix) from None
        except InfraError as error:
            raise InfraError(f"{host.name} ({host.ssh}): {error.message}", where=host.where, fix=error.fix) from None
        self.client = remote.client
        transport = self.client.get_transport()
        assert transport is not None, "a connected client has one"
        transport.set_keepalive(15)
        self.transport: paramiko.Transport = transport

    @property
    def alive(self) -> bool:
        """Whether it still stands, as far as is known here."""
        return bool(self.transport.is_active())

    def open(self, command: str) -> paramiko.Channel:
        """Start a command; its streams are the channel's. Raises InfraError."""
        try:
            channel = self.transport.open_session(timeout=self._host.connect_timeout)
            channel.exec_command(command)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self.lost(error) from None
        return channel

    def run(self, command: str, data: bytes | None = None, *, timeout: float | None = None) -> Said:
        """Run a command to its end, with `data` as its input. Each step on the way has `timeout` seconds. Raises InfraError."""
        channel = self.open(command)
        channel.settimeout(timeout or self._host.connect_timeout)
        pieces: list[bytes] = []
        errors: list[bytes] = []
        listeners = [
            threading.Thread(target=_read_all, args=(receive, into), daemon=True)
            for receive, into in ((channel.recv, pieces), (channel.recv_stderr, errors))
        ]
        try:
            for each in listeners:
                each.start()
            view = memoryview(data or b"")
            try:
                while view:
                    channel.sendall(bytes(view[:_PIECE]))
                    view = view[_PIECE:]
                channel.shutdown_write()
            except OSError:
                if not self.alive:
                    raise  # else the command ended before it took all: its status says why
            deadline = time.monotonic() + (timeout or self._host.connect_timeout)
            while not channel.exit_status_ready():
                if not self.alive:
                    raise EOFError("the connection ended")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no end of a command in {timeout or self._host.connect_timeout:g} s")
                channel.status_event.wait(0.05)
            for each in listeners:
                each.join(2)
            return Said(
                channel.recv_exit_status(), b"".join(pieces).decode(errors="replace"), b"".join(errors).decode(errors="replace")
            )
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self.lost(error) from None
        finally:
            channel.close()

    def lost(self, error: BaseException) -> InfraError:
        """What a failure on the connection is called."""
        words = f"the connection to {self._host.name} ({self._host.ssh}) failed: {error or type(error).__name__}"
        return InfraError(words, where=self._host.where, fix="see whether the machine still answers: ssh leads there")

    def close(self) -> None:
        """End it."""
        self._resources.close()


def _read_all(receive: object, into: list[bytes]) -> None:
    try:
        while piece := receive(_PIECE):  # type: ignore[operator]
            into.append(piece)
    except OSError:
        return
