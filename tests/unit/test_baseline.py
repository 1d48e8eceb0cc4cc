"""Baselines: the file, and what a run is found to be against one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.matrix.load import load_matrix
from kmatrix.objects.compiled import ObjectInfo
from kmatrix.report import baseline as report
from kmatrix.runs import baseline
from kmatrix.runs.baseline import Baseline
from kmatrix.runs.comparison import Comparison, Difference, check_objects, check_targets, compare
from kmatrix.runs.object_run import Outcome

OLD, NEW = "5.10-x86_64", "6.1-x86_64"
RELEASES = {OLD: "5.10.0-32-amd64", NEW: "6.1.0-50-amd64"}


def good(via: str = "link") -> dict[str, Any]:
    return {"loaded": True, "attached": True, "via": via, "error": None, "diagnosis": None}


def bad(kind: str = "helper", what: str = "helper bpf_loop, since 5.17", *, loaded: bool = False) -> dict[str, Any]:
    diagnosis = {"kind": kind, "headline": what}
    return {"loaded": loaded, "attached": False, "via": None, "error": "Invalid argument", "log": "", "diagnosis": diagnosis}


OFF = {"loaded": False, "attached": False, "via": None, "error": None, "diagnosis": None, "off": True}
"""What its loader leaves out."""


def unknown(log: str) -> dict[str, Any]:
    return {"loaded": False, "attached": False, "via": None, "error": "Permission denied", "log": log, "diagnosis": None}


def info(path: Path, data: bytes = b"object") -> ObjectInfo:
    return ObjectInfo(path, data, {}, frozenset(), True, False, None)


def made(folder: Path, *outcomes: Outcome, data: bytes = b"object", releases: dict[str, str] = RELEASES) -> Baseline:
    """The baseline of a run of build/a.o."""
    path = folder / "build" / "a.o"
    return baseline.of_run({path: outcomes}, [info(path, data)], releases, folder)


def run(programs: dict[str, Any], target: str = NEW, **more: Any) -> Outcome:
    return Outcome(target, programs=programs, **more)


def differences(tmp_path: Path, before: Outcome, after: Outcome) -> list[Difference]:
    return list(compare(made(tmp_path, before), made(tmp_path, after), [before.target]).differences)


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    maps = {"events": {"error": "Invalid argument", "diagnosis": {"kind": "map-type", "headline": "map type ringbuf, since 5.8"}}}
    saved = made(
        tmp_path,
        run({"exit": good(), "enter": bad()}, simulated="6.1 as of 5.4"),
        run({"enter": good("perf_event"), "exit": unknown("R1 !read_ok\nprocessed 3 insns")}, OLD, maps=maps),
    )
    baseline.write(saved, tmp_path / "b.json")
    assert baseline.read(tmp_path / "b.json") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]  # no temporary file


def test_the_file_has_a_sorted_line_for_each_program_on_each_target(tmp_path: Path) -> None:
    first = run({"exit": good(), "enter": bad()}), run({"enter": good(), "exit": good()}, OLD)
    text = baseline.text(made(tmp_path, *first))
    assert text == baseline.text(made(tmp_path, *reversed(first)))
    assert [line.strip().rstrip(",") for line in text.splitlines() if '"state"' in line] == [
        f'"{OLD}": {{"state": "attached", "via": "link"}}',
        f'"{NEW}": {{"state": "not loaded", "class": "helper", "cause": "helper bpf_loop, since 5.17"}}',
        f'"{OLD}": {{"state": "attached", "via": "link"}}',
        f'"{NEW}": {{"state": "attached", "via": "link"}}',
    ]
    assert text.index('"enter"') < text.index('"exit"')
    assert [*json.loads(text)] == ["schema", "kmatrix", "targets", "objects"]


def test_addresses_in_a_kernels_words_do_not_make_a_difference(tmp_path: Path) -> None:
    before, after = (run({"enter": unknown(f"R1 is at 0xffff8880{number}\n")}) for number in ("12345678", "9abcdef0"))
    assert "ffff" not in baseline.text(made(tmp_path, before))
    assert differences(tmp_path, before, after) == []


def test_objects_are_named_as_seen_from_the_baselines_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path / "build")
    assert baseline.name_of(Path("a.o"), tmp_path) == "build/a.o"
    assert baseline.name_of(tmp_path / "build" / "a.o", Path()) == "a.o"
    assert baseline.name_of(tmp_path / "c.o", Path()) == "../c.o"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "this is not JSON"),
        ("[]", 'it has no "schema": "kmatrix.baseline/1"'),
        ('{"schema": "kmatrix.cell/1"}', 'it has no "schema"'),
        ('{"schema": "kmatrix.baseline/2"}', "schema 'kmatrix.baseline/2' is of another version of kmatrix"),
        ('{"schema": "kmatrix.baseline/1", "kmatrix": "1", "targets": {}}', "not a whole baseline: objects"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError) as error:
        baseline.read(tmp_path / "b.json")
    assert says in error.value.message
    assert error.value.fix is not None
    assert "--save" in error.value.fix


def test_of_many_wrong_lines_the_first_is_told(tmp_path: Path) -> None:
    text = baseline.text(made(tmp_path, run({"enter": good(), "exit": good()})))
    (tmp_path / "b.json").write_text(text.replace('"state": "attached"', '"state": "atached"'))
    with pytest.raises(InputError, match=r"build/a.o > programs > enter > 6.1-x86_64 > state.*\(and 1 more like it\)"):
        baseline.read(tmp_path / "b.json")


def test_what_is_no_baseline_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.o").write_bytes(b"\x7fELF\xff")
    with pytest.raises(InputError, match="this file is no baseline"):
        baseline.check_writable(tmp_path / "a.o")
    with pytest.raises(InputError, match="no such folder"):
        baseline.check_writable(tmp_path / "nowhere" / "b.json")
    assert baseline.check_writable(tmp_path / "new.json") is None
    (tmp_path / "old.json").write_text('{"schema": "kmatrix.baseline/0"}')  # of another version: written anew
    assert baseline.check_writable(tmp_path / "old.json") is None
    saved = made(tmp_path, run({"enter": good()}))
    baseline.write(saved, tmp_path / "b.json")
    assert baseline.check_writable(tmp_path / "b.json") == saved


def test_the_same_is_no_difference(tmp_path: Path) -> None:
    outcome = run({"enter": good(), "exit": bad()})
    found = compare(made(tmp_path, outcome), made(tmp_path, outcome), [NEW])
    assert (list(found.differences), found.programs) == ([], 2)


@pytest.mark.parametrize(
    ("before", "after", "group"),
    [
        (good(), bad(), "worse"),
        (good(), bad("symbol", "no such function", loaded=True), "worse"),
        (bad("symbol", "no such function", loaded=True), bad(), "worse"),
        (bad(), good(), "better"),
        (bad(), bad("placeholder", "dummy_read stands for …"), "better"),
        (bad("placeholder", "dummy_read stands for …", loaded=True), good(), "better"),
        (good() | {"attached": None, "via": None}, good(), "better"),
        (bad(), bad("map-type", "map type ringbuf, since 5.8"), "changed"),
        (bad(), bad("helper", "helper bpf_strncmp, since 5.17"), "changed"),
        (good("perf_event"), good("link"), "changed"),
        (good(), OFF, "changed"),
        (OFF, good(), "changed"),
        (None, bad(), "new"),
        (good(), None, "gone"),
    ],
)
def test_the_groups_of_differences(tmp_path: Path, before: dict[str, Any] | None, after: dict[str, Any] | None, group: str) -> None:
    sides = [run({"other": good()} | ({"enter": report} if report else {})) for report in (before, after)]
    (found,) = differences(tmp_path, *sides)
    assert (found.group, found.object, found.name, found.target) == (group, "build/a.o", "enter", NEW)


def test_an_object_that_says_nothing_of_its_programs_is_one_difference(tmp_path: Path) -> None:
    fine, dead = run({"enter": good(), "exit": good()}), Outcome(NEW, error="panic: Fatal exception")
    (worse,) = differences(tmp_path, fine, dead)
    assert (worse.group, worse.name) == ("worse", "the object")
    assert worse.after is not None
    assert worse.after.cause == "panic: Fatal exception [unclassified]"
    assert [each.group for each in differences(tmp_path, dead, fine)] == ["better"]
    assert [each.group for each in differences(tmp_path, dead, replace(dead, error="lockup"))] == ["changed"]
    assert differences(tmp_path, dead, dead) == []


def test_an_object_that_was_not_tried_on_a_target_before_is_new_there(tmp_path: Path) -> None:
    before, after = made(tmp_path, run({"enter": good()}, OLD)), made(tmp_path, run({"enter": good()}, OLD), run({"enter": bad()}))
    both = [OLD, NEW]
    assert [(each.group, each.name, each.target) for each in compare(before, after, both).differences] == [
        ("new", "the object", NEW)
    ]
    assert [(each.group, each.name, each.target) for each in compare(after, before, both).differences] == [
        ("gone", "the object", NEW)
    ]


def test_a_map_that_can_no_longer_be_made_is_told_once(tmp_path: Path) -> None:
    cause = {"error": "Invalid argument", "diagnosis": {"kind": "map-type", "headline": "map type arena, since 6.9"}}
    alone = run({"enter": good()}, maps={"arena": cause})
    (found,) = differences(tmp_path, run({"enter": good()}), alone)
    assert (found.group, found.name) == ("worse", "map arena")
    told = run({"enter": bad("map-type", "map type arena, since 6.9")}, maps={"arena": cause})
    assert [each.name for each in differences(tmp_path, run({"enter": good()}), told)] == ["enter"]
    assert [each.group for each in differences(tmp_path, alone, run({"enter": good()}))] == ["better"]


def test_programs_that_no_longer_load_together_are_a_difference(tmp_path: Path) -> None:
    whole = run({"enter": good()})
    (worse,) = differences(tmp_path, whole, replace(whole, together=False))
    assert (worse.group, worse.name, str(worse.before), str(worse.after)) == (
        "worse", "the object", "loads as a whole", "does not load as a whole",
    )  # fmt: skip
    assert [each.group for each in differences(tmp_path, replace(whole, together=False), whole)] == ["better"]
    told = differences(tmp_path, whole, run({"enter": bad()}, together=False))
    assert [each.name for each in told] == ["enter"]  # the program tells why


def test_what_is_not_compared_is_said(tmp_path: Path) -> None:
    before = made(tmp_path, run({"enter": good()}, OLD), run({"enter": good()}))
    moved = RELEASES | {NEW: "6.1.0-51-amd64"}
    after = made(tmp_path, run({"enter": good()}), data=b"another", releases=moved)
    found = compare(before, after, [NEW])
    assert found.not_compared == [OLD]
    assert found.changed_objects == ["build/a.o"]
    assert found.changed_kernels == {NEW: ("6.1.0-50-amd64", "6.1.0-51-amd64")}
    assert not found.differences
    text = report.render(found, Path("b.json"), colour=False)
    assert text.splitlines()[0] == "as the baseline b.json has it: 1 program on 1 target"
    assert f"not compared, since not run: {OLD}" in text
    assert "objects whose content changed since the baseline was saved: build/a.o" in text
    assert f"{NEW}: the kernel is 6.1.0-51-amd64; the baseline was saved on 6.1.0-50-amd64" in text


def test_where_the_machines_failed_nothing_is_compared(tmp_path: Path) -> None:
    before = made(tmp_path, run({"enter": good()}))
    after = made(tmp_path, Outcome(NEW, error="QEMU died", infra=True))
    found = compare(before, after, [NEW], [("build/a.o", NEW)])
    assert not found.differences
    assert found.failed == [f"build/a.o on {NEW}"]


def test_the_report_tells_a_change_once_with_what_to_do(tmp_path: Path) -> None:
    before = made(tmp_path, *(run({"enter": good(), "exit": good()}, target) for target in (OLD, NEW)))
    after = made(tmp_path, *(run({"enter": bad(), "exit": bad()}, target) for target in (OLD, NEW)))
    text = report.render(compare(before, after, [OLD, NEW]), Path("b.json"), colour=False)
    assert text == (
        "4 differences from the baseline b.json\n\n"
        "worse: it came further when the baseline was saved. What to do: mend the object, or accept it\n"
        "  attached → not loaded\n"
        "    helper bpf_loop, since 5.17 [helper]\n"
        f"    build/a.o: enter, exit on {OLD}, {NEW}\n\n"
        "to accept all of this, give the same command with --save b.json instead of --check b.json"
    )


def test_a_changed_cause_is_told_with_the_former_one(tmp_path: Path) -> None:
    (found,) = differences(tmp_path, run({"enter": bad()}), run({"enter": bad("verifier", "R1 !read_ok")}))
    text = report.render(Comparison([found], 1, [NEW]), Path("b.json"), colour=False)
    assert "    was: helper bpf_loop, since 5.17 [helper]\n    is now: R1 !read_ok [verifier]" in text


def test_how_a_program_is_attached_is_told_where_that_changed(tmp_path: Path) -> None:
    before, after = (made(tmp_path, run({"enter": good(via)})) for via in ("perf_event", "link"))
    assert "  attached (perf_event) → attached (link)\n" in report.render(
        compare(before, after, [NEW]), Path("b.json"), colour=False
    )


def test_what_a_saved_baseline_has_no_longer_is_said(tmp_path: Path) -> None:
    before = made(tmp_path, run({"enter": good()}, OLD), run({"enter": good()}))
    text = report.saved(made(tmp_path, run({"enter": good()})), Path("b.json"), before)
    assert text == f"b.json: 1 object on 1 target saved\ntargets that it had and has no longer: {OLD}"


def test_a_run_of_other_objects_or_kernels_is_refused_before_a_vm_starts(tmp_path: Path) -> None:
    saved, path = made(tmp_path, run({"enter": good()})), tmp_path / "b.json"
    check_objects(saved, path, [tmp_path / "build" / "a.o"])
    with pytest.raises(InputError, match=r"objects that are not in the baseline: .*b\.o"):
        check_objects(saved, path, [tmp_path / "build" / "a.o", tmp_path / "build" / "b.o"])
    with pytest.raises(InputError, match=r"objects of the baseline that are not in this run: build/a\.o"):
        check_objects(saved, path, [])
    matrix = load_matrix()
    assert [*map(str, check_targets(saved, path, matrix.targets("6.1", "all"), named=True))] == [NEW]
    with pytest.raises(InputError, match=r"the baseline has no 6\.12 on x86_64 and arm64"):
        check_targets(saved, path, matrix.targets("6.1,6.12", "all"), named=True)
    with pytest.raises(InputError, match=r"the baseline has no 6\.1 on arm64"):
        check_targets(saved, path, matrix.targets("6.1", "arm64"), named=False)
