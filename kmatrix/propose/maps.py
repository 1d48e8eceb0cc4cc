"""unsized_maps(): the maps whose sizes an object leaves to its loader, and sizes that will do."""

from __future__ import annotations

from collections.abc import Mapping

from kmatrix.objects.code import Code

_ENTRIES = 1024
_STACK = 127 * 8
"""Bytes of a stack trace of the kernel's default depth (PERF_MAX_STACK_DEPTH, include/uapi/linux/perf_event.h)."""
_BY_LIBBPF = ("perf_event_array", "task_storage", "sk_storage", "inode_storage", "cgrp_storage", "arena")
"""Types of maps that are made without a number of entries, or with one that libbpf fills in (the number of CPUs)."""


def unsized_maps(code: Code) -> Mapping[str, dict[str, int]]:
    """By the map's name: what of `max_entries` and `value_size` the object does not say."""
    numbers = code.btf.map_numbers() if code.btf is not None else {}
    found: dict[str, dict[str, int]] = {}
    for name, definition in code.info.definitions.items():
        if name not in numbers or not definition.type or definition.type in _BY_LIBBPF or definition.type == "struct_ops":
            continue
        if not numbers[name].get("max_entries"):
            found.setdefault(name, {})["max_entries"] = 1 << 18 if definition.type == "ringbuf" else _ENTRIES
        if definition.type == "stack_trace" and not definition.value_size:
            found.setdefault(name, {})["value_size"] = _STACK
    return found
