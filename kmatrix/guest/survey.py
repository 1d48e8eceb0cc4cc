"""The programs of an object, without a manifest: does each load, does it attach where its section says, and if not, in whose words."""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing

from . import libbpf, why
from .libbpf import LibbpfError
from .loader import (
    NO_TARGET,
    Object,
    Report,
    asked_of,
    attach_one,
    blank,
    created_maps,
    culprit,
    describe,
    note_loaded,
    uncreatable_map,
    verifier_log,
    wanted,
)


def survey(data: bytes, name: str, only: Collection[str] | None = None) -> Report:
    """The report on every program of the object `data` (or those of `only`), and on its maps.

    All are loaded together, as a loader would (`together`). Where that fails, what libbpf blames is left out, a program or a map, and the
    rest is tried again: so one bad program does not hide the others, and each failure costs one load. `attached` is null where the section
    does not say where. `log` is what libbpf said to all of them together.
    """
    report: Report = {"error": None, "together": False, "programs": {}, "maps": {}, "log": []}
    try:
        with libbpf.said() as lines:
            opened = Object(data, name)
    except LibbpfError as error:
        return report | {"error": describe(lines, error), "log": lines}
    with closing(opened):
        names = [each for each in opened.programs if only is None or each in only]
        by_default = [each for each in names if only is not None or libbpf.program_autoload(opened.programs[each])]
        for each in names:
            report["programs"][each] = _unknown(opened.programs[each])
        for each, pointer in opened.maps.items():
            report["maps"][each] = {"id": None, **asked_of(pointer), "error": None}
    trial = _Trial(data, name, report)
    trial.run(by_default)
    for each in names:
        if each not in by_default:  # SEC("?…"): its loader turns it on where it wants it
            trial.run([each])
    return report


def _unknown(pointer: int) -> Report:
    """The report on a program that was not tried yet."""
    return blank(libbpf.program_section(pointer).decode()) | {
        "insns": int(libbpf.program_insn_cnt(pointer)),
        "wants": wanted(pointer),
    }


class _Trial:
    """An object that is loaded again and again, each time without what was found to be bad."""

    def __init__(self, data: bytes, name: str, report: Report) -> None:
        self._data = data
        self._name = name
        self._report = report
        self._without: set[str] = set()
        """The maps that cannot be created: programs that do not use them still show what they can."""
        self._first = True

    def run(self, names: Sequence[str]) -> None:
        """Load and attach these programs together, without those that cannot be loaded; whose hook another one has, by itself."""
        left = list(names)
        while left and (blamed := self._once(left)) is not None:
            if blamed:
                left.remove(blamed)
            elif len(left) == 1:
                return
            else:  # nobody is to blame by name
                for each in left:
                    self.run([each])
                return
        busy = [each for each in left if self._report["programs"][each].get("errno") == errno.EBUSY]
        for each in busy if len(left) > 1 else ():
            self._report["programs"][each].update(error=None, errno=None, log="")
            self.run([each])

    def _once(self, names: Sequence[str]) -> str | None:
        """One try: None where all is loaded, else the program to blame, or "" where the failure names none."""
        while True:
            with ExitStack() as resources:
                opened = Object(self._data, self._name)
                resources.callback(opened.close)
                opened.choose(names)
                for each in self._without:
                    libbpf.map_set_autocreate(opened.maps[each], False)
                try:
                    with libbpf.said() as lines:
                        opened.load()
                except LibbpfError as error:
                    failure, log = describe(lines, error), verifier_log()
                    self._said(lines, whole=False)
                    bad = uncreatable_map(lines)
                    if bad is not None and bad in opened.maps and bad not in self._without:
                        self._report["maps"][bad] |= {"error": failure["text"], "errno": failure["errno"]}
                        self._without.add(bad)
                        continue
                    blamed = culprit(lines) or ""
                    blamed = blamed if blamed in names else ""
                    for each in [blamed] if blamed else names if len(names) == 1 else ():
                        self._report["programs"][each].update(
                            error=failure["text"], errno=failure["errno"], log=log, btf=why.facts("\n".join([*lines, log]))
                        )
                    return blamed
                self._said(lines, whole=True)
                _note(opened, self._report, names, resources)
                return None

    def _said(self, lines: list[str], *, whole: bool) -> None:
        if self._first:
            self._report.update(log=lines, together=whole)
            self._first = False


def _note(opened: Object, report: Report, names: Sequence[str], resources: ExitStack) -> None:
    for name, found in created_maps(opened).items():
        report["maps"][name]["id"] = found["id"]
    for name in names:
        mine = report["programs"][name]
        note_loaded(mine, opened.programs[name])
        attach_one(opened.programs[name], mine, resources)
        if mine["error"] == NO_TARGET:
            mine.update(attached=None, error=None)
