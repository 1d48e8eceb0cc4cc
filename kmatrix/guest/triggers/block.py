"""The trigger on block I/O."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Mapping

from ..child import Known
from .deed import Deed, kind
from .kind import Kind, Spec
from .names import device

SCRATCH = "kmatrix-scratch"
"""The serial number of the disk that every VM has for this: its bytes are zeros, and what is written to it is gone (kmatrix.vm.virtme)."""
SECTOR = 512
_FIRST, _SECTORS = 2048, 16


def _disk() -> str:
    """The scratch disk's name. Raises OSError where there is none."""
    for name in sorted(os.listdir("/sys/block")):
        path = f"/sys/block/{name}/serial"
        if os.path.exists(path):
            with open(path) as file:
                if file.read().strip() == SCRATCH:
                    return name
    raise OSError(errno.ENODEV, f"the guest has no disk with the serial number {SCRATCH}")


def _block_io(spec: Spec) -> Deed:
    """Read from the disk, or write to it, past the page cache: one request."""
    name, write = _disk(), spec.get("op") == "write"
    fd = os.open(f"/dev/{name}", os.O_CLOEXEC | os.O_DIRECT | (os.O_WRONLY if write else os.O_RDONLY))
    size = _SECTORS * SECTOR
    memory = mmap.mmap(-1, size)
    memory.write(bytes([0x6B]) * size)

    def do() -> Known:
        done = os.pwritev(fd, [memory], _FIRST * SECTOR) if write else os.preadv(fd, [memory], _FIRST * SECTOR)
        if done != size:
            raise OSError(errno.EIO, f"{done} of {size} bytes went to or from /dev/{name}")
        return {"ret": done}

    dev = device(os.fstat(fd).st_rdev)
    return Deed(
        {"dev": dev, "disk": name, "sector": _FIRST, "sectors": _SECTORS, "bytes": size, "rwbs": "WS" if write else "R"},
        do,
    )


KINDS: Mapping[str, Kind] = {
    "block_io": kind(
        "block_io",
        _block_io,
        {
            "dev": "the disk's device, as the kernel has it",
            "disk": "its name",
            "sector": "the first, of 512 bytes",
            "sectors": "how many: 16",
            "bytes": "how many",
            "rwbs": '"R" or "WS", as in the tracepoints of block',
            "ret": "what the system call returns: as many bytes",
        },
        options={"op": ("read", "write")},
    ),
}
