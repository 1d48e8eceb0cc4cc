"""The programs of an object, without a manifest: does each load, does it attach where its section says, and if not, in whose words."""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing

from . import libbpf, why
from .contract import Contract
from .libbpf import LibbpfError
from .loader import (
    NO_TARGET,
    CannotSet,
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


def survey(data: bytes, name: str, only: Collection[str] | None = None, *, contract: Contract | None = None) -> Report:
    """The report on every program of the object `data` (or those of `only`), and on its maps; loaded as the `contract` says.

    All are loaded together, as a loader would (`together`). Where that fails, what libbpf blames is left out, a program or a map, and the
    rest is tried again: so one bad program does not hide the others, and each failure costs one load. `attached` is null where the section
    does not say where. `log` is what libbpf said to all of them together. A program that the contract leaves out has `off`, the reason;
    `one_of` says of each group which form runs.
    """
    contract = contract or Contract(None, data, name, dict)
    report: Report = {"error": None, "together": False, "programs": {}, "maps": {}, "log": [], "one_of": contract.chosen}
    try:
        with libbpf.said() as lines:
            opened = contract.open()
    except LibbpfError as error:
        return report | {"error": describe(lines, error), "log": lines}
    with closing(opened):
        names = [each for each in opened.programs if only is None or each in only]
        by_default = [
            each for each in names if only is not None or contract.given or libbpf.program_autoload(opened.programs[each])
        ]
        for each in names:
            report["programs"][each] = _unknown(opened.programs[each])
        for each, pointer in opened.maps.items():
            report["maps"][each] = {"id": None, **asked_of(pointer), "error": None}
        contract.choose(opened)
    for each in report["programs"].keys() & contract.off.keys():
        report["programs"][each].update(off=contract.off[each], attached=None)
    names = [each for each in names if each not in contract.off]
    by_default = [each for each in by_default if each not in contract.off]
    trial = _Trial(contract, report)
    trial.run(by_default)
    together = report["together"] or not by_default
    for each in names:
        if each not in by_default:  # SEC("?…"): its loader turns it on where it wants it
            trial.run([each])
    report["together"] = together
    for group in contract.chosen:
        if group["ran"] is None:
            _no_form(group, report)
    return report


def _unknown(pointer: int) -> Report:
    """The report on a program that was not tried yet."""
    return blank(libbpf.program_section(pointer).decode()) | {
        "insns": int(libbpf.program_insn_cnt(pointer)),
        "wants": wanted(pointer),
    }


class _Trial:
    """An object that is loaded again and again, each time without what was found to be bad."""

    def __init__(self, contract: Contract, report: Report) -> None:
        self._contract = contract
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
                opened = self._contract.open()
                resources.callback(opened.close)
                opened.choose(names)
                for each in self._without:
                    libbpf.map_set_autocreate(opened.maps[each], False)
                try:
                    self._set(opened, names, resources)
                    with libbpf.said() as lines:
                        opened.load()
                except CannotSet as error:
                    return self._cannot(error, names)
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
                try:
                    self._contract.fill(opened)
                except CannotSet as error:
                    self._report["error"] = {"errno": error.errno, "text": error.text}
                self._note(opened, names, resources)
                return None

    def _set(self, opened: Object, names: Sequence[str], resources: ExitStack) -> None:
        self._contract.apply(opened, names, resources)
        for name, pointer in opened.maps.items():
            self._report["maps"][name] |= asked_of(pointer)

    def _cannot(self, error: CannotSet, names: Sequence[str]) -> str | None:
        """What cannot be set is the program's failure, or else the object's."""
        self._said([error.text], whole=False)
        if error.program in names:
            self._report["programs"][error.program].update(error=error.text, errno=error.errno, log="")
            return error.program
        self._report["error"] = {"errno": error.errno, "text": error.text}
        return None

    def _said(self, lines: list[str], *, whole: bool) -> None:
        if self._first:
            self._report.update(log=lines, together=whole)
            self._first = False

    def _note(self, opened: Object, names: Sequence[str], resources: ExitStack) -> None:
        for name, found in created_maps(opened).items():
            self._report["maps"][name]["id"] = found["id"]
        for name in names:
            mine = self._report["programs"][name]
            note_loaded(mine, opened.programs[name])
            if not self._contract.attaches(name):
                mine.update(attached=None)
                continue
            attach_one(opened.programs[name], mine, resources, self._contract.target(name))
            if mine["error"] == NO_TARGET:
                mine.update(attached=None, error=None)


def _no_form(group: Report, report: Report) -> None:
    """None of a group's forms can run: that is the failure of all its programs."""
    for name in {each for form in group["forms"] for each in form} & report["programs"].keys():
        report["programs"][name].update(
            error=f"no form of one_of can run here: {'; '.join(group['why'])}", off=None, attached=False
        )
    report["together"] = False
