"""Triggers on processes."""

from __future__ import annotations

import json
import os
import platform
import struct
from collections.abc import Mapping

from ..child import Child, Outcome, Pipes
from .kind import Kind, Spec, become_someone, place

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
        pid = os.getpid()
        who = {"pid": pid, "tgid": pid, "comm": "kmatrix-exec", "path": path, "filename": path}
        pipes.say(become_someone() | who | {"exit_status": EXIT_CODE, "exit_code": EXIT_CODE << 8})
        # A shell is what waits: leaving its few pages is cheaper than leaving this interpreter's.
        os.dup2(pipes.go, 0)
        os.dup2(pipes.say_to, 1)
        script = f"echo '{json.dumps({'ready': True})}'; read go; exec \"$0\""
        shell = "/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/sh"
        os.execve(shell, ["sh", "-c", script, path], {})

    return Child("exec", action)


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
}
