"""Functions and tracepoints that a simulated kernel lacks though the kernel at hand has them: the host says which (kmatrix/predict/simulated.py)."""

from __future__ import annotations

import base64
import errno
import json
import os
import struct
import zlib
from collections.abc import Callable

Read = Callable[[int, int], bytes]
"""(address, size) → the bytes at that address of the process that asks; OSError where there is nothing."""

NAME_SIZE = 128
"""Bytes that the kernel reads of a name at most (KSYM_NAME_LEN and the buffer of bpf_raw_tracepoint_open)."""
_PAGE = 4096
"""The smallest page: what is read of a name ends with one, for what comes after it may not be there."""
_CONFIG1 = 56
"""Where struct perf_event_attr has the address of a kprobe's function (kprobe_func)."""


class Absent:
    """Names that are out of sight; none where nothing was sent."""

    def __init__(self, packed: str | None = None) -> None:
        """`packed`: JSON with a text of names for each part, compressed by zlib, in base64."""
        parts = json.loads(zlib.decompress(base64.b64decode(packed))) if packed else {}
        self.symbols = frozenset(parts.get("symbols", "").split())
        self.untraceable = frozenset(parts.get("untraceable", "").split())
        self.tracepoints = frozenset(parts.get("tracepoints", "").split())
        self.raw_tracepoints = frozenset(parts.get("raw_tracepoints", "").split())

    def of_symbol(self, name: str) -> int:
        """What the simulated kernel says to a kprobe at the function: an errno, 0 where the kernel at hand is to say.

        ENOENT and EINVAL as register_kprobe does from 4.17 on, when perf_event_open(2) came to make kprobes (e12f03d7031a).
        """
        if name in self.symbols:
            return errno.ENOENT
        return errno.EINVAL if name in self.untraceable else 0

    def of_kprobe(self, attr: bytes, read: Read) -> int:
        """The same for a struct perf_event_attr of the PMU kprobe; one for an address passes."""
        if not (self.symbols or self.untraceable):
            return 0
        (address,) = struct.unpack_from("=Q", attr.ljust(64, b"\0"), _CONFIG1)
        return self.of_symbol(text_at(address, read)) if address else 0

    def of_raw_tracepoint(self, attr: bytes, read: Read) -> int:
        """What BPF_RAW_TRACEPOINT_OPEN answers: ENOENT for a tracepoint that is out of sight."""
        (address,) = struct.unpack_from("=Q", attr.ljust(16, b"\0"))
        return errno.ENOENT if address and text_at(address, read) in self.raw_tracepoints else 0

    def folders(self, events: str) -> list[str]:
        """The folders to cover under `events` of tracefs: of single tracepoints, and of groups of which none is left."""
        found = []
        groups: dict[str, set[str]] = {}
        for each in self.tracepoints:
            group, _, name = each.partition("/")
            groups.setdefault(group, set()).add(name)
        for group, names in sorted(groups.items()):
            try:
                there = {entry.name for entry in os.scandir(f"{events}/{group}") if entry.is_dir()}
            except OSError:
                continue
            if there <= names:
                found.append(f"{events}/{group}")
            else:
                found += [f"{events}/{group}/{name}" for name in sorted(there & names)]
        return found


def text_at(address: int, read: Read) -> str:
    """The text that begins at the address, to its end or NAME_SIZE bytes of it. Raises OSError where there is nothing."""
    first = min(NAME_SIZE, _PAGE - address % _PAGE)
    data = read(address, first)
    if b"\0" not in data and first < NAME_SIZE:
        data += read(address + first, NAME_SIZE - first)
    return data.split(b"\0", 1)[0].decode("ascii", "replace")
