"""QEMU started: a machine that boots, or one that goes on from a saved state."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kmatrix.host import cache, paths
from kmatrix.vm import virtme
from kmatrix.vm.channel import Channel
from kmatrix.vm.console import ConsoleLog
from kmatrix.vm.machine import IGNORE_SHARED, Machine, boot_timeout
from kmatrix.vm.process import Process
from kmatrix.vm.qmp import Qmp
from kmatrix.vm.spec import VmSpec


def launch(
    spec: VmSpec,
    argv: Sequence[str],
    console: Path,
    *,
    fds: Iterable[int] = (),
    state: bytes | None = None,
    serial: socket.socket | None = None,
) -> Machine:
    """Start QEMU with `argv` (which may name the inherited `fds`), its console going to the file `console`.

    With `state`, the machine goes on from there as soon as QEMU has read it. With `serial`, the console is that socket's other end
    too, both ways: whoever holds it must keep reading, or the guest waits.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        log = ConsoleLog(console)
        ours.callback(log.close)
        near, far = _pair(ours, theirs)
        monitor, monitor_far = _pair(ours, theirs)
        command = [
            *argv,
            *("-chardev", f"socket,id=agent,fd={far.fileno()}", "-chardev", f"socket,id=qmp,fd={monitor_far.fileno()}"),
            *("-chardev", _console_chardev(console, serial)),
        ]
        inherited = [*fds, far.fileno(), monitor_far.fileno(), *([serial.fileno()] if serial else [])]
        qmp = Qmp(monitor)
        if state is not None:
            read, write = os.pipe()
            theirs.callback(os.close, read)
            # A thread, because a pipe does not hold it all and QEMU does not read before it has started. Should QEMU never read, or we
            # be killed, the pipe breaks, and with it the thread, or QEMU.
            threading.Thread(target=_feed, args=(write, state), daemon=True).start()
            command += ["-incoming", "defer"]
            inherited.append(read)
            # Taken in order once QEMU is up: no round trip. A -global for the capability exists only in newer QEMU.
            qmp.post([("migrate-set-capabilities", {"capabilities": [IGNORE_SHARED]}), ("migrate-incoming", {"uri": f"fd:{read}"})])
        process = Process(command, inherited)
        ours.pop_all()
    return Machine(process, Channel(near), qmp, log, spec)


def _console_chardev(console: Path, serial: socket.socket | None) -> str:
    path = virtme.quote(str(console.absolute()))
    return f"file,id=console,path={path}" if serial is None else f"socket,id=console,fd={serial.fileno()},logfile={path}"


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    ours.callback(near.close)
    theirs.callback(far.close)
    return near, far


def _feed(fd: int, data: bytes) -> None:
    with suppress(OSError):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    os.close(fd)


@contextmanager
def memory_files(files: Mapping[str, bytes]) -> Iterator[tuple[dict[str, str], list[int]]]:
    """`files` as anonymous memory: paths by name that a child can open which inherits the descriptors, and the descriptors."""
    with ExitStack() as stack:
        named: dict[str, str] = {}
        fds: list[int] = []
        for name, data in files.items():
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
            stack.callback(os.close, fd)
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            named[name] = f"/proc/self/fd/{fd}"
            fds.append(fd)
        yield named, fds


def boot_plan(
    plan: virtme.Plan,
    spec: VmSpec,
    console: Path,
    ram: int,
    *,
    timeout: float | None = None,
    silence: float | None = None,
    serial: socket.socket | None = None,
    carried: int | None = None,
) -> Machine:
    """Boot `plan` with the descriptor `ram` as the guest's memory, up to the agent's hello. `carried` is as for virtme.carried_drive."""
    limit = boot_timeout() if timeout is None else timeout
    start = time.monotonic()
    with memory_files(plan.files) as (named, fds):
        there = {"ram": f"/proc/self/fd/{ram}", "carried": virtme.carried_drive(carried)}
        command = virtme.substitute(plan.argv, named | there, share=True)
        inherited = [ram, *fds, *([carried] if carried is not None else [])]
        machine = launch(spec, command, console, fds=inherited, serial=serial)
        try:
            machine.greet(limit, silence)
        except BaseException:
            machine.kill()
            raise
    machine.seconds = time.monotonic() - start
    return machine


def boot(
    spec: VmSpec,
    console: Path,
    *,
    timeout: float | None = None,
    silence: float | None = None,
    serial: socket.socket | None = None,
    carried: int | None = None,
) -> Machine:
    """Boot a machine afresh, up to the agent's hello (`timeout` in seconds, by default `boot_timeout()`).

    `silence` is how long the console may stay empty, where that is already telling. Raises KernelDied, VmLost or GuestTimeout with
    the console's words where it does not come up; nothing is left running then. `carried` is as for virtme.carried_drive.
    """
    with cache.staging(paths.cache_dir("snapshots")) as work:
        plan = virtme.compose(spec, work)
    ram = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
    try:
        return boot_plan(plan, spec, console, ram, timeout=timeout, silence=silence, serial=serial, carried=carried)
    finally:
        os.close(ram)
