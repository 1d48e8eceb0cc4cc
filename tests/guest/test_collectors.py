"""The reference collectors, variant by variant: also those that a kernel would not choose while a better one runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kmatrix.manifest.collector import Collector
from kmatrix.manifest.event import EventField
from kmatrix.manifest.load import load_collector
from kmatrix.runs import cell
from tests.guest.conftest import Guest

COLLECTORS = Path(__file__).parents[2] / "collectors"
NAMES = sorted(path.parent.name for path in COLLECTORS.glob("*/collector.toml"))
RUNS = {  # which variants each kernel can run
    "4.14": {"plain-perf", "perf"},
    "5.4": {"core-perf", "plain-perf", "plain-perf-cgroup", "perf"},
    "6.1": {"core-ringbuf", "core-perf", "plain-perf", "plain-perf-cgroup", "ringbuf", "perf", "fentry"},
    "6.12": {"core-ringbuf", "core-perf", "plain-perf", "plain-perf-cgroup", "ringbuf", "perf", "fentry"},
}


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    subprocess.run(["make", "-s", "-C", str(COLLECTORS)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("arch", ["x86", "arm64"])
@pytest.mark.parametrize("source", sorted(COLLECTORS.glob("*/*.bpf.c")), ids=lambda path: path.name)
def test_they_compile_without_a_warning(source: Path, arch: str) -> None:
    flags = ["-target", "bpf", "-O2", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-D__TARGET_ARCH_{arch}"]
    subprocess.run(["clang", *flags, str(source)], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_tells_the_truth_or_nothing(guest: Guest, name: str) -> None:
    collector = load_collector(COLLECTORS / name)
    question = cell.request(collector, guest.target)
    for variant in question["variants"]:
        facts = guest.call("cell", **{**question, "variants": [variant]})
        able = variant["name"] in RUNS[guest.target.kernel.name]
        assert facts["running"] == (variant["name"] if able else None), facts["refusal"]
        if not able:
            missing = [need for need in variant["needs"] if not guest.probe["features"][need]]
            assert missing
            assert all(need in facts["refusal"] for need in missing)
            continue
        assert {event["event"] for event in facts["events"]} == {event.name for event in collector.events}
        for event in facts["events"]:
            assert event["transport"] == variant["transport"]
            for field in filter(lambda field: field.checked, _fields(collector, event["event"])):
                assert event["fields"][field.name] in _allowed(field, variant["name"], facts["known"]), (
                    variant["name"],
                    field.name,
                )
        assert facts["kernel"]["after"] == facts["kernel"]["before"]


def _fields(collector: Collector, event: str) -> tuple[EventField, ...]:
    return collector.layout(next(each for each in collector.events if each.name == event))


def _allowed(field: EventField, variant: str, known: dict[str, Any]) -> list[Any]:
    """The truth; in the variants without BTF, absence of what takes BTF; and of the cgroup only in the one without the helper."""
    wanted = field.equals
    assert wanted is not None
    truth = known[wanted.removeprefix("known.")] if isinstance(wanted, str) and wanted.startswith("known.") else wanted
    cannot = {"btf"} if variant.startswith("plain") else set()
    cannot |= {"cgroup_id_helper"} if variant == "plain-perf" else set()
    return [field.absent] if cannot & set(field.needs) else [truth]
