"""The programs of an object, each by itself: does it load, does it attach where its section says, and if not, in whose words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack

from . import bpf, libbpf
from .libbpf import LibbpfError
from .loader import (
    NO_TARGET,
    Object,
    Report,
    attach_one,
    blank,
    created_maps,
    describe,
    note_loaded,
    uncreatable_map,
    verifier_log,
)


def survey(data: bytes, name: str, only: Collection[str] | None = None) -> Report:
    """The report on every program of the object `data` (or those of `only`), and on its maps.

    All are loaded together first, as a loader would (`together`); where that fails, each by itself, so that one bad program does not
    hide the rest. `attached` is null where the section does not say where. `log` is what libbpf said to all of them together.
    """
    report: Report = {"error": None, "together": False, "programs": {}, "maps": {}, "log": []}
    try:
        with libbpf.said() as lines:
            opened = Object(data, name)
    except LibbpfError as error:
        return report | {"error": describe(lines, error), "log": lines}
    with ExitStack() as resources:
        resources.callback(opened.close)
        names = [each for each in opened.programs if only is None or each in only]
        by_default = [each for each in names if only is not None or libbpf.program_autoload(opened.programs[each])]
        for each in names:
            pointer = opened.programs[each]
            section = libbpf.program_section(pointer).decode()
            report["programs"][each] = blank(section) | {"insns": int(libbpf.program_insn_cnt(pointer))}
        for each, pointer in opened.maps.items():
            kind = bpf.name_of(bpf.MAP_TYPES, int(libbpf.map_type(pointer)))
            report["maps"][each] = {"id": None, "type": kind, "error": None}
        if only is not None:
            opened.choose(names)
        try:
            with libbpf.said() as lines:
                opened.load()
        except LibbpfError:
            by_default = []
        else:
            report["together"] = True
            _note(opened, report, by_default, resources)
        report["log"] = lines
    for each in names:
        if each not in by_default:
            _alone(data, name, each, report)
    return report


def _note(opened: Object, report: Report, names: Sequence[str], resources: ExitStack) -> None:
    for name, found in created_maps(opened).items():
        report["maps"][name]["id"] = found["id"]
    for name in names:
        mine = report["programs"][name]
        note_loaded(mine, opened.programs[name])
        attach_one(opened.programs[name], mine, resources)
        if mine["error"] == NO_TARGET:
            mine.update(attached=None, error=None)


def _alone(data: bytes, object_name: str, name: str, report: Report) -> None:
    """One program by itself; a map that cannot be created is left out, so that programs that do not use it still show what they can."""
    without: set[str] = set()
    while True:
        with ExitStack() as resources:
            opened = Object(data, object_name)
            resources.callback(opened.close)
            opened.choose([name])
            for each in without:
                libbpf.map_set_autocreate(opened.maps[each], False)
            try:
                with libbpf.said() as lines:
                    opened.load()
            except LibbpfError as error:
                bad = uncreatable_map(lines)
                if bad is not None and bad in opened.maps and bad not in without:
                    report["maps"][bad]["error"] = describe(lines, error)["text"]
                    without.add(bad)
                    continue
                failure = describe(lines, error)
                report["programs"][name].update(error=failure["text"], errno=failure["errno"], log=verifier_log())
            else:
                _note(opened, report, [name], resources)
            return
