"""How much memory the maps of an object take, as far as their definitions tell: what a VM must have room for."""

from __future__ import annotations

from collections.abc import Mapping

from kmatrix.objects.compiled import ObjectInfo
from kmatrix.objects.maps import PER_CPU, Definition

_NO_PREALLOC = 1
"""BPF_F_NO_PREALLOC (include/uapi/linux/bpf.h): entries are made when they are written."""
_ELEMENT, _BUCKET = 48, 16
"""Bytes that an entry of a hash takes beside key and value (struct htab_elem), and its bucket (kernel/bpf/hashtab.c, on 64 bits)."""
_STACK = 8 * 127 + 24
"""Bytes of an entry of a stack trace map: the addresses of a stack, and struct stack_map_bucket (kernel/bpf/stackmap.c)."""


def map_bytes(info: ObjectInfo, entries: Mapping[str, int] | None = None, cpus: int = 1) -> int:
    """Bytes that the kernel sets aside for the object's maps when it makes them.

    `entries` are the numbers of entries that the loader sets, by map. What grows with use is not counted.
    """
    numbers = info.btf.map_numbers() if info.btf is not None else {}
    total = 0
    for name, defined in info.definitions.items():
        count = (entries or {}).get(name, numbers.get(name, {}).get("max_entries", 0))
        total += _bytes(defined, count, numbers.get(name, {}).get("map_flags", 0), cpus)
    return total


def _bytes(defined: Definition, count: int, flags: int, cpus: int) -> int:
    key, value = _eight(defined.key_size), _eight(defined.value_size)
    if defined.type in PER_CPU:
        value *= cpus
    if defined.type in ("ringbuf", "user_ringbuf"):
        return count
    if defined.type == "stack_trace":
        return count * (_STACK + 8)
    if defined.type in ("hash", "percpu_hash", "hash_of_maps"):
        return count * _BUCKET if flags & _NO_PREALLOC else count * (_ELEMENT + key + value + _BUCKET)
    if defined.type.startswith("lru_"):
        return count * (_ELEMENT + key + value + _BUCKET)
    return count * value if defined.type in ("array", "percpu_array", "queue", "stack") else 0


def _eight(size: int) -> int:
    return (size + 7) // 8 * 8
