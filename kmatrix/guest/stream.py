"""A program whose streams are the host's: output goes there as it comes, input and signals come from there.

The agent sends {"stream": "stdout", "raw": N} and N bytes; {"took": N} when the program has read N bytes of its input; {"deaf": true}
when it reads no more; {"ended": {…}} at its end. The host sends {"stdin": true, "raw": N} and N bytes, {"stdin": false} at the input's
end, {"signal": N}, and {"close": true} once it has heard of the end: nothing for this program follows it.

Nothing is kept: while the host does not read, the port is full, the agent waits, the pipe fills, and the program waits.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from . import confine
from .cgroup import Cgroup
from .privileges import Privileges

_CHUNK = 128 << 10
_PIPE = 1 << 20
_LOOK = 0.5
"""Seconds between looks at how full the file systems are."""
_LAST = 2.0
"""Seconds that are given to the pipes to come to their end once everything that wrote to them was killed."""
WRITABLE = ("/tmp", "/root", "/", "/run", "/var/tmp", "/dev/shm")


class Port(Protocol):
    """The channel to the host, as far as it is needed here."""

    def fileno(self) -> int:
        """The port's descriptor."""

    def send(self, message: dict[str, Any], raw: bytes = b"") -> None:
        """Send a message, and `raw` behind it."""

    def receive_some(self) -> list[tuple[dict[str, Any], bytes]]:
        """The messages that come next, with their raw bytes; waits for something to come, which may be half a message."""

    def waiting(self) -> list[tuple[dict[str, Any], bytes]]:
        """The whole messages that have come already."""


def run(
    port: Port,
    argv: list[str],
    env: dict[str, str],
    cwd: str | None,
    user: str | None,
    caps: list[str] | None,
    core: int,
    stdin: bool,
    window: int,
) -> dict[str, Any]:
    """Run `argv` to its end; how it ended. 127 where it is not there, 126 where it is not a program, and `error` says why."""
    privileges = confine.privileges(core, user, caps)
    with Cgroup() as cgroup:
        streams = _Streams(stdin)
        try:
            process = subprocess.Popen(
                argv, env={**os.environ, **privileges.environ, **env}, cwd=cwd, start_new_session=True,
                stdin=streams.given, stdout=streams.out[1], stderr=streams.err[1],
                preexec_fn=lambda: _enter(cgroup, privileges),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            streams.close()
            return _close(port, _not_started(error))
        attended = _Attended(port, process, cgroup, streams, window)
        try:
            with _important():
                attended.serve()
        finally:
            streams.close()
        return _close(port, attended.end())


def _enter(cgroup: Cgroup, privileges: Privileges) -> None:
    cgroup.join()
    privileges.take()


def _not_started(error: Exception) -> dict[str, Any]:
    number = getattr(error, "errno", None)
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    words = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    return {"exit": 127 if missing else 126, "signal": None, "core": False, "error": words, "errno": number, "full": []}


def _close(port: Port, ended: dict[str, Any]) -> dict[str, Any]:
    """Tell of the end, and read what was on its way until the host has heard of it."""
    port.send({"ended": ended})
    while not any(message.get("close") for message, _ in port.receive_some()):
        pass
    return ended


class _important:  # noqa: N801
    """While the block lasts, the kernel kills anything for want of memory but the agent."""

    def __enter__(self) -> None:
        self._set(-1000)

    def __exit__(self, *_: object) -> None:
        self._set(0)

    def _set(self, score: int) -> None:
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))


class _Streams:
    """The pipes of a program."""

    def __init__(self, stdin: bool) -> None:
        self.out, self.err = os.pipe(), os.pipe()
        self.input: int | None = None
        if stdin:
            self.given, self.input = os.pipe()
            os.set_blocking(self.input, False)
        else:
            self.given = os.open("/dev/null", os.O_RDONLY)
        for pipe in (self.out, self.err):
            os.set_blocking(pipe[0], False)
            with suppress(OSError):
                fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE)
        self._open = {*self.out, *self.err, self.given} | ({self.input} if self.input is not None else set())

    def started(self) -> None:
        """Close the program's ends."""
        for fd in (self.given, self.out[1], self.err[1]):
            self.shut(fd)

    def shut(self, fd: int) -> None:
        """Close one end, once."""
        if fd in self._open:
            self._open.discard(fd)
            os.close(fd)

    def close(self) -> None:
        """Close what is open."""
        for fd in tuple(self._open):
            self.shut(fd)


class _Attended:
    """A program that runs, between its pipes and the port."""

    def __init__(self, port: Port, process: subprocess.Popen[bytes], cgroup: Cgroup, streams: _Streams, window: int) -> None:
        self._port, self._process, self._cgroup, self._streams, self._window = port, process, cgroup, streams, window
        self._names = {streams.out[0]: "stdout", streams.err[0]: "stderr"}
        self._pending = b""  # input that the program has not taken
        self._input_ended = False
        self._full: dict[str, None] = {}
        self._status: int | None = None
        self._look_at = 0.0
        streams.started()

    def serve(self) -> None:
        """Pass everything on until the program has ended and its pipes are empty."""
        ended, told = os.pipe()
        # A thread, because there is no pidfd_open(2) before 5.3, and a signal of a child's end comes to the main thread alone.
        waiter = threading.Thread(target=self._wait, args=(told,), daemon=True)
        waiter.start()
        try:
            deadline: float | None = None
            for message, raw in self._port.waiting():
                self._hear(message, raw)
            while self._names or deadline is None:
                ready = self._poll(ended if deadline is None else None)
                if self._port.fileno() in ready:
                    for message, raw in self._port.receive_some():
                        self._hear(message, raw)
                if self._streams.input is not None and self._streams.input in ready:
                    self._feed()
                for fd in [*self._names]:
                    if fd in ready:
                        self._pass_on(fd)
                self._look()
                if ended in ready:
                    self._kill()
                    deadline = time.monotonic() + _LAST
                if deadline is not None and time.monotonic() > deadline and not (ready & set(self._names)):
                    break  # somebody who left the cgroup, or where there are none, still has the pipes
        finally:
            self._kill()
            waiter.join()
            os.close(ended)

    def end(self) -> dict[str, Any]:
        """How it ended."""
        status = self._status
        assert status is not None  # the thread that waited has ended
        signalled = os.WIFSIGNALED(status)
        return {
            "exit": None if signalled else os.WEXITSTATUS(status),
            "signal": os.WTERMSIG(status) if signalled else None,
            "core": signalled and os.WCOREDUMP(status),
            "error": None,
            "full": [*self._full],
        }

    def _wait(self, told: int) -> None:
        _, self._status = os.waitpid(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(self._status)
        os.close(told)

    def _poll(self, ended: int | None) -> set[int]:
        poll = select.poll()
        for fd in (*self._names, self._port.fileno(), *([ended] if ended is not None else [])):
            poll.register(fd, select.POLLIN)
        if self._streams.input is not None and self._pending:
            poll.register(self._streams.input, select.POLLOUT)
        return {fd for fd, _ in poll.poll((_LOOK if ended is not None else 0.05) * 1000)}

    def _pass_on(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._port.send({"stream": self._names[fd]}, data)
        else:
            del self._names[fd]
            self._streams.shut(fd)

    def _hear(self, message: dict[str, Any], raw: bytes) -> None:
        if (number := message.get("signal")) is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            if number == signal.SIGKILL:
                self._cgroup.kill()
        if "stdin" in message:
            self._pending += raw
            self._input_ended = self._input_ended or not message["stdin"]
            self._feed()

    def _feed(self) -> None:
        """Give the program of its input what it takes."""
        fd = self._streams.input
        if fd is None:
            self._pending = b""
            return
        try:
            while self._pending:
                taken = os.write(fd, self._pending[: 64 << 10])
                self._pending = self._pending[taken:]
                self._port.send({"took": taken})
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._pending, self._input_ended = b"", True
            self._port.send({"deaf": True})
        if self._input_ended:
            self._streams.shut(fd)
            self._streams.input = None

    def _look(self) -> None:
        """Remember which file systems have no room left, every now and then."""
        if (now := time.monotonic()) < self._look_at and self._status is None:
            return
        self._look_at = now + _LOOK
        for path in WRITABLE:
            if path not in self._full:
                with suppress(OSError):
                    there = os.statvfs(path)
                    if there.f_blocks and not there.f_bavail:
                        self._full[path] = None

    def _kill(self) -> None:
        """Nothing that the program started stays."""
        self._cgroup.kill()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
