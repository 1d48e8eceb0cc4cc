"""A person's shell in a running VM: over SSH by paramiko, or on the serial console.

SSH under TCG is slow to connect (key exchange in emulation); it is for people, never for cells. The key is made for this VM alone
and never touches the disk; the port is on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from typing import Any

import paramiko

from kmatrix.host.errors import InfraError
from kmatrix.manifest.collector import Collector
from kmatrix.matrix.arch import INFO
from kmatrix.matrix.kernel import Target
from kmatrix.objects import compiled
from kmatrix.runs import loader_files
from kmatrix.vm.machine import Machine

CONNECT_TIMEOUT = 120.0
"""Seconds until SSH must stand; 14 s were measured under TCG."""
SESSION_TIMEOUT = 24 * 3600.0
"""Seconds a shell on the console may live."""
_CHUNK = 1 << 14


def lay_out(vm: Machine, collector: Collector, target: Target, *, mirrors: Mapping[str, str] | None = None) -> str:
    """Put the collector's objects or its loader's files for the target's arch, and its manifest, in the guest; returns the folder."""
    folder = f"/root/{collector.name}"
    vm.put(f"{folder}/{collector.path.name}", collector.path.read_bytes())
    for variant in collector.variants:
        if target.arch in variant.arches and collector.loader is None:
            info = compiled.load(collector, variant, target.arch)
            vm.put(f"{folder}/{info.path.name}", info.data)
    for file in loader_files.collect(collector, target.arch, mirrors=mirrors):
        vm.put(f"{folder}/{file.name}", file.data, file.mode)
    for name in collector.trigger.files if collector.trigger else ():
        path = collector.path.parent / name
        vm.put(f"{folder}/{name}", path.read_bytes(), path.stat().st_mode & 0o777)
    return folder


# -- SSH ---------------------------------------------------------------------------------------------------------------------


def ssh(vm: Machine, folder: str) -> int:
    """An interactive shell over SSH, starting in `folder`; the shell's exit status.

    Window size, Ctrl-C and end of input pass through. Without a terminal, standard input is the shell's script.
    """
    with connect(vm) as transport, transport.open_session() as channel:
        terminal = sys.stdin.isatty()
        if terminal:
            columns, lines = shutil.get_terminal_size()
            channel.get_pty(os.environ.get("TERM", "xterm"), columns, lines)
        channel.exec_command(f"cd {shlex.quote(folder)} && exec bash {'-il' if terminal else '-l'}")
        with _raw_terminal(terminal), _window_changes(channel, terminal):
            _relay(channel)
        return channel.recv_exit_status()


@contextlib.contextmanager
def connect(vm: Machine) -> Iterator[paramiko.Transport]:
    """An authenticated SSH connection to the VM's sshd, which is started for it.

    Raises InfraError where none stands within CONNECT_TIMEOUT.
    """
    key = paramiko.ECDSAKey.generate()
    answer = vm.call("sshd", timeout=CONNECT_TIMEOUT, authorized_key=f"{key.get_name()} {key.get_base64()} kmatrix")
    port = vm.forward_ssh(answer.get("port", 22))
    deadline = time.monotonic() + CONNECT_TIMEOUT
    transport: paramiko.Transport | None = None
    while transport is None:
        try:
            transport = paramiko.Transport(socket.create_connection(("127.0.0.1", port), timeout=CONNECT_TIMEOUT))
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = CONNECT_TIMEOUT
            transport.start_client(timeout=CONNECT_TIMEOUT)
            _same_host(transport, answer)
            transport.auth_publickey("root", key)
        except (OSError, paramiko.SSHException, EOFError) as error:
            if transport is not None:
                transport.close()
                transport = None
            if time.monotonic() > deadline:
                raise InfraError(f"no SSH connection to the guest: {error}", where=str(vm.spec), fix="try --console") from None
            time.sleep(0.2)
    try:
        yield transport
    finally:
        transport.close()


def _same_host(transport: paramiko.Transport, answer: Any) -> None:
    """The guest told its host key over its own channel: nobody else on this machine can have taken the port."""
    told = answer.get("host_key")
    if told is None:
        return
    kind, body = told.split()[:2]
    offered = transport.get_remote_server_key()
    if (offered.get_name(), offered.get_base64()) != (kind, body):
        raise InfraError("the SSH server on the forwarded port is not the guest's", fix="run the command again")


def _relay(channel: paramiko.Channel) -> None:
    """Standard streams ↔ channel until the far end closes."""
    reading = [sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select([channel, *reading], [], [])
        if sys.stdin.fileno() in ready:
            data = os.read(sys.stdin.fileno(), _CHUNK)
            if data:
                channel.sendall(data)
            else:
                reading = []
                channel.shutdown_write()
        if channel in ready:
            out = channel.recv(_CHUNK) if channel.recv_ready() else b""
            err = channel.recv_stderr(_CHUNK) if channel.recv_stderr_ready() else b""
            _write(sys.stdout, out)
            _write(sys.stderr, err)
            if not out and not err and (channel.exit_status_ready() or channel.closed):
                return


def _write(stream: Any, data: bytes) -> None:
    if data:
        os.write(stream.fileno(), data)


# -- the serial console ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serial_line() -> Iterator[socket.socket]:
    """A line to plug in as a VM's console: what comes over it is shown, what is typed goes over it, until the block ends.

    The terminal is raw meanwhile: Ctrl-C goes to the guest.
    """
    near, far = socket.socketpair()
    stop, stopping = os.pipe()
    with near, far, _raw_terminal(sys.stdin.isatty()):
        thread = threading.Thread(target=_shovel, args=(near, stop), daemon=True)
        thread.start()
        try:
            yield far
        finally:
            os.close(stopping)
            thread.join()
            os.close(stop)


def _shovel(line: socket.socket, stop: int) -> None:
    reading = [sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select([line, stop, *reading], [], [])
        if line in ready:
            data = line.recv(_CHUNK)
            if not data:
                return
            _write(sys.stdout, data)
        elif stop in ready:
            return
        elif reading:
            typed = os.read(sys.stdin.fileno(), _CHUNK)
            line.sendall(typed or b"\x04")
            reading = reading if typed else []


def serial(vm: Machine, target: Target, folder: str) -> int:
    """A login shell on the serial console, starting in `folder`; its exit status. The line is `serial_line`'s."""
    columns, lines = shutil.get_terminal_size()
    tty_name = f"/dev/{INFO[target.arch].console}"
    # The agent's child leads a session of its own, so the console that it opens becomes its controlling terminal.
    script = f"exec <{tty_name} >{tty_name} 2>&1; stty sane rows {lines} cols {columns}; cd {shlex.quote(folder)}; exec bash -il"
    ended = vm.run(["sh", "-c", script], env={"TERM": os.environ.get("TERM", "vt100")}, timeout=SESSION_TIMEOUT)
    return ended.exit if ended.exit is not None else 128 + (ended.signal or 0)


# -- the terminal ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _raw_terminal(terminal: bool) -> Iterator[None]:
    """Keys go to the guest as they are (Ctrl-C too); the terminal is as it was afterwards."""
    if not terminal:
        yield
        return
    saved = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def _window_changes(channel: paramiko.Channel, terminal: bool) -> Iterator[None]:
    if not terminal:
        yield
        return

    def resize(*_: object) -> None:
        columns, lines = shutil.get_terminal_size()
        with contextlib.suppress(paramiko.SSHException):
            channel.resize_pty(columns, lines)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
