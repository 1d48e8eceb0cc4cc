"""CO-RE relocations against kernels of our own: what libbpf would write into each instruction."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.predict import pack
from kmatrix.predict.core import Resolved, essential
from kmatrix.predict.kernel import Kernel
from tests.predict.kernels import HEAD, clang, judge, kernel

KERNEL = """
typedef unsigned int u32;
typedef u32 renamed_t;
enum state { IDLE = 0, BUSY = 7 };
struct inner { u32 a; union { u32 b; struct { u32 c; u32 d; }; }; };
struct task {
    long before;
    u32 pid;
    struct inner inner;
    unsigned long flags : 3, kind : 5;
    signed char small;
    enum state state;
    struct inner many[4];
    u32 *pointer;
    short narrow;
    renamed_t alias;
    u32 tail[];
};
struct only_declared;
struct with_pointer { struct only_declared *to; int (*call)(int, struct task *); };
struct task t; struct with_pointer w; enum state s; renamed_t r;
"""


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The kernel above."""
    return kernel(tmp_path_factory.mktemp("kernel"), KERNEL)


def only(folder: Path, declared: str, expression: str, on: Kernel) -> Resolved:
    """The one relocation of an expression over `struct task *t`."""
    code = f'{HEAD}{declared}\nSEC("raw_tp/sched_switch") int run(struct task *t) {{ return {expression}; }}'
    judged = judge(folder, code, on)
    (asked,) = judged.subject.code.relocations.values()
    return judged.resolved(asked, on)


PRESERVED = "__attribute__((preserve_access_index))"
FIELDS = {
    "moved": ("struct task { int pid; } " + PRESERVED + ";", "t->pid", 8),
    "gone": ("struct task { int ppid; } " + PRESERVED + ";", "t->ppid", None),
    "through unnamed members": ("struct inner { int d; } " + PRESERVED + "; struct task { struct inner inner; } " + PRESERVED + ";", "t->inner.d", 20),
    "element of an array": ("struct inner { int b; } " + PRESERVED + "; struct task { struct inner many[4]; } " + PRESERVED + ";", "t->many[2].b", 60),
    "beyond an array": ("struct inner { int b; } " + PRESERVED + "; struct task { struct inner many[9]; } " + PRESERVED + ";", "t->many[6].b", None),
    "flexible array": ("struct task { int own; unsigned tail[]; } " + PRESERVED + ";", "t->tail[3]", 108),
    "a flavour": ("struct task___old { int pid; } " + PRESERVED + "; struct task;", "((struct task___old *)t)->pid", 8),
    "another kind": ("struct other {int x;}; struct task { struct other pid; } " + PRESERVED + ";", "t->pid.x", None),
    "an alias": ("struct task { unsigned alias; } " + PRESERVED + ";", "t->alias", 92),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_the_offset_of_a_field(tmp_path: Path, on: Kernel, case: str) -> None:
    declared, expression, offset = FIELDS[case]
    assert only(tmp_path, declared, expression, on).value == offset


def test_a_number_may_become_wider_where_it_is_unsigned(tmp_path: Path, on: Kernel) -> None:
    found = only(tmp_path, "struct task { unsigned short pid; } " + PRESERVED + ";", "t->pid", on)
    assert (found.value, found.size, found.original, found.badly_sized) == (8, 4, 2, False)


def test_a_signed_number_of_another_size_is_poison(tmp_path: Path, on: Kernel) -> None:
    found = only(tmp_path, "struct task { int narrow; } " + PRESERVED + ";", "t->narrow", on)
    assert found.badly_sized


ASKED = {
    "field there": ("struct task { int pid; } " + PRESERVED + ";", "bpf_core_field_exists(t->pid)", 1),
    "field gone": ("struct task { int ppid; } " + PRESERVED + ";", "bpf_core_field_exists(t->ppid)", 0),
    "size": ("struct task { short pid; } " + PRESERVED + ";", "bpf_core_field_size(t->pid)", 4),
    "type there": ("struct task { int pid; }; struct inner {};", "bpf_core_type_exists(struct inner)", 1),
    "type gone": ("struct task { int pid; }; struct outer {};", "bpf_core_type_exists(struct outer)", 0),
    "type of another kind": ("struct task { int pid; }; union inner { int a; };", "bpf_core_type_exists(union inner)", 0),
    "size of a type": ("struct task { int pid; }; struct inner {};", "bpf_core_type_size(struct inner)", 12),
    "typedef there": ("struct task { int pid; }; typedef unsigned renamed_t;", "bpf_core_type_exists(renamed_t)", 1),
    "typedef of a structure": ("struct task { int pid; }; typedef struct { int a; } renamed_t;", "bpf_core_type_exists(renamed_t)", 0),
    "matches": ("struct task { int pid; }; struct inner { unsigned a; };", "bpf_core_type_matches(struct inner)", 1),
    "does not match": ("struct task { int pid; }; struct inner { int a; };", "bpf_core_type_matches(struct inner)", 0),
    "enumerator there": ("struct task { int pid; }; enum state { BUSY = 1 };", "bpf_core_enum_value_exists(enum state, BUSY)", 1),
    "enumerator gone": ("struct task { int pid; }; enum state { LAZY = 1 };", "bpf_core_enum_value_exists(enum state, LAZY)", 0),
    "enumerator's value": ("struct task { int pid; }; enum state { BUSY = 1 };", "bpf_core_enum_value(enum state, BUSY)", 7),
    "enumerator's flavour": ("struct task { int pid; }; enum state___new { BUSY___new = 1 };", "bpf_core_enum_value(enum state___new, BUSY___new)", 7),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_what_is_asked_of_the_kernel(tmp_path: Path, on: Kernel, case: str) -> None:
    declared, expression, value = ASKED[case]
    if "matches" in expression and clang() < 15:
        pytest.skip("clang has bpf_core_type_matches from 15 on")
    assert only(tmp_path, declared, expression, on).value == value


def test_a_bit_field(tmp_path: Path, on: Kernel) -> None:
    code = HEAD + (
        "struct task { unsigned long kind : 9; } " + PRESERVED + ";"
        'SEC("raw_tp/sched_switch") int run(struct task *t) { return BPF_CORE_READ_BITFIELD(t, kind); }'
    )
    judged = judge(tmp_path, code, on)
    found = {asked.kind: judged.resolved(asked, on).value for asked in judged.subject.code.relocations.values()}
    # `kind` is bits 3 to 7 of the eight bytes at 24: offset, size, signed, and the shifts that leave it alone.
    assert found == {0: 24, 1: 8, 3: 0, 4: 56, 5: 59}


def test_what_comes_before_the_flavour() -> None:
    names = {
        "task___v2": "task",
        "task": "task",
        "a___b___c": "a___b",
        "___x": "___x",
        "task____x": "task____x",
        "task___": "task___",
    }
    assert {name: essential(name) for name in names} == names


def test_two_types_of_one_name(tmp_path: Path) -> None:
    """A kernel has several structures of a name where several files declare one: libbpf takes those that fit, and gives up where they differ."""
    first, second = kernel(tmp_path, "struct twin { int a; int b; }; struct twin t;", "one"), kernel(tmp_path, "struct twin { long x; int b; int c; }; struct twin t;", "two")  # fmt: skip
    one, two = (pack.contents(each.pack, 0) for each in (first, second))
    one["types"]["stwin"] += two["types"]["stwin"]
    path = tmp_path / "twins.kmp"
    pack.write(path, *pack.merged([(first.meta, one)]))
    on = Kernel(pack.Pack(path), 0)
    values = {}
    for name in "abc":
        code = HEAD + f'struct twin {{ int {name}; }} {PRESERVED}; SEC("raw_tp/x") int run(struct twin *t) {{ return t->{name}; }}'
        judged = judge(tmp_path, code, on, name)
        (asked,) = judged.subject.code.relocations.values()
        found = judged.resolved(asked, on)
        values[name] = found.error or found.value
    assert values == {"a": 0, "b": "the kernel has several types twin, which differ there", "c": 12}
