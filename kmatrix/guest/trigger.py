"""Making the events happen, with values that are known beforehand or learnt from the process that does it.

Every trigger acts in a child with a cgroup, a user and a name of its own, so that an event which mixes up pid and tgid, uid and gid,
or reads a neighbouring field, does not pass by accident. Making such a child costs half of a cell's time where every instruction is
emulated, so those that can be are made before the snapshot (`prepare`) and wait for the word.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import mmap
import os
import platform
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from . import bpf
from .cgroup import AT_FDCWD, enable_memory_controller, own_memory_files
from .child import Child, Known, Outcome, Pipes
from .triggers import KINDS

Spec = Mapping[str, Any]

UID, GID = 4201, 4202
EXIT_CODE = 7
OUTPUT_KEPT = 65536  # bytes of a command's output, from its end
WORK = "/tmp/kmatrix"  # world-readable, unlike /run/kmatrix: the child is nobody in particular
PR_SET_NAME = 15


def _become_someone() -> Known:
    os.setgroups([])
    os.setgid(GID)
    os.setuid(UID)
    return {"uid": UID, "gid": GID}


def _name_thread(name: str) -> None:
    bpf.libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def place(name: str, content: bytes, mode: int = 0o755) -> str:
    """Put a file where the triggers run; its path."""
    path = os.path.join(WORK, name)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    return path


# -- the triggers ------------------------------------------------------------------------------------------------------------


def _openat(name: str, flags: int) -> int:
    """openat(2) itself, for its flags to be exactly these: its result as the kernel gives it."""
    try:
        return bpf.syscall(bpf.NR_OPENAT, AT_FDCWD, ctypes.create_string_buffer(name.encode()), flags, 0)
    except OSError as error:
        return -int(error.errno or 0)


def _open(_spec: Spec) -> Child:
    """Open a file, and one that is not there, from a second thread (so that pid and tgid differ)."""
    path = place("open-target", b"kmatrix\n", 0o644)
    missing = f"{WORK}/open-missing"
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

    def action(pipes: Pipes) -> int:
        def second() -> None:
            _name_thread("kmatrix-open")
            bpf.close(_openat("/dev/null", flags))  # once for nothing: what this touches is copied from the agent now, not later
            pipes.say({"pid": threading.get_native_id()})
            pipes.ready()
            ret, missing_ret = _openat(path, flags), _openat(missing, flags)
            pipes.say({"ret": ret, "missing_ret": missing_ret, "done": True})

        pipes.say(_become_someone() | {"tgid": os.getpid(), "comm": "kmatrix-open"})
        pipes.say({"path": path, "missing_path": missing, "flags": flags})
        threading.Thread(target=second).start()
        return pipes.rest()

    return Child("open", action)


_EXIT_7 = {  # (e_machine, the only instructions of a program: exit(7))
    "x86_64": (62, bytes.fromhex("bf07000000b83c0000000f05")),
    "aarch64": (183, bytes.fromhex("e00080d2a80b80d2010000d4")),
}


def tiny_program() -> bytes:
    """A whole ELF program that exits with EXIT_CODE: it starts in no time, and nothing else of it can show up in events."""
    machine, code = _EXIT_7[platform.machine()]
    base, headers = 0x400000, 64 + 56
    elf = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = headers + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)  # aligned to the largest page there is
    return b"\x7fELF\2\1\1".ljust(16, b"\0") + elf + segment + code


def _exec(_spec: Spec) -> Child:
    """Execute a program that exits with a known status."""
    path = place("kmatrix-exec", tiny_program())

    def action(pipes: Pipes) -> int:
        pid = os.getpid()
        who = {"pid": pid, "tgid": pid, "comm": "kmatrix-exec", "path": path, "filename": path}
        pipes.say(_become_someone() | who | {"exit_status": EXIT_CODE, "exit_code": EXIT_CODE << 8})
        # A shell is what waits: leaving its few pages is cheaper than leaving this interpreter's.
        os.dup2(pipes.go, 0)
        os.dup2(pipes.say_to, 1)
        script = f"echo '{json.dumps({'ready': True})}'; read go; exec \"$0\""
        shell = "/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/sh"
        os.execve(shell, ["sh", "-c", script, path], {})

    return Child("exec", action)


def _tcp_connect(spec: Spec) -> Child:
    """Connect over loopback to a listening port; `family` is 4 (the default) or 6."""
    six = int(spec.get("family", 4)) == 6
    family, address = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(1)
    port = listener.getsockname()[1]

    def action(pipes: Pipes) -> int:
        _name_thread("kmatrix-connect")
        pid = os.getpid()
        pipes.say(_become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-connect"})
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            pipes.ready()
            sock.connect((address, port))
            ends = {"saddr": address, "daddr": address, "sport": sock.getsockname()[1], "dport": port}
            pipes.say(ends | {"family": int(family), "done": True})
            return pipes.rest()

    child = Child("tcp_connect", action)
    child.keep = listener
    return child


_name_servers = itertools.count(1)


def _dns(_spec: Spec) -> Child:
    """Ask a name server on loopback, which answers. Both are the same process: what it sends itself waits in the sockets' queues."""
    server = (f"127.0.53.{next(_name_servers) % 250 + 1}", 53)
    ident, flags, answered = 0x4B4D, 0x0100, 0x8180
    question = b"\x07kmatrix\x04test\0" + struct.pack(">HH", 1, 1)  # A, IN
    query = struct.pack(">HHHHHH", ident, flags, 1, 0, 0, 0) + question
    answer = struct.pack(">HHHHHH", ident, answered, 1, 1, 0, 0) + question
    answer += struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes((192, 0, 2, 1)))  # of the name at offset 12, for a minute

    def action(pipes: Pipes) -> int:
        _name_thread("kmatrix-dns")
        listener, asker = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        listener.bind(server)  # a port for root
        asker.bind(("127.0.0.1", 0))
        for sock in (listener, asker):
            sock.settimeout(2)
        pid, (address, port) = os.getpid(), asker.getsockname()
        pipes.say(_become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-dns"})
        pipes.say({"saddr": address, "sport": port, "daddr": server[0], "dport": server[1]})
        name = question[: question.index(0)].decode("ascii")
        pipes.say({"query_id": ident, "query_flags": flags, "answer_flags": answered, "question": name, "query_len": len(query)})
        pipes.ready()
        asker.sendto(query, server)
        asked, whom = listener.recvfrom(512)
        listener.sendto(answer, whom)
        if asked != query or asker.recv(512) != answer:
            raise ValueError("a packet on loopback was changed")
        pipes.say({"done": True})
        return pipes.rest()

    return Child("dns", action)


_HOG, _ROOM, _GREED = 2 << 20, 1 << 20, 2 << 20
"""Bytes: what the one to be killed holds, what the cgroup may take beside, and what is then asked for, which fits when that one is gone."""


def _oom(_spec: Spec) -> Child:
    """Have the kernel kill a process for want of memory: not the one that takes it, so that an event which mixes the two up is wrong."""
    enable_memory_controller()

    def action(pipes: Pipes) -> int:
        _name_thread("kmatrix-oom")
        told, tell = os.pipe()
        victim = os.fork()
        if victim == 0:
            _be_the_hog(tell)
        os.read(told, 1)
        _write("/proc/self/oom_score_adj", b"-1000")
        current, most = own_memory_files()
        with open(current) as taken_now:
            limit = (int(taken_now.read()) + _ROOM) // mmap.PAGESIZE
        _write(most, b"%d" % (limit * mmap.PAGESIZE))
        pid = os.getpid()
        pipes.say(
            _become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-oom", "victim": victim, "victim_comm": "kmatrix-hog"}
        )
        pipes.say({"limit_pages": limit, "message": "Memory cgroup out of memory"})
        pipes.ready()
        taken = _take(_GREED)
        deadline = time.monotonic() + 2
        while not (ended := os.waitpid(victim, os.WNOHANG))[0]:  # its memory may be taken from it before it has ended
            if time.monotonic() > deadline:
                raise TimeoutError("the kernel killed nobody for memory")
            time.sleep(0.001)
        taken.close()
        if os.waitstatus_to_exitcode(ended[1]) != -signal.SIGKILL:
            raise ChildProcessError(f"the victim was not killed, but ended with {os.waitstatus_to_exitcode(ended[1])}")
        pipes.say({"done": True})
        return pipes.rest()

    return Child("oom", action)


def _be_the_hog(tell: int) -> NoReturn:
    """The life of the process that is killed."""
    try:
        _name_thread("kmatrix-hog")
        _write("/proc/self/oom_score_adj", b"1000")
        _become_someone()
        held = _take(_HOG)
        os.write(tell, b"\n")
        while held:
            signal.pause()
    finally:
        os._exit(1)


def _take(size: int) -> mmap.mmap:
    """Memory that is really there, for no page of it is as it was."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        memory[at] = 1
    return memory


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)


def _command(spec: Spec) -> Child:
    """Run a command in the folder that the trigger's files were put into."""
    argv = [str(word) for word in spec["command"]]
    os.makedirs(WORK, mode=0o755, exist_ok=True)
    environment = {**os.environ, **{str(name): str(value) for name, value in (spec.get("env") or {}).items()}}
    path = os.path.join(WORK, argv[0]) if "/" in argv[0] else shutil.which(argv[0], path=environment.get("PATH"))
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "no such command in the guest", argv[0])
    path = os.path.normpath(path)
    outputs = tuple(os.memfd_create(name, 0) for name in ("stdout", "stderr"))

    def action(pipes: Pipes) -> int:
        pid = os.getpid()
        os.setsid()
        os.chdir(WORK)
        comm = os.path.basename(path).encode()[:15].decode("utf-8", "replace")
        pipes.say({"pid": pid, "tgid": pid, "uid": 0, "gid": 0, "comm": comm, "path": path, "filename": path})
        pipes.ready()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        os.execve(path, argv, environment)

    child = Child("command", action)
    child.title, child.outputs = argv[0], outputs
    return child


_MAKE: Mapping[str, Callable[[Spec], Child]] = {
    "open": _open, "exec": _exec, "tcp_connect": _tcp_connect, "dns": _dns, "oom": _oom, "command": _command,
}  # fmt: skip
_prepared: dict[str, Child] = {}
_spent: list[Child] = []


def prepare(timeout: float = 10.0) -> None:
    """Have a child waiting for each trigger that needs nothing of the request."""
    for kind in (name for name, row in KINDS.items() if row.prepared):
        with suppress(OSError):  # a kernel without what this one takes has the others all the same; who asks for it is told
            child = _prepared.get(kind) or _MAKE[kind]({"kind": kind})
            if child.await_ready(time.monotonic() + timeout):
                _prepared[kind] = child
            else:
                child.close()


def ready(spec: Spec, timeout: float) -> Child:
    """A child that waits to do what the spec says. Raises OSError or ValueError where there can be none.

    To be had before anything is loaded: a child made later would hold copies of what is attached, and show up in its own events.
    """
    kind = str(spec.get("kind"))
    if kind not in _MAKE:
        raise ValueError(f"this agent knows no trigger {kind!r}; known: {', '.join(_MAKE)}")
    prepared = _prepared.pop(kind, None) if spec.get("family") in (None, 4) else None
    child = prepared or _MAKE[kind](spec)
    _spent.append(child)
    child.await_ready(time.monotonic() + timeout)
    return child


def pull(child: Child, timeout: float) -> Outcome:
    """Have the child do it, in no more than `timeout` seconds; a failure is in the outcome, not raised.

    A command has then ended with all that it started; what is left of another child stays until `clean_up`.
    """
    outcome = child.pull(timeout, to_the_end=child.kind in ("exec", "command"))
    if child.kind == "exec" and outcome.ok and outcome.exit != EXIT_CODE:
        outcome.ok, outcome.error = False, f"the program ended with {outcome.exit}, not {EXIT_CODE}"
    if child.kind == "open":
        _judge_open(outcome)
    if child.kind == "command":
        _judge_command(child, outcome)
        clean_up()
    return outcome


def _judge_open(outcome: Outcome) -> None:
    """Both opens end as they do where nobody interferes: one with a file descriptor, one with -ENOENT."""
    if not outcome.ok:
        return
    known, wrong = outcome.known, []
    if known["ret"] < 0:
        wrong.append(f"openat({known['path']}) answers {_answer(known['ret'])}")
    if known["missing_ret"] != -errno.ENOENT:
        wrong.append(f"openat({known['missing_path']}) answers {_answer(known['missing_ret'])}, not ENOENT")
    if wrong:
        outcome.ok, outcome.error = False, "; ".join(wrong)


def _answer(result: int) -> str:
    """A system call's result: the number, or its errno's name."""
    return errno.errorcode.get(-result, str(result)) if result < 0 else str(result)


def _judge_command(child: Child, outcome: Outcome) -> None:
    texts = []
    for fd in child.outputs:
        size = os.lseek(fd, 0, os.SEEK_END)
        texts.append(os.pread(fd, OUTPUT_KEPT, max(0, size - OUTPUT_KEPT)).decode("utf-8", "replace"))
        os.close(fd)
    outcome.extra.update(stdout=texts[0], stderr=texts[1])
    with suppress(ValueError):
        said = json.loads(texts[0])
        if isinstance(said, dict):
            outcome.known.update(said)
    code = outcome.exit or 0
    outcome.known.update(exit_status=outcome.exit, exit_code=code << 8 if code >= 0 else -code)
    if outcome.ok and outcome.exit != 0:
        last = (texts[1].strip() or texts[0].strip()).splitlines()[-1:]
        outcome.ok, outcome.error = False, ": ".join([f"{child.title} ended with {outcome.exit}", *last])


def clean_up() -> None:
    """Remove what is left of the children that were asked for."""
    while _spent:
        _spent.pop().close()
