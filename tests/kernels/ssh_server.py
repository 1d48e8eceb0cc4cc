"""An SSH server on the loopback (paramiko's own), which shows a folder as its root by SFTP and answers what `kernels adopt` asks."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko


@dataclass
class Host:
    """What stands on the loopback."""

    port: int
    key: paramiko.PKey
    user_key: paramiko.PKey
    read: list[str]
    """The files that were read."""


@contextmanager
def ssh_host(root: Path, release: str, machine: str = "x86_64", *, private: str = "") -> Iterator[Host]:
    """`private` is a file that the user may not read but by sudo."""
    key, user_key = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
    listening = socket.create_server(("127.0.0.1", 0))
    host = Host(listening.getsockname()[1], key, user_key, [])

    class Server(paramiko.ServerInterface):
        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            return paramiko.AUTH_SUCCESSFUL if (username, key) == ("root", user_key) else paramiko.AUTH_FAILED

        def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
            return "publickey"

        def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
            return paramiko.OPEN_SUCCEEDED

        def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
            threading.Thread(target=self._answer, args=(channel, command.decode()), daemon=True).start()
            return True

        def _answer(self, channel: paramiko.Channel, command: str) -> None:
            end = time.monotonic() + 20
            # The client ends its input once it is told that the command runs: an answer before that would close what it has not got yet.
            while not channel.eof_received and time.monotonic() < end:
                time.sleep(0.005)
            if command.startswith("sudo -n cat "):
                host.read.append(command)
                channel.sendall((root / command.removeprefix("sudo -n cat /")).read_bytes())
            elif command == "uname -r; uname -m":
                channel.sendall(f"{release}\n{machine}\n".encode())
            channel.send_exit_status(0)
            channel.close()

    class Files(paramiko.SFTPServerInterface):
        def _path(self, path: str) -> Path:
            return root / path.lstrip("/")

        def list_folder(self, path: str) -> Any:
            try:
                found = sorted(self._path(path).iterdir())
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno or 0)
            return [paramiko.SFTPAttributes.from_stat(each.lstat(), each.name) for each in found]

        def stat(self, path: str) -> Any:
            try:
                return paramiko.SFTPAttributes.from_stat(self._path(path).stat())
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno or 0)

        def open(self, path: str, flags: int, attr: Any) -> Any:  # noqa: ARG002
            if path.lstrip("/") == private:
                return paramiko.SFTP_PERMISSION_DENIED
            try:
                file = os.fdopen(os.open(self._path(path), os.O_RDONLY), "rb")
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno or 0)
            host.read.append(path.lstrip("/"))
            handle = paramiko.SFTPHandle(flags)
            handle.readfile = file  # type: ignore[attr-defined]
            handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(file.fileno()))  # type: ignore[method-assign]
            return handle

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:  # closed
                return
            with suppress(paramiko.SSHException, EOFError, OSError):  # a client that goes away ends its own session alone
                transport = paramiko.Transport(client)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
                transport.start_server(server=Server())

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield host
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def write_key(key: paramiko.PKey, path: Path) -> Path:
    """The private key in a file that only its owner can read."""
    key.write_private_key_file(str(path))
    path.chmod(stat.S_IRUSR)
    return path
