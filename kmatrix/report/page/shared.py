"""What the stories of several kinds of rows have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kmatrix.report.page.model import WARN, Bars, Part, Step, Tone
from kmatrix.runs.cell_records import Record
from kmatrix.runs.guest_test_records import TestRecord

_LAST = ("kill", "judge")
"""Stages that come after the guest's own, and stand before them in records."""
_VERSIONS = {
    "release": "kernel",
    "loader": "loader",
    "host": "host",
    "qemu": "QEMU",
    "accel": "VM run by",
    "kmatrix": "kmatrix",
    "kernel": "sha256 of the kernel",
    "image": "sha256 of the guest image",
}
"""What a record's `versions` are called; others stand under their own names."""


def wrong_tone(record: Record | TestRecord) -> Tone:
    """The colour of what is not as promised: the machine room's, a warning's, or the collector's or test's own."""
    return "infra" if record.failure == "infra" else WARN if record.warning else "bad"


def chapters(*titled: tuple[str, Iterable[Part]]) -> list[Step]:
    """The chapters that have something to say."""
    steps = [Step(title, list(parts)) for title, parts in titled]
    return [step for step in steps if step.parts]


def bars(timings: Mapping[str, float]) -> Iterator[Bars]:
    """A record's times, in the order in which they passed."""
    order = [*(stage for stage in timings if stage not in _LAST), *_LAST]
    stages = [(stage, timings[stage]) for stage in order if stage in timings and stage != "total"]
    if stages:
        yield Bars(stages, max(timings.get("total", 0.0), sum(seconds for _, seconds in stages)))


def versions(known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """A record's `versions`, with what they are of."""
    yield from ((label, known.get(name, "")) for name, label in _VERSIONS.items())
    yield from ((name, text) for name, text in known.items() if name not in _VERSIONS)


def file_text(path: Path) -> str:
    """The file's text; nothing where it is not there any more: records are read long after the run."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
