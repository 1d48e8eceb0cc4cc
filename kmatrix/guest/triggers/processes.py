"""Triggers on processes."""

from __future__ import annotations

import json
import os
import platform
import signal
import struct
import threading
from collections.abc import Mapping

from ..child import Child, Known, Outcome, Pipes
from ..namespaces import own_pid, own_tid
from .deed import Deed, Other, kind
from .kind import Kind, Spec, become_someone, name_thread, place

EXIT_CODE = 7

EXIT_7 = {  # (e_machine, the only instructions of a program: exit(7))
    "x86_64": (62, bytes.fromhex("bf07000000b83c0000000f05")),
    "aarch64": (183, bytes.fromhex("e00080d2a80b80d2010000d4")),
}


def tiny_program() -> bytes:
    """A whole ELF program that exits with EXIT_CODE: it starts in no time, and nothing else of it can show up in events."""
    machine, code = EXIT_7[platform.machine()]
    base, headers = 0x400000, 64 + 56
    elf = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = headers + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)  # aligned to the largest page there is
    return b"\x7fELF\2\1\1".ljust(16, b"\0") + elf + segment + code


def _exec(_spec: Spec) -> Child:
    """Execute a program that exits with a known status."""
    path = place("kmatrix-exec", tiny_program())

    def action(pipes: Pipes) -> int:
        pid = own_pid()
        who = {"pid": pid, "tgid": pid, "comm": "kmatrix-exec", "path": path, "filename": path}
        pipes.say(become_someone() | who | {"exit_status": EXIT_CODE, "exit_code": EXIT_CODE << 8})
        # A shell is what waits: leaving its few pages is cheaper than leaving this interpreter's.
        os.dup2(pipes.go, 0)
        os.dup2(pipes.say_to, 1)
        script = f"echo '{json.dumps({'ready': True})}'; read go; exec \"$0\""
        shell = "/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/sh"
        os.execve(shell, ["sh", "-c", script, path], {})

    return Child("exec", action)


CLONE_OF_A_THREAD = 0x3D0F00
"""The flags with which the C library makes a thread (pthread_create(3)): CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM, _SETTLS,
_PARENT_SETTID and _CHILD_CLEARTID."""
_STATUS = 9


def _fork(_spec: Spec) -> Deed:
    """Fork a process that ends at once."""

    def do() -> Known:
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b"%d" % own_pid())
            os._exit(0)
        os.close(tell)
        pid = int(os.read(told, 16))
        os.close(told)
        os.waitpid(child, 0)
        return {"child": pid}

    return Deed({"child_comm": "kmatrix-fork"}, do)


def _thread(_spec: Spec) -> Deed:
    """Start a thread that ends at once."""

    def do() -> Known:
        tids: list[int] = []
        thread = threading.Thread(target=lambda: tids.append(own_tid()))
        thread.start()
        thread.join()
        return {"thread": tids[0]}

    return Deed({"clone_flags": CLONE_OF_A_THREAD, "thread_comm": "kmatrix-thread"}, do)


def _exit(spec: Spec) -> Deed:
    """Have a process end by itself or of a signal, or a thread of a process that goes on."""
    how = spec.get("how", "status")
    if how == "thread":
        return _thread_that_ends()
    signalled = how == "signal"

    def part() -> int:
        if signalled:
            os.kill(os.getpid(), signal.SIGKILL)
        return _STATUS

    parent = own_pid()
    other = Other("kmatrix-exit", part)
    expected = -int(signal.SIGKILL) if signalled else _STATUS

    def do() -> None:
        other.go()
        if (ended := other.end()) != expected:
            raise ChildProcessError(f"the process ended with {ended}, not {expected}")

    ended = {"exit_status": None if signalled else _STATUS, "signal": int(signal.SIGKILL) if signalled else 0}
    code = int(signal.SIGKILL) if signalled else _STATUS << 8
    who = {"pid": other.pid, "tgid": other.pid, "comm": other.comm, "ppid": parent, "ns_pid": other.inner}
    return Deed({**who, "exit_code": code, **ended}, do)


def _thread_that_ends() -> Deed:
    tids: list[int] = []
    word, ready = threading.Event(), threading.Event()

    def part() -> None:
        name_thread("kmatrix-exit")
        tids.append(own_tid())
        ready.set()
        word.wait()

    thread = threading.Thread(target=part)
    thread.start()
    ready.wait()

    def do() -> None:
        word.set()
        thread.join()

    return Deed({"pid": tids[0], "exit_code": 0, "exit_status": 0, "signal": 0}, do)


def _signal(_spec: Spec) -> Deed:
    """Kill another process."""
    others = [Other("kmatrix-victim")]

    def do() -> Known:
        os.kill(others[-1].inner, signal.SIGTERM)
        if (ended := others[-1].end()) != -signal.SIGTERM:
            raise ChildProcessError(f"the victim ended with {ended}, not of SIGTERM")
        return {"victim": others[-1].pid}

    known = {"victim": others[-1].pid, "victim_comm": others[-1].comm, "signal": int(signal.SIGTERM)}
    return Deed(known, do, lambda: others.append(Other("kmatrix-victim")))


def _judge_exec(_child: Child, outcome: Outcome) -> None:
    if outcome.ok and outcome.exit != EXIT_CODE:
        outcome.ok, outcome.error = False, f"the program ended with {outcome.exit}, not {EXIT_CODE}"


KINDS: Mapping[str, Kind] = {
    "exec": Kind(
        _exec,
        {
            "pid": "the process",
            "tgid": "the same",
            "comm": "its name after the exec",
            "path": "the program",
            "filename": "the same",
            "exit_status": "7",
            "exit_code": "7 << 8, as the kernel and wait(2) have it",
        },
        prepared=True,
        to_the_end=True,
        judge=_judge_exec,
    ),
    "fork": kind("fork", _fork, {"child": "the new process", "child_comm": "its name"}),
    "thread": kind(
        "thread",
        _thread,
        {"thread": "the new thread's id", "thread_comm": "its name", "clone_flags": "those of clone(2) or clone3(2)"},
    ),
    "exit": kind(
        "exit",
        _exit,
        {
            "exit_status": "9; null of one that is killed",
            "exit_code": "9 << 8, or 9 for SIGKILL, as the kernel and wait(2) have it; 0 of a thread",
            "signal": '9 with how = "signal", else 0',
        },
        options={"how": ("status", "signal", "thread")},
        repeats=False,
    ),
    "signal": kind(
        "signal",
        _signal,
        {"victim": "the process that is killed", "victim_comm": "its name", "signal": "15: SIGTERM"},
    ),
}
