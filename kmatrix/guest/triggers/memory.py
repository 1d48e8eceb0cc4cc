"""Triggers on memory."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Mapping
from typing import NoReturn

from ..cgroup import enable_memory_controller, own_memory_files
from ..child import Child, Pipes
from .kind import Kind, Spec, become_someone, name_thread, write

_HOG, _ROOM, _GREED = 2 << 20, 1 << 20, 2 << 20
"""Bytes: what the one to be killed holds, what the cgroup may take beside, and what is then asked for, which fits when that one is gone."""


def _oom(_spec: Spec) -> Child:
    """Have the kernel kill a process for want of memory: not the one that takes it, so that an event which mixes the two up is wrong."""
    enable_memory_controller()

    def action(pipes: Pipes) -> int:
        name_thread("kmatrix-oom")
        told, tell = os.pipe()
        victim = os.fork()
        if victim == 0:
            _be_the_hog(tell)
        os.read(told, 1)
        write("/proc/self/oom_score_adj", b"-1000")
        current, most = own_memory_files()
        with open(current) as taken_now:
            limit = (int(taken_now.read()) + _ROOM) // mmap.PAGESIZE
        write(most, b"%d" % (limit * mmap.PAGESIZE))
        pid = os.getpid()
        pipes.say(
            become_someone() | {"pid": pid, "tgid": pid, "comm": "kmatrix-oom", "victim": victim, "victim_comm": "kmatrix-hog"}
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
        name_thread("kmatrix-hog")
        write("/proc/self/oom_score_adj", b"1000")
        become_someone()
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


KINDS: Mapping[str, Kind] = {
    "oom": Kind(
        _oom,
        {
            "pid": "the process that takes the memory, for which another has to go",
            "tgid": "the same",
            "comm": "its name",
            "victim": "the process that is killed",
            "victim_comm": "its name",
            "limit_pages": "the cgroup's memory limit, in pages",
            "message": "what the kernel says first",
        },
        prepared=True,
    ),
}
