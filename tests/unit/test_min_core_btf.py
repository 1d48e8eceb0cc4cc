"""The few types of a kernel that an object's relocations need: which begin it, what they bring along, and when all are needed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kmatrix.objects import btf as kinds
from kmatrix.objects.btf import Btf
from kmatrix.objects.min_core_btf import KernelBtf, essential, roots


class Maker:
    """BTF put together type by type; each method returns the type's number."""

    def __init__(self) -> None:
        self.types, self.strings, self.count = b"", b"\0", 0

    def text(self, text: str) -> int:
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at if text else 0

    def add(self, name: str, kind: int, count: int = 0, ref: int = 0, rest: bytes = b"") -> int:
        self.types += struct.pack("<III", self.text(name), kind << 24 | count, ref) + rest
        self.count += 1
        return self.count

    def integer(self, name: str) -> int:
        return self.add(name, kinds.INT, ref=4, rest=struct.pack("<I", 32))

    def structure(self, name: str, *members: tuple[str, int], kind: int = kinds.STRUCT) -> int:
        rest = b"".join(struct.pack("<III", self.text(member), type_, 32 * at) for at, (member, type_) in enumerate(members))
        return self.add(name, kind, len(members), 4 * len(members), rest)

    def data(self) -> bytes:
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)) + (
            self.types + self.strings
        )


def few(maker: Maker, folder: Path, *names: str) -> Btf | None:
    (folder / "btf").write_bytes(maker.data())
    whole = KernelBtf(folder / "btf")
    found = whole.minimal(names, whole.index())
    return None if found is None else Btf(found)


def named(found: Btf | None) -> list[str]:
    assert found is not None
    return [each.name for each in found.types[1:] if each.name]


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("a___b___c", "a___b"),
        ("___old", "___old"),
        ("task_struct___", "task_struct___"),
        ("a____b", "a____b"),
    ],
)
def test_a_flavour_is_no_part_of_a_name(name: str, bare: str) -> None:
    assert essential(name) == bare


def test_what_is_held_by_value_comes_along_and_what_is_pointed_at_does_not(tmp_path: Path) -> None:
    kernel = Maker()
    number = kernel.integer("int")
    far = kernel.structure("far", ("deep", number))
    pointer = kernel.add("", kinds.PTR, ref=far)
    near = kernel.structure("near", ("left", number))
    alias = kernel.add("near_t", kinds.TYPEDEF, ref=near)
    constant = kernel.add("", kinds.CONST, ref=alias)
    array = kernel.add("", kinds.ARRAY, rest=struct.pack("<III", constant, number, 3))
    kernel.structure("other", ("x", number))
    kernel.structure("task", ("next", pointer), ("near", array))
    found = few(kernel, tmp_path, "task")
    assert sorted(named(found)) == ["int", "near", "near_t", "task"]
    assert found is not None
    task = next(each for each in found.types if each.name == "task")
    assert [member for member, _, _ in task.members] == ["next", "near"]
    assert [bit for _, _, bit in task.members] == [0, 32]
    pointed = found.types[task.members[0][1]]
    assert (pointed.kind, pointed.ref) == (kinds.PTR, 0)
    assert found.size(task.members[1][1]) == 12
    assert found.member("struct", "near", "left") is not None


def test_every_type_of_the_name_comes_along_in_any_flavour(tmp_path: Path) -> None:
    """libbpf chooses between them, and says where it cannot."""
    kernel = Maker()
    number = kernel.integer("int")
    for name in ("task", "task", "task___other", "task_list", "task____no"):
        kernel.structure(name, ("x", number))
    kernel.add("task", kinds.TYPEDEF, ref=number)
    prototype = kernel.add("", kinds.FUNC_PROTO, ref=number)
    kernel.add("task", kinds.FUNC, ref=prototype)
    found = few(kernel, tmp_path, "task")
    assert found is not None
    assert sorted((each.name, each.kind) for each in found.types if each.name.startswith("task")) == [
        ("task", kinds.STRUCT),
        ("task", kinds.STRUCT),
        ("task", kinds.TYPEDEF),
        ("task___other", kinds.STRUCT),
    ]


def test_enums_keep_their_values(tmp_path: Path) -> None:
    kernel = Maker()
    small = struct.pack("<Ii", kernel.text("ONE"), 1) + struct.pack("<Ii", kernel.text("MINUS"), -1)
    kernel.add("state", kinds.ENUM, 2 | 1 << 31, 4, small)
    kernel.add("wide", kinds.ENUM64, 1, 8, struct.pack("<III", kernel.text("BIG"), 0, 1))
    found = few(kernel, tmp_path, "state", "wide")
    assert found is not None
    values = {each.name: dict(zip([name for name, _, _ in each.members], each.values, strict=True)) for each in found.types[1:]}
    assert values == {"state": {"ONE": 1, "MINUS": -1}, "wide": {"BIG": 1 << 32}}


def test_a_struct_that_holds_a_pointer_to_itself_ends(tmp_path: Path) -> None:
    kernel = Maker()
    pointer = kernel.add("", kinds.PTR, ref=2)
    kernel.structure("list", ("next", pointer), ("prev", pointer))
    assert named(few(kernel, tmp_path, "list")) == ["list"]


def test_a_type_that_the_kernel_itself_has_not_may_be_a_modules(tmp_path: Path) -> None:
    kernel = Maker()
    kernel.structure("task", ("x", kernel.integer("int")))
    assert few(kernel, tmp_path, "task", "nf_conn") is None


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"no BTF at all, and long enough", Maker().data()[:-1]])
def test_a_file_that_is_no_btf(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "btf").write_bytes(data)
    with pytest.raises(ValueError, match=r"BTF|empty"):
        KernelBtf(tmp_path / "btf")


def test_types_that_are_cut_short_and_an_index_of_another_file_are_said_to_be_no_btf(tmp_path: Path) -> None:
    kernel = Maker()
    kernel.structure("task", ("x", kernel.integer("int")))
    (tmp_path / "btf").write_bytes(kernel.data())
    index = KernelBtf(tmp_path / "btf").index()
    for wrong in (b"", index[:-1], index.replace(struct.pack("<I", 24), struct.pack("<I", 1 << 20))):
        with pytest.raises(ValueError, match="BTF"):
            KernelBtf(tmp_path / "btf").minimal(["task"], wrong)
    kernel.types += b"\0\0\0"  # half a type
    (tmp_path / "btf").write_bytes(kernel.data()[: -len(kernel.strings)])
    with pytest.raises(ValueError, match="BTF"):
        KernelBtf(tmp_path / "btf").index()


def relocated(maker: Maker, *records: tuple[int, str, int]) -> bytes:
    """.BTF.ext with relocations of these types, accesses and kinds."""
    body = b"".join(struct.pack("<IIII", 0, type_, maker.text(access), kind) for type_, access, kind in records)
    body = struct.pack("<III", 16, maker.text("kprobe/x"), len(records)) + body
    return struct.pack("<HBBIIIIIII", 0xEB9F, 1, 0, 32, 0, 0, 0, 0, 0, len(body)) + body


def object_types() -> tuple[Maker, dict[str, int]]:
    made = Maker()
    number = made.integer("int")
    task = made.structure("task_struct___old", ("state", number))
    prototype = made.add("", kinds.FUNC_PROTO, ref=number)
    return made, {
        "int": number,
        "task": task,
        "task_t": made.add("task_t", kinds.TYPEDEF, ref=task),
        "call_t": made.add("call_t", kinds.TYPEDEF, ref=prototype),
        "unnamed": made.structure("", ("x", number)),
    }


@pytest.mark.parametrize(
    ("records", "names"),
    [
        ([("task", "0:0", kinds.FIELD_OFFSET), ("task", "0:0", kinds.FIELD_EXISTS)], ("task_struct",)),
        ([("task_t", "0:0", kinds.FIELD_SIZE), ("int", "0", kinds.TYPE_SIZE)], ("int", "task_t")),
        ([("task", "0", kinds.TYPE_EXISTS)], ("task_struct",)),
        ([("task", "0", kinds.TYPE_ID_LOCAL)], ()),
        ([("task", "0", kinds.TYPE_ID_TARGET)], None),
        ([("task", "0", kinds.TYPE_MATCHES)], None),
        ([("call_t", "0", kinds.TYPE_EXISTS)], None),
        ([("unnamed", "0:0", kinds.FIELD_OFFSET)], None),
        ([("task", "0:0", kinds.FIELD_OFFSET), ("task", "0", kinds.TYPE_ID_TARGET)], None),
        ([("task", "0", 99)], None),
    ],
)
def test_where_relocations_begin(records: list[tuple[str, str, int]], names: tuple[str, ...] | None) -> None:
    made, numbers = object_types()
    ext = relocated(made, *((numbers[name], access, kind) for name, access, kind in records))
    assert roots(made.data(), ext) == names


def test_relocations_that_cannot_be_read_need_all() -> None:
    made, numbers = object_types()
    ext = relocated(made, (numbers["task"] + 1000, "0:0", kinds.FIELD_OFFSET))
    assert roots(made.data(), ext) is None
