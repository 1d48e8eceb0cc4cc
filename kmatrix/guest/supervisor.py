"""What comes first on a real machine: it has the machine for itself, starts the agent in a room of its own, and clears up after it.

It is started over SSH, with kmatrix's own Python. Standard input and output are the channel; standard error has the kernel's messages as they come,
and a zero byte a second, so that whoever listens notices a machine that has stopped. Before the agent's hello it says, a JSON object a line:
{"waiting": who has the machine}, {"refused": {"kind", "message"}}, {"machine": {…}}; after the agent's end {"cleaned": {"left": […]}}.

A second process, the guard, does the same cleaning should this one be killed. The lock is theirs: it is free when both have ended.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import gzip
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from . import bpf, mounts, namespaces, observe, real, rooms
from .processes import PR_SET_CHILD_SUBREAPER

_OWN_PROBES = re.compile(r"[pr]\d*:(?:\w+/)?(?:libbpf_|ebpf_)")
"""Kprobes and uprobes of tracefs as libbpf and cilium/ebpf name them."""
_CODE = "/run/kmatrix/agent"
"""Where the agent finds its code."""
_AGENT = "import sys; sys.path.insert(0, '{code}'); import agent; agent.main({port})"
_KEPT = 30 * 86400
"""Seconds for which what another version of kmatrix brought is kept, since it was last used."""


class Refused(Exception):
    """The machine cannot be used: `kind` is a word for programs."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def say(message: Mapping[str, Any]) -> None:
    """One line on standard output."""
    data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    while data:
        data = data[os.write(1, data) :]


def main(request: Mapping[str, Any]) -> None:
    """Serve one session. `request`: `folder` (kmatrix's on this machine), `root` (what it carried), `code` (the agent's), `who`, and `wait`, in seconds."""
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        check()
        lock = take_lock(request)
        session = _Session(request, lock)
    except Refused as error:
        say({"refused": {"kind": error.kind, "message": str(error)}})
        return
    except OSError as error:
        say({"refused": {"kind": "machine", "message": error.strerror or str(error)}})
        return
    session.run()


def check() -> None:
    """Raises Refused where nobody could load a program here."""
    if os.geteuid() != 0:
        raise Refused("root", f"the user has no root: the uid is {os.geteuid()}")
    try:
        os.close(bpf.map_create(bpf.MAP_TYPES.index("array"), 4, 4, 1))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Refused("bpf", "the kernel has no bpf(2): it was built without CONFIG_BPF_SYSCALL") from None
        if error.errno == errno.EPERM:
            raise Refused("bpf", f"the kernel lets root make no BPF map{_lockdown()}") from None
        raise Refused("bpf", f"the kernel makes no BPF map: {error.strerror}") from None
    try:
        with open("/proc/filesystems") as file:
            kinds = file.read().split()
    except OSError as error:
        raise Refused("machine", f"/proc cannot be read: {error.strerror}") from None
    if "cgroup2" not in kinds:
        raise Refused("machine", "the kernel has no cgroups of version 2, by which what kmatrix starts is found again")


def _lockdown() -> str:
    with suppress(OSError), open("/sys/kernel/security/lockdown") as file:
        return f" (lockdown: {file.read().partition('[')[2].partition(']')[0]})"
    return ""


def take_lock(request: Mapping[str, Any]) -> int:
    """The lock of this machine, once it is free. Raises Refused where it is not within `wait` seconds, or the other end goes away."""
    fd = os.open(f"{request['folder']}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + float(request["wait"])
    told = ""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(fd, 4096, 0).decode("utf-8", "replace").strip() or "somebody who does not say who"
        if holder != told:
            told = holder
            say({"waiting": holder})
        if time.monotonic() > deadline:
            raise Refused("busy", f"the machine is in use by {holder}, and was not free within {float(request['wait']):g} s")
        if select.select([0], [], [], 0.3)[0] and not os.read(0, 1):
            os._exit(0)  # nobody is there any more
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{request['who']}, since {time.strftime('%H:%M:%S UTC', time.gmtime())}".encode(), 0)
    return fd


def _text(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""


def facts() -> dict[str, Any]:
    """What the machine says of itself."""
    uname = os.uname()
    model = _text("/sys/firmware/devicetree/base/model") or _text("/sys/class/dmi/id/product_name")
    with open("/proc/meminfo") as file:
        memory = int(file.read().split()[1]) >> 10
    return {
        "release": uname.release,
        "version": uname.version,
        "machine": uname.machine,
        "node": uname.nodename,
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "model": model.rstrip("\0"),
        "cpus": os.cpu_count(),
        "memory_mib": memory,
    }


def config(release: str) -> str | None:
    """The kernel's configuration, gzip in base64; None where the machine does not have it."""
    with suppress(OSError), open("/proc/config.gz", "rb") as packed:
        return base64.b64encode(packed.read()).decode()
    for path in (f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        with suppress(OSError), open(path, "rb") as file:
            return base64.b64encode(gzip.compress(file.read())).decode()
    return None


def prepare(request: Mapping[str, Any]) -> None:
    """See that what was brought starts fast, and that what nobody uses any more goes. The lock says that nobody else is at it."""
    mine = (str(request["root"]), str(request["code"]))
    for path in mine:
        os.utime(path)
    for name in os.listdir(request["folder"]):
        path = f"{request['folder']}/{name}"
        if name.startswith(("root-", "agent-", "tmp-")) and path not in mine and time.time() - os.stat(path).st_mtime > _KEPT:
            shutil.rmtree(path, ignore_errors=True)
    compiled = f"{request['code']}/.compiled"
    if not os.path.exists(compiled):  # Python keeps the compiled form beside the sources: the agent itself may not write there
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                from . import agent  # noqa: F401

                with open(compiled, "w"):
                    pass
            os._exit(0)
        os.waitpid(child, 0)


class _Session:
    """One agent on the machine, from its start until nothing of it is left."""

    def __init__(self, request: Mapping[str, Any], lock: int) -> None:
        prepare(request)
        mounts.hide()
        self._folder, self._lock = str(request["folder"]), lock
        self._hierarchy = f"{self._folder}/cgroups"
        os.makedirs(self._hierarchy, exist_ok=True)
        mounts.mount("cgroup2", self._hierarchy, "cgroup2")
        for name in os.listdir(
            self._hierarchy
        ):  # of one that was killed together with its guard: the lock says that nobody is in it
            if name.startswith(f"{rooms.CGROUP}-"):
                rooms.Cgroup(self._hierarchy, name).remove()
        with open(f"{self._folder}/pid", "w") as file:
            file.write(str(os.getpid()))
        self._cgroup = rooms.Cgroup(self._hierarchy, f"{rooms.CGROUP}-{os.getpid()}")
        self._probes = observe.dynamic_probes()
        self._ids = real.snapshot()
        self._counted = _text(observe.RUNS_ARE_COUNTED)
        bpf.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        found = facts()
        say({"machine": {**found, "config": config(found["release"])}})
        self._over = threading.Event()
        self._guard = self._start_guard()
        self._port, far = socket.socketpair()
        self._agent = os.fork()
        if self._agent == 0:
            self._become_agent(far, str(request["root"]), str(request["code"]))
        far.close()

    def _start_guard(self) -> int:
        """The process that cleans where this one cannot: it is told of the end by the pipe that closes without a word."""
        told, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.close(tell)
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            with suppress(BaseException):
                if not os.read(told, 1):
                    self._clean()
            os._exit(0)
        os.close(told)
        return tell

    def _become_agent(self, port: socket.socket, root: str, code: str) -> None:
        """The agent's life: from here on it is the one process that the room is for."""
        try:
            namespaces.die_with_parent()
            os.setsid()
            os.close(self._lock)
            os.close(self._guard)
            self._port.close()
            self._cgroup.enter()
            namespaces.unshare(["mnt", "net"])
            for kind in ("uts", "ipc"):
                with suppress(OSError):  # what a cell changes of these harms nobody
                    namespaces.unshare([kind])
            room = f"{self._folder}/room"
            os.makedirs(room, exist_ok=True)
            rooms.move_in(root, room, {code: _CODE})
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(2, 1)  # the channel is the socket: what a program prints here is for people
            os.set_inheritable(port.fileno(), True)
            environment = {
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "USER": "root", "TERM": "dumb", "LANG": "C.UTF-8", real.MARK: "1",
            }  # fmt: skip
            os.execve("/usr/bin/python3", ["python3", "-ISBu", "-c", _AGENT.format(code=_CODE, port=port.fileno())], environment)
        except BaseException as error:
            words = {"kind": "machine", "message": f"no room can be made for the agent: {error}"}
            with suppress(OSError):
                port.sendall(json.dumps({"refused": words}).encode() + b"\n")
            traceback.print_exc()
        finally:
            os._exit(1)

    def run(self) -> None:
        """Pass on what is said either way, until the other end goes away or the agent ends; then clean."""
        for work in (self._from_outside, self._to_outside, self._kernel_messages):
            threading.Thread(target=self._until_over, args=(work,), daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())
        while not self._over.wait(0.2):
            with suppress(ChildProcessError):
                if os.waitpid(self._agent, os.WNOHANG)[0]:
                    time.sleep(0.2)  # its last words may still be on their way
                    break
        self._over.set()
        self._port.close()
        left = self._clean()
        os.write(self._guard, b"\n")
        with suppress(OSError):
            say({"cleaned": {"left": left}})

    def _until_over(self, work: Callable[[], None]) -> None:
        with suppress(OSError, ValueError):
            work()
        if work != self._kernel_messages:
            self._over.set()

    def _from_outside(self) -> None:
        while data := os.read(0, 1 << 18):
            self._port.sendall(data)

    def _to_outside(self) -> None:
        while data := self._port.recv(1 << 18):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]

    def _kernel_messages(self) -> None:
        """What the kernel says from now on, as its console has it, and a sign of life each second."""
        files = []
        with suppress(OSError):  # a kernel without printk still gives signs of life
            files = [os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)]
            os.lseek(files[0], 0, os.SEEK_END)
        last = 0.0
        while not self._over.is_set():
            for fd in select.select(files, [], [], 0.25)[0]:
                with suppress(BrokenPipeError, BlockingIOError):  # EPIPE: what was not read in time is gone
                    record = os.read(fd, 8192)
                    os.write(2, _console_line(record))
            if time.monotonic() - last >= 1:
                os.write(2, b"\0")
                last = time.monotonic()

    def _clean(self) -> list[str]:
        """Nothing of the agent stays; what does, in words."""
        left = self._cgroup.remove()
        with suppress(OSError):
            os.unlink(f"{self._folder}/pid")
        left += self._remove_probes()
        if self._counted in ("0", "1"):
            with suppress(OSError), open(observe.RUNS_ARE_COUNTED, "w") as file:
                file.write(self._counted)
        deadline = time.monotonic() + 5
        while (new := self._new_objects()) and time.monotonic() < deadline:
            self._let_go(new)
            time.sleep(0.05)
        return left + [f"{kind.removesuffix('s')} {ident}" for kind, ident in sorted(new)]

    def _new_objects(self) -> set[tuple[str, int]]:
        """The programs, maps and links that were not there before and that nobody has: the guard of what others loaded meanwhile."""
        new = {(kind, ident) for kind, ids in real.snapshot().items() for ident in ids - self._ids.get(kind, set())}
        return real.nobodys(new)

    def _let_go(self, new: set[tuple[str, int]]) -> None:
        """What holds on without a process: a link that is pinned nowhere any more, a struct_ops that is registered."""
        for kind, ident in new:
            with suppress(OSError):
                if kind == "links":
                    fd = real.by_id(kind, ident)
                    try:
                        bpf.bpf(bpf.LINK_DETACH, fd.to_bytes(4, sys.byteorder) + bytes(4))
                    finally:
                        os.close(fd)
                elif kind == "maps":
                    real.unregister(ident)

    def _remove_probes(self) -> list[str]:
        left = []
        for line in observe.dynamic_probes():
            if line in self._probes or not _OWN_PROBES.match(line):
                continue
            name = line.split()[0].partition(":")[2]
            file = "uprobe_events" if "/" in line.split()[1] else "kprobe_events"
            try:
                with open(f"{observe.tracefs()}/{file}", "ab", buffering=0) as events:
                    events.write(f"-:{name}\n".encode())
            except OSError:
                left.append(f"probe {name}")
        return left


def _console_line(record: bytes) -> bytes:
    """A record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg) as a console shows it: the time, and the text."""
    head, _, rest = record.partition(b";")
    microseconds = int(head.split(b",")[2])
    lines = [line for line in rest.split(b"\n") if line and not line.startswith(b" ")]
    stamp = b"[%5d.%06d] " % divmod(microseconds, 1_000_000)
    return b"".join(stamp + line + b"\n" for line in lines)
