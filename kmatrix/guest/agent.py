"""The agent: reads requests from the host, one JSON object a line, does them one after another, answers each with a line.

Request {"id", "op", …parameters}; answer {"id", "result"} or {"id", "error": {"type", "message", "traceback"}}. The first line is
{"hello": {…}}. A request with "simulate" is done on the kernel that it describes (simulate.inside); of one with "confine", what loads has the
privileges that it leaves (confine.confined). An exception becomes an error answer and never ends the agent. Everything slow to start is started before the hello, so
that a snapshot taken afterwards holds it warm.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from . import (
    ask,
    cell,
    command,
    confine,
    effort,
    kernel,
    least_caps,
    libbpf,
    library,
    limit,
    observe,
    place,
    probe,
    probe_facts,
    real,
    simulate,
    sshd,
    stream,
    surroundings,
    survey,
    trigger,
    warmup,
)
from .cell_facts import CellFacts
from .contract import Contract

Op = Callable[..., Any]


class Channel:
    """JSON lines over the port's fd."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending = b""

    def fileno(self) -> int:
        """The port's descriptor."""
        return self._fd

    def send(self, message: Mapping[str, Any], raw: bytes = b"") -> None:
        """Send one line, and `raw` behind it, whose length the line then says."""
        if raw:
            message = {**message, "raw": len(raw)}
        data = memoryview(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n" + raw)
        while data:
            data = data[os.write(self._fd, data) :]

    def receive(self) -> bytes:
        """The next line; waits for as long as it takes."""
        pieces = [self._pending]
        while b"\n" not in pieces[-1]:
            pieces.append(self._read())
        line, _, self._pending = b"".join(pieces).partition(b"\n")
        return line

    def receive_some(self) -> list[tuple[dict[str, Any], bytes]]:
        """The messages that come next, with the raw bytes behind them; waits for something to come, which may be half a line."""
        if messages := self.waiting():
            return messages
        self._pending += self._read()
        return self.waiting()

    def waiting(self) -> list[tuple[dict[str, Any], bytes]]:
        """The messages that have come already: of those, no poll of the port tells."""
        messages = []
        while b"\n" in self._pending:
            line, _, self._pending = self._pending.partition(b"\n")
            message = json.loads(line)
            messages.append((message, self._exactly(message.get("raw", 0))))
        return messages

    def _exactly(self, size: int) -> bytes:
        """The next `size` bytes. The port gives a page at a time, so they are put together once."""
        pieces, there = [self._pending], len(self._pending)
        while there < size:
            pieces.append(self._read())
            there += len(pieces[-1])
        whole = b"".join(pieces)
        self._pending = whole[size:]
        return whole[:size]

    def _read(self) -> bytes:
        piece = os.read(self._fd, 1 << 20)
        if not piece:  # no host at the other end just now
            time.sleep(0.005)
        return piece


def put(path: str, data: str, mode: int = 0o644) -> dict[str, int]:
    """Write a file (base64), its folders made."""
    content = base64.b64decode(data)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    return {"size": len(content)}


def get(path: str) -> dict[str, Any]:
    """A file's content (base64) and mode."""
    with open(path, "rb") as file:
        content = file.read()
        mode = os.fstat(file.fileno()).st_mode & 0o7777
    return {"data": base64.b64encode(content).decode(), "mode": mode}


def set_time(now: float) -> dict[str, float]:
    """Set the clock: a restored guest thinks it is still the moment of the snapshot. Seconds since the epoch. A real machine's is its own."""
    if not real.is_real():
        time.clock_settime(time.CLOCK_REALTIME, now)
    return {"now": time.time()}


def survey_object(
    name: str,
    data: str,
    programs: list[str] | None = None,
    now: float | None = None,
    contract: dict[str, Any] | None = None,
    load_timeout: float = limit.SECONDS,
    library: str = library.DEFAULT,
    core_btf: str | None = None,
) -> dict[str, Any]:
    """Each program of an object: does it load and attach (`kmatrix run`)."""
    if now is not None:
        set_time(now)
    content = base64.b64decode(data)
    terms = Contract(contract, content, name, lambda: probed()["features"], library, core_btf)
    found = confine.confined(lambda: survey.survey(content, name, programs, load_timeout, contract=terms))
    return found | {"release": kernel.release()}


def least_capabilities(
    name: str,
    data: str,
    programs: list[str] | None = None,
    contract: dict[str, Any] | None = None,
    load_timeout: float = limit.SECONDS,
    library: str = library.DEFAULT,
) -> dict[str, Any]:
    """The least capabilities with which an object and its programs load and attach (`kmatrix run --find-caps`)."""
    terms = Contract(contract, base64.b64decode(data), name, lambda: probed()["features"], library)
    return least_caps.find(name, terms, programs, load_timeout)


def efforts(
    name: str,
    data: str,
    programs: list[str],
    now: float | None = None,
    contract: dict[str, Any] | None = None,
    load_timeout: float = limit.SECONDS,
    lines: bool = False,
    core_btf: str | None = None,
) -> dict[str, Any]:
    """How hard the verifier works at each of the programs (`kmatrix atlas`)."""
    if now is not None:
        set_time(now)
    content = base64.b64decode(data)
    terms = Contract(contract, content, name, lambda: probed()["features"], core_btf=core_btf)
    nothing = Contract(None, warmup.nothing(), "nothing", dict)

    def measured() -> dict[str, Any]:
        return effort.measure(terms, programs, load_timeout, lines=True) if lines else effort.timed(terms, programs, load_timeout)

    return {
        "programs": confine.confined(measured),
        "nothing": effort.timed(nothing, ["nothing"], load_timeout)["nothing"],
        "release": kernel.release(),
    }


_port: list[Channel] = []
"""The channel that requests come over, once there is one."""
_probed: dict[str, dict[str, Any]] = {}


def probed() -> dict[str, Any]:
    """The kernel's features, found out once: they do not change while a kernel runs (nor while the same one is simulated).

    Where privileges are left out, those that a loader has with what it keeps.
    """
    simulated = simulate.name()
    kernel = simulated + confine.name()
    if kernel not in _probed:
        _probed[kernel] = confine.confined(probe.probe_all)
        if simulated:
            with suppress(Exception):  # a kernel may be simulated that can do none of it
                warmup.rehearse()  # its libbpf has loaded nothing yet, and a snapshot may be taken next
    return _probed[kernel]


def run_cell(**request: Any) -> CellFacts:
    """One collector on this kernel: the facts."""
    if request.get("now") is not None:
        set_time(float(request["now"]))
    return cell.run(request, probed)


OPS: Mapping[str, Op] = {
    "rehearse": lambda: warmup.rehearse(),
    "probe": probed,
    "facts": lambda **request: confine.confined(lambda: probe_facts.find(**request)),
    "surroundings": surroundings.find,
    "time": set_time,
    "put": put,
    "get": get,
    "run": command.run,
    "prepare": place.prepare,
    "gather": place.gather,
    "stream": lambda **request: stream.run(_port[0], **request),
    "sshd": sshd.start,
    "object": survey_object,
    "caps": least_capabilities,
    "effort": efforts,
    "cell": run_cell,
    "ask": lambda questions: ask.ask(questions),
}


def answer(line: bytes) -> dict[str, Any]:
    """The answer to one request line."""
    ident: Any = None
    try:
        request = json.loads(line)
        ident = request.pop("id", None)
        name = request.pop("op", None)
        if name not in OPS:
            raise ValueError(f"unknown op {name!r}; known: {', '.join(OPS)}")
        past = request.pop("simulate", None)
        with confine.asked(request.pop("confine", None)):
            result = simulate.inside(past, lambda: OPS[name](**request)) if past else OPS[name](**request)
        return {"id": ident, "result": result}
    except Exception as error:
        details = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        return {"id": ident, "error": details}


def hello() -> dict[str, Any]:
    """Who is speaking."""
    uname = os.uname()
    return {"release": uname.release, "machine": uname.machine, "python": platform.python_version(), "libbpf": libbpf.version()}


def main(port: int) -> None:
    """Serve requests on the port's fd until the VM ends."""
    channel = Channel(port)
    _port.append(channel)
    if real.is_real():
        real.begin(observe.dynamic_probes())
        warmup.make_ready()
    else:
        warmup.warm_up()
    channel.send({"hello": hello()})
    while True:
        line = channel.receive()
        if line.strip():
            channel.send(answer(line))
            with suppress(Exception):
                trigger.clean_up()  # now, not before: the host may have no further use for this guest
