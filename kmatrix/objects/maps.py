"""The maps of an object as it defines them: their types and sizes, and whether a variant's buffer is of its transport's type."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmatrix.guest.bpf import MAP_TYPES
from kmatrix.host.errors import InputError
from kmatrix.objects.btf import Btf
from kmatrix.objects.layout import Part, Record, number_or_bytes

if TYPE_CHECKING:
    from kmatrix.manifest.variant import Variant

TRANSPORTS: Mapping[str, str] = {"ringbuf": "ringbuf", "perf": "perf_event_array"}
"""A variant's transport → the type of map that it is."""
SHOWN: Mapping[str, str] = {"ringbuf": "a ring buffer", "perf_event_array": "a perf buffer"}
PER_CPU = ("percpu_hash", "percpu_array", "lru_percpu_hash", "percpu_cgroup_storage")
READABLE = (
    "hash", "array", "lru_hash", "lpm_trie", "hash_of_maps", "array_of_maps", "devmap", "devmap_hash", "cpumap", *PER_CPU,
)  # fmt: skip
"""The types of maps whose entries user space can go through (map_get_next_key and map_lookup_elem of kernel/bpf/)."""


@dataclass(frozen=True)
class Definition:
    """A map as the object defines it."""

    type: str
    """As the kernel says it; empty where it has no such name."""
    key_size: int = 0
    value_size: int = 0
    """Bytes; 0 where only a type says it."""
    key: int | None = None
    value: int | None = None
    """Their types in the object's BTF."""


def definitions(btf: Btf | None, legacy: Mapping[str, bytes]) -> dict[str, Definition]:
    """The maps of .maps, by the object's BTF, and those of the older section `maps` (struct bpf_map_def), whose bytes are `legacy`."""
    found = {name: _of_bytes(raw) for name, raw in legacy.items() if len(raw) >= 12}
    if btf is None:
        return found
    types = btf.map_types()
    for name, numbers in btf.map_numbers().items():
        key, value = types[name].get("key"), types[name].get("value")
        found[name] = Definition(
            _name(numbers.get("type", 0)),
            btf.size(key) if key is not None else numbers.get("key_size", 0),
            btf.size(value) if value is not None else numbers.get("value_size", 0),
            key,
            value,
        )
    return found


def _of_bytes(raw: bytes) -> Definition:
    kind, key_size, value_size = struct.unpack_from("<III", raw)
    return Definition(_name(kind), key_size, value_size)


def _name(number: int) -> str:
    return MAP_TYPES[number] if 0 < number < len(MAP_TYPES) else ""


def check_buffer(variant: Variant, defined: Mapping[str, Definition], where: str) -> None:
    """Raise InputError where the object defines the variant's buffer as a map of another type than its transport is."""
    if variant.buffer is None or variant.transport is None or variant.buffer not in defined:
        return
    wanted, found = TRANSPORTS[variant.transport], defined[variant.buffer].type
    if found in ("", wanted):
        return
    right = next((name for name, type_ in TRANSPORTS.items() if type_ == found), None)
    fix = (
        f'write transport = "{right}"'
        if right is not None
        else f'name in buffer the map that events come out of, or leave transport and buffer out and read it by from = "map:{variant.buffer}"'
    )
    raise InputError(
        f'buffer = "{variant.buffer}" is {SHOWN.get(found, f"a map of type {found}")} in the object, and transport = "{variant.transport}"'
        f" means {SHOWN[wanted]}",
        where=where,
        fix=fix,
    )


def entry_record(btf: Btf, definition: Definition) -> Record:
    """An entry of a map: its key, its value, and of a map that has a value for each CPU, the CPU's number."""
    key_size, value_size = definition.key_size, definition.value_size
    parts = [
        Part("key", definition.key if definition.key is not None else number_or_bytes("key", key_size, 0)),
        Part(
            "value", definition.value if definition.value is not None else number_or_bytes("value", value_size, key_size), key_size
        ),
    ]
    if definition.type in PER_CPU:
        parts.append(Part("cpu", number_or_bytes("cpu", 4, key_size + value_size)))
    return Record(btf, parts, key_size + value_size)


def section_record(btf: Btf, section: str, places: Mapping[str, int]) -> Record:
    """The global variables of a section (`.bss`), which are a map of one entry: `value.NAME` each. `places` are their offsets in bytes."""
    variables = btf.variables(section)
    parts = [Part(f"value.{name}", type_, 4 + places[name]) for name, (type_, _) in variables.items() if name in places]
    return Record(btf, [Part("key", number_or_bytes("key", 4, 0)), *parts], 0)
