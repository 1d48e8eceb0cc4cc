"""The manifests that are proposed for the six reference collectors, held against those that a person wrote; and some of them on a guest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Shell
from kmatrix.manifest import load
from kmatrix.manifest.collector import Collector
from kmatrix.propose.found import find, objects_in, sources_in
from kmatrix.propose.manifest import Written, propose, written
from kmatrix.propose.sources import structs

COLLECTORS = Path(__file__).parents[2] / "collectors"
NAMES = sorted(path.parent.name for path in COLLECTORS.glob("*/collector.toml"))


def proposed(name: str, *, by_sources: bool) -> Written:
    folder = COLLECTORS / name
    read = structs(sources_in(folder)) if by_sources else []
    return written(propose(find(objects_in(folder), folder), folder.name, read), folder / "collector.toml")


def summary(collector: Collector) -> object:
    """What a manifest says of how the collector runs; variants have names of their own."""
    variants = [(v.behaviour, v.object, v.transport, v.buffer, v.arches) for v in collector.variants]
    programs = {(p.name, p.hook, p.attach, p.fires) for p in collector.programs}
    return collector.name, variants, programs, collector.trigger and collector.trigger.kind


@pytest.mark.parametrize("name", NAMES)
def test_objects_alone_tell_variants_programs_transport_and_trigger(name: str) -> None:
    ours, theirs = proposed(name, by_sources=False), load.load_collector(COLLECTORS / name)
    assert summary(ours.collector) == summary(theirs)
    # perf buffers are on every kernel from 4.4 on; optional programs are the author's choice, and so are their needs.
    declared = [{*v.needs, *(n for p in theirs.programs for n in p.needs)} - {"perf_buffer"} for v in theirs.variants]
    assert [{*v.needs} for v in ours.collector.variants] == declared
    [event] = ours.collector.events
    assert [field.name for field in event.fields] == ["record"]
    assert any(f"the fields of event {event.name}" in remark for remark in ours.missing)


@pytest.mark.parametrize("name", NAMES)
def test_sources_tell_the_fields(name: str) -> None:
    ours, theirs = proposed(name, by_sources=True).collector, load.load_collector(COLLECTORS / name)
    [event], first = ours.events, theirs.events[0]
    addresses = {"be32": "ipv4"}
    assert [(f.name, addresses.get(f.type or "", f.type)) for f in event.fields] == [(f.name, f.type) for f in first.fields]
    checks = {f.name: f.equals for f in event.fields if f.equals is not None}
    written = {f.name: f.equals for f in first.fields}
    assert {name: value for name, value in checks.items() if value != written[name]}.items() <= {"ret": "known.ret"}.items()
    assert len(checks) >= len([f for f in first.fields if f.checked]) - 3
    assert event.match.items() <= {**first.match, "dport": "known.dport"}.items()


def test_what_is_proposed_passes_on_a_guest(tmp_path: Path, run_in: Shell, need: Callable[[str], None]) -> None:
    need("6.1-x86_64")
    shutil.copytree(COLLECTORS / "bpf_common", tmp_path / "bpf_common")
    for name in ("openat", "dns", "tcpconnect"):
        shutil.copytree(COLLECTORS / name, tmp_path / name, ignore=shutil.ignore_patterns("collector.toml"))
        said = proposed(name, by_sources=name != "tcpconnect")
        (tmp_path / name / "collector.toml").write_text(said.text)
    done = run_in("pytest", "--kernels=6.1", "--arch=x86_64", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 3
