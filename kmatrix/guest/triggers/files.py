"""Triggers on files."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Mapping

from .. import bpf
from ..cgroup import AT_FDCWD
from ..child import Child, Outcome, Pipes
from .kind import WORK, Kind, Spec, become_someone, name_thread, place


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
            name_thread("kmatrix-open")
            bpf.close(_openat("/dev/null", flags))  # once for nothing: what this touches is copied from the agent now, not later
            pipes.say({"pid": threading.get_native_id()})
            pipes.ready()
            ret, missing_ret = _openat(path, flags), _openat(missing, flags)
            pipes.say({"ret": ret, "missing_ret": missing_ret, "done": True})

        pipes.say(become_someone() | {"tgid": os.getpid(), "comm": "kmatrix-open"})
        pipes.say({"path": path, "missing_path": missing, "flags": flags})
        threading.Thread(target=second).start()
        return pipes.rest()

    return Child("open", action)


def _judge_open(_child: Child, outcome: Outcome) -> None:
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


KINDS: Mapping[str, Kind] = {
    "open": Kind(
        _open,
        {
            "pid": "the thread that opens",
            "tgid": "its process",
            "comm": "the thread's name",
            "path": "the file that is there",
            "flags": "of both opens: O_RDONLY, O_CLOEXEC and O_NOFOLLOW, whose values differ by arch",
            "ret": "the file descriptor",
            "missing_path": "the file that is not there",
            "missing_ret": "-2: minus ENOENT",
        },
        prepared=True,
        judge=_judge_open,
    ),
}
