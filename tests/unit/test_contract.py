"""What a loader sets, held against the object: names, types and sizes, before a VM starts."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from conftest import need_programs
from kmatrix.cli.contract_options import Given, contracts
from kmatrix.host.errors import InputError
from kmatrix.manifest import contract as manifest
from kmatrix.manifest import schema
from kmatrix.matrix.load import load_matrix
from kmatrix.objects.compiled import ObjectInfo, inspect
from kmatrix.objects.contract import ATTACH_TYPES, Terms, resolve
from kmatrix.verdict.expectation import needs_of
from tests.unit.facts import manifest as manifest_data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_programs("clang")
    out = tmp_path_factory.mktemp("objects")
    for name in ("contract", "forms"):
        source = ROOT / "tests" / "guest" / "bpf" / f"{name}.bpf.c"
        flags = ["-target", "bpf", "-g", "-O2", "-D__TARGET_ARCH_x86", f"-I{ROOT / 'collectors' / 'bpf_common'}"]
        subprocess.run(["clang", *flags, "-c", str(source), "-o", str(out / f"{name}.bpf.o")], check=True)
    return out


@pytest.fixture(scope="module")
def info(folder: Path) -> ObjectInfo:
    return inspect(folder / "contract.bpf.o")


def resolved(text: str, info: ObjectInfo) -> Terms:
    contract = manifest.parse(tomllib.loads(text), where="x.contract.toml")
    return resolve(contract, info, where="x.contract.toml", folder=info.path.parent)


def written(text: str, info: ObjectInfo) -> dict[int, str]:
    """What goes into .rodata: offset → hex."""
    return dict(resolved(f"[variables]\n{text}", info)["values"][".rodata"])


def at(info: ObjectInfo, name: str) -> int:
    """Where a variable lies, by the symbol table as binutils' readers have it."""
    listed = subprocess.run(["llvm-objdump", "-t", str(info.path)], capture_output=True, text=True, check=False).stdout
    return next(int(line.split()[0], 16) for line in listed.splitlines() if line.split()[-1:] == [name])


@pytest.mark.parametrize(
    ("text", "name", "data"),
    [
        ("target_pid = 42", "target_pid", "2a000000"),
        ("target_pid = -1", "target_pid", "ffffffff"),
        ("strict = true", "strict", "01"),
        ("mask = 0xfffffffffffff000", "mask", "00f0ffffffffffff"),
        ('name = "bash"', "name", "62617368" + "00" * 12),
        ('mode = "SLOW"', "mode", "06000000"),
        ("mode = 5", "mode", "05000000"),
        ('raw = "hex:00ab0000"', "raw", "00ab0000"),
        ("raw = [1, 2]", "raw", None),
        ("pointer = 0xffff888000000000", "pointer", "000000008088ffff"),
    ],
)
def test_a_value_is_written_as_its_type_lies_in_memory(text: str, name: str, data: str | None, info: ObjectInfo) -> None:
    need_programs("llvm-objdump", apt="llvm")
    found = written(text, info)
    if data is None:  # an element is written by itself, and those that are not named keep what they have
        assert found == {at(info, name): "01", at(info, name) + 1: "02"}
    else:
        assert found == {at(info, name): data}


def test_members_of_a_struct_by_path_or_table_leave_the_others_alone(info: ObjectInfo) -> None:
    by_path = written('"limit.port" = 8080\n"limit.on" = true', info)
    assert by_path == written("limit = { port = 8080, on = true }", info)
    start = min(by_path) - 4  # least comes before
    assert by_path == {start + 4: "901f", start + 6: "01"}


def test_data_and_bss_are_sections_of_their_own(info: ObjectInfo) -> None:
    values = resolved("[variables]\nlevel = 5\ncounter = 7", info)["values"]
    assert values == {".data": [[0, "05000000"]], ".bss": [[0, "07000000"]]}


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("variables.target_pd = 1", "variables.target_pd: contract.bpf.o has no variable 'target_pd'; did you mean target_pid?", "it has: counter, level"),
        ("variables.target_pid = 2147483648", "does not fit into int, which is 4 bytes: -2147483648 to 2147483647", "target_pid is int"),
        ('variables.target_pid = "x"', "'x' is no whole number", "target_pid is int"),
        ("variables.strict = 2", "2 is neither true nor false", "strict is"),
        ('variables.name = "0123456789abcdef"', "takes 17 bytes with its end; char[16] has 16", "name is char[16]"),
        ('variables.mode = "SLO"', "enum mode has no 'SLO'; did you mean SLOW?; it has: OFF, FAST, SLOW", "mode is enum mode"),
        ("variables.ports = [1, 2, 3, 4]", "4 elements are too many", "ports is unsigned short[3]"),
        ("variables.ports = 80", "80 is no list", "[3]"),
        ('variables.raw = "hex:00"', "is 1 bytes; unsigned char[4] is 4", "raw is"),
        ('variables.raw = "hex:0"', "two hexadecimal digits", "raw is"),
        ("variables.limit.prt = 1", "struct limit has no member 'prt'; did you mean port?", "limit is struct limit"),
        ("variables.limit.one_bit = 1", "is a bit field", "limit is struct limit"),
        ('variables.pointer = "x"', "cannot be written to a pointer", "pointer is a pointer"),
        ("maps.tabel.max_entries = 1", "maps.tabel: contract.bpf.o has no map 'tabel'; did you mean table?", "it has: events, jumps"),
        ("maps.table.max_entries = 0", "0 is neither a number of entries, from 1 on, nor", "max_entries"),
        ('maps.table.max_entries = "cpu"', "'cpu' is neither", "max_entries"),
        ('maps.table.type = "hsh"', "no map type 'hsh'; did you mean hash", "one of: "),
        ('maps.table.pin = "/tmp/x"', "a map is pinned under /sys/fs/bpf/", "pin"),
        ('maps.table.programs = ["called"]', "table is a map of type hash", "slots with programs are for a prog_array"),
        ('maps.jumps.programs = {4 = "called"}', "jumps has 4 slots, 0 to 3", "use another slot"),
        ('maps.jumps.programs = {1 = "caled"}', "no program 'caled'; did you mean called", "it has: called"),
        ('maps.jumps.programs = {one = "called"}', "slot 'one' is not a number", "jumps"),
        ("maps.table.contents = [{key = 1, value = 1}]", "maps.table.contents[0].key: 1 is no table", "table's key is struct key"),
        ("maps.table.contents = [{key = {a = 1}, value = -1}]", "-1 does not fit", "table's value is"),
        ('maps.table.inner = {type = "array", value_size = 4, max_entries = 1}', "table is a map of type hash", "inner is for array_of_maps"),
        ('maps.outer.contents = [{key = 0, value = "inner"}]', "nothing says it", "add maps.outer.inner"),
        ('maps.outer.contents = [{key = 0, value = "tabel"}]', "no map 'tabel'", "it has"),
        ('one_of = ["enter", "caled"]', "one_of: contract.bpf.o has no program 'caled'", "it has: called"),
        ('one_of = ["enter"]', "a group has two forms or more", "one_of"),
        ('one_of = [[], ["enter"]]', "always fits, so it stands last", "one_of"),
        ('one_of = ["enter", {programs = ["called"], needs = ["fenty"]}]', "unknown feature 'fenty'; did you mean fentry?", "docs/features.md"),
        ('one_of = ["enter", "called"]\nprograms.enter.autoload = false', "is in one_of and has autoload = false too", "top level"),
        ('[[one_of]]\nforms = ["enter", "called"]\n[[one_of]]\nforms = ["enter", "checked"]', "program 'enter' is in two groups", "one_of"),
        ('[[one_of]]\nforms = ["enter", "called"]\nneeds = ["btf"]', "unknown key 'needs' beside forms", "one_of"),
        ("programs.entr.autoload = false", "no program 'entr'; did you mean enter", "it has: called"),
        ('programs.enter.attach_to = "x"', "'x' is no tracepoint", "category/name"),
        ('programs.of_another_type.attach_to = "x"', "is in section 'socket', whose programs take no target", "attach_to is for sections"),
        ('programs.called.type = "sched_clss"', "no program type 'sched_clss'; did you mean sched_cls", "one of"),
        ('programs.called.expected_attach_type = "tcx_ingres"', "no attach type 'tcx_ingres'; did you mean tcx_ingress", "one of"),
        ('btf = "nowhere.btf"', "nowhere.btf: No such file", "relative to the file"),
        ("varables = {}", "varables: unknown key; did you mean variables?", "known keys here"),
    ],
)  # fmt: skip
def test_a_wrong_contract_is_one_error_that_names_what_is_right(text: str, says: str, fix: str, info: ObjectInfo) -> None:
    with pytest.raises(InputError) as error:
        resolved(text, info)
    assert error.value.where is not None
    assert error.value.where.startswith("x.contract.toml")
    assert says in f"{error.value.where.removeprefix('x.contract.toml: ')}: {error.value.message}"
    assert fix in str(error.value.fix)


def test_an_fentry_and_a_kprobe_of_one_function_in_one_form_are_meant_as_two(folder: Path) -> None:
    forms = inspect(folder / "forms.bpf.o")
    with pytest.raises(InputError, match="which are two forms of one program: both attach to tcp_v4_connect"):
        resolved('one_of = [["connect_fentry", "connect_kprobe"], ["always"]]', forms)


def test_groups_are_written_in_three_ways(info: ObjectInfo) -> None:
    def groups(text: str) -> list[list[list[str]]]:
        return [[form["programs"] for form in group] for group in resolved(text, info)["one_of"]]

    assert groups('one_of = ["enter", "called"]') == [[["enter"], ["called"]]]
    assert groups('one_of = [["enter", "checked"], ["called"]]') == [[["enter", "checked"], ["called"]]]
    two = [[["enter"], ["called"]], [["checked"], []]]
    assert groups('[[one_of]]\nforms = ["enter", "called"]\n[[one_of]]\nforms = ["checked", []]') == two
    assert groups('one_of = [[["enter"], ["called"]], [["checked"], []]]') == two


def test_map_contents_and_slots_become_bytes(info: ObjectInfo) -> None:
    maps = resolved(
        """
        [maps.table]
        max_entries = "cpus"
        contents = [{ key = { a = 1, b = 2 }, value = 77 }]
        [maps.outer]
        inner = { type = "array", value_size = 4, max_entries = 1 }
        contents = [{ key = 1, value = "inner" }, { key = 0, value = "percpu" }]
        [maps.jumps]
        programs = { 2 = "called" }
        """,
        info,
    )["maps"]
    assert maps["table"]["max_entries"] == "cpus"
    assert maps["table"]["entries"] == [["0100000002000000", {"value": "4d00000000000000"}]]
    assert maps["outer"]["entries"] == [["01000000", {"inner": True}], ["00000000", {"map": "percpu"}]]
    assert maps["jumps"]["entries"] == [["02000000", {"program": "called"}]]


def test_what_a_tail_call_reaches_is_not_attached_unless_it_says_so(info: ObjectInfo) -> None:
    slots = '[maps.jumps]\nprograms = ["called", "enter"]\n[programs.enter]\nautoattach = true'
    programs = resolved(slots, info)["programs"]
    assert {name: terms["attach"] for name, terms in programs.items()} == {"called": False, "enter": True}


def test_kconfig_is_lines_or_a_table(info: ObjectInfo) -> None:
    assert resolved("kconfig = { CONFIG_A = true, CONFIG_HZ = 250 }", info)["kconfig"] == "CONFIG_A=y\nCONFIG_HZ=250\n"
    assert resolved('kconfig = "CONFIG_HZ=250"', info)["kconfig"] == "CONFIG_HZ=250"


def test_without_btf_a_variable_has_no_type(tmp_path: Path, info: ObjectInfo) -> None:
    need_programs("llvm-objcopy", apt="llvm")
    bare = tmp_path / "bare.o"
    subprocess.run(["llvm-objcopy", "--remove-section=.BTF", "--remove-section=.BTF.ext", str(info.path), str(bare)], check=True)
    with pytest.raises(InputError, match=r"bare\.o has no BTF") as error:
        resolved("variables.level = 1", inspect(bare))
    assert error.value.fix == "compile it with -g"


def test_attach_types_are_the_kernels() -> None:
    """As the header of this machine has them, which may be older than the table."""
    header = Path("/usr/include/linux/bpf.h")
    if not header.is_file():
        pytest.skip("linux/bpf.h is not installed: apt-get install linux-libc-dev")
    body = header.read_text().split("enum bpf_attach_type {")[1].split("__MAX_BPF_ATTACH_TYPE")[0]
    names = [part.strip().removeprefix("BPF_").lower() for part in body.split(",") if part.strip()]
    assert list(ATTACH_TYPES[: len(names)]) == names[: len(ATTACH_TYPES)]


# -- the options and files of `kmatrix run` ------------------------------------------------------------------------------------


def test_options_are_a_contract(info: ObjectInfo) -> None:
    given = Given(
        set=("name=bash", "target_pid=0x2a", "strict=true", "limit.port=80", "ports=[1, 2]", "mode=FAST"),
        max_entries=("table=cpus", "percpu=4"),
        one_of=("enter,called+checked,",),
        without=("configured",),
        attach_to=("enter=syscalls/sys_enter_open",),
    )
    terms = contracts([info], given)[info.path]
    assert [data for _, data in terms["values"][".rodata"]] == [
        "62617368" + "00" * 12, "2a000000", "01", "5000", "0100", "0200", "05000000",
    ]  # fmt: skip
    assert [terms["maps"][name]["max_entries"] for name in ("table", "percpu")] == ["cpus", 4]
    assert [form["programs"] for form in terms["one_of"][0]] == [["enter"], ["called", "checked"], []]
    assert terms["programs"]["configured"]["load"] is False
    assert terms["programs"]["enter"]["to"] == ["syscalls/sys_enter_open"]


def test_a_contract_beside_the_object_is_found_and_options_come_on_top(folder: Path, info: ObjectInfo, tmp_path: Path) -> None:
    for name in ("contract.bpf.o", "forms.bpf.o"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "contract.contract.toml").write_text('one_of = ["enter", "called"]\n[variables]\nlevel = 5\ncounter = 7\n')
    beside, without = inspect(tmp_path / "contract.bpf.o"), inspect(tmp_path / "forms.bpf.o")
    found = contracts([beside, without], Given())
    assert found.keys() == {beside.path}
    more = contracts([beside], Given(set=("level=6",), one_of=("checked,",)))[beside.path]
    assert more["values"] == {".data": [[0, "06000000"]], ".bss": [[0, "07000000"]]}
    assert [[form["programs"] for form in group] for group in more["one_of"]] == [[["enter"], ["called"]], [["checked"], []]]
    elsewhere = contracts([info], Given(contract=tmp_path))  # a folder of them
    assert elsewhere[info.path]["values"] == {".data": [[0, "05000000"]], ".bss": [[0, "07000000"]]}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Given(set=("level",)), "'level' is not NAME=VALUE"),
        (Given(set=("levle=1",)), "the options: variables.levle: contract.bpf.o has no variable 'levle'; did you mean level?"),
        (Given(max_entries=("table=many",)), "'many' is neither"),
        (Given(without=("nobody",)), "has no program 'nobody'"),
        (Given(one_of=("enter",)), "a group has two forms or more"),
        (Given(contract=Path("/no/such.toml")), "/no/such.toml: no such file"),
    ],
)
def test_wrong_options_are_told_what_is_right(given: Given, says: str, info: ObjectInfo) -> None:
    with pytest.raises(InputError) as error:
        contracts([info], given)
    assert says in str(error.value)


def test_options_are_about_one_object(folder: Path, info: ObjectInfo) -> None:
    forms = inspect(folder / "forms.bpf.o")
    for given in (Given(set=("level=1",)), Given(contract=info.path)):
        with pytest.raises(InputError, match="about one object, and there are several"):
            contracts([info, forms], given)


# -- in a collector.toml -------------------------------------------------------------------------------------------------------


def with_contract(contract: dict[str, Any], **changes: Any) -> dict[str, Any]:
    data = manifest_data(**changes)
    data["variant"] = [data["variant"][2] | {"contract": contract}]
    data["program"] = [
        {"name": "by_fentry", "hook": "fentry/do_exit", "needs": ["fentry"]},
        {"name": "by_kprobe", "hook": "kprobe/do_exit", "needs": ["kprobes"]},
        {"name": "enter", "hook": "tracepoint/syscalls/sys_enter_openat"},
    ]
    return data


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        ({"one_of": ["by_fentry", "by_kpobe"]}, "contract: one_of names 'by_kpobe', which is not there; did you mean by_kprobe"),
        ({"programs": {"enter": {"autoload": False}}}, "program 'enter' is required, and autoload = false keeps it"),
        ({"programs": {"enter": {"autoattach": False}}}, "say attach = false in its [[program]] too"),
        ({"maps": {"jumps": {"programs": ["enter"]}}}, "called through jumps and not attached; say attach = false"),
        ({"variabels": {}}, "variant[0].contract.variabels ('plain'): unknown key; did you mean variables?"),
    ],
)
def test_a_manifests_contract_agrees_with_its_programs(contract: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        schema.parse(with_contract(contract), path=Path("/demo/collector.toml"))
    assert says in str(error.value)


def test_of_a_group_the_needs_are_those_of_the_form_that_runs_there() -> None:
    data = with_contract({"one_of": ["by_fentry", "by_kprobe"]})
    collector = schema.parse(data, path=Path("/demo/collector.toml"))
    matrix = load_matrix()
    needs = {
        name: needs_of(collector, collector.variants[0], matrix.target(name)) for name in ("6.1-x86_64", "6.1-arm64", "5.4-x86_64")
    }
    assert needs == {"6.1-x86_64": ["fentry"], "6.1-arm64": ["kprobes"], "5.4-x86_64": ["kprobes"]}
