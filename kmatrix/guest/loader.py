"""Loading a collector: its variants' programs into the kernel and onto their hooks, and everything that was said on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from . import limit, why
from .contract import Contract
from .library import CannotSet, Opened, Refused, Report, Unplaced
from .observe import Stream
from .opened import blank, created_maps, note_loaded, refusing

Clock = Callable[[str], AbstractContextManager[None]]
"""clock(stage) accounts the time spent inside."""

NO_TARGET = "kmatrix does not know where to attach it"


def attach_one(
    opened: Opened, name: str, report: Report, resources: ExitStack, to: str | None = None
) -> tuple[Report | None, list[str]]:
    """Attach a loaded program: why not (None if it is attached), and what the library said. The report is brought up to date."""
    try:
        (report["via"], report["hook"]), lines = opened.attach(name, resources, to)
    except Unplaced as error:
        report.update(attached=None, note=str(error))
        return {"errno": None, "text": f"{NO_TARGET}: {error}"}, []
    except Refused as error:
        report.update(error=error.text, errno=error.errno, btf=why.hook(report["section"], error.errno))
        return error.failure, error.lines
    if to is not None:
        report["target"] = to
    report["attached"] = True
    return None, lines


class Running:
    """A variant that is loaded and attached. What came out of its buffer is in `raw` after `stream.poll`."""

    def __init__(self, stream: Stream | None, raw: list[bytes], resources: ExitStack, contract: Contract) -> None:
        self.stream = stream
        self.raw = raw
        self.contract = contract
        """By which it was loaded."""
        self._resources = resources

    def stop(self) -> None:
        """Detach and unload. Pins are left, so that they can be seen."""
        self._resources.close()


class _Failed(Exception):
    """The variant cannot run."""

    def __init__(self, stage: str, errno: int | None, text: str) -> None:
        self.stage, self.errno, self.text = stage, errno, text


class _TryWithout(Exception):
    """The variant cannot be loaded as it is, but may without what was just given up: optional programs, or the abridged BTF."""


class Attempt:
    """One try of one variant. An optional program that cannot be loaded is left out and the rest tried again."""

    def __init__(
        self,
        variant: Mapping[str, Any],
        data: bytes,
        clock: Clock,
        contract: Contract | None = None,
        load_timeout: float = limit.SECONDS,
    ) -> None:
        self._variant, self._clock = variant, clock
        self._contract = contract or Contract(None, data, variant["name"], dict)
        self._load_timeout = load_timeout
        self._required = {program["name"]: bool(program.get("required", True)) for program in variant["programs"]}
        self._to_attach = {program["name"] for program in variant["programs"] if program.get("attach", True)}
        self._given_up: set[str] = set()
        self._programs = {program["name"]: blank(program["hook"]) for program in variant["programs"]}
        self._log: list[str] = []
        self.report: Report = {
            "variant": variant["name"],
            "stage": None,
            "error": None,
            "programs": self._programs,
            "maps": {},
            "log": self._log,
        }

    def run(self) -> Running | None:
        """The variant running, if every required program loaded and attached; else nothing of it is left, and the report says why."""
        if self._contract.given:
            try:
                self._choose(self._contract)
            except _Failed as failure:
                self._failed(failure)
                return None
        while True:
            with ExitStack() as resources:
                try:
                    opened = self._open(resources)
                    self._load(opened)
                    stream, raw = self._consume(opened, resources)
                    self._attach(opened, resources)
                except _TryWithout:
                    continue
                except _Failed as failure:
                    self._failed(failure)
                    return None
                return Running(stream, raw, resources.pop_all(), self._contract)

    def _failed(self, failure: _Failed) -> None:
        self.report.update(stage=failure.stage, error={"errno": failure.errno, "text": failure.text})
        for report in self._programs.values():
            report["attached"] = False

    def _choose(self, contract: Contract) -> None:
        """Let the contract decide which forms are loaded; what is off is no part of the variant here."""
        with self._clock("open"):
            try:
                opened = contract.open()
            except Refused as error:
                raise _Failed("open", **error.failure) from None
            contract.choose(opened)
            opened.close()
        for name in self._required.keys() & contract.off.keys():
            self._programs[name]["off"] = contract.off[name]
            del self._required[name]
        self.report["one_of"] = contract.chosen
        for group in contract.chosen:
            if group["ran"] is None:
                raise _Failed("load", None, f"no form of one_of can run here: {'; '.join(group['why'])}")

    def _open(self, resources: ExitStack) -> Opened:
        try:
            with self._clock("open"):
                opened = self._contract.open()
        except Refused as error:
            self._log += error.lines
            raise _Failed("open", **error.failure) from None
        resources.callback(opened.close)
        for name in self._required.keys() - opened.programs.keys():
            self._programs[name]["error"] = "the object has no such program"
            if self._required[name]:
                raise _Failed("open", None, f"the object has no program {name}")
            self._given_up.add(name)
        for name, report in self._programs.items():
            if name in opened.programs:  # the manifest's hook may say less than the section does
                report["section"] = opened.section(name)
        buffer = self._variant.get("buffer")
        if buffer is not None and buffer not in opened.maps:
            raise _Failed("open", None, f"the object has no map {buffer}")
        opened.choose(self._required.keys() - self._given_up)
        self._set(lambda contract: contract.apply(opened, self._required.keys() - self._given_up, resources), "open")
        return opened

    def _set(self, step: Callable[[Contract], None], stage: str) -> None:
        """A step of the contract; where it is about an optional program, that is given up."""
        try:
            step(self._contract)
        except CannotSet as error:
            if error.program is not None and error.program in self._programs:
                self._programs[error.program].update(error=error.text, errno=error.errno)
                if not self._required.get(error.program, True):
                    self._given_up.add(error.program)
                    raise _TryWithout from None
            raise _Failed("load" if error.program else stage, error.errno, error.text) from None

    def _load(self, opened: Opened) -> None:
        try:
            with self._clock("load"):
                self._log += opened.load(self._load_timeout)
        except Refused as error:
            if self._contract.give_up_core_btf():
                raise _TryWithout from None
            self._log += error.lines
            if error.program is not None and error.program in self._programs:
                known = {"errno": error.errno, "btf": why.facts("\n".join([*error.lines, error.log]))}
                wants = opened.wanted(error.program)
                self._programs[error.program].update(error=error.text, log=error.log, wants=wants, **known)
            if error.map is not None and error.map in opened.maps:
                said = {"error": error.text, "errno": error.errno}
                self.report["maps"][error.map] = {"id": None, **opened.asked_of(error.map), **said}
            if self._give_up(error):
                raise _TryWithout from None
            raise _Failed("load", **error.failure) from None
        for name in self._required.keys() - self._given_up:
            note_loaded(self._programs[name], opened.fd(name))
        self.report["maps"] = created_maps(opened)
        self._set(lambda contract: contract.fill(opened), "load")

    def _give_up(self, error: Refused) -> bool:
        """Do without the optional program that is to blame, or all of them where none is blamed; whether that changes anything."""
        blamed, text = error.program, error.text
        if blamed is not None and blamed in self._required:
            optional = set() if self._required[blamed] else {blamed}
        elif error.map is not None:
            return False
        else:
            optional = {name for name, required in self._required.items() if not required}
        optional -= self._given_up
        for name in optional:
            self._programs[name]["error"] = self._programs[name]["error"] or text
        self._given_up |= optional
        return bool(optional)

    def _consume(self, opened: Opened, resources: ExitStack) -> tuple[Stream | None, list[bytes]]:
        """The consumer of the buffer, by the type that the kernel gives the map; none where it is of no type that is consumed."""
        raw: list[bytes] = []
        name = self._variant.get("buffer")
        if name is None:
            return None, raw
        try:
            with self._clock("attach"), refusing() as lines:
                stream = Stream.of(self.report["maps"][name]["type"], opened.map_fd(name), raw.append)
        except Refused as error:
            raise _Failed("attach", **error.failure) from None
        finally:
            self._log += lines
        if stream is not None:
            resources.callback(stream.close)
        return stream, raw

    def _attach(self, opened: Opened, resources: ExitStack) -> None:
        """Attach in the manifest's order; the first required program that cannot be ends it.

        A program that others call, or that the collector attaches by itself, is only loaded (`attach` false).
        """
        with self._clock("attach"):
            for name, required in self._required.items():
                if name in self._given_up or name not in self._to_attach:
                    continue
                if not self._contract.attaches(name):
                    continue
                to = self._contract.target(name)
                failure, lines = attach_one(opened, name, self._programs[name], resources, to)
                self._log += lines
                if failure is not None and self._programs[name]["attached"] is None:  # the manifest says that it is to be attached
                    self._programs[name].update(attached=False, error=failure["text"])
                if failure is not None and required:
                    raise _Failed("attach", failure["errno"], f"prog '{name}': {failure['text']}")
