"""Having a program run on a kernel that never was: its bpf(2), perf_event_open(2) and uname(2) answered as `past.Past` says.

Below every loader, ours or a static binary: a seccomp filter on one thread (and on whatever it starts) hands those calls to a supervisor
in this process, which answers them or lets the kernel go on (SECCOMP_USER_NOTIF_FLAG_CONTINUE, 5.5). Commands whose
attributes do not matter pass by it. Files go out of sight in a
mount namespace of that thread. The kernel under test is not changed, and what is not under the filter sees it as it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import queue
import resource
import select
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from . import bpf, kernel, libbpf, mounts, seccomp
from .errand import Errand
from .memory import read_memory, write_memory
from .mounts import MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, mount
from .past import EINVAL, ENOENT, Past
from .seccomp import ALLOW, ARG0, AT_LEAST, EQUAL, ERRNO, LOAD, NOTIFY, RETURN, Instruction, native
from .table_hidden import BTF_FOLDER, TRACEFS
from .table_uapi import COMMAND_COUNT, PROG_LOAD

NR_UNAME = {"x86_64": 63, "aarch64": 160}.get(platform.machine(), -1)

SPEC_ALLOW, NEW_LISTENER = 1 << 2, 1 << 3
NOTIF_RECV, NOTIF_SEND, CONTINUE = 0xC0502100, 0xC0182101, 1

UTS_FIELD = 65
OLDEST = (5, 5)
"""Before it seccomp cannot let a call go on (SECCOMP_USER_NOTIF_FLAG_CONTINUE, fb3c5386b382)."""
SCRATCH = "/run/kmatrix/past"
SHELF = f"{SCRATCH}/modules"
CONFIG = "/proc/config.gz"
"""The configuration is the base's: no older kernel had it."""
RELEASE_FILES = ("/proc/sys/kernel/osrelease", "/proc/version")
PMUS = ("kprobe", "uprobe")

_local = threading.local()


class _Stage:
    """Two threads that wait: one under the filter, in a mount namespace of its own, and one that answers for it.

    Made before it is needed, because all of that costs more than the rest where the CPU is emulated.
    """

    def __init__(self) -> None:
        self.name = ""
        """The kernel that is simulated on it; empty until `set`."""
        self.past = Past({})
        self._play: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        ready: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()

        def player() -> None:
            try:
                _own_mounts()
                ready.put(_filter(_looked_at(), NEW_LISTENER))
            except OSError as error:
                ready.put(error)
                return
            _local.stage = self
            while (act := self._play.get()) is not None:
                act()

        threading.Thread(target=player, daemon=True).start()
        listener = ready.get()
        if isinstance(listener, OSError):
            raise listener
        self._supervisor = _Supervisor(listener, _real())
        threading.Thread(target=self._supervisor.serve, daemon=True).start()

    def set(self, name: str, past: Past) -> None:
        """Simulate the kernel from here on: once and for all."""
        self.name = name
        self.past = self._supervisor.past = past

        def work() -> None:
            _cover(past, _real())
            if past.commands <= LAST_PASSED:
                _filter(_refused(past.commands))

        self.do(work)

    def do(self, action: Callable[[], Any]) -> Any:
        """What `action` returns (or raises) in the thread under the filter; what it wants done `outside`, the caller's thread does."""

        def work() -> Any:
            _local.errand = errand
            return action()

        errand = Errand(work)
        self._play.put(errand.work)
        return errand.wait()

    def end(self) -> None:
        """Let the thread go. What it started stays under the filter, and is answered for as long as it lives."""
        self._play.put(None)


_spare: list[_Stage] = []
_current: list[_Stage] = []
"""The stage of the latest simulation: it stands for as long as the same kernel is asked for."""


def prepare() -> None:
    """Have a stage waiting, everything done once that a simulation takes. On a kernel that cannot be a base, nothing."""
    if kernel.version() < OLDEST:
        return
    spec = {"as_of": [4, 14], "hidden": ["btf", "ringbuf", "kprobe_pmu"], "release": "4.14.0"}

    def nothing() -> None:
        outside(os.getpid)
        os.uname()
        with suppress(OSError):
            os.close(bpf.prog_load(1, bpf.RETURN_0))

    stage = _Stage()
    stage.set("rehearsal", Past(spec))
    stage.do(nothing)
    stage.end()
    _spare.append(_Stage())


def inside(spec: Mapping[str, Any], action: Callable[[], Any]) -> Any:
    """What `action` returns (or raises) on the kernel that `spec` describes (see Past), with a libbpf that knows no other.

    It runs in a thread of its own, so that the process may go on without the filter. The simulation stands until another is asked for: a snapshot taken meanwhile holds it ready.
    """
    if kernel.version() < OLDEST:
        raise OSError(errno.ENOSYS, f"a kernel can be simulated on {OLDEST[0]}.{OLDEST[1]} or newer")
    wanted = json.dumps(dict(spec), sort_keys=True)
    if not _current or _current[0].name != wanted:
        past = Past(spec)
        libbpf.start_afresh()
        stage = _spare.pop() if _spare else _Stage()
        stage.set(wanted, past)
        while _current:
            _current.pop().end()
        _current.append(stage)
    return _current[0].do(action)


def past() -> Past:
    """The kernel that is simulated around the caller; one that hides nothing where it is the one at hand."""
    stage: _Stage | None = getattr(_local, "stage", None)
    return stage.past if stage is not None else Past({})


def name() -> str:
    """A name for the kernel that is simulated around the caller; empty where it is the one at hand."""
    stage: _Stage | None = getattr(_local, "stage", None)
    return stage.name if stage is not None else ""


def outside(action: Callable[[], Any]) -> Any:
    """What `action` returns on the kernel as it is, asked from inside a simulation; elsewhere simply that."""
    errand: Errand[Any] | None = getattr(_local, "errand", None)
    return action() if errand is None else errand.ask(action)


class _Real:
    """What the kernel at hand says, taken down before it is hidden."""

    def __init__(self) -> None:
        self.uts = ctypes.create_string_buffer(6 * UTS_FIELD)
        bpf.syscall(NR_UNAME, self.uts)
        self.pmus: dict[int, str] = {}
        for name in PMUS:
            with suppress(OSError, ValueError), open(f"/sys/bus/event_source/devices/{name}/type") as file:
                self.pmus[int(file.read())] = name


@cache
def _real() -> _Real:
    return _Real()


# -- the filter --------------------------------------------------------------------------------------------------------------


PASSED = (1, 2, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14, 15)
"""Commands that pass by the supervisor: element access, pins, detaching, test runs, and asking for what is there."""
LAST_PASSED = PASSED[-1]


def _looked_at() -> tuple[Instruction, ...]:
    """The same for every simulation, so that it can be in place before there is one: what the supervisor has to see."""
    commands = [each for command in PASSED for each in _when(command, ALLOW)]
    return native(
        *_when(NR_UNAME, NOTIFY),
        *_when(bpf.NR_PERF_EVENT_OPEN, NOTIFY),
        (EQUAL, 1, 0, bpf.NR_BPF),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, ARG0),
        *commands,
        (RETURN, 0, 0, NOTIFY),
    )


def _refused(first: int) -> tuple[Instruction, ...]:
    """Commands from `first` on are not there."""
    return native(
        (EQUAL, 1, 0, bpf.NR_BPF),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, ARG0),
        (AT_LEAST, 1, 0, COMMAND_COUNT),
        (AT_LEAST, 1, 0, first),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | EINVAL),
    )


def _when(value: int, action: int) -> tuple[Instruction, ...]:
    return (EQUAL, 0, 1, value), (RETURN, 0, 0, action)


def _filter(instructions: tuple[Instruction, ...], flags: int = 0) -> int:
    """Put this thread under the filter; with NEW_LISTENER, the fd on which its calls are to be answered."""
    return seccomp.put(seccomp.packed(instructions), flags | SPEC_ALLOW)


# -- the supervisor ----------------------------------------------------------------------------------------------------------


_OVER = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Supervisor:
    """Answers the calls of everything under one filter until nothing is left of it."""

    def __init__(self, listener: int, real: _Real) -> None:
        self.past = Past({})
        self._listener = listener
        self._real = real

    def serve(self) -> None:
        """Answer until there is nobody to answer."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        request, blank = bytearray(80), bytes(80)
        while True:
            if poll.poll()[0][1] & _OVER:
                os.close(self._listener)
                return
            request[:] = blank
            try:
                fcntl.ioctl(self._listener, NOTIF_RECV, request)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # killed between its call and now
                return
            ident, pid, _, number, _, _, *args = struct.unpack("QIIiIQ6Q", request)
            try:
                refusal = self._answer(pid, number, args)
            except OSError as error:
                # Its memory is not there (any more): the kernel will say what it thinks of that. Anything else must not pass as answered.
                refusal = 0 if error.errno in (errno.EFAULT, errno.EIO, errno.ESRCH, errno.ENOENT) else errno.ENOSYS
            except Exception:  # a mistake of ours must not leave the caller hanging
                refusal = errno.ENOSYS
            go_on = CONTINUE if refusal == 0 else 0
            reply = struct.pack("QqiI", ident, 0, -max(refusal, 0), go_on)
            with suppress(OSError):
                fcntl.ioctl(self._listener, NOTIF_SEND, reply)

    def _answer(self, pid: int, number: int, args: list[int]) -> int:
        """The errno; 0 for the kernel to go on, -1 where the call is done."""
        if number == bpf.NR_BPF:
            return self._bpf(pid, *args[:3])
        if number == bpf.NR_PERF_EVENT_OPEN:
            (kind,) = struct.unpack("=I", read_memory(pid, args[0], 4))
            name = self._real.pmus.get(kind)
            gone = name is not None and ("kprobe_pmu" in self.past.hidden or f"{name}s" in self.past.hidden)
            if gone or name != "kprobe":
                return ENOENT if gone else 0
            return self.past.absent.of_kprobe(read_memory(pid, args[0], 64), lambda at, length: read_memory(pid, at, length))
        if number == NR_UNAME and self.past.release is not None:
            write_memory(pid, args[0], self.uts())
            return -1
        return 0

    def _bpf(self, pid: int, command: int, address: int, size: int) -> int:
        code = self.past.command(command)
        if code or command not in self.past.answered:
            return code
        attr = read_memory(pid, address, min(size, 4096))
        memlock = None
        if "memcg_accounting" in self.past.hidden:
            soft, _ = resource.prlimit(pid, resource.RLIMIT_MEMLOCK)
            memlock = soft if soft != resource.RLIM_INFINITY else None
        code, words = self.past.answer(command, attr, lambda at, length: read_memory(pid, at, length), memlock)
        if words and command == PROG_LOAD:
            level, room, at = struct.unpack_from("=IIQ", attr.ljust(48, b"\0"), 24)
            if level and at and room:
                with suppress(OSError):
                    write_memory(pid, at, self.past.log(words)[:room])
        return code

    def uts(self) -> bytes:
        """struct utsname with the simulated release; the version names no distribution (libbpf would read Debian's own number there)."""
        fields = [self._real.uts.raw[at : at + UTS_FIELD] for at in range(0, 6 * UTS_FIELD, UTS_FIELD)]
        fields[2] = (self.past.release or "").encode()[: UTS_FIELD - 1].ljust(UTS_FIELD, b"\0")
        fields[3] = b"#1 simulated by kmatrix".ljust(UTS_FIELD, b"\0")
        return b"".join(fields)


# -- files -------------------------------------------------------------------------------------------------------------------


def _own_mounts() -> None:
    """A mount namespace for this thread, with stand-ins in place for what says the release: still with the real one's content."""
    mounts.hide()
    os.makedirs(SCRATCH, exist_ok=True)
    for path in RELEASE_FILES:
        with open(path) as file:
            _write(path, file.read())
        mount(f"{SCRATCH}/{os.path.basename(path)}", path, "", MS_BIND)
    release = _text(_real().uts.raw, 2)
    if os.path.isdir(f"/lib/modules/{release}"):
        os.makedirs(f"{SHELF}/{release}", exist_ok=True)
        mount(f"/lib/modules/{release}", f"{SHELF}/{release}", "", MS_BIND)
        mount(SHELF, "/lib/modules", "", MS_BIND | MS_REC)


def _write(path: str, content: str) -> None:
    fd = os.open(f"{SCRATCH}/{os.path.basename(path)}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o444)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)


def _cover(past: Past, real: _Real) -> None:
    """Cover what is hidden: folders by empty ones, files by an empty one that cannot be written."""
    for path in (*past.masks, CONFIG):
        if os.path.isdir(path):
            mount("none", path, "tmpfs", MS_RDONLY, "size=4k")
        elif os.path.exists(path):
            _write("nothing", "")
            mount(f"{SCRATCH}/nothing", path, "", MS_BIND)
            mount("none", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    _cover_tracepoints(past)
    if "btf" not in past.hidden and os.path.isdir(BTF_FOLDER):
        _cover_btf(past)
    if past.release is not None:
        release = _text(real.uts.raw, 2)
        _write("osrelease", past.release + "\n")
        _write("version", f"Linux version {past.release} (simulated by kmatrix on {release})\n")
        with suppress(OSError):  # no modules, or simulated before
            os.symlink(release, f"{SHELF}/{past.release}")  # where modprobe looks


def _cover_tracepoints(past: Past) -> None:
    """Cover the folders of absent tracepoints; tracefs inside debugfs, which libbpf prefers, becomes the same."""
    own, inner = TRACEFS
    folders = past.absent.folders(f"{own}/events")
    if not folders:
        return
    for path in folders:
        mount("none", path, "tmpfs", MS_RDONLY, "size=4k")
    if os.path.isdir(f"{inner}/events"):
        mount(own, inner, "", MS_BIND | MS_REC)


def _text(uts: bytes, field: int) -> str:
    return uts[field * UTS_FIELD : (field + 1) * UTS_FIELD].split(b"\0", 1)[0].decode()


def _cover_btf(past: Past) -> None:
    """The kernel's own BTF without the names of what is hidden, and without its modules' where those are."""
    with open(f"{BTF_FOLDER}/vmlinux", "rb") as file:
        types = file.read()
    with open(kept := f"{SCRATCH}/vmlinux", "wb") as file:
        file.write(past.without_names(types))
    if "btf_modules" in past.hidden:
        mount("none", BTF_FOLDER, "tmpfs", 0, "size=4k")
        with open(f"{BTF_FOLDER}/vmlinux", "wb"):
            pass
    mount(kept, f"{BTF_FOLDER}/vmlinux", "", MS_BIND)
