"""The programs of an object, without a manifest: does each load, does it attach where its section says, and if not, in whose words."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing

from . import limit, why
from .contract import Contract
from .library import CannotSet, Opened, Refused, Report
from .loader import attach_one
from .opened import blank, created_maps, note_loaded


def survey(
    data: bytes,
    name: str,
    only: Collection[str] | None = None,
    load_timeout: float = limit.SECONDS,
    *,
    contract: Contract | None = None,
) -> Report:
    """The report on every program of the object `data` (or those of `only`), and on its maps; loaded as the `contract` says.

    All are loaded together, as a loader would (`together`). Where that fails, what libbpf blames is left out, a program or a map, and the
    rest is tried again: so one bad program does not hide the others, and each failure costs one load. `attached` is null where the section
    does not say where. `log` is what libbpf said to all of them together. A program that the contract leaves out has `off`, the reason;
    `one_of` says of each group which form runs. The verifier has `load_timeout` seconds for each program.
    """
    contract = contract or Contract(None, data, name, dict)
    report: Report = {"error": None, "together": False, "programs": {}, "maps": {}, "log": [], "one_of": contract.chosen}
    try:
        opened = contract.open()
    except Refused as error:
        return report | {"error": error.failure, "log": error.lines}
    with closing(opened):
        names = [each for each in opened.programs if only is None or each in only]
        by_default = [each for each in names if only is not None or contract.given or opened.autoload(each)]
        for each in names:
            report["programs"][each] = _unknown(opened, each)
        for each in opened.maps:
            report["maps"][each] = {"id": None, **opened.asked_of(each), "error": None}
        contract.choose(opened)
    for each in report["programs"].keys() & contract.off.keys():
        report["programs"][each].update(off=contract.off[each], attached=None)
    names = [each for each in names if each not in contract.off]
    by_default = [each for each in by_default if each not in contract.off]
    trial = _Trial(contract, report, load_timeout)
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


def _unknown(opened: Opened, name: str) -> Report:
    """The report on a program that was not tried yet."""
    return blank(opened.section(name)) | {"insns": opened.insns(name), "wants": opened.wanted(name)}


_NO_FUNCTION = re.compile(r"failed to find kernel BTF type ID of '(\w+)'")
_TRACED = re.compile(r"\??f(?:entry|exit|mod_ret)(?:\.s)?/(\w+)")


class _Trial:
    """An object that is loaded again and again, each time without what was found to be bad."""

    def __init__(self, contract: Contract, report: Report, load_timeout: float) -> None:
        self._contract = contract
        self._load_timeout = load_timeout
        self._report = report
        self._without: set[str] = set()
        """The maps that cannot be created: programs that do not use them still show what they can."""
        self._first = True

    def run(self, names: Sequence[str]) -> None:
        """Load these programs together, without those that cannot be loaded, and attach them."""
        left = list(names)
        while left and (blamed := self._once(left)) is not None:
            if blamed:
                left.remove(blamed)
                alike = self._of_absent_functions(left, blamed)
                left = [each for each in left if each not in alike]
            elif len(left) == 1:
                return
            else:  # nobody is to blame by name
                for each in left:
                    self.run([each])
                return

    def _of_absent_functions(self, names: Sequence[str], blamed: str) -> set[str]:
        """Where the one to blame is for a function that the kernel has not: those of which the same can be told without another load."""
        first = self._report["programs"][blamed]
        if (found := _NO_FUNCTION.search(first["error"])) is None:
            return set()
        functions = {  # where the contract names another target than the section, that is what is looked for
            each: (self._contract.target(each) or match[1]).rpartition(":")[2]
            for each in names
            if (match := _TRACED.match(self._report["programs"][each]["section"]))
        }
        absent = why.absent(set(functions.values()))
        alike = {each: function for each, function in functions.items() if function in absent}
        known = why.of_functions(set(alike.values()))
        for each, function in alike.items():
            error = (
                first["error"].replace(f"prog '{blamed}'", f"prog '{each}'").replace(f"ID of '{found[1]}'", f"ID of '{function}'")
            )
            self._report["programs"][each].update(error=error, errno=first["errno"], btf=known[function])
        return set(alike)

    def _once(self, names: Sequence[str]) -> str | None:
        """One try: None where all is loaded, else the program to blame, or "" where the failure names none."""
        while True:
            with ExitStack() as resources:
                opened = self._contract.open()
                resources.callback(opened.close)
                opened.choose(names)
                for each in self._without:
                    opened.leave_out(each)
                try:
                    self._set(opened, names, resources)
                    lines = opened.load(self._load_timeout)
                except CannotSet as error:
                    return self._cannot(error, names)
                except Refused as error:
                    if self._contract.give_up_core_btf():
                        continue
                    self._said(error.lines, whole=False)
                    if (bad := error.map) is not None and bad in opened.maps and bad not in self._without:
                        self._report["maps"][bad] |= {"error": error.text, "errno": error.errno}
                        self._without.add(bad)
                        continue
                    blamed = error.program if error.program in names else ""
                    facts = why.facts("\n".join([*error.lines, error.log]))
                    for each in [blamed] if blamed else names if len(names) == 1 else ():
                        self._report["programs"][each].update(error=error.text, errno=error.errno, log=error.log, btf=facts)
                    return blamed
                self._said(lines, whole=True)
                try:
                    self._contract.fill(opened)
                except CannotSet as error:
                    self._report["error"] = {"errno": error.errno, "text": error.text}
                self._note(opened, names, resources)
                return None

    def _set(self, opened: Opened, names: Sequence[str], resources: ExitStack) -> None:
        self._contract.apply(opened, names, resources)
        for name in opened.maps:
            self._report["maps"][name] |= opened.asked_of(name)

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

    def _note(self, opened: Opened, names: Sequence[str], resources: ExitStack) -> None:
        programs = self._report["programs"]
        for name, found in created_maps(opened).items():
            self._report["maps"][name]["id"] = found["id"]
        attachments = {name: resources.enter_context(ExitStack()) for name in names}
        for name in names:
            note_loaded(programs[name], opened.fd(name))
            if not programs[name]["loaded"]:  # libbpf leaves a program alone whose structure (struct_ops) is not created
                map_ = next((each for each, found in self._report["maps"].items() if found["error"]), None)
                missing = f"BPF map '{map_}' is referenced but wasn't created"
                programs[name].update(error=missing, log=missing)
            elif self._contract.attaches(name):
                self._attach(opened, name, attachments[name])
            else:
                programs[name].update(attached=None)
        busy = [name for name in names if programs[name].get("errno") == errno.EBUSY]
        if not busy:
            return
        for each in attachments.values():
            each.close()
        for name in busy:  # two forms of one program exclude each other at a hook: each has it for itself
            programs[name].update(error=None, errno=None)
            with ExitStack() as alone:
                self._attach(opened, name, alone)

    def _attach(self, opened: Opened, name: str, resources: ExitStack) -> None:
        attach_one(opened, name, self._report["programs"][name], resources, self._contract.target(name))


def _no_form(group: Report, report: Report) -> None:
    """None of a group's forms can run: that is the failure of all its programs."""
    for name in {each for form in group["forms"] for each in form} & report["programs"].keys():
        report["programs"][name].update(
            error=f"no form of one_of can run here: {'; '.join(group['why'])}", off=None, attached=False
        )
    report["together"] = False
