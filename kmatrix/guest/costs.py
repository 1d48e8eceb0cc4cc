"""What a running variant costs: the memory of its maps, the time that its programs take, and the time that an empty program takes."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from . import bpf
from .cell_facts import Costs
from .observe import RUNS_ARE_COUNTED

_SOCKET_FILTER, _RUNS, _PACKET, _RINGBUF = 1, 1000, 64, 27


def of(attempt: Mapping[str, Any]) -> Costs:
    """The costs of the variant that runs. What the kernel does not tell is null: before 5.1, nobody counts run times (492ecee892c2)."""
    maps = {name: _memlock(report["id"]) for name, report in attempt["maps"].items() if report.get("id") is not None}
    programs = {name: _times(report["id"]) for name, report in attempt["programs"].items() if report.get("id") is not None}
    return {"memlock": maps, "run_time": programs, "empty": empty()}


def _memlock(ident: int) -> int | None:
    """Bytes of a map.

    From 5.11 to 6.3 the kernel reckons by keys and values (bpf_map_memory_footprint()), of which a ring buffer has none: its size
    is its max_entries. Later kernels have each type of map say it (map_mem_usage).
    """
    with suppress(OSError):
        fd = bpf.bpf(bpf.MAP_GET_FD_BY_ID, struct.pack("=III", ident, 0, 0))
        try:
            with open(f"/proc/self/fdinfo/{fd}") as info:
                said = dict(line.split(":", 1) for line in info if ":" in line)
            if "memlock" not in said:
                return None
            ring = int(said["map_type"]) == _RINGBUF
            return max(int(said["memlock"]), int(said["max_entries"]) if ring else 0)
        finally:
            os.close(fd)
    return None


def _times(ident: int) -> list[int] | None:
    """[nanoseconds, runs] of a program since it was loaded."""
    if not os.path.exists(RUNS_ARE_COUNTED):
        return None
    return bpf.run_times(ident)


def empty() -> list[int] | None:
    """The same of a program that does nothing: what entering a program takes, and the counting."""
    with suppress(OSError):
        fd = bpf.prog_load(_SOCKET_FILTER, bpf.RETURN_0)
        try:
            packet = ctypes.create_string_buffer(_PACKET)
            attr = struct.pack("=IIIIQQII", fd, 0, _PACKET, 0, ctypes.addressof(packet), 0, _RUNS, 0)
            bpf.write_back(bpf.PROG_TEST_RUN, attr)
            return _times(bpf.prog_info(fd).id)
        finally:
            os.close(fd)
    return None
