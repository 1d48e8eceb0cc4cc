"""What is there, by the kernel's own account, and what comes out of a buffer."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Literal

from . import bpf, libbpf
from .cell_facts import Inventory, ProgramReport

PINS = "/sys/fs/bpf"
PERF_PAGES = 64
"""Pages of each CPU's perf buffer; a power of two."""

Transport = Literal["ringbuf", "perf"]


def read_text(path: str) -> str:
    """The text of one of the kernel's files, read without Python's layers of buffers (a cell reads a few, and pays for each layer)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
    finally:
        os.close(fd)
    return b"".join(pieces).decode("utf-8", "replace")


def taint() -> int:
    """The kernel's taint flags (Documentation/admin-guide/tainted-kernels.rst); they are never taken back."""
    return int(read_text("/proc/sys/kernel/tainted"))


def tracefs() -> str | None:
    """Where the tracing files are: tracefs' own mount, or the one inside debugfs."""
    for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.path.isdir(f"{path}/events"):
            return path
    return None


def dynamic_probes() -> list[str]:
    """The kprobes and uprobes that are defined through tracefs, one line each."""
    lines: list[str] = []
    root = tracefs()
    for name in ("kprobe_events", "uprobe_events"):
        with suppress(OSError):
            lines += [line.strip() for line in read_text(f"{root}/{name}").splitlines() if line.strip()]
    return lines


def pins() -> list[str]:
    """The objects pinned in the BPF file system."""
    return sorted(_files(PINS))


def _files(folder: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry.path


RUNS_ARE_COUNTED = "/proc/sys/kernel/bpf_stats_enabled"
"""There from 5.1 on (492ecee892c2); set to 1 when the guest comes up."""


def note_runs(programs: Iterable[ProgramReport]) -> None:
    """Put into the reports of programs that are loaded how often each has run, where the kernel counts that."""
    if not os.path.exists(RUNS_ARE_COUNTED):
        return
    for report in programs:
        if report["id"] is not None:
            report["runs"] = bpf.run_count(report["id"])


sieve: list[Callable[[Inventory], Inventory]] = []
"""What leaves out of an inventory what is none of the agent's business (kmatrix.guest.real). Empty in a VM, where there is nothing of others."""


def inventory() -> Inventory:
    """Every program, map, link, pin and tracefs probe there is now; on a real machine, without those of others."""
    found: Inventory = {
        "programs": [{"id": prog.id, "name": prog.name, "type": prog.type, "tag": prog.tag} for prog in bpf.progs()],
        "maps": [{"id": map_.id, "name": map_.name, "type": map_.type} for map_ in bpf.maps()],
        "links": [{"id": link.id, "type": link.type, "prog_id": link.prog_id} for link in bpf.links()],
        "pins": pins(),
        "kprobe_events": dynamic_probes(),
    }
    for each in sieve:
        found = each(found)
    return found


def settled(before: Inventory, *, within: float = 5.0) -> Inventory:
    """The inventory once nothing is left that `before` has not, or after `within` seconds (some freeing is asynchronous)."""
    deadline = time.monotonic() + within
    while True:
        now = inventory()
        if _all_were_there(before, now) or time.monotonic() >= deadline:
            return now
        time.sleep(0.005)


def _all_were_there(before: Inventory, now: Inventory) -> bool:
    return (
        all(entry in before["programs"] for entry in now["programs"])
        and all(entry in before["maps"] for entry in now["maps"])
        and all(entry in before["links"] for entry in now["links"])
        and all(pin in before["pins"] for pin in now["pins"])
        and all(probe in before["kprobe_events"] for probe in now["kprobe_events"])
    )


class Stream:
    """The consumer of one buffer: raw events go to `sink` while it is polled."""

    def __init__(self, transport: Transport, map_fd: int, sink: Callable[[bytes], None]) -> None:
        self.transport = transport
        self.lost = 0
        self.sink = sink
        if transport == "ringbuf":
            buffer = libbpf.ring_buffer_new(map_fd, _RING_SAMPLE, id(self), None)
        else:
            buffer = libbpf.perf_buffer_new(map_fd, PERF_PAGES, _PERF_SAMPLE, _PERF_LOST, id(self), None)
        self._buffer = libbpf.pointer("ring_buffer__new" if transport == "ringbuf" else "perf_buffer__new", buffer)
        _streams[id(self)] = self

    @classmethod
    def of(cls, map_type: str, map_fd: int, sink: Callable[[bytes], None]) -> Stream | None:
        """The consumer of a map, by its type; None for a map that is no buffer. Raises LibbpfError where it cannot be consumed."""
        transport = _TRANSPORTS.get(map_type)
        return None if transport is None else cls(transport, map_fd, sink)

    def poll(self, seconds: float) -> None:
        """Hand over what has come, waiting up to `seconds` for something."""
        poll = libbpf.ring_buffer_poll if self.transport == "ringbuf" else libbpf.perf_buffer_poll
        poll(self._buffer, max(0, int(seconds * 1000)))

    def close(self) -> None:
        """Free the consumer's side of the buffer."""
        free = libbpf.ring_buffer_free if self.transport == "ringbuf" else libbpf.perf_buffer_free
        free(self._buffer)
        _streams.pop(id(self), None)


_TRANSPORTS: dict[str, Transport] = {"ringbuf": "ringbuf", "perf_event_array": "perf"}
_streams: dict[int, Stream] = {}


def _ring_sample(stream: int, data: int, size: int) -> int:
    _streams[stream].sink(ctypes.string_at(data, size))
    return 0


def _perf_sample(stream: int, _cpu: int, data: int, size: int) -> None:
    _streams[stream].sink(ctypes.string_at(data, size))


def _perf_lost(stream: int, _cpu: int, count: int) -> None:
    _streams[stream].lost += count


# Made once and early: the first callback has libffi look for a place to put executable code.
_RING_SAMPLE, _PERF_SAMPLE, _PERF_LOST = (
    libbpf.SAMPLE(_ring_sample),
    libbpf.PERF_SAMPLE(_perf_sample),
    libbpf.PERF_LOST(_perf_lost),
)
