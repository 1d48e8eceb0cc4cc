"""What bench.overhead runs inside the guest: `python3 in_guest.py REQUEST.json`; a JSON answer on standard output.

It is the agent's own loader that loads, from the zip that init left in the guest; the measurement is the kernel's account of each
program (struct bpf_prog_info).
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, "/run/kmatrix/agent.zip")

from kmatrix_guest import bpf, cgroup, libbpf, loader, opened, trigger  # type: ignore[import-not-found]
from kmatrix_guest.library import Refused  # type: ignore[import-not-found]

Account = dict[str, Any]
SECONDS = 20.0  # that one trigger may take
WIDE_LOAD = 0x18


def account(fd: int) -> Account:
    """What the kernel says of a program: its code after the verifier, its sizes in bytes, how often and how long it has run."""
    info = _info(fd)
    jited, xlated = struct.unpack_from("=II", info, 16)
    nanoseconds, runs = struct.unpack_from("=QQ", info, 192)
    code = ctypes.create_string_buffer(xlated)
    request = bytearray(len(info))
    struct.pack_into("=I", request, 20, xlated)
    struct.pack_into("=Q", request, 32, ctypes.addressof(code))
    _info(fd, bytes(request))
    return {"jited": jited, "xlated": xlated, "ns": nanoseconds, "runs": runs, "code": _without_maps(code.raw).hex()}


def _info(fd: int, request: bytes = bytes(256)) -> bytes:
    buffer = ctypes.create_string_buffer(request, len(request))
    bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(request), ctypes.addressof(buffer)))
    return buffer.raw


def _without_maps(code: bytes) -> bytes:
    """The instructions without the ids of their maps, which differ from load to load."""
    out = bytearray(code)
    at = 0
    while at < len(out):
        wide = out[at] == WIDE_LOAD
        if wide and out[at + 1] >> 4:  # its source register says that the number stands for a map
            out[at + 4 : at + 8] = bytes(4)
        at += 16 if wide else 8
    return bytes(out)


def by_id(ident: int) -> Account:
    """The account of a program that is loaded."""
    fd = bpf.bpf(bpf.PROG_GET_FD_BY_ID, struct.pack("=III", ident, 0, 0))
    try:
        return account(fd)
    finally:
        os.close(fd)


@contextmanager
def _untimed(_stage: str) -> Iterator[None]:
    yield


def _accounts(idents: list[dict[str, int]]) -> list[dict[str, Account]]:
    return [{name: by_id(ident) for name, ident in mine.items()} for mine in idents]


def run(request: Account) -> Account:
    """Each object as the same variant, all attached at once, so that each event runs them all.

    The programs' accounts before the first trigger and after each, and the events in between.
    """
    cgroup.Cgroup._count = 1000  # the agent, whose command this is, has made those with the low numbers
    for path, data in request["files"].items():
        trigger.place(path, base64.b64decode(data))
    attempts = [loader.Attempt(request["variant"], base64.b64decode(data), _untimed) for data in request["objects"]]
    running = [attempt.run() for attempt in attempts]
    if None in running:
        raise SystemExit(json.dumps([attempt.report for attempt in attempts]))
    streams = [each.stream for each in running if each.stream is not None]
    idents = [
        {name: report["id"] for name, report in attempt.report["programs"].items() if report["attached"]} for attempt in attempts
    ]
    for stream in streams:
        stream.poll(0)
    for each in running:
        each.raw.clear()
    accounts = [_accounts(idents)]
    for _ in range(request["pulls"]):
        outcome = trigger.pull(trigger.ready(request["trigger"], SECONDS), SECONDS)
        if not outcome.ok:
            raise SystemExit(outcome.error)
        trigger.clean_up()
        for stream in streams:
            stream.poll(0)
        accounts.append(_accounts(idents))
    events = [[event.hex() for event in each.raw] for each in running]
    for each in running:
        each.stop()
    return {"accounts": accounts, "events": events, "lost": [stream.lost for stream in streams]}


def load(request: Account) -> Account:
    """Every program of an object, loaded and no more: all at once, or where that is refused each by itself; null for one that is refused."""
    data = base64.b64decode(request["object"])
    thing = opened.Object(data, "object")
    try:
        thing.load()
        return {name: account(libbpf.program_fd(program)) for name, program in thing.programs.items()}
    except Refused:
        return {name: _alone(data, name) for name in thing.programs}


def _alone(data: bytes, name: str) -> Account | None:
    thing = opened.Object(data, "object")
    thing.choose([name])
    try:
        thing.load()
    except Refused:
        return None
    return account(libbpf.program_fd(thing.programs[name]))


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_bytes())
    json.dump({"run": run, "load": load}[asked.pop("op")](asked), sys.stdout)
