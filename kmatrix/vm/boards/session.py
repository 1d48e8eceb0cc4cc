"""One agent on a real machine, as the engine of a `Machine`: its channel, the kernel's messages as a console, and its end.

What the machine sends is passed on by threads: the agent's words to a socket, as QEMU does it, and the kernel's to a file. The supervisor
(kmatrix/guest/supervisor.py) gives a sign of life each second: a machine that gives none for long has stopped, whatever TCP says.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from kmatrix.host.errors import InfraError
from kmatrix.matrix.hosts import Host
from kmatrix.vm.boards.connection import Connection
from kmatrix.vm.machine import agent

STUB = """import base64,io,json,os,shutil,sys,zipfile
b=bytearray()
while not b.endswith(b"\\n"):
    p=os.read(0,1<<16)
    if not p: sys.exit(1)
    b+=p
r=json.loads(b)
d=r["code"]
if r.get("agent"):
    t="%s-tmp-%d"%(d,os.getpid())
    zipfile.ZipFile(io.BytesIO(base64.b64decode(r.pop("agent")))).extractall(t)
    try: os.rename(t,d)
    except OSError: shutil.rmtree(t)
sys.path.insert(0,d)
from kmatrix_guest import supervisor
supervisor.main(r)"""
"""What Python is started with on the machine: it unpacks the agent's code where that is not there yet, and hands over to the supervisor."""
_START = 120.0
"""Seconds that the agent may take from its start to its hello, on a machine that is free."""
_CLEANING = 30.0
"""Seconds that the supervisor may take to clear up: it gives up after some fifteen."""
_FIXES = {
    "root": "log in as root: loading BPF programs and clearing up after them takes it",
    "bpf": "boot a kernel with CONFIG_BPF_SYSCALL that is not locked down (lockdown=none, or no Secure Boot)",
    "busy": "wait for it, or give it more time: hosts.NAME.wait, in seconds",
    "machine": "kmatrix needs a kernel with namespaces (mount, net, cgroup) and cgroups of version 2",
}


@dataclass(frozen=True)
class There:
    """What is on the machine already."""

    root: str
    """The folder of what was carried."""
    code: str
    """The folder of the agent's code, unpacked."""
    has_code: bool
    kernel: tuple[str, str, str]
    """uname's release, version and machine."""
    boot_id: str
    command: str
    """What starts Python with `STUB`."""


class Session:
    """A supervisor that runs there, and the agent below it."""

    pid = 0
    """There is no process of this machine's."""

    def __init__(self, host: Host, connection: Connection, there: There, who: str, waiting: Callable[[str], object]) -> None:
        """Start it, up to the agent's hello; `waiting` is told who has the machine, where somebody has. Raises InfraError."""
        self._host, self._connection = host, connection
        self.machine: Mapping[str, Any] = {}
        """What the machine said of itself."""
        self.hello: Mapping[str, Any] = {}
        self.left: list[str] | None = None
        """What of the agent is still there after its end; None where the supervisor did not say."""
        self._channel = connection.open(there.command)
        self._early = bytearray()
        self._closing = self._closed = False
        self._last_words = bytearray()
        try:
            request = {"folder": host.folder, "root": there.root, "code": there.code, "who": who, "wait": host.wait}
            if not there.has_code:
                request["agent"] = base64.b64encode(agent()).decode()
            self._channel.settimeout(host.connect_timeout)
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            self._greet(waiting)
        except (OSError, EOFError, paramiko.SSHException) as error:
            self._channel.close()
            raise connection.lost(error) from None
        except BaseException:
            self._channel.close()
            raise

    def _greet(self, waiting: Callable[[str], object]) -> None:
        deadline = time.monotonic() + _START
        while not self.hello:
            message = self._line(deadline)
            if "waiting" in message:
                waiting(str(message["waiting"]))
                deadline = time.monotonic() + self._host.wait + _START
            elif "refused" in message:
                refused = message["refused"]
                fix = _FIXES.get(refused["kind"], _FIXES["machine"]).replace("NAME", self._host.name)
                raise InfraError(f"{self._host.name}: {refused['message']}", where=self._host.where, fix=fix)
            elif "machine" in message:
                self.machine = message["machine"]
            elif "hello" in message:
                self.hello = message["hello"]

    def _line(self, deadline: float) -> dict[str, Any]:
        self._channel.settimeout(1)
        while b"\n" not in self._early:
            with suppress(TimeoutError):
                piece = self._channel.recv(1 << 16)
                if not piece:
                    raise self._no_start()
                self._early += piece
            if time.monotonic() > deadline:
                raise InfraError(
                    f"{self._host.name}: the agent did not come up in {_START:g} s; it said: {self._errors() or 'nothing'}",
                    where=self._host.where,
                )
        line, _, rest = bytes(self._early).partition(b"\n")
        self._early = bytearray(rest)
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            words = line.decode(errors="replace")[:200]
            fix = "have the login shell of its user print nothing where nobody types"
            raise InfraError(
                f"{self._host.name} says {words!r} where kmatrix's supervisor was to speak", where=self._host.where, fix=fix
            )
        return message

    def _no_start(self) -> InfraError:
        self._channel.status_event.wait(2)
        status = self._channel.exit_status if self._channel.status_event.is_set() else None
        if not self._connection.alive:
            return self._connection.lost(EOFError("it ended while the agent was started"))
        said = self._errors() or "nothing"
        fix = f"its folder {self._host.folder} must lie where programs may be run (no noexec); another is hosts.{self._host.name}.folder"
        return InfraError(
            f"{self._host.name}: the Python that kmatrix brought does not run there (exit status {status}); it said: {said}",
            where=self._host.where,
            fix=fix,
        )

    def _errors(self) -> str:
        text = b""
        with suppress(OSError):
            while self._channel.recv_stderr_ready() and (piece := self._channel.recv_stderr(1 << 14)):
                text += piece
        return text.replace(b"\0", b"").decode(errors="replace").strip()[-800:]

    # -- while it runs ------------------------------------------------------------------------------------------------------------

    def pass_on(self, console: Path) -> socket.socket:
        """Have what is said passed on: the agent's channel is the socket that is returned, the kernel's messages go to the file."""
        near, self._far = socket.socketpair()
        self._channel.settimeout(None)
        self._heard = time.monotonic()
        self._console = console.open("ab", buffering=0)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._from_there, self._to_there, self._messages, self._watch)
        ]
        for each in self._threads:
            each.start()
        return near

    def _from_there(self) -> None:
        with suppress(OSError):
            while data := self._channel.recv(1 << 18):
                self._heard = time.monotonic()
                if self._closing:
                    self._last_words += data
                else:
                    try:
                        self._far.sendall(data)
                    except OSError:
                        self._last_words += data
        with suppress(OSError):
            self._far.shutdown(socket.SHUT_WR)

    def _to_there(self) -> None:
        with suppress(OSError):
            while data := self._far.recv(1 << 18):
                self._channel.sendall(data)
        with suppress(OSError):
            self._channel.shutdown_write()

    def _messages(self) -> None:
        with suppress(OSError, ValueError):
            while data := self._channel.recv_stderr(1 << 16):
                self._heard = time.monotonic()
                if text := data.replace(b"\0", b""):
                    self._console.write(text)

    def _watch(self) -> None:
        while not self._closed and not self._channel.closed:
            if time.monotonic() - self._heard > self._host.silence or not self._connection.alive:
                with suppress(OSError):
                    self._far.shutdown(socket.SHUT_RDWR)
                return
            time.sleep(0.2)

    @property
    def silent(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._heard

    # -- its end (kmatrix.vm.machine.Engine) ---------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> bool:
        """Wait for it to end by itself; whether it did."""
        return bool(self._channel.status_event.wait(timeout))

    def ended(self) -> str:
        """How it ended, in words."""
        if self._channel.status_event.is_set() and self._channel.exit_status >= 0:
            return f"ended with exit status {self._channel.exit_status}"
        return f"gave no sign of life for {self.silent:.0f} s"

    def close(self) -> None:
        """End it, and have the supervisor clear up: what is left then is in `left`."""
        if self._closed:
            return
        self._closing = True
        with suppress(OSError):
            self._channel.shutdown_write()
        deadline = time.monotonic() + _CLEANING
        while time.monotonic() < deadline and not self._channel.closed and not self._channel.eof_received:
            if self.silent > self._host.silence or not self._connection.alive:
                break
            time.sleep(0.01)
        self._threads[0].join(2)
        self._closed = True
        for line in bytes(self._last_words).splitlines():
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict) and "cleaned" in message:
                    self.left = list(message["cleaned"]["left"])
        self._channel.close()
        self._far.close()
        self._console.close()
