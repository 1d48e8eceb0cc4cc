"""The least capabilities with which an object loads and attaches: found by trying, in one guest.

Each try is a child process with the capabilities left that it is about, and with a libbpf that has asked the kernel nothing yet. What all
capabilities together cannot load is left out. The lesser ones are kept where there is a choice: CAP_BPF and CAP_PERFMON rather than CAP_SYS_ADMIN.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from . import confine, libbpf, limit, netdev, privileges, survey
from .contract import Contract
from .library import CannotSet, Refused, Report
from .loader import attach_one
from .opened import blank
from .table_capabilities import NAMES

WEIGHTIEST_FIRST = ("sys_admin", "net_admin", "perfmon", "bpf")
"""What is tried to be done without, each by itself, in this order; the rest before all of them, together."""


class _Wanted:
    """What a set of capabilities must be enough for: programs that load and attach with all of them."""

    def __init__(self, contract: Contract, report: Report, names: Sequence[str], load_timeout: float) -> None:
        self.names, self._contract, self._timeout = names, contract, load_timeout
        self._attached = {name for name in names if report["programs"][name]["attached"]}
        self._without = [name for name, found in report["maps"].items() if found["error"]]

    def once(self) -> Report | None:
        """Load and attach; None where that went as it should, else what failed."""
        with ExitStack() as resources:
            program = None
            stage = "open"
            try:
                opened = self._contract.open()
                resources.callback(opened.close)
                self._contract.choose(opened)
                opened.choose(self.names)
                for name in self._without:
                    opened.leave_out(name)
                self._contract.apply(opened, self.names, resources)
                stage = "load"
                wants = {name: opened.wanted(name) for name in self.names}
                asked_of = {name: opened.asked_of(name) for name in opened.maps}
                opened.load(self._timeout)
                self._contract.fill(opened)
                stage = "attach"
                for name in self.names:
                    report = blank(opened.section(name))
                    failure, _ = (
                        attach_one(opened, name, report, resources, self._contract.target(name))
                        if name in self._attached
                        else (None, [])
                    )
                    if failure is not None and failure["errno"] != errno.EBUSY:  # two forms of one program, at one hook
                        return {"stage": stage, "program": name, "section": report["section"], "wants": wants[name], **failure}
            except Refused as error:
                program = error.program if error.program in self.names else self.names[0] if len(self.names) == 1 else None
                told = {"stage": stage, "program": program, "text": error.text, "errno": error.errno, "log": error.log[-4096:]}
                if error.map is not None and error.map in opened.maps:
                    return told | {"stage": "map", "map": error.map, **asked_of[error.map]}
                return told | ({"section": opened.section(program), "wants": wants[program]} if program else {})
            except CannotSet as error:
                return {"stage": stage, "program": error.program, "text": error.text, "errno": error.errno}
        return None


def find(name: str, contract: Contract, only: Collection[str] | None, load_timeout: float = limit.SECONDS) -> dict[str, Any]:
    """The least capabilities for the object and for each program of it, by trying.

    `object` and each of `programs`: `caps` (null where it does not load with all), and `why`: for each of them, what fails without it.
    """
    base = survey.survey(b"", name, only, load_timeout, contract=contract)
    found: dict[str, Any] = {"error": base["error"], "object": None, "programs": {}, "tries": 0}
    good = [
        each
        for each, report in base["programs"].items()
        if report["loaded"] and report["attached"] is not False and not report.get("off")
    ]
    found["failing"] = sorted(each for each, report in base["programs"].items() if each not in good and not report.get("off"))
    if not good:
        return found
    with suppress(OSError):  # what is attached to is the guest's, and not the loader's to make
        netdev.pair()
    tries = _Tries()
    whole = tries.least(_Wanted(contract, base, good, load_timeout), NAMES[: privileges.last() + 1])
    found["object"] = whole
    for each in good:
        one = whole
        if len(good) > 1:
            one = tries.least(_Wanted(contract, base, [each], load_timeout), whole["caps"])
        found["programs"][each] = one
    return found | {"tries": tries.count}


class _Tries:
    """Tries, counted."""

    def __init__(self) -> None:
        self.count = 0

    def least(self, wanted: _Wanted, enough: Sequence[str]) -> dict[str, Any]:
        """The least of the capabilities `enough`, and what failed without each: with all others that were left then."""
        kept, why = list(enough), dict[str, Report]()
        for group in _groups([name for name in enough if name not in WEIGHTIEST_FIRST], WEIGHTIEST_FIRST):
            kept = self._without(wanted, kept, [name for name in group if name in kept], why)
        return {"caps": kept, "why": {name: why[name] for name in kept}}

    def _without(self, wanted: _Wanted, kept: list[str], group: list[str], why: dict[str, Report]) -> list[str]:
        """`kept` without what of the group is not needed: the whole of it at once, else by halves."""
        left = [name for name in kept if name not in group]
        failure = self._try(wanted, left) if group else None
        if failure is None:
            return left
        if len(group) == 1:
            why[group[0]] = failure | {"caps": left}
            return kept
        half = len(group) // 2
        return self._without(wanted, self._without(wanted, kept, group[:half], why), group[half:], why)

    def _try(self, wanted: _Wanted, caps: Sequence[str]) -> Report | None:
        self.count += 1
        return in_child(wanted.once, confine.privileges(caps=list(caps)))


def _groups(rest: Sequence[str], single: Sequence[str]) -> Iterator[Sequence[str]]:
    yield rest
    for name in single:
        yield [name]


def in_child(action: Callable[[], Report | None], taken: privileges.Privileges) -> Report | None:
    """What `action` returns in a child process with these privileges."""
    if not libbpf.spare_kept():
        libbpf.keep_spare()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            taken.confine()
            libbpf.start_afresh()
            answer: Mapping[str, Any] | None = action()
            _write(write, json.dumps(answer).encode())
            status = 0
        except BaseException as error:
            _write(
                write,
                json.dumps({"stage": "open", "program": None, "text": f"{type(error).__name__}: {error}", "errno": None}).encode(),
            )
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    result: Report | None = json.loads(said)
    return result


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
