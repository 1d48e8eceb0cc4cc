"""How C types lie in memory, by the BTF that clang writes; what clang says of offsets and sizes in the same object is the yardstick."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from conftest import need_programs
from kmatrix.objects import compiled
from kmatrix.objects.layout import Record, struct_record
from kmatrix.objects.maps import definitions
from tests.cells.broken import compile_object

SOURCE = """
#include <linux/types.h>
typedef unsigned char octet;
struct inner { __u8 kind; __u64 value; };
enum small { NONE, PLUS = 1, LARGE = 0x80000000 };
typedef struct {
	__u8 first;
	struct { __u32 hidden; union { __u16 low; __u32 wide; }; };
	struct inner inners[2];
	struct inner many[20];
	long big;
	enum small small;
	_Bool yes;
	char letter;
	signed char small_number;
	char names[2][8];
	octet raw[6];
	void *pointer;
	const volatile __be32 address;
	__u64 matrix[2][2];
	double real;
	__u64 : 3;
	__u64 bits : 40;
	__s64 rest : 13;
} record_t;
struct tight { __u8 a; __u32 b; __u64 c; } __attribute__((packed));
struct declared_only;
const record_t *unused_record __attribute__((unused));
const struct tight *unused_tight __attribute__((unused));
const struct declared_only *unused_declared __attribute__((unused));
const record_t sample = {.first = 1};
unsigned long where[] = {
	__builtin_offsetof(record_t, hidden), __builtin_offsetof(record_t, low), __builtin_offsetof(record_t, inners[1].value),
	__builtin_offsetof(record_t, many[17].value), __builtin_offsetof(record_t, big), __builtin_offsetof(record_t, small),
	__builtin_offsetof(record_t, yes), __builtin_offsetof(record_t, names[1]), __builtin_offsetof(record_t, raw),
	__builtin_offsetof(record_t, pointer), __builtin_offsetof(record_t, address), __builtin_offsetof(record_t, matrix[1][0]),
	__builtin_offsetof(record_t, real), sizeof(record_t),
};
"""
PATHS = ("hidden", "low", "inners[1].value", "many[17].value", "big", "small", "yes", "names[1]", "raw", "pointer", "address",
         "matrix[1][0]", "real")  # fmt: skip
TYPES = ("u32", "u16", "u64", "u64", "s64", "u32", "u8", "char[8]", "bytes[6]", "u64", "be32", "u64", "bytes[8]")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> compiled.ObjectInfo:
    need_programs("clang")
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.bpf.c").write_text(SOURCE)
    compile_object(folder / "layout.o", "x86", source=folder / "layout.bpf.c")
    return compiled.inspect(folder / "layout.o")


def record(built: compiled.ObjectInfo, name: str) -> Record:
    assert built.btf is not None
    found = struct_record(built.btf, name)
    assert found is not None
    return found


def test_fields_are_where_clang_says(built: compiled.ObjectInfo) -> None:
    found = record(built, "record_t")
    section, at = built.symbols["where"]
    raw = _section(built.path, section)
    said = [int.from_bytes(raw[at + 8 * i : at + 8 * i + 8], "little") for i in range(len(PATHS) + 1)]
    leaves = [found.find(path) for path in PATHS]
    assert [(leaf.offset, leaf.type) for leaf in leaves if leaf] == list(zip(said[:-1], TYPES, strict=True))
    assert found.size == said[-1]


def _section(path: Path, name: str) -> bytes:
    with path.open("rb") as file:
        data: bytes = ELFFile(file).get_section_by_name(name).data()
    return data


def test_what_is_listed_and_what_is_found_by_name(built: compiled.ObjectInfo) -> None:
    found = record(built, "record_t")
    listed = {leaf.path: leaf for leaf in found.leaves()}
    assert {"first", "hidden", "low", "wide", "inners[0].kind", "names[0]", "matrix[1][1]", "letter"} <= listed.keys()
    assert not any(path.startswith("many") for path in listed)  # too long to be listed
    assert (listed["letter"].type, listed["small_number"].type) == ("s8", "s8")
    assert listed["small"].names == {"NONE": 0, "PLUS": 1, "LARGE": 0x80000000}
    assert re.fullmatch(r"ubits\[3:40\]", listed["bits"].type)
    assert listed["rest"].type == "sbits[3:13]"
    assert listed["rest"].offset - listed["bits"].offset == 5
    for path in ("many[20].value", "inners[0]kind.x", "hidden.x", "names[1].x", "nothing"):
        assert found.find(path) is None
    whole = found.find("inners[1]")
    assert whole is not None
    assert (whole.type, whole.size) == ("bytes[16]", 16)


def test_packed_and_not_there(built: compiled.ObjectInfo) -> None:
    assert [(leaf.path, leaf.offset) for leaf in record(built, "struct tight").leaves()] == [("a", 0), ("b", 1), ("c", 5)]
    assert built.btf is not None
    assert struct_record(built.btf, "declared_only") is None
    assert struct_record(built.btf, "octet") is None
    assert {"record_t", "tight", "inner"} <= built.btf.structures()


def test_maps_of_the_older_section() -> None:
    """struct bpf_map_def: type, key_size, value_size, max_entries, flags."""
    raw = b"".join(n.to_bytes(4, "little") for n in (4, 4, 4, 128, 0))
    found = definitions(None, {"events": raw, "cut": raw[:8]})
    assert {name: (each.type, each.key_size, each.value_size) for name, each in found.items()} == {
        "events": ("perf_event_array", 4, 4)
    }
