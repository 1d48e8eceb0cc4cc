"""The verdict, exhaustively: features × variants × facts."""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmatrix.manifest.collector import Collector
from kmatrix.manifest.types import BEHAVIOURS
from kmatrix.matrix.features import FEATURES
from kmatrix.matrix.kernel import Kernel, Target
from kmatrix.matrix.privileges import Privileges
from kmatrix.matrix.selection import Matrix
from kmatrix.verdict.expectation import Expectation, expected, only_warns
from kmatrix.verdict.failure import FAILURES
from kmatrix.verdict.judge import Verdict, verdict
from kmatrix.verdict.observation import observed
from tests.unit.facts import MANIFEST, PIN, STOPPED, demo, good

RELEVANT = ("btf", "ringbuf", "kprobes", "cgroup_id_helper")
subsets = st.sets(st.sampled_from(RELEVANT)).map(frozenset)


def target_with(features: frozenset[str], version: tuple[int, int] = (5, 10)) -> Target:
    return Target(Kernel("k", version, overrides={name: name in features for name in FEATURES}), "x86_64")


def matrix_of(target: Target) -> Matrix:
    return Matrix({target.kernel.name: target.kernel})


def expect(collector: Collector, target: Target) -> Expectation:
    return expected(collector, target, matrix_of(target))


def probe_of(target: Target) -> dict[str, bool | None]:
    return {name: name in target.features for name in FEATURES}


def facts_for(collector: Collector, target: Target) -> dict[str, Any]:
    """The facts of a collector that does exactly what is expected of it there."""
    expectation = expect(collector, target)
    order = [variant.name for variant in collector.variants]
    failed = order[: order.index(expectation.variant)] if expectation.variant else order
    return good(
        collector,
        expectation.variant,
        failed=tuple(failed),
        lacking=FEATURES.keys() - target.features,
        missing_programs=tuple(d.removeprefix("program:") for d in expectation.degradations if d.startswith("program:")),
        absent=tuple(d for d in expectation.degradations if d.startswith("field:")),
    )


def judge(collector: Collector, target: Target, facts: dict[str, Any], **more: Any) -> Verdict:
    probe = more.pop("probe", probe_of(target))
    seen = observed(collector, target, facts)
    return verdict(collector, target, expect(collector, target), seen, facts, probe=probe, **more)


ALL = frozenset(RELEVANT)


@pytest.mark.parametrize(
    ("features", "behaves", "variant"),
    [
        (ALL, "full", "ring"),
        (ALL - {"kprobes"}, "partial", "ring"),
        (ALL - {"cgroup_id_helper"}, "partial", "ring"),
        (ALL - {"ringbuf"}, "partial", "perf"),
        (ALL - {"btf"}, "fallback", "plain"),
        (frozenset(), "fallback", "plain"),
    ],
)
def test_expected_is_the_first_variant_whose_needs_are_declared(features: frozenset[str], behaves: str, variant: str) -> None:
    found = expect(demo(), target_with(features))
    assert (found.behaviour, found.variant) == (behaves, variant)


def test_below_min_kernel_is_a_refusal_naming_it() -> None:
    found = expect(demo(), target_with(ALL, (4, 9)))
    assert (found.behaviour, found.variant, found.missing) == ("refusal", None, frozenset({"kernel 4.14"}))


def test_no_variant_left_is_a_refusal_naming_what_is_missing() -> None:
    collector = demo(variant=[{"name": "ring", "behaviour": "full", "object": "r", "needs": ["btf", "ringbuf"]}], event=[])
    found = expect(collector, target_with(ALL - {"ringbuf"}))
    assert (found.behaviour, found.missing) == ("refusal", frozenset({"ringbuf"}))


def test_a_required_programs_needs_count_as_the_variants() -> None:
    programs = [
        {"name": "enter", "hook": "fentry/x", "needs": ["fentry"], "variants": ["ring"]},
        {"name": "enter", "hook": "kprobe/x", "variants": ["perf", "plain"]},
    ]
    assert expect(demo(program=programs), target_with(ALL)).variant == "perf"


def test_expect_entry_overrides_with_its_reason() -> None:
    entry = {"kernels": "k", "arch": "x86_64", "behaviour": "fallback", "reason": "shipped without BTF"}
    found = expect(demo(expect=[entry]), target_with(ALL))
    assert (found.behaviour, found.variant) == ("fallback", "plain")
    assert "shipped without BTF" in found.why
    other = {**entry, "arch": "arm64"}
    assert expect(demo(expect=[other]), target_with(ALL)).behaviour == "full"


@given(subsets)
def test_doing_what_is_expected_is_ok_whatever_the_features(features: frozenset[str]) -> None:
    collector, target = demo(), target_with(features)
    expectation = expect(collector, target)
    facts = facts_for(collector, target)
    assert observed(collector, target, facts).behaviour == expectation.behaviour
    found = judge(collector, target, facts)
    assert found.ok, found


@given(subsets, subsets)
def test_what_fits_one_kernel_is_ok_on_another_only_if_the_promise_is_the_same(here: frozenset[str], there: frozenset[str]) -> None:
    """Facts made for the features `there`, judged against the features `here`: ok exactly where the two promise the same."""
    collector = demo()
    wanted, done = expect(collector, target_with(here)), expect(collector, target_with(there))
    facts = facts_for(collector, target_with(there))
    found = judge(collector, target_with(here), facts)
    same = (wanted.variant, wanted.behaviour, wanted.degradations) == (done.variant, done.behaviour, done.degradations)
    assert found.ok == same
    if found.ok:
        return
    order = [variant.name for variant in collector.variants]
    if order.index(str(done.variant)) < order.index(str(wanted.variant)):
        assert found.failure == "better"
    elif done.variant != wanted.variant:
        assert found.failure == "load"  # the expected variant was tried and did not load
    else:
        assert found.failure == ("worse" if done.degradations - wanted.degradations else "better")


@given(subsets, st.sampled_from(RELEVANT))
def test_a_probe_that_disagrees_fails_as_table(features: frozenset[str], name: str) -> None:
    collector, target = demo(), target_with(features)
    facts = facts_for(collector, target)
    probe = probe_of(target)
    assert judge(collector, target, facts, probe=probe | {name: None}).ok  # the guest cannot tell
    found = judge(collector, target, facts, probe=probe | {name: not probe[name]})
    assert found.failure == "table"
    assert name in found.reason


def test_a_probe_of_a_feature_that_does_not_matter_to_the_collector_does_not_fail_it() -> None:
    collector, target = demo(), target_with(ALL)
    facts = facts_for(collector, target)
    assert judge(collector, target, facts, probe=probe_of(target) | {"fentry": True}).ok


Change = Callable[[dict[str, Any]], Any]


def _set(facts: dict[str, Any], *path: Any, to: Any) -> None:
    *head, last = path
    place: Any = facts
    for key in head:
        place = place[key]
    place[last] = to


@pytest.mark.parametrize(
    ("change", "failure", "says"),
    [
        (lambda f: f["counts"].clear(), "silent", "no open event"),
        (lambda f: _set(f, "events", 0, "fields", "pid", to=43), "wrong-data", "pid is 43, should be 42"),
        (lambda f: _set(f, "events", 0, "fields", "cgroup_id", to=1), "wrong-data", "cgroup_id is 1, should be 4711"),
        (lambda f: _set(f, "events", 0, "fields", "cgroup_id", to=0), "worse", "field:open.cgroup_id is missing too"),
        (lambda f: _set(f, "attempts", 0, "programs", "extra", "attached", to=False), "worse", "program:extra is missing too"),
        (lambda f: _set(f, "attempts", 0, "programs", "enter", "attached", to=False), "attach", "enter is not attached"),
        (lambda f: f["kernel"]["during"]["programs"].clear(), "load", "enter is not in the kernel"),
        (lambda f: _set(f, "kernel", "during", "maps", 0, "type", to="perf_event_array"), "load", "is perf, declared as ringbuf"),
        (lambda f: f["kernel"]["after"]["pins"].append(PIN), "leftover", PIN),
        (lambda f: f["kernel"]["after"]["maps"].append({"id": 99, "name": "m", "type": "hash"}), "leftover", "map m"),
        (lambda f: f["kernel"]["after"]["kprobe_events"].append("p:x do_exit"), "leftover", "p:x do_exit"),
        (lambda f: f["kernel"]["during"]["programs"].append({"id": 98, "name": "q", "type": "kprobe"}), "leftover", "program q"),
        (lambda f: f.update(running=None, refusal="no", events=[]), "worse", "it was not tried; nothing runs"),
    ],
)
def test_one_thing_wrong_is_said_with_its_class(change: Change, failure: str, says: str) -> None:
    collector, target = demo(), target_with(ALL)
    facts = good(collector, "ring")
    assert judge(collector, target, facts).ok
    change(facts)
    if facts["running"] is None:
        facts["kernel"]["during"] = copy.deepcopy(facts["kernel"]["before"])
    found = judge(collector, target, facts)
    assert (found.ok, found.failure) == (False, failure)
    assert says in found.reason


def test_all_that_was_found_is_said_the_gravest_first() -> None:
    collector, target = demo(), target_with(ALL)
    facts = good(collector, "ring")
    facts["counts"].clear()
    facts["attempts"][0]["programs"]["enter"]["runs"] = 0
    facts["kernel"]["after"]["pins"].append(PIN)
    first, *others = judge(collector, target, facts).reason.splitlines()
    assert first == "no open event arrived after the trigger"
    assert others == [
        "also: ring: program enter is attached to tracepoint/syscalls/sys_enter_openat and never ran",
        f"also: pinned object {PIN} is still there afterwards",
    ]
    facts["kernel"]["after"]["pins"] += [f"{PIN}{number}" for number in range(9)]
    assert judge(collector, target, facts).reason.splitlines()[-1] == "and 6 more"


@pytest.mark.parametrize(("runs", "fires", "ok"), [(0, True, False), (3, True, True), (None, True, True), (0, False, True)])
def test_a_program_that_is_attached_and_never_runs_is_silent(runs: int | None, fires: bool, ok: bool) -> None:
    programs = [{"name": "enter", "hook": "kprobe/do_exit", "fires": fires}]
    collector = demo(program=programs)
    facts = good(collector, "ring")
    facts["attempts"][-1]["programs"]["enter"]["runs"] = runs
    found = judge(collector, target_with(ALL), facts)
    assert (found.ok, found.failure) == (ok, None if ok else "silent")
    facts["trigger"] = {"ok": False, "after": {"ok": True}}
    assert judge(collector, target_with(ALL), facts).failure == "worse"


def test_a_splat_outweighs_everything() -> None:
    collector, target = demo(), target_with(ALL)
    facts = good(collector, "ring")
    facts["counts"].clear()
    assert judge(collector, target, facts, splat="BUG: unable to handle").failure == "kernel"


def test_the_expected_variant_that_did_not_load_says_the_verifiers_last_words() -> None:
    found = judge(demo(), target_with(ALL), good(demo(), "plain", failed=("ring", "perf")))
    assert found.failure == "load"
    assert found.reason == "ring: program enter: EINVAL: unknown func; plain runs instead"


def test_attach_is_told_apart_from_load() -> None:
    facts = good(demo(), "perf", failed=("ring",))
    facts["attempts"][0]["stage"] = "attach"
    assert judge(demo(), target_with(ALL), facts).failure == "attach"


def with_rights(target: Target, *caps: str) -> Target:
    return replace(target, kernel=replace(target.kernel, privileges=Privileges(caps=caps)))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EINVAL])
def test_where_circumstances_leave_few_rights_what_is_not_permitted_may_stop_any_step(number: int) -> None:
    """A variant as a whole, and an optional program."""
    refused, plain = number != errno.EINVAL, target_with(ALL - {"ringbuf"})
    facts = good(demo(), "perf", failed=("ring",))
    facts["attempts"][0]["error"] = {"errno": number, "text": "prog 'enter': BPF program load failed"}
    assert judge(demo(), plain, facts).failure == "load"
    assert judge(demo(), with_rights(plain, "sys_admin"), facts).ok is refused
    programs = [MANIFEST["program"][0], {"name": "extra", "hook": "cgroup_skb/egress", "required": False, "needs": ["cgroup_v2"]}]
    collector = demo(program=programs)
    facts = good(collector, "perf", failed=("ring",), lacking=("ringbuf",), missing_programs=("extra",))
    facts["attempts"][-1]["programs"]["extra"].update(errno=number, error="BPF program load failed")
    assert judge(collector, plain, facts).failure == "load"
    assert judge(collector, with_rights(plain, "sys_admin"), facts).ok is refused


def test_where_circumstances_leave_few_rights_a_refusal_may_name_the_right() -> None:
    collector = demo(variant=[{"name": "ring", "behaviour": "full", "object": "r", "needs": ["btf", "ringbuf"]}], event=[])
    plain = target_with(ALL - {"ringbuf"})
    few = with_rights(plain)
    facts = good(collector, None, failed=("ring",), lacking=("ringbuf",), refusal="cannot load: Operation not permitted")
    probe = {"btf": True, "ringbuf": False}
    assert judge(collector, plain, facts, probe=probe).failure == "worse"
    assert judge(collector, few, facts, probe=probe).ok


def test_a_refusal_must_name_what_is_missing_and_leave_nothing() -> None:
    collector = demo(variant=[{"name": "ring", "behaviour": "full", "object": "r", "needs": ["btf", "ringbuf"]}], event=[])
    target = target_with(ALL - {"ringbuf"})
    assert judge(collector, target, good(collector, None, failed=("ring",), lacking=("ringbuf",), refusal="needs ringbuf")).ok
    mute = judge(collector, target, good(collector, None, failed=("ring",), lacking=("ringbuf",), refusal="sorry"))
    assert (mute.failure, "ringbuf" in mute.reason) == ("worse", True)
    broken = good(collector, None, failed=("ring",), lacking=("ringbuf",), refusal="needs ringbuf")
    broken["trigger"] = {"ok": False, "exit": None, "error": "no answer", "after_refusal": True}
    cut = judge(collector, target, broken)
    assert (cut.failure, "after the refusal the trigger fails (no answer)" in cut.reason) == ("worse", True)
    broken["trigger"]["ok"] = True
    assert judge(collector, target, broken).ok
    stray = good(collector, None, failed=("ring",), lacking=("ringbuf",), refusal="needs ringbuf")
    stray["kernel"]["after"]["pins"].append(PIN)
    assert judge(collector, target, stray).failure == "leftover"


@pytest.mark.parametrize(
    ("lacks", "error", "stage", "failure"),
    [
        ("ringbuf", (22, "map 'events': failed to create: Invalid argument(-22)"), "load", None),
        ("ringbuf", (1, "map 'events': failed to create: Operation not permitted(-1)"), "load", "load"),
        ("ringbuf", (22, "prog 'enter': BPF program load failed: Invalid argument"), "load", "load"),
        ("ringbuf", (2, "prog 'enter': failed to attach"), "attach", "attach"),
        ("ringbuf", (None, "the object has no program enter"), "open", "load"),
        ("btf", (3, "failed to find valid kernel BTF; Error loading vmlinux BTF: -3"), "load", None),
        ("btf", (22, "map 'events': failed to create: Invalid argument(-22)"), "load", "load"),
    ],
)
def test_a_variant_fails_of_what_it_lacks_and_of_nothing_else(
    lacks: str, error: tuple[Any, str], stage: str, failure: str | None
) -> None:
    """A broken object must not pass for a missing feature: in a refusal, nor where another variant runs instead."""
    needy = {"name": "ring", "behaviour": "full", "object": "r", "needs": [lacks]}
    target = target_with(ALL - {lacks})
    for collector, running in (
        (demo(variant=[needy], event=[]), None),
        (demo(variant=[needy, {"name": "bare", "behaviour": "fallback", "object": "b"}], event=[]), "bare"),
    ):
        facts = good(collector, running, failed=("ring",), refusal=f"needs {lacks}")
        facts["attempts"][0].update(stage=stage, error={"errno": error[0], "text": error[1]}, programs={})
        found = judge(collector, target, facts)
        assert found.failure == failure, found
        assert failure is None or error[1] in found.reason


def test_an_optional_program_is_missing_of_what_it_lacks_and_of_nothing_else() -> None:
    programs = [MANIFEST["program"][0], {"name": "extra", "hook": "cgroup_skb/egress", "required": False, "needs": ["cgroup_v2"]}]
    collector, target = demo(program=programs), target_with(ALL - {"ringbuf"})
    facts = good(collector, "perf", failed=("ring",), missing_programs=("extra",))
    facts["attempts"][0]["error"]["text"] = STOPPED["ringbuf"]
    report = facts["attempts"][-1]["programs"]["extra"]
    report.update(loaded=True, error="no cgroup2 is mounted")
    lacking = target_with(target.features - {"cgroup_v2"})
    assert judge(collector, lacking, facts).ok
    report.update(loaded=False, error="EINVAL", log="R1 invalid mem access\n")
    found = judge(collector, lacking, facts)
    assert (found.failure, "program extra lacks cgroup_v2" in found.reason) == ("load", True)


def test_a_refusal_that_an_expect_entry_wants_says_what_it_wants() -> None:
    entry = {"kernels": "k", "behaviour": "refusal", "message": "no perf [a-z]+ here", "reason": "perf is locked down"}
    collector, target = demo(expect=[entry]), target_with(ALL)
    facts = good(collector, None, failed=("ring", "perf", "plain"), refusal="no perf events here")
    assert judge(collector, target, facts).ok
    facts["refusal"] = "ENOMEM"
    assert judge(collector, target, facts).failure == "worse"


def test_a_green_cell_in_which_nothing_is_seen_to_run_says_so() -> None:
    collector = demo(variant=[{"name": "bare", "behaviour": "full", "object": "b"}], event=[])
    facts = good(collector, "bare")
    facts["attempts"][0]["programs"]["enter"]["runs"] = None
    found = judge(collector, target_with(ALL), facts)
    assert (found.ok, "nothing shows that it ran" in found.reason) == (True, True)
    facts["attempts"][0]["programs"]["enter"]["runs"] = 1
    assert "nothing shows" not in judge(collector, target_with(ALL), facts).reason


def test_running_where_a_refusal_is_expected_is_better() -> None:
    collector = demo(
        variant=[
            {"name": "ring", "behaviour": "full", "object": "r", "needs": ["ringbuf"], "transport": "ringbuf", "buffer": "events"}
        ]
    )
    assert judge(collector, target_with(ALL - {"ringbuf"}), good(collector, "ring")).failure == "better"


@pytest.mark.parametrize(
    ("check", "value", "ok"),
    [
        ({"nonzero": True}, 0, False),
        ({"nonzero": True}, 3, True),
        ({"min": 4, "max": 6}, 3, False),
        ({"min": 4, "max": 6}, 7, False),
        ({"min": 4, "max": 6}, 5, True),
        ({"one_of": [1, 2]}, 3, False),
        ({"one_of": [1, "known.pid"]}, 42, True),
        ({"contains": "known.comm"}, "/tmp/ab", True),
        ({"contains": "zz"}, "/tmp/ab", False),
        ({"equals": "literal"}, "literal", True),
        ({"equals": "literal"}, "other", False),
    ],
)
def test_each_check_of_a_field(check: dict[str, Any], value: Any, ok: bool) -> None:
    field = {"name": "value", "type": "char[8]" if isinstance(value, str) else "u32", **check}
    collector = demo(event=[{"name": "open", "field": [field]}])
    facts = good(collector, "ring")
    facts["events"][0]["fields"] = {"value": value}
    facts["known"]["comm"] = "ab"
    assert judge(collector, target_with(ALL), facts).ok == ok


def test_every_class_has_a_meaning_and_behaviours_are_ordered() -> None:
    assert BEHAVIOURS == ("refusal", "fallback", "partial", "full")
    assert set(FAILURES) >= {
        "worse",
        "better",
        "table",
        "load",
        "attach",
        "silent",
        "wrong-data",
        "leftover",
        "kernel",
        "infra",
    }


def test_a_trigger_that_fails_only_while_the_collector_runs_is_worse() -> None:
    facts = good(demo(), "ring")
    facts["counts"].clear()
    facts["trigger"] = {"ok": False, "error": "openat answers EPERM", "after": {"ok": True}}
    found = judge(demo(), target_with(ALL), facts)
    assert (found.failure, "does not work as before" in found.reason) == ("worse", True)


def test_more_events_than_max_count_are_wrong_data() -> None:
    collector = demo(event=[{**MANIFEST["event"][0], "max_count": 1}])
    facts = good(collector, "ring")
    assert judge(collector, target_with(ALL), facts).ok
    facts["counts"]["open"] = 2
    found = judge(collector, target_with(ALL), facts)
    assert (found.failure, "2 open events arrived, at most 1 should" in found.reason) == ("wrong-data", True)


def test_a_right_value_that_equals_absent_is_there_where_it_is_promised() -> None:
    facts = good(demo(), "ring")
    facts["known"]["cgroup_id"] = 0
    facts["events"][0]["fields"]["cgroup_id"] = 0
    assert judge(demo(), target_with(ALL), facts).ok
    assert judge(demo(), target_with(ALL - {"cgroup_id_helper"}), facts).ok


def test_a_program_that_is_only_loaded_need_not_attach() -> None:
    programs = [*MANIFEST["program"], {"name": "tail", "hook": "tracepoint", "attach": False}]
    collector = demo(program=programs)
    facts = good(collector, "ring")
    facts["attempts"][0]["programs"]["tail"]["attached"] = False
    assert judge(collector, target_with(ALL), facts).ok
    facts["kernel"]["during"]["programs"] = [p for p in facts["kernel"]["during"]["programs"] if p["id"] != 22]
    assert judge(collector, target_with(ALL), facts).failure == "load"


def test_a_failed_attempt_is_not_blamed_on_an_optional_program() -> None:
    facts = good(demo(), "plain", failed=("ring", "perf"))
    facts["attempts"][0]["programs"] = {"extra": {"id": None, "error": "no such function", "log": ""}} | facts["attempts"][0][
        "programs"
    ]
    assert judge(demo(), target_with(ALL), facts).reason.startswith("ring: program enter:")


def test_a_variants_name_does_not_name_the_missing_feature() -> None:
    collector = demo(variant=[{"name": "core-ringbuf", "behaviour": "full", "object": "r", "needs": ["ringbuf"]}], event=[])
    target = target_with(ALL - {"ringbuf"})
    said = good(collector, None, failed=("core-ringbuf",), refusal="core-ringbuf: cannot load")
    assert judge(collector, target, said).failure == "worse"
    said["refusal"] = "core-ringbuf: cannot load (the kernel lacks ringbuf)"
    assert judge(collector, target, said).ok


def test_what_moves_on_warns_unless_the_manifest_names_it() -> None:
    def warns(kernels: str | None, *, moving: bool = True) -> bool:
        entry = {"kernels": kernels, "behaviour": "full", "reason": "a promise"}
        target = Target(Kernel("latest", (7, 2), moving=moving), "arm64")
        return only_warns(demo(expect=[entry] if kernels else []), target)

    assert warns(None)
    assert warns(">=7.0")
    assert not warns("6.1, latest")
    assert not warns(None, moving=False)
