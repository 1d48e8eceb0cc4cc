"""From what the guest reports of programs and maps to their causes; and from the facts of a cell to the causes of its failures."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kmatrix.guest import verifier_log
from kmatrix.guest.bpf import MAP_TYPES
from kmatrix.host.later import later
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import Version
from kmatrix.verdict.diagnosis.cause import PAGE, Diagnosis, Failing, first_line, where
from kmatrix.verdict.diagnosis.classes import UNCLASSIFIED
from kmatrix.verdict.words import last_words

if TYPE_CHECKING:
    from kmatrix.objects.source_lines import SourceLines
    from kmatrix.verdict.diagnosis import attaching, hooks, maps, opening, own_words, rights, rows
else:  # only what failed is looked up
    attaching, hooks = later("kmatrix.verdict.diagnosis.attaching"), later("kmatrix.verdict.diagnosis.hooks")
    maps, opening = later("kmatrix.verdict.diagnosis.maps"), later("kmatrix.verdict.diagnosis.opening")
    own_words, rights = later("kmatrix.verdict.diagnosis.own_words"), later("kmatrix.verdict.diagnosis.rights")
    rows = later("kmatrix.verdict.diagnosis.rows")

Reports = Mapping[str, Mapping[str, Any]]
"""What the guest reports of the programs or maps of an object, by name (docs/protocol.md)."""

_WITHOUT_MAP = re.compile(r"BPF map '([^']+)' is referenced but wasn't created")
"""What libbpf puts into the log of a program whose map could not be made."""
_MISSING_MAP = re.compile(r"^program \w+: (?:map \S+: )?missing map ([\w.]+)")
"""The same in cilium/ebpf's error."""
_INNER_MAP = re.compile(r"failed to create inner map: -(\d+)")
LOG_END = 64 << 10
"""Bytes of a log that are looked at: the verifier says last why it stopped, and the way there may have megabytes."""
_SHAPE = ("key_size", "value_size", "flags")


def diagnose(failing: Failing) -> Diagnosis | None:
    """Return the cause of a failure; None where no row of the table knows it."""
    if (right := rights.cause(failing)) is not None:
        return right
    if failing.stage == "map":
        return maps.of_map(failing)
    if failing.stage == "open":
        return opening.of_object(failing)
    if (told := _own_words(failing)) is not None:
        return told
    text = f"{failing.error}\n{failing.log}"
    for pattern, row in rows.ROWS:
        if (match := re.search(pattern, text)) and (found := row(failing, match)) is not None:
            return found
    if failing.stage == "attach":
        return attaching.attach(failing) or (hooks.too_new(failing) if failing.errno == errno.EINVAL else None)
    return hooks.too_new(failing) or hooks.not_permitted(failing) or opening.of_object(failing)


def _own_words(failing: Failing) -> Diagnosis | None:
    """The cause that is told in so many words; the rest of a log is not asked then."""
    told = own_words.cause(failing.error, failing.log)
    if told is None:
        return None
    places = [place for place in (where(failing), told.where) if place]
    return Diagnosis(told.kind, told.what, told.fix, None, "; ".join(places) or first_line(failing))


def explain(
    programs: Reports,
    maps: Reports,
    version: Version,
    arch: Arch,
    lines: SourceLines | None = None,
    situation: Mapping[str, Any] | None = None,
) -> tuple[Reports, Reports]:
    """Return the reports with a `diagnosis` each, as JSON has it: None where nothing failed, or where the cause is not known.

    `lines` are those of the object; `situation` is what the guest says of itself and of the loader. A program that failed for want of a map has the map's cause.
    """
    known_maps = {
        name: {**report, "diagnosis": _of_map(name, report, version, arch, lines, situation or {})} for name, report in maps.items()
    }
    return {
        name: {**report, "diagnosis": _of_program(name, report, known_maps, version, arch, lines, situation or {})}
        for name, report in programs.items()
    }, known_maps


def _of_map(
    name: str, report: Mapping[str, Any], version: Version, arch: Arch, lines: SourceLines | None, situation: Mapping[str, Any]
) -> dict[str, Any] | None:
    if not report.get("error"):
        return None
    failing = Failing(
        stage="map",
        error=str(report["error"]),
        version=version,
        arch=arch,
        errno=report.get("errno"),
        name=name,
        map_type=report.get("type"),
        max_entries=report.get("max_entries"),
        shape={key: int(report[key]) for key in _SHAPE if report.get(key) is not None},
        situation=situation,
    )
    inner = _inner(failing, lines)
    return _at_use(_plain((diagnose(inner) if inner is not None else None) or diagnose(failing)), name, None, lines)


def _inner(failing: Failing, lines: SourceLines | None) -> Failing | None:
    """The map inside a map of maps, where it is what could not be made, as the object has it; None where it is not, or the object says nothing of it."""
    told = _INNER_MAP.search(failing.error)
    numbers = lines.inner_map(failing.name) if told is not None and lines is not None else {}
    if told is None or not numbers or numbers.get("type", 0) >= len(MAP_TYPES):
        return None
    shape = {"flags": numbers.get("map_flags", 0)} | {key: numbers[key] for key in ("key_size", "value_size") if key in numbers}
    return replace(
        failing,
        name=f"{failing.name}.inner",
        errno=int(told[1]),
        map_type=MAP_TYPES[numbers["type"]],
        max_entries=numbers.get("max_entries"),
        shape=shape,
        error="",
    )


def _at_use(found: dict[str, Any] | None, name: str, program: str | None, lines: SourceLines | None) -> dict[str, Any] | None:
    """The cause of map `name`, at the line that uses the map: its definition has none."""
    return {**found, "where": lines.uses(name, program)} if found is not None and lines is not None else found


def _of_program(
    name: str,
    report: Mapping[str, Any],
    maps: Reports,
    version: Version,
    arch: Arch,
    lines: SourceLines | None,
    situation: Mapping[str, Any],
) -> dict[str, Any] | None:
    if not report.get("error"):
        return None
    whole = verifier_log.plain(str(report.get("log") or ""))
    log = whole[-LOG_END:]
    without = _WITHOUT_MAP.search(log) or _MISSING_MAP.search(str(report["error"]))
    if without and (broken := maps.get(without[1], {})).get("error"):
        return _at_use(dict(broken["diagnosis"] or unclassified(broken)), without[1], name, lines)
    found = diagnose(
        Failing(
            stage="attach" if report["loaded"] else "load",
            error=str(report["error"]),
            version=version,
            arch=arch,
            errno=report.get("errno"),
            log=log,
            cut=len(whole) > LOG_END,
            section=str(report.get("section") or ""),
            name=name,
            wants=report.get("wants") or {},
            btf=report.get("btf") or {},
            situation=situation,
            lines=lines,
        )
    )
    if found is not None and found.what.startswith("helper bpf_ringbuf_"):  # missing where the map type is: one cause
        rings = [each["diagnosis"] for each in maps.values() if each.get("type") == "ringbuf" and each["diagnosis"] is not None]
        return {**rings[0], "where": found.where} if rings else _plain(found)
    return _plain(found)


def _plain(found: Diagnosis | None) -> dict[str, Any] | None:
    return found.plain() if found is not None else None


def of_opening(error: str, version: Version, arch: Arch) -> dict[str, Any] | None:
    """The cause why an object could not be opened."""
    return _plain(diagnose(Failing("open", error, version, arch)))


def unclassified(report: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the place of a diagnosis where there is none: the words of libbpf and of the kernel, and that they are all there is."""
    error, reason = str(report["error"]), last_words(str(report.get("log") or "")[-LOG_END:])
    what = f"{error}: {reason}" if reason and reason not in error else error
    return {
        "kind": UNCLASSIFIED,
        "what": what,
        "fix": "kmatrix does not know this failure; the log has all that was said",
        "since": None,
        "where": None,
        "headline": what,
        "see": f"{PAGE}#{UNCLASSIFIED}",
    }


def has_failed(attempt: Mapping[str, Any]) -> bool:
    """Whether something failed in the try of a variant: it came to nothing, or went on without a program or map."""
    return bool(attempt["stage"]) or any(report.get("error") for kind in ("programs", "maps") for report in attempt[kind].values())


def causes(
    attempts: Iterable[Mapping[str, Any]],
    version: Version,
    arch: Arch,
    lines: Mapping[str, SourceLines],
    *,
    own_loader: bool = False,
    situation: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The causes of what failed in the tries of a cell (docs/record.md): one for each cause and variant, with the programs and maps that have it.

    `lines` are those of each variant's object, by the variant's name. A loader of the collector's own is quoted by its last lines: of what it says,
    only what is known is a cause. What was not tried for what failed before it has no cause of its own.
    """
    found: list[dict[str, Any]] = []
    for attempt in attempts:
        alike: dict[tuple[str, str, str], dict[str, Any]] = {}
        for kind, name, cause, said in _failures(attempt, version, arch, lines.get(attempt["variant"]), situation or {}):
            if own_loader and cause["kind"] == UNCLASSIFIED:
                continue
            empty = {
                "variant": attempt["variant"],
                "stage": attempt["stage"],
                "programs": [],
                "maps": [],
                **cause,
                "where": {},
                "said": said,
            }
            entry = alike.setdefault((cause["kind"], cause["headline"], cause["fix"]), empty)
            if name not in entry.get(kind, (name,)):
                entry[kind].append(name)
            if cause["where"]:
                entry["where"][name] = cause["where"]
        found += alike.values()
    return found


def _failures(
    attempt: Mapping[str, Any], version: Version, arch: Arch, lines: SourceLines | None, situation: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Each failure of an attempt: `programs` or `maps`, the name of one, its cause, and the last words of libbpf or the kernel."""
    failed = {name: report for name, report in attempt["programs"].items() if report.get("error")}
    broken = {name: report for name, report in attempt["maps"].items() if report.get("error")}
    programs, maps = explain(failed, broken, version, arch, lines, situation)
    for name, report in maps.items():
        yield "maps", name, report["diagnosis"] or unclassified(report), str(report["error"])
    for name, report in programs.items():
        yield (
            "programs",
            name,
            report["diagnosis"] or unclassified(report),
            last_words((report.get("log") or "")[-LOG_END:]) or str(report["error"]),
        )
    error = (attempt.get("error") or {}).get("text")
    if error and not failed and not broken:
        said = "\n".join(attempt.get("log") or ())  # a loader of the collector's own: what it wrote
        stage = "open" if attempt["stage"] == "open" else "load"
        number = (attempt.get("error") or {}).get("errno")
        known = diagnose(Failing(stage, f"{error}\n{said}", version, arch, number, log=said, situation=situation))
        yield "", "", _plain(known) or unclassified({"error": error}), str(error)
