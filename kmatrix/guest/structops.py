"""struct_ops: a kernel's structure of functions filled with programs, registered as a whole by its map (85d33df357b6, 5.6)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from contextlib import ExitStack

from . import bpf, confirm, libbpf
from .confirm import Attachment

STRUCT_OPS = bpf.MAP_TYPES.index("struct_ops")
BPF_F_LINK = 1 << 13

_registered: dict[int, Attachment] = {}
"""By the map's pointer: one registration is for all programs of the structure."""


def attach(program: int, maps: Iterable[int], resources: ExitStack) -> Attachment:
    """Register the structure that the program is a function of. Raises LibbpfError or OSError."""
    prog_id = bpf.prog_info(libbpf.program_fd(program)).id
    tried = []
    for each in maps:
        if libbpf.map_type(each) != STRUCT_OPS:
            continue
        name = libbpf.map_name(each).decode()
        if each not in _registered:
            link = libbpf.pointer("attach", libbpf.map_attach_struct_ops(each))
            resources.callback(libbpf.link_destroy, link)
            linked = bpf.map_flags(libbpf.map_fd(each)) & BPF_F_LINK  # without, what libbpf calls a link is the map's fd
            hook = confirm.link(libbpf.link_fd(link), prog_id) if linked else None
            _registered[each] = Attachment(
                "struct_ops link" if linked else "struct_ops map", hook or f"struct_ops {name}, registered by its map"
            )
            resources.callback(_registered.pop, each)
        if prog_id in _programs_of(each):
            return _registered[each]
        tried.append(name)
    found = f": {', '.join(tried)} does not refer to it" if tried else ""
    raise OSError(errno.ENOENT, f"no structure of the object has this program{found}")


def _programs_of(pointer: int) -> set[int]:
    """The ids in the structure: the kernel puts a program's id where its function's pointer is (bpf_struct_ops_map_update_elem).

    It may hold other numbers too: all words of it count.
    """
    size = int(libbpf.map_value_size(pointer))
    value = bpf.map_lookup(libbpf.map_fd(pointer), bytes(4), size)
    return {number for (number,) in struct.iter_unpack("=Q", value[: size // 8 * 8])}
