"""Features with a parameter, and a project's own names: what is understood, what follows from a version, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kmatrix.guest.facts import FACTS
from kmatrix.host.errors import InputError
from kmatrix.manifest import schema as collectors
from kmatrix.manifest.collector import Collector
from kmatrix.matrix import schema
from kmatrix.matrix.arch import ARCHES
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Kernel, Target, Variation, vary
from kmatrix.matrix.load import load_matrix
from kmatrix.matrix.parameters import KINDS, SAME, BadName, Definition, certain, feature, leaves
from kmatrix.matrix.schema import Document
from kmatrix.matrix.selection import Matrix
from kmatrix.runs import cell
from kmatrix.runs.machine_room import Finding, MachineRoom
from kmatrix.verdict.expectation import expected, undeclared
from kmatrix.verdict.judge import table_mismatches
from tests.unit.facts import manifest

MATRIX = load_matrix(Path("/"))

EXAMPLES = (
    "helper:bpf_loop", "helper:bpf_loop@kprobe", "map:bloom_filter", "prog:lsm", "attach:tcx_ingress", "link:kprobe_multi",
    "kfunc:bpf_task_acquire", "insn:atomic_fetch", "btf:task_struct.__state", "btf:struct bpf_lpm_trie_key_u8", "btf:func/inet_csk_accept/4",
    "symbol:tcp_v4_syn_recv_sock", "tracepoint:sched/sched_process_exit", "tracepoint-field:syscalls/sys_enter_openat.flags",
    "config:BPF_LSM", "config:HZ=250", "sysctl:kernel.unprivileged_bpf_disabled=0", "module:nf_conntrack",
)  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_form_is_understood(name: str) -> None:
    assert feature(name).name == name


def test_every_kind_has_a_probe_and_every_dated_kind_a_table() -> None:
    probe_facts = pytest.importorskip("kmatrix.guest.probe_facts", reason="libbpf is not on this machine", exc_type=OSError)
    assert set(KINDS) == {*probe_facts.PROBES, "config"}
    assert set(FACTS) <= set(KINDS)
    for name in SAME:
        feature(name)
    assert set(SAME.values()) <= set(FEATURES)


@pytest.mark.parametrize("kind", FACTS)
def test_every_name_of_the_tables_is_a_feature(kind: str) -> None:
    for name in FACTS[kind]:
        assert feature(f"{kind}:{name}").first("arm64") >= feature(f"{kind}:{name}").first("x86_64") > (2, 6)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ringbuff", "unknown feature 'ringbuff'; did you mean ringbuf"),
        ("halper:bpf_loop", "unknown kind 'halper' in 'halper:bpf_loop'; did you mean helper?"),
        ("helper:bpf_lop", "there is no helper function 'bpf_lop'; did you mean bpf_loop"),
        ("helper:loop", "did you mean helper:bpf_loop?"),
        ("helper:bpf_loop@kprob", "there is no program type 'kprob'; did you mean kprobe"),
        ("helper:bpf_loop@ext", "no probe can decide this"),
        ("map:bloomfilter", "there is no map type 'bloomfilter'; did you mean bloom_filter?"),
        ("map:unspec", "there is no map type"),
        ("insn:atomic_fetsh", "did you mean atomic_fetch?"),
        ("kfunc:bpf_task_aquire", "did you mean bpf_task_acquire"),
        ("map:", "does not have the form"),
        ("btf:task_struct..x", "does not have the form"),
        ("btf:func/f/x", "does not have the form"),
        ("symbol:a b", "does not have the form"),
        ("tracepoint:sched", "does not have the form"),
        ("tracepoint-field:sched/sched_switch", "does not have the form"),
        ("config:CONFIG_BPF_LSM", "does not have the form"),
        ("sysctl:unprivileged_bpf_disabled=0", "does not have the form"),
        ("module:a/b", "does not have the form"),
    ],
)
def test_a_wrong_name_is_told(name: str, says: str) -> None:
    with pytest.raises(BadName) as error:
        feature(name)
    assert says in str(error.value)
    assert error.value.fix
    wrong = manifest(variant=[{"name": "ring", "behaviour": "full", "object": "x", "needs": [name]}])
    with pytest.raises(InputError) as told:
        collectors.parse(wrong, path=Path("/demo/collector.toml"))
    assert says in str(told.value)
    assert "variant[0].needs" in str(told.value)
    with pytest.raises(InputError) as told:
        schema.parse(Document("k.toml", {"schema": 1, "kernels": {"5.9": {"version": "5.9", "features": {name: True}}}}))
    assert says in str(told.value)


@pytest.mark.parametrize(
    ("name", "x86_64", "arm64"),
    [
        ("helper:bpf_loop", (5, 17), (5, 17)),
        ("map:bloom_filter", (5, 16), (5, 16)),
        ("insn:atomic_fetch", (5, 12), (5, 18)),
        ("insn:tail_call_in_function", (5, 10), (6, 0)),
        ("attach:trace_fentry", (5, 5), (6, 4)),
        ("attach:tcx_ingress", (6, 6), (6, 6)),
        ("link:kprobe_multi", (5, 18), (6, 14)),
        ("kfunc:bpf_task_acquire", (6, 2), (6, 2)),
    ],
)
def test_a_first_release_decides(name: str, x86_64: tuple[int, int], arm64: tuple[int, int]) -> None:
    for arch, since in zip(ARCHES, (x86_64, arm64), strict=True):
        assert Kernel("k", since).has(name, arch) is True
        assert Kernel("k", (since[0], since[1] - 1)).has(name, arch) is False


def test_what_a_kernel_declares_comes_before_its_version() -> None:
    backport = Kernel("k", (4, 18), overrides={"helper:bpf_loop": True, "map:ringbuf": {"arm64": True}, "perf_link": True})
    assert backport.has("helper:bpf_loop", "x86_64") is True
    assert (backport.has("map:ringbuf", "x86_64"), backport.has("map:ringbuf", "arm64")) == (False, True)
    assert backport.has("link:perf_event", "x86_64") is True  # it means the same as perf_link
    assert Kernel("k", (6, 1), config={"FPROBE": False}).has("link:kprobe_multi", "x86_64") is False
    assert Kernel("k", (6, 1), overrides={"btf": False}).has("kfunc:bpf_key_put", "x86_64") is False


def test_facts_of_an_image_are_declared_or_not_known() -> None:
    kernel = Kernel("k", (6, 1), overrides={"symbol:vfs_open": True}, config={"BPF_LSM": True, "KPROBES": False})
    assert kernel.has("symbol:vfs_open", "arm64") is True
    assert kernel.has("symbol:vfs_read", "arm64") is None
    assert (kernel.has("config:BPF_LSM", "arm64"), kernel.has("config:KPROBES", "arm64")) == (True, False)
    assert kernel.has("config:HZ=250", "arm64") is None
    assert kernel.has("helper:bpf_loop@kprobe", "arm64") is None
    assert Kernel("k", (5, 16)).has("helper:bpf_loop@kprobe", "arm64") is False
    assert Kernel("k", (4, 14), overrides={"btf": False}).has("btf:task_struct.pid", "arm64") is False
    assert (
        Kernel("k", (6, 1), overrides={"syscall_tracepoints": False}).has("tracepoint:syscalls/sys_enter_openat", "arm64") is False
    )


def test_a_variant_of_a_kernel_has_not_what_its_options_take_away() -> None:
    nobtf = vary(MATRIX.kernel("6.12"), "k", Variation(build=("nobtf",)), "k.toml")
    assert nobtf.has("prog:tracing", "x86_64") is False
    assert nobtf.has("btf:task_struct.pid", "x86_64") is False
    assert nobtf.has("map:ringbuf", "x86_64") is True


@pytest.mark.parametrize("arch", ARCHES)
def test_a_simulated_kernel_has_not_what_is_hidden(arch: Any) -> None:
    old, nobtf = MATRIX.kernel("5.4-sim"), MATRIX.kernel("6.1-nobtf")
    assert old.has("helper:bpf_loop", arch) is False
    assert old.has("helper:bpf_send_signal", arch) is True
    assert old.has("map:ringbuf", arch) is False
    assert old.has("link:cgroup", arch) is False
    assert old.has("insn:atomic_fetch", arch) is False
    assert old.has("attach:lsm_mac", arch) is False
    assert old.has("btf:task_struct.pid", arch) is None
    assert nobtf.has("btf:task_struct.pid", arch) is False
    assert nobtf.has("kfunc:bpf_key_put", arch) is False
    assert nobtf.has("map:ringbuf", arch) is True


# -- own names ---------------------------------------------------------------------------------------------------------------

STR = {"any": ["helper:bpf_probe_read_user_str", "helper:bpf_probe_read_str"]}


def matrix(**features: Any) -> Matrix:
    kernels = {"5.4": {"version": "5.4"}, "6.1": {"version": "6.1"}}
    return schema.parse(Document("k.toml", {"schema": 1, "kernels": kernels, "features": features}))


def test_own_names_stand_for_any_or_all() -> None:
    defined = matrix(text=STR, both={"all": ["text", "ringbuf"]}, none={"all": ["btf:task_struct.x", "map:arena"]}).defined
    for name, has in {"text": True, "both": False, "none": False}.items():
        assert Target(Kernel("k", (5, 4)), "x86_64").knowing(defined).has(name) is has
    newer = Target(Kernel("k", (6, 9)), "x86_64").knowing(defined)
    assert newer.has("both") is True
    assert newer.has("none") is None
    assert newer.knowing(defined, {"btf:task_struct.x": True}).has("none") is True
    assert leaves(["both"], defined) == (*STR["any"], "ringbuf")
    assert certain(["both", "btf"], defined) == {"ringbuf", "btf"}


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"a": {"any": ["b"]}, "b": {"all": ["a"]}}, "the definition is circular: a → b → a"),
        ({"a": {"any": ["a"]}}, "the definition is circular: a → a"),
        ({"ringbuf": {"any": ["btf"]}}, "'ringbuf' is a feature of kmatrix's own"),
        ({"A-b": {"any": ["btf"]}}, "cannot name a feature"),
        ({"a": {"any": ["ringbuff"]}}, "unknown feature 'ringbuff'; did you mean ringbuf"),
        ({"a": {"any": ["btf"], "all": ["btf"]}}, "write any ="),
        ({"a": {}}, "write any ="),
        ({"a": {"some": ["btf"]}}, "unknown key"),
    ],
)
def test_a_wrong_definition_is_told(features: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        matrix(**features)
    assert says in str(error.value)
    assert "features" in str(error.value)
    with pytest.raises(InputError) as error:
        collectors.parse(manifest(features=features), path=Path("/demo/collector.toml"))
    assert says in str(error.value)


def test_a_manifest_uses_its_own_names_and_those_of_kernels_toml() -> None:
    needs = [
        {"name": "ring", "behaviour": "full", "object": "ring", "needs": ["text", "mine"], "transport": "ringbuf", "buffer": "e"}
    ]
    data = manifest(variant=needs, features={"mine": {"all": ["btf", "text"]}})
    found = collectors.parse(data, path=Path("/demo/collector.toml"), defined=matrix(text=STR).defined)
    assert {*STR["any"], "btf"} <= found.relevant_features("x86_64")
    with pytest.raises(InputError, match=r"features\.mine: unknown feature 'text'"):
        collectors.parse(data, path=Path("/demo/collector.toml"))


def test_a_definition_needs_one_decisive_part() -> None:
    either, both = Definition("a", ("x", "y"), True), Definition("a", ("x", "y"), False)
    assert either.there({"x": None, "y": True}.get) is True
    assert either.there({"x": None, "y": False}.get) is None
    assert both.there({"x": None, "y": False}.get) is False
    assert both.there({"x": True, "y": None}.get) is None


# -- what is expected --------------------------------------------------------------------------------------------------------


def demo(needs: list[str], **more: Any) -> Collector:
    variants = [
        {"name": "new", "behaviour": "full", "object": "ring", "needs": needs, "transport": "ringbuf", "buffer": "events"},
        {"name": "old", "behaviour": "partial", "object": "perf", "transport": "perf", "buffer": "events"},
    ]
    return collectors.parse(manifest(variant=variants, **more), path=Path("/demo/collector.toml"))


@pytest.mark.parametrize(
    ("kernel", "variant"), [("5.10", "old"), ("5.15", "old"), ("6.1", "new"), ("6.1-nobtf", "new"), ("5.4-sim", "old")]
)
@pytest.mark.parametrize("arch", ARCHES)
def test_the_expected_variant_follows_from_what_is_declared(kernel: str, variant: str, arch: Any) -> None:
    found = expected(demo(["helper:bpf_loop"]), Target(MATRIX.kernel(kernel), arch), MATRIX)
    assert found.variant == variant
    assert found.missing == (frozenset() if variant == "new" else {"helper:bpf_loop"})


def test_what_nothing_declares_is_as_it_was_found() -> None:
    collector, target = demo(["btf:task_struct.__state"]), Target(MATRIX.kernel("6.1"), "x86_64")
    assert undeclared(collector, target) == ["btf:task_struct.__state"]
    assert expected(collector, target, MATRIX).variant == "old"
    for there, variant in ((True, "new"), (False, "old")):
        known = target.knowing(collector.defined, {"btf:task_struct.__state": there})
        found = expected(collector, known, MATRIX)
        assert found.variant == variant
        assert "not declared, so as found in the guest: btf:task_struct.__state is" in found.why
        assert table_mismatches(collector, known, {"btf:task_struct.__state": there}) == []


def test_a_declared_fact_that_the_guest_finds_otherwise_is_a_mismatch() -> None:
    collector = demo(["helper:bpf_loop", "mine"], features={"mine": {"any": ["map:bloom_filter"]}})
    target = Target(MATRIX.kernel("6.1"), "arm64").knowing(collector.defined)
    assert table_mismatches(collector, target, {"helper:bpf_loop": False, "map:bloom_filter": True}) == [
        "helper:bpf_loop is declared present, the guest finds it absent"
    ]


def test_what_the_guest_cannot_tell_must_be_declared(tmp_path: Path) -> None:
    collector, target = demo(["module:nf_conntrack"]), Target(MATRIX.kernel("5.4"), "x86_64")
    blind = cast(
        MachineRoom, SimpleNamespace(found=lambda _, names: {name: Finding(None, "there is no /lib/modules") for name in names})
    )
    one = cell._Cell(collector, target, blind, tmp_path, expected(collector, target, MATRIX), ())
    with pytest.raises(InputError) as error:
        one._look_up()
    assert "module:nf_conntrack: the guest of 5.4-x86_64 cannot tell (there is no /lib/modules), and nothing declares it" in str(
        error.value
    )
    assert '"module:nf_conntrack" = true' in str(error.value.fix)
