"""What a loader sets, seen from the kernel: constants, maps, tail calls, pins, targets, and which form of a program is loaded."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmatrix.manifest.contract import parse
from kmatrix.matrix.kernel import Target
from kmatrix.objects.compiled import inspect
from kmatrix.objects.contract import Terms, resolve
from tests.guest.conftest import Guest

Compiled = Callable[[str, Target], bytes]
Boot = Callable[[str], Guest]

CONSTANTS = """
kconfig = "CONFIG_KMATRIX_TEST=7"
[variables]
target_pid = 42
strict = true
mask = 0xfffffffffffff000
name = "bash"
mode = "SLOW"
ports = [80, 443]
raw = "hex:00ab0000"
level = 5
counter = 7
"limit.port" = 8080
"limit.on" = true
"""
MAPS = """
[maps.table]
max_entries = "cpus"
contents = [{ key = { a = 1, b = 2 }, value = 77 }]
[maps.percpu]
contents = [{ key = 1, value = 5 }]
[maps.outer]
inner = { type = "array", value_size = 4, max_entries = 1 }
contents = [{ key = 1, value = "inner" }]
[maps.jumps]
programs = { 2 = "called" }
"""


@pytest.fixture
def terms(compiled: Compiled, tmp_path: Path) -> Callable[[str, str, Target], Terms]:
    """terms("contract", toml, target): the contract against that object."""

    def make(name: str, text: str, target: Target) -> Terms:
        path = tmp_path / f"{name}.bpf.o"
        path.write_bytes(compiled(name, target))
        return resolve(parse(tomllib.loads(text), where="test"), inspect(path), where="test", folder=tmp_path)

    return make


def survey(guest: Guest, data: bytes, contract: Terms | None, programs: list[str] | None = None) -> Any:
    return guest.call("object", name="o", data=base64.b64encode(data).decode(), contract=contract, programs=programs)


@pytest.mark.parametrize("name", ["5.10-x86_64", "6.1-arm64", "6.12-x86_64"])
def test_the_verifier_sees_the_constants(name: str, boot: Boot, compiled: Compiled, terms: Callable[..., Terms]) -> None:
    """`checked` and `configured` have a bad access behind a condition on the constants, which only the right ones take out of reach."""
    guest = boot(name)
    data = compiled("contract", guest.target)
    contract = terms("contract", CONSTANTS + MAPS, guest.target)
    report = survey(guest, data, contract)
    assert report["error"] is None
    assert {each: (p["loaded"], p["error"]) for each, p in report["programs"].items()} == dict.fromkeys(
        report["programs"], (True, None)
    )
    assert report["together"] is True
    assert report["programs"]["called"]["attached"] is None  # it is called
    assert report["maps"]["table"]["max_entries"] == 1  # one CPU

    text = CONSTANTS.replace("target_pid = 42", "target_pid = 43").replace("TEST=7", "TEST=8") + MAPS
    wrong = terms("contract", text, guest.target)
    report = survey(guest, data, wrong)
    assert report["together"] is False
    assert {each for each, p in report["programs"].items() if not p["loaded"]} == {"checked", "configured"}


@pytest.mark.parametrize("name", ["5.10-x86_64", "6.1-arm64"])
def test_what_maps_hold_before_anything_is_attached(name: str, boot: Boot, compiled: Compiled, terms: Callable[..., Terms]) -> None:
    guest = boot(name)
    data = compiled("contract", guest.target)
    pin = '[maps.percpu]\npin = "/sys/fs/bpf/kmatrix-test/percpu"\n'
    contract = terms("contract", CONSTANTS + MAPS.replace("[maps.percpu]\n", pin), guest.target)
    fields = [{"name": each, "type": "u32"} for each in ("pid", "which", "level", "counter")]
    fields += [{"name": "entry", "type": "u64"}, {"name": "share", "type": "u32"}, {"name": "inner", "type": "u32"}]
    event = {"match": {"pid": "known.tgid"}, "min_count": 1, "max_count": None, "packed": False, "fields": fields}
    programs = [
        {"name": "enter", "hook": "tracepoint/syscalls/sys_enter_openat", "required": True},
        {"name": "called", "hook": "tracepoint", "required": True, "attach": False},
    ]
    variant = {
        "name": "only",
        "object": "o",
        "needs": [],
        "transport": "perf",
        "buffer": "events",
        "programs": programs,
        "maps": [],
    }
    facts = guest.cell(
        data,
        programs=[],
        variants=[variant | {"contract": contract}],
        events=[event | {"name": "direct", "match": event["match"] | {"which": 1}}, event | {"name": "called", "match": event["match"] | {"which": 2}}],
    )  # fmt: skip
    assert facts["running"] == "only", facts["refusal"]
    assert {each["event"] for each in facts["events"]} == {"direct", "called"}  # the tail call got there
    seen = {key: facts["events"][0]["fields"][key] for key in ("level", "counter", "entry", "share", "inner")}
    assert seen == {"level": 5, "counter": 7, "entry": 77, "share": 5, "inner": 1}
    assert facts["attempts"][0]["programs"]["called"]["attached"] is False
    assert facts["kernel"]["during"]["pins"] == ["/sys/fs/bpf/kmatrix-test/percpu"]
    assert facts["kernel"]["after"]["pins"] == []


FORMS = """
[[one_of]]
forms = ["connect_fentry", "connect_kprobe"]
[[one_of]]
forms = ["open_fentry", "open_kprobe"]
[[one_of]]
forms = ["gone", []]
[programs.open_fentry]
attach_to = ["no_such_function", "vfs_open"]
[programs.open_kprobe]
attach_to = ["no_such_function", "vfs_open"]
"""


@pytest.mark.parametrize(
    ("name", "fentry"), [("5.4-x86_64", False), ("5.10-x86_64", True), ("6.1-arm64", False), ("6.12-arm64", True)]
)
def test_the_first_form_that_the_kernel_can_run(
    name: str, fentry: bool, boot: Boot, compiled: Compiled, terms: Callable[..., Terms]
) -> None:
    guest = boot(name)
    report = survey(guest, compiled("forms", guest.target), terms("forms", FORMS, guest.target))
    ran, off = ("fentry", "kprobe") if fentry else ("kprobe", "fentry")
    programs = report["programs"]
    assert report["together"] is True
    assert {each for each, p in programs.items() if p["attached"]} == {f"connect_{ran}", f"open_{ran}", "always"}
    assert programs[f"open_{ran}"]["target"] == "vfs_open"
    assert programs[f"connect_{off}"]["off"] == f"one_of: connect_{ran} runs in its place"
    assert programs["gone"]["off"] == "one_of: none of its group can run here"
    assert "begins with ?" in programs["optional"]["off"]
    assert not any(p["loaded"] or p["error"] for p in programs.values() if p.get("off"))
    assert [group["ran"] for group in report["one_of"]] == [[f"connect_{ran}"], [f"open_{ran}"], []]
    assert report["one_of"][2]["why"] == ["gone: no tracepoint syscalls/sys_enter_no_such"]
    if not fentry:
        assert "no fentry on this kernel" in report["one_of"][0]["why"][0]


@pytest.mark.parametrize("name", ["6.1-x86_64", "6.1-arm64"])
def test_declared_needs_decide(name: str, boot: Boot, compiled: Compiled, terms: Callable[..., Terms]) -> None:
    guest = boot(name)
    text = 'one_of = [{ programs = ["gone"], needs = ["fentry"] }, { programs = ["always"], needs = [] }]'
    text += "\n[programs]\n" + "\n".join(
        f"{each}.autoload = false" for each in ("connect_fentry", "connect_kprobe", "open_fentry", "open_kprobe")
    )
    report = survey(guest, compiled("forms", guest.target), terms("forms", text, guest.target))
    x86 = guest.target.arch == "x86_64"
    assert report["one_of"][0]["ran"] == (["gone"] if x86 else ["always"])
    assert [report["programs"][each]["attached"] for each in ("gone", "always")] == ([False, None] if x86 else [None, True])


def test_no_form_is_the_failure_of_all(boot: Boot, compiled: Compiled, terms: Callable[..., Terms]) -> None:
    guest = boot("6.1-x86_64")
    report = survey(guest, compiled("forms", guest.target), terms("forms", 'one_of = ["gone", "open_kprobe"]', guest.target))
    assert report["together"] is False
    for name in ("gone", "open_kprobe"):
        assert "no form of one_of can run here: gone: no tracepoint" in report["programs"][name]["error"]
        assert "no kprobe can be put on placeholder" in report["programs"][name]["error"]
    assert report["programs"]["always"]["attached"] is True


def test_autoload_autoattach_type_and_attach_type(boot: Boot, compiled: Compiled, terms: Callable[..., Terms]) -> None:
    guest = boot("6.1-x86_64")
    text = f"""
    {CONSTANTS}{MAPS}
    [programs.configured]
    autoload = false
    [programs.enter]
    autoattach = false
    [programs.of_another_type]
    type = "sched_cls"
    expected_attach_type = 0
    """
    report = survey(guest, compiled("contract", guest.target), terms("contract", text, guest.target))
    programs = report["programs"]
    assert programs["configured"]["off"] == "the contract says autoload = false"
    assert (programs["enter"]["loaded"], programs["enter"]["attached"]) == (True, None)
    assert programs["of_another_type"]["type"] == "sched_cls"
    assert report["together"] is True


def test_a_program_that_is_given_a_target_does_not_fail_with_one_whose_function_is_not_there(
    boot: Boot, compiled: Compiled, terms: Callable[..., Terms]
) -> None:
    guest = boot("6.12-x86_64")
    given = terms("absent", '[programs.second]\nattach_to = "hrtimer_nanosleep"', guest.target)
    programs = survey(guest, compiled("absent", guest.target), given)["programs"]
    assert not programs["kmatrix_no_such_function"]["loaded"]
    assert programs["second"]["attached"], programs["second"]["error"]


def test_a_btf_file_in_place_of_the_kernels(boot: Boot, compiled: Compiled, tmp_path: Path) -> None:
    """An object with CO-RE relocations is loaded by the kernel's own BTF brought along, and not by a file that has none of its types."""
    guest = boot("6.1-x86_64")
    data = compiled("attach", guest.target)
    path = tmp_path / "attach.bpf.o"
    path.write_bytes(data)
    own = base64.b64decode(guest.call("get", path="/sys/kernel/btf/vmlinux")["data"])
    (tmp_path / "own.btf").write_bytes(own)
    empty = b"\x9f\xeb\x01\x00" + bytes.fromhex("18000000 00000000 00000000 00000000 01000000") + b"\0"
    (tmp_path / "empty.btf").write_bytes(empty)
    loaded = {}
    for name in ("own", "empty"):
        contract = resolve(parse({"btf": f"{name}.btf"}, where="test"), inspect(path), where="test", folder=tmp_path)
        loaded[name] = survey(guest, data, contract, ["tasks"])["programs"]["tasks"]["loaded"]
    assert loaded == {"own": True, "empty": False}


def test_a_map_that_cannot_be_made_is_no_whole_load_though_no_program_uses_it(
    boot: Boot, compiled: Compiled, terms: Callable[..., Terms]
) -> None:
    guest = boot("6.1-x86_64")
    data = compiled("contract", guest.target)
    sizes = MAPS.partition("[maps.jumps]")[0]
    for text, whole in ((sizes, True), (sizes.replace('max_entries = "cpus"', ""), False)):
        contract = terms("contract", f'kconfig = "CONFIG_KMATRIX_TEST=7"\n{text}', guest.target)
        report = survey(guest, data, contract, ["of_another_type"])
        assert report["programs"]["of_another_type"]["loaded"] is True
        assert report["together"] is whole
        assert (report["maps"]["table"]["error"] is None) is whole
