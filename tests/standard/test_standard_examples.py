"""docs/standard.md: its examples do what it says, and what it says of features, rules, cells and tests is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.objects import compiled as objects
from kmatrix.vm.channel import pack
from tests.guest.conftest import Guest
from tests.standard.document import Claim, Example

Compiled = Callable[[str, Arch], Path | str]


def test_examples_compile_for_both_arches_without_a_warning(examples: dict[str, Example], compiled: Compiled) -> None:
    wrong = []
    for name, example in examples.items():
        for arch in ARCHES:
            result = compiled(name, arch)
            if isinstance(result, Path) != example.compiles:
                wrong.append(f"{name} for {arch}: {result}")
            elif isinstance(result, str):
                wrong += [f"{name}: {claim.words} is not in: {result}" for claim in example.claims if claim.words not in result]
    assert not wrong, "\n".join(wrong)


def test_fallback_examples_have_no_relocation_and_no_global_data(examples: dict[str, Example], compiled: Compiled) -> None:
    for name, example in examples.items():
        if "fallback" not in example.options:
            continue
        for arch in ARCHES:
            path = compiled(name, arch)
            assert isinstance(path, Path)
            assert not objects.inspect(path).uses_core, name


def test_examples_do_on_the_kernel_what_the_document_says(guest: Guest, examples: dict[str, Example], compiled: Compiled) -> None:
    """One guest for all: what was loaded is gone before the next."""
    kernel, arch = guest.target.kernel.name, guest.target.arch
    wrong = []
    claims = [(example, claim) for example in examples.values() for claim in example.claims if claim.covers(kernel, arch)]
    assert claims
    for example, claim in claims:
        path = compiled(example.name, arch)
        assert isinstance(path, Path), path
        if problem := _TRIALS[claim.outcome](guest, path, claim):
            wrong.append(f"{example.name} on {guest.target}: claimed {claim.outcome}, but: {problem}")
    assert not wrong, "\n".join(wrong)


def _survey(guest: Guest, path: Path) -> dict[str, Any]:
    report: dict[str, Any] = guest.call("object", name=path.name, data=pack(path.read_bytes()))
    return report


def _refused(guest: Guest, path: Path, claim: Claim) -> str | None:
    report = _survey(guest, path)
    said = json.dumps(report, ensure_ascii=False)
    if report["together"]:
        return "it loads"
    return None if claim.words in said else f"{claim.words!r} is not in {said}"


def _loads(guest: Guest, path: Path, _claim: Claim) -> str | None:
    report = _survey(guest, path)
    return None if report["together"] else json.dumps(report, ensure_ascii=False)


def _attaches(guest: Guest, path: Path, _claim: Claim) -> str | None:
    report = _survey(guest, path)
    good = report["together"] and all(program["attached"] for program in report["programs"].values())
    return None if good else json.dumps(report, ensure_ascii=False)


def _does_not_attach(guest: Guest, path: Path, _claim: Claim) -> str | None:
    report = _survey(guest, path)
    good = report["together"] and not any(program["attached"] for program in report["programs"].values())
    return None if good else json.dumps(report, ensure_ascii=False)


def _cell(guest: Guest, path: Path, trigger: dict[str, Any]) -> dict[str, Any]:
    info = objects.inspect(path)
    buffer = "events" if "events" in info.maps else None
    return guest.cell(info.data, programs=list(info.programs), buffer=buffer, trigger=trigger, timeout=2.0)


def _outcome(facts: dict[str, Any]) -> tuple[int, int]:
    """How often its programs ran, and how many events came."""
    programs = facts["attempts"][-1]["programs"].values()
    return sum(program["runs"] or 0 for program in programs), len(facts["events"]) + facts["unmatched"]


def _events(guest: Guest, path: Path, _claim: Claim) -> str | None:
    facts = _cell(guest, path, {"kind": "open"})
    if facts["running"] is None:
        return str(facts["refusal"])
    return None if _outcome(facts)[1] else "no event came"


def _silent(guest: Guest, path: Path, _claim: Claim) -> str | None:
    facts = _cell(guest, path, {"kind": "open"})
    if facts["running"] is None:
        return str(facts["refusal"])
    runs, events = _outcome(facts)
    return None if runs and not events else f"{runs} runs and {events} events"


def _traffic(guest: Guest, path: Path) -> bool | str:
    facts = _cell(guest, path, {"kind": "tcp_connect", "timeout": 2.0})
    if facts["running"] is None:
        return str(facts["refusal"])
    if not facts["trigger"]["ok"] and not facts["trigger"]["after"]["ok"]:
        return "no connection comes about without it either"
    return bool(facts["trigger"]["ok"])


def _traffic_flows(guest: Guest, path: Path, _claim: Claim) -> str | None:
    found = _traffic(guest, path)
    return None if found is True else str(found)


def _traffic_stops(guest: Guest, path: Path, _claim: Claim) -> str | None:
    found = _traffic(guest, path)
    return None if found is False else str(found)


_TRIALS: dict[str, Callable[[Guest, Path, Claim], str | None]] = {
    "refused": _refused,
    "loads": _loads,
    "attaches": _attaches,
    "does not attach": _does_not_attach,
    "events": _events,
    "silent": _silent,
    "traffic flows": _traffic_flows,
    "traffic stops": _traffic_stops,
}
