"""Objects loaded by cilium/ebpf on booted guests, judged by what the kernel has: as by libbpf, or with the difference told."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import lacking
from kmatrix.host.errors import Unavailable
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Target
from kmatrix.objects.contract import Terms
from kmatrix.runs.library import bring
from kmatrix.vm.loaders import build
from tests.guest.conftest import Guest
from tests.guest.test_contract import terms  # noqa: F401 - a fixture

Compiled = Callable[[str, Target], bytes]
Boot = Callable[[str], Guest]
Cilium = Callable[[str], Guest]


@pytest.fixture
def cilium(boot: Boot) -> Cilium:
    """A pristine guest that has the cilium loader."""

    def start(name: str) -> Guest:
        arch: Arch = "arm64" if name.endswith("arm64") else "x86_64"
        try:
            built = build.cilium(arch)
        except Unavailable as error:
            lacking(str(error))
        guest = boot(name)
        assert bring(guest.vm, "cilium", built) == f"cilium/ebpf {built.version}"
        return guest

    return start


def survey(guest: Guest, data: bytes, **more: Any) -> Any:
    return guest.call("object", name="o", data=base64.b64encode(data).decode(), library="cilium", **more)


def left(guest: Guest) -> dict[str, Any]:
    """What is in the kernel now."""
    facts = guest.call("cell", collector="none", min_kernel=[99, 0], variants=[], objects={})
    return {name: facts["kernel"]["after"][name] for name in ("programs", "links", "pins", "kprobe_events")}


EVENT = {
    "match": {},
    "min_count": 1,
    "max_count": None,
    "sizes": [],
    "variants": [],
    "from": None,
    "contains": None,
    "packed": False,
}
NOTHING = {"programs": [], "links": [], "pins": [], "kprobe_events": []}


@pytest.mark.parametrize("name", ["4.14-x86_64", "5.4-arm64", "6.1-x86_64", "6.12-arm64"])
def test_tracing_programs_are_attached_and_gone_afterwards(name: str, cilium: Cilium, compiled: Compiled) -> None:
    """Each failure is told of the program that it is of, with the verifier's words where it is the verifier's."""
    guest = cilium(name)
    report = survey(guest, compiled("hooks", guest.target))
    assert report["error"] is None
    programs = report["programs"]
    for each in ("works", "on_kprobe"):
        assert (programs[each]["loaded"], programs[each]["attached"], programs[each]["error"]) == (True, True, None)
        assert programs[each]["via"] in ("link", "perf_event", "tracefs")
    assert (programs["cannot_attach"]["loaded"], programs["cannot_attach"]["attached"]) == (True, False)
    assert "there_is_no_such_function" in programs["cannot_attach"]["error"]
    assert not programs["cannot_load"]["loaded"]
    assert "invalid mem access" in programs["cannot_load"]["log"]
    assert not report["together"]
    assert left(guest) == NOTHING


def test_each_kind_of_hook(cilium: Cilium, compiled: Compiled) -> None:
    """What cilium/ebpf has no function for is attached by the descriptor, as an application does, or refused in so many words."""
    guest = cilium("6.12-x86_64")
    programs = survey(guest, compiled("attach", guest.target))["programs"]
    via = {name: found["via"] for name, found in programs.items() if found["attached"]}
    assert via["clsact"] == "tc"
    assert via["sampled"].startswith("perf_event, a software clock")
    assert via["on_xdp"] == "link"
    assert "(generic), xdp of interface kmatrix0 (native)" in programs["on_xdp"]["hook"]
    assert via["dissect"] == "link"
    assert programs["dissect"]["hook"].startswith("flow_dissector of network namespace")
    assert 'does not know SEC("sk_lookup")' in programs["lookup"]["error"]  # it knows sk_lookup/
    assert via["tasks"].startswith("iterator, ")
    assert "the first 'task'" in via["tasks"]
    assert "cilium/ebpf" in programs["tcx_in"]["error"]
    assert "has no function that attaches" in programs["tcx_in"]["error"]
    assert left(guest) == NOTHING


SET = """
[variables]
wanted = 42
[maps.table]
max_entries = "cpus"
contents = [{ key = 1, value = 77 }]
[maps.jumps]
programs = { 2 = "called" }
"""


@pytest.mark.parametrize("name", ["5.4-x86_64", "6.1-arm64"])
def test_what_the_contract_sets(name: str, cilium: Cilium, compiled: Compiled, terms: Callable[..., Terms]) -> None:  # noqa: F811
    """The program that is called sends the constant and the map's entry."""
    guest = cilium(name)
    data, contract = compiled("settings", guest.target), terms("settings", SET, guest.target)
    fields = [{"name": "wanted", "type": "u32"}, {"name": "entry", "type": "u32"}]
    event = {**EVENT, "name": "set", "match": {"wanted": 42, "entry": 77}, "min_size": 8, "fields": fields}
    variant = {
        "name": "only",
        "object": "o",
        "needs": [],
        "transport": "perf",
        "buffer": "events",
        "maps": [],
        "contract": contract,
    }
    programs = [{"name": "entry", "hook": "tracepoint/…"}, {"name": "called", "hook": "tracepoint/…", "attach": False}]
    facts = guest.cell(data, library="cilium", programs=[], variants=[{**variant, "programs": programs}], events=[event])
    assert facts["running"] == "only", facts["attempts"]
    assert facts["counts"]["set"] >= 1, facts["unmatched_samples"]
    off = survey(guest, data, contract=terms("settings", SET + "[programs.entry]\nautoload = false\n", guest.target))
    assert off["maps"]["table"]["max_entries"] == 1  # one CPU
    assert off["programs"]["entry"]["off"]
    assert not off["programs"]["entry"]["loaded"]


def test_from_when_on_the_verifier_sees_constants(cilium: Cilium, compiled: Compiled, terms: Callable[..., Terms]) -> None:  # noqa: F811
    """`checked` has a bad access behind a condition on the constant. Before 0.12, cilium/ebpf fills .rodata after it loads the programs."""
    guest = cilium("6.1-x86_64")
    data = compiled("settings", guest.target)
    contract = terms("settings", SET, guest.target)
    seen = survey(guest, data, contract=contract, programs=["checked"])["programs"]["checked"]
    version = tuple(map(int, build.cilium("x86_64").version.split(".")[:2]))
    assert seen["loaded"] is (version >= (0, 12))
    by_libbpf = guest.call("object", name="o", data=base64.b64encode(data).decode(), contract=contract, programs=["checked"])
    assert by_libbpf["programs"]["checked"]["loaded"]


def test_a_configuration_is_nothing_that_it_takes(cilium: Cilium, compiled: Compiled, terms: Callable[..., Terms]) -> None:  # noqa: F811
    guest = cilium("6.1-x86_64")
    contract = terms("contract", 'kconfig = "CONFIG_KMATRIX_TEST=7"', guest.target)
    report = survey(guest, compiled("contract", guest.target), contract=contract)
    assert report["error"]["text"] == "kconfig: cilium/ebpf takes no configuration of the kernel from its application"


def test_the_verifiers_words_are_whole(cilium: Cilium, compiled: Compiled) -> None:
    """cilium/ebpf shows one line of them unless it is asked for all."""
    guest = cilium("6.1-x86_64")
    report = survey(guest, compiled("verbose", guest.target))
    logs = [found["log"] for found in report["programs"].values() if not found["loaded"]]
    assert logs
    assert all("processed " in log for log in logs)


def test_a_verifier_that_takes_too_long_is_stopped(cilium: Cilium, compiled: Compiled) -> None:
    guest = cilium("6.1-x86_64")
    report = survey(guest, compiled("slow", guest.target), load_timeout=1.0)
    assert any(str(found["error"]).startswith("the verifier was still at work after 1 s") for found in report["programs"].values())
    assert left(guest) == NOTHING


def test_a_section_that_it_does_not_know_is_said(cilium: Cilium, compiled: Compiled) -> None:
    """cilium/ebpf goes by how a section's name begins, and leaves a program out where it knows no such beginning."""
    guest = cilium("6.1-x86_64")
    programs = survey(guest, compiled("sections", guest.target))["programs"]
    assert programs["numbered"]["loaded"]
    assert "program type is unspecified" in programs["unknown"]["error"]
    assert 'does not know SEC("mine")' in programs["unknown"]["error"]


def test_without_the_loader_in_the_guest_it_says_so(boot: Boot, compiled: Compiled) -> None:
    guest = boot("6.1-x86_64")
    report = survey(guest, compiled("hooks", guest.target))
    assert report["error"]["text"].startswith("the cilium loader is not in the guest")


def test_what_is_no_object_is_refused_in_its_words(cilium: Cilium) -> None:
    guest = cilium("6.1-x86_64")
    report = survey(guest, b"no ELF file" * 100)
    assert "bad magic number" in report["error"]["text"]


def test_a_loader_that_dies_is_an_outcome(cilium: Cilium, compiled: Compiled) -> None:
    """The agent goes on, and tells how it ended."""
    guest = cilium("6.1-x86_64")
    guest.vm.put("/run/kmatrix/vm/loaders/cilium", b"#!/bin/sh\necho fatal error: out of memory >&2\nexit 2\n", 0o755)
    report = survey(guest, compiled("hooks", guest.target))
    assert report["error"]["text"] == "cilium/ebpf's process ended (exit status 2); fatal error: out of memory"
    assert guest.vm.run(["true"]).exit == 0


def test_a_cell(cilium: Cilium) -> None:
    """The events of a collector that cilium/ebpf loads are read and judged as those of any other."""
    guest = cilium("6.1-x86_64")
    data = (Path(__file__).parents[2] / "collectors/openat/build/openat_ringbuf_x86_bpfel.o").read_bytes()
    event = {**EVENT, "name": "open", "min_size": 4, "fields": [{"name": "pid", "type": "u32"}]}
    more = {"programs": ["enter_openat", "exit_openat"], "transport": "ringbuf", "buffer": "events", "events": [event]}
    facts = guest.cell(data, library="cilium", **more)
    assert facts["running"] == "only", facts["attempts"]
    assert facts["counts"]["open"] >= 1
    assert all(found["runs"] for found in facts["attempts"][0]["programs"].values())
    during, after = facts["kernel"]["during"], facts["kernel"]["after"]
    assert {found["id"] for found in facts["attempts"][0]["programs"].values()} <= {each["id"] for each in during["programs"]}
    assert len(during["links"]) == 2
    assert (after["programs"], after["links"]) == ([], [])
