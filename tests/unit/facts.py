"""Made-up facts for the pure tests: what a guest reports when all goes well, with single things changed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kmatrix.manifest import schema
from kmatrix.manifest.collector import Collector
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord
from kmatrix.verdict.suites.subtest import SubTest

STOPPED = {"btf": "failed to find valid kernel BTF", "ringbuf": "map 'events': failed to create: Invalid argument(-22)"}
"""libbpf's words where a feature is not there."""
PIN = "/sys/fs/bpf/stray"

MANIFEST: dict[str, Any] = {
    "schema": 1,
    "collector": {"name": "demo", "min_kernel": "4.14"},
    "variant": [
        {
            "name": "ring",
            "behaviour": "full",
            "object": "ring",
            "needs": ["btf", "ringbuf"],
            "transport": "ringbuf",
            "buffer": "events",
        },
        {"name": "perf", "behaviour": "partial", "object": "perf", "needs": ["btf"], "transport": "perf", "buffer": "events"},
        {"name": "plain", "behaviour": "fallback", "object": "plain", "transport": "perf", "buffer": "events"},
    ],
    "program": [
        {"name": "enter", "hook": "tracepoint/syscalls/sys_enter_openat"},
        {"name": "extra", "hook": "kprobe/do_exit", "required": False, "needs": ["kprobes"]},
    ],
    "trigger": {"kind": "open"},
    "event": [
        {
            "name": "open",
            "match": {"pid": "known.pid"},
            "field": [
                {"name": "pid", "type": "u32", "equals": "known.pid"},
                {
                    "name": "cgroup_id",
                    "type": "u64",
                    "equals": "known.cgroup_id",
                    "degradable": True,
                    "needs": ["cgroup_id_helper"],
                },
            ],
        }
    ],
}


def manifest(**changes: Any) -> dict[str, Any]:
    """The demo manifest, top-level keys replaced."""
    return copy.deepcopy(MANIFEST) | changes


def demo(**changes: Any) -> Collector:
    return schema.parse(manifest(**changes), path=Path("/demo/collector.toml"))


def good(
    collector: Collector,
    running: str | None,
    *,
    failed: tuple[str, ...] = (),
    lacking: Collection[str] = ("btf", "ringbuf"),
    missing_programs: tuple[str, ...] = (),
    absent: tuple[str, ...] = (),
    refusal: str = "no btf, no ringbuf, below kernel 4.14",
) -> dict[str, Any]:
    """What the guest reports when `running` runs on x86_64 without a fault and the variants in `failed` did not load before it.

    They stop where the absence of the first of the features `lacking` stops them.
    """
    kinds = {"ringbuf": "ringbuf", "perf": "perf_event_array", None: None}
    attempts: list[dict[str, Any]] = []
    for name in failed:
        needs = collector.variant(name).needs
        programs = {
            "enter": {"id": None, "loaded": False, "attached": False, "error": "EINVAL", "log": "unknown func\nprocessed 3 insns"}
        }
        attempts.append(
            {
                "variant": name,
                "stage": "load",
                "error": {"errno": 22, "text": next((STOPPED[n] for n in STOPPED if n in needs and n in lacking), "failed")},
                "programs": programs,
                "maps": {},
                "log": [],
            }
        )
    inventory: dict[str, Any] = {
        "programs": [{"id": 7, "name": "old", "type": "cgroup_skb"}],
        "maps": [],
        "links": [],
        "pins": [],
        "kprobe_events": [],
    }
    during = copy.deepcopy(inventory)
    events = []
    if running is not None:
        variant = collector.variant(running)
        programs = {}
        for number, program in enumerate(collector.programs_of(variant, "x86_64"), start=20):
            there = program.name not in missing_programs
            report = {
                "id": number if there else None,
                "loaded": there,
                "attached": there,
                "error": None if there else "gone",
                "log": "",
            }
            programs[program.name] = report
            if there:
                during["programs"].append({"id": number, "name": program.name, "type": "tracepoint"})
        maps = {"events": {"id": 30, "type": kinds[variant.transport]}}
        during["maps"].append({"id": 30, "name": "events", "type": kinds[variant.transport]})
        attempts.append({"variant": running, "stage": None, "error": None, "programs": programs, "maps": maps, "log": []})
        fields = {"pid": 42, "cgroup_id": 0 if "field:open.cgroup_id" in absent else 4711}
        events.append({"event": "open", "fields": fields, "raw": "", "transport": variant.transport})
    return {
        "attempts": attempts,
        "running": running,
        "refusal": None if running else refusal,
        "kernel": {"before": inventory, "during": during, "after": copy.deepcopy(inventory)},
        "known": {"pid": 42, "cgroup_id": 4711},
        "trigger": {"ok": True},
        "events": events,
        "counts": {event["event"]: 1 for event in events},
        "unmatched": 0,
        "lost": 0,
        "timings": {},
    }


def record(collector: str = "openat", kernel: str = "5.4", arch: str = "arm64", **changes: object) -> Record:
    """The record of a cell as promised, single things of it changed."""
    good = Record(
        cell=f"{collector}[{kernel}-{arch}]",
        collector=collector,
        kernel=kernel,
        arch=arch,
        expected="partial",
        observed="partial",
        ok=True,
        failure=None,
        reason="core-perf has all it needs",
        facts=None,
        probe=None,
        timings={},
        console=None,
        versions={},
        reproduce="pytest …",
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def command_record(target: str, subtests: Sequence[SubTest] = (), **changes: Any) -> TestRecord:
    """The record of a test command that passed, unless one of its sub-tests is red; single things of it changed."""
    kernel, arch = target.rsplit("-", 1)
    red = [each for each in subtests if each.red]
    made = TestRecord(
        test="ring.test",
        kernel=kernel,
        arch=arch,
        command=["./ring.test", "-test.v"],
        ok=not red,
        failure="test" if red else None,
        reason=f"{len(red)} of {len(subtests)} sub-tests failed" if red else f"{len(subtests)} passed",
        exit=1 if red else 0,
        signal=None,
        format="go test",
        subtests=subtests,
        output="PASS",
        errors="",
        timings={"command": 1.0, "total": 1.5},
        console=None,
        versions={"release": f"{kernel}.1", "kmatrix": "0.2.0"},
        reproduce=f"kmatrix exec {target} -- ./ring.test -test.v",
    )
    return replace(made, **changes)
