"""Why a map could not be created: its type, its flags, its shape or its size, in the order in which kernels check them."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from kmatrix.guest.fact import since as release_since
from kmatrix.guest.table_uapi import MAP_FLAGS
from kmatrix.matrix import history
from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing, release
from kmatrix.verdict.diagnosis.cilium_rows import UNSUPPORTED, unsupported
from kmatrix.verdict.diagnosis.hooks import ENOTSUPP

_SIZED_BY_NOBODY = ("perf_event_array", "sk_storage", "inode_storage", "task_storage", "cgrp_storage", "struct_ops")
"""libbpf sizes the first by the CPUs; the storages must have no size; the last has one entry."""
_CGROUP_STORAGES = ("cgroup_storage", "percpu_cgroup_storage")
_STORAGES = ("sk_storage", "inode_storage", "task_storage", "cgrp_storage")
_RINGS = ("ringbuf", "user_ringbuf")
_ARRAYS = ("array", "percpu_array", "prog_array", "perf_event_array", "cgroup_array", "array_of_maps", "devmap", "cpumap", "xskmap")
_FD_VALUES = ("prog_array", "perf_event_array", "cgroup_array", "array_of_maps", "hash_of_maps")
_PER_CPU = ("percpu_array", "percpu_hash", "lru_percpu_hash")
PERCPU_VALUE = 32 << 10
"""Bytes that a value of a per-CPU map may have: PCPU_MIN_UNIT_SIZE (include/linux/percpu.h)."""
STACK_DEPTH = 127
"""Addresses that a stack trace may have: sysctl kernel.perf_event_max_stack."""

_FLAGS = {
    1: "BPF_F_NO_PREALLOC", 2: "BPF_F_NO_COMMON_LRU", 4: "BPF_F_NUMA_NODE", 8: "BPF_F_RDONLY", 16: "BPF_F_WRONLY",
    32: "BPF_F_STACK_BUILD_ID", 64: "BPF_F_ZERO_SEED", 128: "BPF_F_RDONLY_PROG", 256: "BPF_F_WRONLY_PROG", 512: "BPF_F_CLONE",
    1024: "BPF_F_MMAPABLE", 2048: "BPF_F_PRESERVE_ELEMS", 4096: "BPF_F_INNER_MAP", 8192: "BPF_F_LINK", 16384: "BPF_F_PATH_FD",
    1 << 15: "BPF_F_VTYPE_BTF_OBJ_FD", 1 << 16: "BPF_F_TOKEN_FD", 1 << 17: "BPF_F_SEGV_ON_FAULT", 1 << 18: "BPF_F_NO_USER_CONV",
    1 << 19: "BPF_F_RB_OVERWRITE",
}  # fmt: skip
"""include/uapi/linux/bpf.h."""
_FLAG_TYPES: Mapping[int, tuple[str, ...]] = {
    1: ("hash", "percpu_hash", "hash_of_maps", "lpm_trie", "sk_storage", "inode_storage", "task_storage", "cgrp_storage"),
    2: ("lru_hash", "lru_percpu_hash"),
    32: ("stack_trace",),
    64: ("hash", "percpu_hash", "lru_hash", "lru_percpu_hash", "hash_of_maps", "bloom_filter"),
    512: ("sk_storage", "inode_storage", "task_storage", "cgrp_storage"),
    1024: ("array", "arena"),
    2048: ("perf_event_array",),
    4096: ("array",),
    1 << 17: ("arena",),
    1 << 18: ("arena",),
    1 << 19: ("ringbuf",),
}
"""The map types that take a flag, where they are few."""


def of_map(failing: Failing) -> Diagnosis | None:
    """The cause of a map's failure."""
    kind = failing.map_type or ""
    since = history.map_type_since(kind)
    if since is not None and failing.version < since:
        return Diagnosis(
            "map-type", f"map type {kind}", f"give kernels before {release(since)} a variant without it", release(since)
        )
    if match := re.search(UNSUPPORTED, failing.error):
        return unsupported(failing, match)
    if failing.errno in (errno.EINVAL, errno.E2BIG, errno.ENOMEM, ENOTSUPP, None):
        found = _flag(failing, kind) or _shape(failing, kind) or _broken_btf(failing, kind)
        if found is not None:
            return found
    if failing.max_entries == 0 and kind not in (*_SIZED_BY_NOBODY, *_CGROUP_STORAGES):
        return _no_size(failing)
    return _by_words(failing, kind) or _memory(failing) or _other_flags(failing)


def _no_size(failing: Failing) -> Diagnosis:
    return Diagnosis(
        "map-size",
        f"map {failing.name} has max_entries = 0",
        f"give one in the source, or, where the object's own loader sets it, {_as_loader(failing, 'max_entries', 'N')}",
    )


def _as_loader(failing: Failing, key: str, value: str) -> str:
    """How kmatrix is told what the object's own loader sets of the map: by the contract's key, and by the option where there is one."""
    outer = failing.name.removesuffix(".inner")
    if outer != failing.name:
        return f"say the inner map's {key} by the key inner under [maps.{outer}] in X.contract.toml (docs/contract.md)"
    contract = f"{key} = {value} under [maps.{outer}] in X.contract.toml beside X.bpf.o (docs/contract.md)"
    return f"say so: --max-entries {outer}={value}, or {contract}" if key == "max_entries" else f"say so: {contract}"


def _flag(failing: Failing, kind: str) -> Diagnosis | None:
    """A flag that is newer than the kernel, or not for this type of map."""
    flags = failing.shape.get("flags")
    if flags is None:
        return None
    for bit, name in _FLAGS.items():
        if not flags & bit:
            continue
        since = release_since(MAP_FLAGS, bit.bit_length() - 1)
        if failing.version < since and kind != "struct_ops":
            return Diagnosis(
                "map-flag",
                f"map {failing.name}: flag {name}",
                f"give kernels before {release(since)} a map without the flag",
                release(since),
            )
        if bit in _FLAG_TYPES and kind not in _FLAG_TYPES[bit]:
            return _wrong(failing, f"flag {name} is not for maps of type {kind}", "take the flag away, or use a type that has it")
    if kind in _STORAGES and not flags & 1:
        return _wrong(failing, f"a map of type {kind} needs the flag BPF_F_NO_PREALLOC", "add __uint(map_flags, BPF_F_NO_PREALLOC)")
    if kind == "lpm_trie" and not flags & 1:
        return _wrong(
            failing, "a map of type lpm_trie needs the flag BPF_F_NO_PREALLOC", "add __uint(map_flags, BPF_F_NO_PREALLOC)"
        )
    return None


def _other_flags(failing: Failing) -> Diagnosis | None:
    """Flags that may be why, where nothing else is: a NUMA node that is not there, and what no kernel known here has."""
    flags = failing.shape.get("flags") or 0
    if (
        failing.errno != errno.EINVAL or not flags or not failing.error
    ):  # of a map that was not tried, a node is not known to be missing
        return None
    unknown = flags & ~sum(_FLAGS)
    if unknown:
        return _wrong(
            failing, f"flags 0x{unknown:x}, which this kernel does not know", "take them away, or give such kernels another map"
        )
    if flags & 4:
        return _wrong(
            failing,
            "flag BPF_F_NUMA_NODE: the machine has no such NUMA node, or the map's type takes none",
            "let the loader choose a node that is there; a VM of kmatrix has node 0 alone",
        )
    return None


def _wrong(failing: Failing, what: str, fix: str, kind: str = "map-flag") -> Diagnosis:
    return Diagnosis(kind, f"map {failing.name}: {what}", fix)


def _shape(failing: Failing, kind: str) -> Diagnosis | None:
    """Sizes that no kernel takes."""
    if not {"key_size", "value_size"} <= failing.shape.keys():
        return None
    since = _VALUES.get(kind)
    if since is not None and failing.shape["value_size"] == 8 and failing.version < since:
        what = f"map {failing.name}: values of a map of type {kind} with a program beside the index (8 bytes)"
        return Diagnosis("map-size", what, f"give kernels before {release(since)} a map with values of 4 bytes", release(since))
    key, value = failing.shape["key_size"], failing.shape["value_size"]
    if kind in _CGROUP_STORAGES and key == 8 and failing.version < (5, 9):  # 7d9c3427894f
        return Diagnosis(
            "map-size",
            f"map {failing.name}: a key of 8 bytes, a cgroup's id alone, in a map of type {kind}",
            "give kernels before 5.9 a map whose key is struct bpf_cgroup_storage_key",
            "5.9",
        )
    what, fix = "", "correct it in the map's definition"
    if kind in _RINGS:
        if key or value:
            what, fix = f"a map of type {kind} has no key and no value", "leave key and value out of the map's definition"
    elif kind in ("queue", "stack", "bloom_filter") and key:
        what, fix = f"a map of type {kind} has no key", "leave the key out of the map's definition"
    elif kind in _ARRAYS and key != 4:
        what = f"key_size = {key}: the key of a map of type {kind} is a number of 4 bytes"
    elif kind in _FD_VALUES and value != 4:
        what = f"value_size = {value}: the value of a map of type {kind} is 4 bytes"
    elif kind in _PER_CPU and value > PERCPU_VALUE:
        what = f"value_size = {value}: a value of a per-CPU map has {PERCPU_VALUE} bytes at most"
        fix = "split the value, or use an array with an entry for each CPU"
    elif kind == "stack_trace" and (value < (unit := _entry(failing)) or value % unit or value > unit * STACK_DEPTH):
        entries = "addresses of 8 bytes" if unit == 8 else "build IDs with offsets of 32 bytes (struct bpf_stack_build_id)"
        what = f"value_size = {value}: a stack trace is 1 to {STACK_DEPTH} {entries}"
        if value == 0:
            fix = _sized_by_loader(failing, "value_size", str(unit * STACK_DEPTH))
    elif kind == "lpm_trie" and not 5 <= key <= 260:
        what = f"key_size = {key}: the key of an lpm_trie is 4 bytes of prefix length, and 1 to 256 of data"
    elif kind in _CGROUP_STORAGES and failing.max_entries:
        what, fix = f"a map of type {kind} has no max_entries", "leave it out of the map's definition"
    elif "hash" in kind and key == 0:
        what, fix = "key_size = 0", _sized_by_loader(failing, "key_size", "N")
    elif value == 0 and kind not in ("ringbuf", "user_ringbuf", "arena", "struct_ops"):
        what, fix = "value_size = 0", _sized_by_loader(failing, "value_size", "N")
    return _wrong(failing, what, fix, "map-size") if what else None


def _sized_by_loader(failing: Failing, key: str, value: str) -> str:
    told = _as_loader(failing, key, value)
    if failing.max_entries == 0:  # the next thing that the kernel would not take
        told = told.replace(f"{key} = {value}", f"{key} = {value} and max_entries = N", 1)
    return f"give the map a {key} in the source, or, where the object's own loader sets it, {told}"


def _entry(failing: Failing) -> int:
    """Bytes of an entry of a stack trace: with BPF_F_STACK_BUILD_ID it is a build ID and an offset."""
    return 32 if failing.shape.get("flags", 0) & 32 else 8


_VALUES = {"devmap": (5, 8), "devmap_hash": (5, 8), "cpumap": (5, 9)}
"""Since when a value may have a program in it: fbee97feed9b, 9216477449f3."""
_NEED_BTF = (*_STORAGES, "struct_ops")


def _broken_btf(failing: Failing, kind: str) -> Diagnosis | None:
    """A map that needs BTF, where the kernel did not take the object's."""
    told = re.search(r"BTF loading error: -\d+(?: \((?P<why>.*)\))?", failing.error)
    if kind not in _NEED_BTF or told is None:
        return None
    return _wrong(
        failing,
        f"a map of type {kind} needs the object's BTF, which the kernel does not take ({told['why'] or 'the log says why'})",
        "mend the type that is named; compile with -g, and a clang that is no newer than libbpf knows",
        "object-btf",
    )


_BY_WORDS: tuple[tuple[str, str, str, str], ...] = (
    (
        r"inner map fd|map-in-map|inner map",
        "map-inner",
        "the map inside it could not be made, or none is given",
        "define the map inside by __array(values, …), with a type that may be inside another",
    ),
    (
        r"failed to find BTF info|requires? BTF|BTF is required",
        "btf",
        "a map of this type needs the object's BTF, or the kernel's",
        "compile with -g, and give kernels without BTF a variant",
    ),
)


def _by_words(failing: Failing, kind: str) -> Diagnosis | None:
    for pattern, class_, what, fix in _BY_WORDS:
        if re.search(pattern, failing.error):
            return _wrong(failing, what, fix, class_)
    if kind.endswith("_of_maps") and failing.errno in (errno.EBADF, errno.EINVAL, ENOTSUPP):
        return _wrong(failing, _BY_WORDS[0][2], _BY_WORDS[0][3], "map-inner")
    if kind == "struct_ops" and failing.errno == errno.EINVAL and failing.version < (6, 4):
        return Diagnosis(
            "map-type",
            "a structure that is registered by a link (.struct_ops.link)",
            'put it in SEC(".struct_ops") for older kernels',
            "6.4",
        )
    if kind == "struct_ops":
        return _wrong(
            failing,
            "the kernel does not take this set of operations",
            "give such kernels a variant without it; the structure's members have to be those of the kernel's",
            "struct-ops",
        )
    return None


def _memory(failing: Failing) -> Diagnosis | None:
    size = f" of {failing.max_entries} entries" if failing.max_entries else ""
    if failing.errno == errno.EPERM and failing.version >= (5, 11):
        return Diagnosis(
            "permission",
            f"map {failing.name}: not permitted",
            "run the loader with CAP_BPF (5.8 on) or CAP_SYS_ADMIN; see also kernel.unprivileged_bpf_disabled",
        )
    if failing.errno == errno.E2BIG:
        return Diagnosis(
            "map-size",
            f"map {failing.name}{size} is larger than the kernel takes",
            "give it fewer entries, or a smaller value",
        )
    if failing.errno == errno.EPERM:
        return Diagnosis(
            "memlock",
            f"map {failing.name}{size}: no more memory may be locked (RLIMIT_MEMLOCK counts before 5.11)",
            "raise RLIMIT_MEMLOCK before the object is loaded, or make the map smaller",
        )
    if failing.errno != errno.ENOMEM:
        return None
    return Diagnosis(
        "memory",
        f"map {failing.name}{size}: the VM's memory is too small for it",
        "give the kernel more memory in kernels.toml (memory, in MiB), or make the map smaller",
    )
