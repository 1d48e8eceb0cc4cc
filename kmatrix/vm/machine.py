"""A running VM: ask its agent, notice its death, end it.

    with boot(spec, console=Path("console.log")) as machine:
        machine.run(["uname", "-r"])

One `poll` waits on the channel and on the console's file at once, so an answer, QEMU's end and a kernel's last words are all
noticed when they happen.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from kmatrix import guest
from kmatrix.host.errors import InfraError
from kmatrix.vm.channel import Channel, pack, unpack
from kmatrix.vm.console import FATAL, GRAVE, ConsoleLog, Splat, classify, splats, tail, worst
from kmatrix.vm.errors import GuestError, GuestTimeout, KernelDied, VmLost
from kmatrix.vm.parts import Engine, Talk
from kmatrix.vm.qmp import Qmp, QmpError
from kmatrix.vm.spec import VmSpec

CALL_TIMEOUT = 30.0
"""Seconds an answer may take unless the caller says otherwise."""

_SIMULATED_OPS = frozenset({"cell", "object", "run", "probe", "facts", "sshd", "ask"})
"""What runs programs under test, or for a person; moving files and setting the clock needs no simulation."""
_CONFINED_OPS = frozenset({"cell", "object", "run", "probe", "facts", "surroundings", "caps", "effort"})
"""What loads, or looks at what a loader could; a person's shell is root's."""
_LAST_WORDS = 3.0
"""Seconds given to a panicking kernel to finish its trace and end QEMU."""
_GRACE = 5.0
"""Seconds an answer may still take after an oops or a lockup was seen."""
_JUDGED = 1 << 20
"""Characters of a console that are judged: a kernel that says more repeats itself."""
_HOUR = 3600.0
"""A poll lasts no longer: it takes no infinity."""
_BLIND = 0.02
"""Seconds between looks at the console where the host has no inotify left."""


def boot_timeout() -> float:
    """Seconds from QEMU's start to the agent's hello: `$KMATRIX_BOOT_TIMEOUT`, or 120 (boots of a few seconds, on a crowded host)."""
    return float(os.environ.get("KMATRIX_BOOT_TIMEOUT") or 120)


@lru_cache(maxsize=1)
def _agent_sources() -> dict[str, str]:
    """Read once: what a guest is given is what its snapshot's key was made of."""
    return guest.sources()


@lru_cache(maxsize=1)
def agent() -> bytes:
    """The agent's code, as a guest is given it."""
    return guest.bundle(_agent_sources())


@lru_cache(maxsize=1)
def agent_digest() -> str:
    """sha256 of the agent's code. A warm cell asks for no more than that: its zip is made for a guest that boots."""
    return hashlib.sha256(json.dumps(_agent_sources(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RunResult:
    """How a program that the agent ran ended."""

    exit: int | None
    """The exit status; None where a signal ended it or it timed out."""
    signal: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool


_NO_MEMORY = re.compile(r"Out of memory: Kill(?:ed)? process \d+ \((.+?)\)")
"""What the kernel says when it ends a process for want of memory (mm/oom_kill.c; "Kill process" before 5.0): here the agent, or QEMU would be there."""


class Machine:
    """A running VM. Leaving the `with` block kills QEMU: nothing of the guest is kept.

    One call at a time, from any one thread. `hello` is the agent's first message where the machine was booted (not restored).
    """

    def __init__(self, process: Engine, channel: Channel, qmp: Qmp, log: ConsoleLog, spec: VmSpec) -> None:
        self.spec = spec
        self.qmp = qmp
        self.hello: Mapping[str, Any] = {}
        self.minimal_btf: Callable[[Sequence[str]], bytes | None] = lambda _: None
        """BTF with few of the kernel's types (Snapshot.minimal_btf), where the machine was restored."""
        self._simulate: Mapping[str, Any] | None = json.loads(spec.simulate) if spec.simulate else None
        self._confine: Mapping[str, Any] | None = json.loads(spec.confine) if spec.confine else None
        self.seconds = 0.0
        """From QEMU's start to the agent's first answer."""
        self._process = process
        self._channel = channel
        self._log = log
        self._id = 0
        self._judged = 0  # characters of the console that `_splats` speaks of
        self._splats: tuple[Splat, ...] = ()
        self._show: Callable[[bytes], object] | None = None
        self._shown = 0  # characters of the console that were shown
        self._on_close: list[Callable[[], None]] = []
        self._closed = False

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def call(self, op: str, params: Mapping[str, Any] | None = None, /, *, timeout: float = CALL_TIMEOUT, **more: Any) -> Any:
        """Have the agent do `op` and return its result; `timeout` in seconds (an op's own goes into `params`).

        Raises GuestError if the agent raised, KernelDied if the console tells why no answer comes (a panic at once; after an oops,
        a BUG or a lockup an answer is waited for a few seconds more, after a WARNING until the timeout), VmLost if QEMU ended,
        GuestTimeout. A splat that did not keep the answer from coming is not raised: see `splat`.
        """
        self._id += 1
        message = {**(params or {}), **more, "id": self._id, "op": op}
        if self._simulate is not None and op in _SIMULATED_OPS:
            message["simulate"] = self._simulate
        if self._confine is not None and op in _CONFINED_OPS:
            message["confine"] = self._confine
        answer = self._exchange(message, self._id, timeout, op)
        if error := answer.get("error"):
            raise GuestError(str(error.get("type")), str(error.get("message")), str(error.get("traceback", "")), where=self._where)
        return answer.get("result")

    def converse(self, op: str, params: Mapping[str, Any], talk: Talk) -> Any:
        """Have the agent do `op`, which says things to `talk` and hears from it until it has an answer; returns its result.

        It may last for as long as `talk` has patience. Raises what `call` raises, and what `talk` raises.
        """
        self._id += 1
        message = {**params, "id": self._id, "op": op}
        if self._simulate is not None:
            message["simulate"] = self._simulate
        if self._confine is not None:
            message["confine"] = self._confine
        answer = self._exchange(message, self._id, math.inf, op, talk=talk)
        if error := answer.get("error"):
            raise GuestError(str(error.get("type")), str(error.get("message")), str(error.get("traceback", "")), where=self._where)
        return answer.get("result")

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> RunResult:
        """Run a program in the guest; it and what it started are killed after `timeout` seconds."""
        params = {"argv": list(argv), "timeout": timeout}
        given = {"env": dict(env) if env is not None else None, "stdin": stdin, "cwd": cwd}
        params |= {name: value for name, value in given.items() if value is not None}
        answer = self.call("run", params, timeout=timeout + _GRACE)
        stdout, stderr = (_output(answer, name) for name in ("stdout", "stderr"))
        return RunResult(answer["exit"], answer["signal"], stdout, stderr, answer["timed_out"])

    def put(self, path: str, data: bytes, mode: int = 0o644, *, timeout: float = CALL_TIMEOUT) -> None:
        """Write a file in the guest. As it is: compressed, 8 MB took longer on x86_64 and about as long on arm64 (zlib 1, TCG)."""
        self.call("put", timeout=timeout, path=path, data=pack(data), mode=mode)

    def get(self, path: str, *, timeout: float = CALL_TIMEOUT) -> bytes:
        """Read a file of the guest."""
        return unpack(self.call("get", timeout=timeout, path=path)["data"])

    def forward_ssh(self, port: int = 22) -> int:
        """Forward a free port of the host's 127.0.0.1 to the guest's `port`; the host's port number.

        Nothing else gets in or out of the guest. The guest's sshd, and its address on eth0 (10.0.2.15/24), are the agent's op `sshd`.
        """
        said = self.qmp.human(f"hostfwd_add ssh tcp:127.0.0.1:0-:{port}").strip()
        if said:
            raise InfraError(f"QEMU cannot forward a port: {said}", where=self._where)
        forwards = re.findall(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)", self.qmp.human("info usernet"))
        for host, inside in reversed(forwards):
            if int(inside) == port:
                return int(host)
        raise InfraError("QEMU forwards a port but does not say which", where=self._where)

    def wait_for_gdb(self, port: int) -> None:
        """Stop the machine until a gdb that connects to `port` of 127.0.0.1 has it go on. Raises InfraError where the port is taken."""
        said = self.qmp.human(f"gdbserver tcp:127.0.0.1:{port}").strip()
        if "Waiting for gdb connection" not in said:
            raise InfraError(f"QEMU does not wait for gdb: {said}", where=self._where, fix="give --gdb another port")
        self.qmp.human("stop")

    # -- looking --------------------------------------------------------------------------------------------------------------

    def splat(self) -> Splat | None:
        """The kernel trouble to name, if the console shows any until now."""
        self._look()
        return worst(self._splats)

    def all_splats(self) -> tuple[Splat, ...]:
        """Every piece of kernel trouble on the console until now, in order."""
        self._look()
        return self._splats

    def console_text(self) -> str:
        """All that the console said since the machine was started."""
        self._log.read()
        return self._log.text

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return int(self._process.pid)

    @property
    def ended(self) -> bool:
        """Whether QEMU has ended, by itself or by us."""
        return self._closed or self._process.wait(0)

    @property
    def closed(self) -> bool:
        """Whether the machine was ended."""
        return self._closed

    # -- ending ---------------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End the machine now, as pulling the plug would. Any number of times; the console's text stays readable."""
        if self._closed:
            return
        self._closed = True
        try:
            self._process.close()
        finally:
            self._channel.close()
            self.qmp.close()
            self._look()
            self._log.close()
            while self._on_close:
                self._on_close.pop()()

    def on_console(self, show: Callable[[bytes], object]) -> None:
        """Have `show` called with what the console says, as it comes."""
        self._show = show

    def on_close(self, action: Callable[[], None]) -> None:
        """Have `action` called when the machine has ended."""
        self._on_close.append(action)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    # -- inside ---------------------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return str(self.spec)

    def greet(self, timeout: float, silence: float | None) -> None:
        """Hand the guest its agent; wait for the agent's hello."""
        self.hello = self._exchange({"agent": pack(agent())}, None, timeout, "boot", silence).get("hello", {})

    def _exchange(
        self,
        message: dict[str, Any],
        want: int | None,
        timeout: float,
        what: str,
        silence: float | None = None,
        talk: Talk | None = None,
    ) -> dict[str, Any]:
        """Send `message`, wait for the answer with id `want` (None: any message); give up earlier on a console silent for `silence`.

        Messages without an id are for `talk`.
        """
        if self._closed:
            raise VmLost(f"the machine was ended before {what}", where=self._where)
        self._channel.send(message)
        deadline = time.monotonic() + timeout
        word_by = time.monotonic() + silence if silence is not None else deadline
        poll = select.poll()
        if (console := self._log.fileno()) is not None:
            poll.register(console, select.POLLIN)
        while True:
            poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.sending else 0))
            left = (deadline if self._log.text else min(deadline, word_by)) - time.monotonic()
            if talk is not None:
                left = min(left, talk.patience())
            if left <= 0:
                raise self._silent(what, timeout if silence is None or self._log.text else silence)
            if talk is not None:
                self._listen(poll, talk, left if console is not None else min(left, _BLIND))
            else:
                poll.poll((left if console is not None else min(left, _BLIND)) * 1000)
            self._channel.flush()
            self._channel.fill()
            if (answer := self._answer(want, talk)) is not None:
                return answer
            if self._channel.ended:
                raise self._ended(what)
            if self._look():
                kinds = {splat.kind for splat in self._splats}
                if kinds & FATAL:
                    raise self._ended(what)
                if kinds & GRAVE:
                    deadline = min(deadline, time.monotonic() + _GRACE)

    def _listen(self, poll: select.poll, talk: Talk, left: float) -> None:
        """Wait as `poll` says and for what `talk` has to say, which is sent."""
        fds = tuple(talk.sources())
        for fd in fds:
            poll.register(fd, select.POLLIN)
        try:
            ready = {fd for fd, _ in poll.poll(min(left, talk.pause(), _HOUR) * 1000)}
        finally:
            for fd in fds:
                poll.unregister(fd)
        talk.turn(ready, self._channel.send)

    def _answer(self, want: int | None, talk: Talk | None = None) -> dict[str, Any] | None:
        while True:
            try:
                message = self._channel.take()
            except ValueError as error:
                raise VmLost(f"the agent sent nonsense: {error}", where=self._where) from None
            if message is None or want is None or message.get("id") == want:
                return message
            if talk is not None and "id" not in message:
                talk.take(message, self._channel.send)
            # else: the late answer to a call that was given up

    def _look(self) -> bool:
        """Take in what the console said since, and judge it; whether there was anything new."""
        if not self._log.read() and not self._closed:
            return False
        text = self._log.text
        if self._show is not None and len(text) > self._shown:
            self._show(text[self._shown :].encode())
            self._shown = len(text)
        # Whole lines only, because half a line may not say yet what it is; all of it when no more can come.
        end = min(len(text) if self._closed else text.rfind("\n") + 1, _JUDGED)
        if end <= self._judged:
            return False
        fresh, self._judged = text[self._judged : end], end
        # A splat already found is looked at again, because its excerpt may have grown.
        if self._splats or any(classify(line) for line in fresh.splitlines()):
            self._splats = splats(text[:end])
        return True

    def _ended(self, what: str) -> KernelDied | VmLost:
        """QEMU has ended, or is about to: end it, and say why."""
        alone = self._process.wait(_LAST_WORDS)
        how = self._process.ended() if alone else "stays, but its guest is dead"
        self.kill()
        if (splat := worst(self._splats)) is not None:
            return KernelDied(splat, where=self._where)
        if killed := _NO_MEMORY.search(self._log.text):
            return VmLost(
                f"the guest had no memory left during {what}, and its kernel ended {killed[1]}",
                where=self._where,
                fix="give the kernel more memory in kernels.toml (memory, in MiB)",
            )
        return VmLost(f"QEMU {how} during {what}; {self._last_lines()}", where=self._where)

    def _silent(self, what: str, timeout: float) -> KernelDied | GuestTimeout:
        self._look()
        if (splat := worst(self._splats)) is not None:
            return KernelDied(splat, where=self._where)
        patience = "on a slow or crowded host, give it more seconds: KMATRIX_BOOT_TIMEOUT=300" if what == "boot" else None
        return GuestTimeout(f"no answer to {what} in {timeout:g} s; {self._last_lines()}", where=self._where, fix=patience)

    def _last_lines(self) -> str:
        said = tail(self._log.text)
        return f"the console's last lines:\n{said}" if said else "the console is empty"

    def save_state(self, *, timeout: float = 60.0) -> bytes:
        """Stop the machine for good and return its devices' and CPUs' state; the guest's memory is in its file, complete."""
        deadline = time.monotonic() + timeout
        self.qmp.call("migrate-set-capabilities", capabilities=[IGNORE_SHARED])
        read, write = os.pipe()
        try:
            try:
                self.qmp.give("state", write)
            finally:
                os.close(write)
            self.qmp.call("migrate", uri="fd:state")
            state = _read_all(read, deadline)
        finally:
            os.close(read)
        while (status := self.qmp.call("query-migrate").get("status")) not in ("completed", "failed", "cancelled"):
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
        if status != "completed":
            raise QmpError(f"QEMU cannot save the machine's state ({status})", where=self._where)
        return state


IGNORE_SHARED = {"capability": "x-ignore-shared", "state": True}
"""Guest memory that is a file's stays out of the state: 0.4 MB instead of 100."""


def _read_all(fd: int, deadline: float) -> bytes:
    data = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(fd, 1 << 20)
        if not chunk:
            return bytes(data)
        data += chunk
    raise QmpError("QEMU does not finish saving the machine's state")


def _output(answer: Mapping[str, Any], name: str) -> bytes:
    """A program's output: text, or base64 beside it where it is not UTF-8."""
    encoded = answer.get(f"{name}_base64")
    return unpack(encoded) if encoded is not None else str(answer[name]).encode()
