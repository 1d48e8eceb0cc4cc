"""The memory of this machine."""

from __future__ import annotations

from pathlib import Path


def available_mib() -> int | None:
    """Memory that can be had without swapping (MemAvailable, proc(5)); None where the kernel does not say."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return None
