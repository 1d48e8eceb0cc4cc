"""Where a collector's records come out: its buffer or its loader's lines, the contents of maps, the text of iterators, trace_pipe.

Each is looked at while the cell waits for events, and sorts what it finds into the expected ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from . import observe, simulate
from .contents import Truncated, iterator_lines, map_entries
from .events import Sorter, Spec, printed

Facts = dict[str, Any]
BUFFER = "buffer"
"""The sink of events that do not say where they come from."""
MAPS, ITERATORS, TRACE = "map:", "iter:", "trace_pipe"


class Consumed(Protocol):
    """What hands over raw records while it is polled (observe.Stream, own_loader.LineStream)."""

    @property
    def transport(self) -> str:
        """What the records travelled by."""

    @property
    def lost(self) -> int:
        """Records that were dropped."""

    def poll(self, seconds: float) -> None:
        """Hand over what has come, waiting up to `seconds`."""


class Sink:
    """One place that records come out of."""

    def __init__(self, name: str, sorter: Sorter) -> None:
        self.name = name
        self.sorter = sorter
        self.error: str | None = None

    @property
    def lost(self) -> int:
        """Records that were dropped before anybody read them."""
        return 0

    def look(self, seconds: float) -> None:
        """Sort what is there, waiting up to `seconds` where the sink can tell that something comes."""

    def close(self) -> None:
        """Let go of it."""


class Buffer(Sink):
    """The variant's ring or perf buffer, or the lines of the collector's own loader."""

    def __init__(self, stream: Consumed, raw: list[bytes], sorter: Sorter) -> None:
        super().__init__(BUFFER, sorter)
        self._stream, self._raw = stream, raw

    @property
    def lost(self) -> int:
        """Records that the buffer had no room for."""
        return self._stream.lost

    def look(self, seconds: float) -> None:
        """Sort what has come."""
        self._stream.poll(seconds)
        for record in self._raw:
            self.sorter.add(record)
        self._raw.clear()


class Standing(Sink):
    """What stands there as often as one looks: the contents of a map, the text of an iterator. Each look begins anew."""

    def __init__(self, name: str, specs: Sequence[Spec], known: Mapping[str, Any], read: Callable[[], Iterable[bytes]]) -> None:
        self._specs, self._known, self._read = specs, known, read
        super().__init__(name, self._fresh(name))

    def _fresh(self, name: str) -> Sorter:
        return Sorter(self._specs, self._known, name.partition(":")[0])

    def look(self, _seconds: float) -> None:
        """Read all of it."""
        sorter, self.error = self._fresh(self.name), None
        try:
            for record in simulate.outside(lambda: list(_as_far(self._read(), self))):
                sorter.add(record)
        except OSError as error:
            self.error = error.strerror or str(error)
        self.sorter = sorter


def _as_far(records: Iterable[bytes], sink: Sink) -> Iterator[bytes]:
    try:
        yield from records
    except Truncated:
        sink.error = "there is more than is read of it"


class TracePipe(Sink):
    """The lines that bpf_printk writes. Opened before the trigger is pulled."""

    def __init__(self, specs: Sequence[Spec], known: Mapping[str, Any]) -> None:
        super().__init__(TRACE, Sorter(specs, known, TRACE))
        self._fd = -1
        root = observe.tracefs()
        if root is None:
            self.error = "tracefs is not there"
            return
        try:
            self._fd = os.open(f"{root}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.error = f"trace_pipe: {error.strerror}"

    def look(self, _seconds: float) -> None:
        """Read the lines that have come."""
        if self._fd < 0:
            return
        read = bytearray()
        with suppress(BlockingIOError):
            while piece := os.read(self._fd, 1 << 16):  # the kernel hands over whole lines
                read += piece
        for line in printed(read.decode("utf-8", "replace")):
            self.sorter.add(line.encode())

    def close(self) -> None:
        """Close trace_pipe: only one reader gets each line."""
        if self._fd >= 0:
            os.close(self._fd)


def wanted(request: Mapping[str, Any], variant: str) -> dict[str, list[Spec]]:
    """The events that are expected of a variant, by their sink."""
    by_sink: dict[str, list[Spec]] = {}
    for event in request.get("events") or ():
        if not event.get("variants") or variant in event["variants"]:
            by_sink.setdefault(event.get("from") or BUFFER, []).append(Spec.of(event))
    return by_sink


def standing(name: str, specs: Sequence[Spec], known: Mapping[str, Any], attempt: Mapping[str, Any]) -> Sink:
    """The sink that reads a map or an iterator of the running variant."""
    kind, _, named = name.partition(":")
    if kind == "map":
        return Standing(name, specs, known, lambda: map_entries(_id_of(attempt["maps"], named, "map")))
    return Standing(name, specs, known, lambda: iterator_lines(_id_of(attempt["programs"], named, "program")))


def counted(name: str, attempt: Mapping[str, Any]) -> int | None:
    """The sum of the numbers of 64 bits in a map; None where it cannot be read."""
    try:
        entries = list(map_entries(_id_of(attempt["maps"], name, "map")))
    except (OSError, Truncated):
        return None
    return sum(int.from_bytes(entry[4:12], "little") for entry in entries)  # behind the key of an array


def _id_of(reports: Mapping[str, Any], name: str, what: str) -> int:
    """The id of a program or map by its name; libbpf puts the object's name before that of a map of global variables (`.bss`)."""
    there = next((key for key in reports if key == name or (name.startswith(".") and key.endswith(name))), None)
    ident = reports[there].get("id") if there is not None else None
    if ident is None:
        raise OSError(None, f"the {what} is not in the kernel")
    return int(ident)


def account(sinks: Sequence[Sink]) -> Facts:
    """What came out of all sinks, in the form of the cell's facts."""
    sorters = [sink.sorter for sink in sinks]
    return {
        "events": [event for sorter in sorters for event in sorter.matched],
        "counts": {name: count for sorter in sorters for name, count in sorter.counts.items()},
        "unmatched": sum(sorter.unmatched for sorter in sorters),
        "unmatched_samples": [sample for sorter in sorters for sample in sorter.samples],
        "lost": sum(sink.lost for sink in sinks),
        "sinks": {sink.name: _one(sink) for sink in sinks},
    }


def _one(sink: Sink) -> Facts:
    sorter = sink.sorter
    return {
        "records": sorter.records,
        "unmatched": sorter.unmatched,
        "sizes": {str(size): count for size, count in sorted(sorter.sizes.items())},
        "missized": {name: {str(size): count for size, count in sizes.items()} for name, sizes in sorter.missized.items()},
        "cut": {name: {str(size): count for size, count in sizes.items()} for name, sizes in sorter.cut.items()},
        "error": sink.error,
    }
