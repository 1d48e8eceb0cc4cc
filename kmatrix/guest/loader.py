"""Loading a collector: its variants' programs into the kernel and onto their hooks, and everything that was said on the way."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Any

from . import bpf, libbpf, limit, sections, why
from .attach import Unplaced, attach
from .libbpf import LibbpfError
from .observe import Stream

if TYPE_CHECKING:
    from .contract import Contract

Report = dict[str, Any]
Clock = Callable[[str], AbstractContextManager[None]]
"""clock(stage) accounts the time spent inside."""

LOG_SIZE = (1 << 24) - 1  # the most that kernels before 5.2 take (UINT_MAX >> 8)
_log = mmap.mmap(-1, 1 << 24)  # untouched pages cost nothing
_log_address = ctypes.addressof(ctypes.c_char.from_buffer(_log))

_CULPRIT = re.compile(r"^prog '([^']+)': ")
_MAP = re.compile(r"^map '([^']+)': failed to create")
_SAYS_NOTHING = re.compile(r"failed to load object|prog '[^']*': failed to load: -\d+$")

_INSTRUCTION = re.compile(r"^(?:from )?\d+.*: .+$", re.MULTILINE)
BTF_KIND_FUNC = 12
EXTENSION = bpf.PROG_TYPES.index("ext")
KEPT = 1 << 16
"""Bytes that are kept of the log of a verifier that was interrupted."""

NO_TARGET = "kmatrix does not know where to attach it"


class StillVerifying(LibbpfError):
    """The verifier was interrupted at its limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__("bpf_object__load", errno.EAGAIN)
        self.seconds = seconds

    def __str__(self) -> str:
        states = _INSTRUCTION.findall(verifier_log().rpartition("\n")[0])
        last = f"; its last state was {states[-1]}" if states else ""
        return f"the verifier was still at work after {self.seconds:g} s{last}"


class CannotSet(Exception):
    """The kernel or libbpf does not take what the contract sets. `program` is who it is about, where it is about one."""

    def __init__(self, text: str, number: int | None = None, program: str | None = None) -> None:
        self.text, self.errno, self.program = text, number, program
        super().__init__(text)


class Object:
    """An opened object; after `load`, its programs and maps are in the kernel until `close`."""

    def __init__(self, data: bytes, name: str, *, kconfig: str | None = None, btf: str | None = None) -> None:
        self._data = data  # libbpf copies what it needs, but only while opening
        opts = libbpf.OpenOpts(sz=ctypes.sizeof(libbpf.OpenOpts), object_name=name.encode())
        opts.kconfig = kconfig.encode() if kconfig is not None else None
        opts.btf_custom_path = btf.encode() if btf is not None else None
        opened = libbpf.object_open_mem(data, len(data), ctypes.byref(opts))
        self.pointer = libbpf.pointer("bpf_object__open", opened)
        self.programs = {libbpf.program_name(p).decode(): p for p in libbpf.each(libbpf.next_program, self.pointer)}
        self.maps = {libbpf.map_name(m).decode(): m for m in libbpf.each(libbpf.next_map, self.pointer)}
        for program in self.programs.values():
            libbpf.program_set_log_buf(program, _log_address, LOG_SIZE)
            if libbpf.program_type(program) == 0:
                _give_type(program)
        self._targets: list[Object] = []

    def choose(self, names: Collection[str]) -> None:
        """Load these programs and no others."""
        for name, program in self.programs.items():
            libbpf.program_set_autoload(program, name in names)

    def load(self, seconds: float = limit.SECONDS) -> None:
        """Create the maps and load the chosen programs; the verifier's words on a failure are in `verifier_log` afterwards.

        The verifier has so many seconds for each program. Raises LibbpfError, and StillVerifying where it took longer.
        """
        for name, program in self.programs.items():
            if libbpf.program_type(program) == EXTENSION and libbpf.program_autoload(program):
                self._find_target(name, program, seconds)
        _log[0:1] = b"\0"
        with limit.watching(seconds, _log, self._loaded) as watch:
            failed = libbpf.object_load(self.pointer)
        if failed and watch.after is not None:
            words = watch.words[-KEPT:]
            _log[: len(words) + 1] = words + b"\0"
            raise StillVerifying(watch.after)
        libbpf.check("bpf_object__load", failed)

    def _find_target(self, name: str, program: int, seconds: float) -> None:
        """Load the program of this object that has the function which an extension (`freplace/FUNCTION`) replaces, and aim at it.

        It is loaded a second time, since it has to be in the kernel before the extension is. Raises LibbpfError where there is none.
        """
        function = libbpf.program_section(program).decode().partition("/")[2]
        btf = libbpf.object_btf(self.pointer)
        ident = libbpf.btf_find_by_name_kind(btf, function.encode(), BTF_KIND_FUNC) if btf else -1
        for other, candidate in self.programs.items():
            if libbpf.program_type(candidate) == EXTENSION or ident <= 0:
                continue
            target = Object(self._data, other)
            self._targets.append(target)
            target.choose([other])
            with suppress(LibbpfError), libbpf.said():  # what it says of a wrong one is not to the point
                target.load(seconds)
                fd = libbpf.program_fd(target.programs[other])
                # All programs of the object have its whole BTF: which of its functions are in this one the kernel tells.
                if ident in bpf.functions(fd) and libbpf.program_set_attach_target(program, fd, function.encode()) == 0:
                    return
            self._targets.pop().close()
        os.write(2, f"prog '{name}': no other program of this object has a function {function} to replace\n".encode())
        raise LibbpfError("bpf_program__set_attach_target", errno.ENOENT)

    def _loaded(self) -> int:
        """How many of the programs are in the kernel."""
        return sum(libbpf.program_fd(program) >= 0 for program in self.programs.values())

    def close(self) -> None:
        """Everything of the object out of the kernel, but for what is pinned."""
        libbpf.object_close(self.pointer)
        for target in self._targets:
            target.close()


def _give_type(program: int) -> None:
    found = sections.meant(libbpf.program_section(program).decode())
    if found is not None:
        libbpf.program_set_type(program, found[0])
        if found[1] is not None:
            libbpf.program_set_attach_type(program, found[1])


def verifier_log() -> str:
    """What the verifier wrote last: complete, unless it was interrupted."""
    return limit.written(_log).decode("utf-8", "replace")


def blank(section: str) -> Report:
    """The report on a program of which nothing is known yet."""
    return {
        "id": None, "tag": None, "type": None, "section": section,
        "loaded": False, "attached": False, "via": None, "hook": None, "note": None, "runs": None, "error": None, "log": "",
    }  # fmt: skip


def describe(lines: Sequence[str], error: LibbpfError | OSError) -> Report:
    """The failure as errno and text: libbpf's own lines but for those that say nothing, else the error in words.

    Of a BTF that the kernel did not take, the line that says why, last: libbpf goes on without it, so it need not be the cause.
    """
    rest, btf = _without_btf_log(lines) if not isinstance(error, StillVerifying) else ([], [])
    telling = [line for line in rest if not _SAYS_NOTHING.match(line)][: 3 if btf else 4] + btf
    words = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return {"errno": error.errno, "text": "; ".join(telling) or words}


_BTF_BEGIN, _BTF_END = "-- BEGIN BTF LOAD LOG", "-- END BTF LOAD LOG"
_BTF_FAILED = re.compile(r"BTF loading error: -\d+")


def _without_btf_log(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines without what is said of loading the object's BTF, and that in one line, if there is any."""
    rest: list[str] = []
    code, last, inside = "", "", False
    for line in lines:
        if line.startswith((_BTF_BEGIN, _BTF_END)):
            inside = line.startswith(_BTF_BEGIN)
        elif inside:
            last = line.strip() or last
        elif failed := _BTF_FAILED.match(line):
            code = failed[0]
        elif not line.startswith("Error loading .BTF into kernel"):
            rest.append(line)
    return rest, [f"{code} ({last})"] if code else []


def culprit(lines: Sequence[str]) -> str | None:
    """The program that libbpf blames for a failed load."""
    return next((found[1] for line in reversed(lines) if (found := _CULPRIT.match(line))), None)


def uncreatable_map(lines: Sequence[str]) -> str | None:
    """The map that the kernel would not create."""
    return next((found[1] for line in lines if (found := _MAP.match(line))), None)


def note_loaded(report: Report, program: int) -> None:
    """Put what the kernel says of a loaded program into its report."""
    fd = libbpf.program_fd(program)
    if fd >= 0:
        info = bpf.prog_info(fd)
        report.update(id=info.id, tag=info.tag, type=info.type, loaded=True)


def created_maps(opened: Object) -> dict[str, Report]:
    """The object's maps that are in the kernel: id and type."""
    found = {}
    for name, map_ in opened.maps.items():
        try:
            info = bpf.map_info(libbpf.map_fd(map_))
        except OSError:  # not created: libbpf holds a place for its fd with a file that is no map
            continue
        found[name] = {"id": info.id, "type": info.type}
    return found


def wanted(program: int) -> Report:
    """What a program is to be: its type, by name, and its expected attach type, by number."""
    kind = bpf.name_of(bpf.PROG_TYPES, libbpf.program_type(program))
    return {"type": kind, "attach_type": int(libbpf.program_attach_type(program))}


def asked_of(pointer: int) -> Report:
    """What the object asks of a map: type, number of entries, sizes in bytes, flags."""
    return {
        "type": bpf.name_of(bpf.MAP_TYPES, int(libbpf.map_type(pointer))),
        "max_entries": int(libbpf.map_max_entries(pointer)),
        "key_size": int(libbpf.map_key_size(pointer)),
        "value_size": int(libbpf.map_value_size(pointer)),
        "flags": int(libbpf.map_flags(pointer)),
    }


def attach_one(
    program: int, report: Report, resources: ExitStack, maps: Iterable[int] = (), to: str | None = None
) -> tuple[Report | None, list[str]]:
    """Attach a loaded program: why not (None if it is attached), and what libbpf said. The report is brought up to date."""
    try:
        with libbpf.said() as lines:
            report["via"], report["hook"] = attach(program, resources, maps, to)
    except Unplaced as error:
        report.update(attached=None, note=str(error))
        return {"errno": None, "text": f"{NO_TARGET}: {error}"}, lines
    except (LibbpfError, OSError) as error:
        # An OSError has our own words: libbpf's are of what was tried before.
        failure = describe(lines if isinstance(error, LibbpfError) else (), error)
        report.update(error=failure["text"], errno=failure["errno"], btf=why.hook(report["section"], failure["errno"]))
        return failure, lines
    if to is not None:
        report["target"] = to
    report["attached"] = True
    return None, lines


class Running:
    """A variant that is loaded and attached. What came out of its buffer is in `raw` after `stream.poll`."""

    def __init__(self, stream: Stream | None, raw: list[bytes], resources: ExitStack) -> None:
        self.stream = stream
        self.raw = raw
        self._resources = resources

    def stop(self) -> None:
        """Detach and unload. Pins are left, so that they can be seen."""
        self._resources.close()


class _Failed(Exception):
    """The variant cannot run."""

    def __init__(self, stage: str, errno: int | None, text: str) -> None:
        self.stage, self.errno, self.text = stage, errno, text


class _TryWithout(Exception):
    """The variant cannot be loaded as it is, but may without the optional programs that were just given up."""


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
        self._variant, self._data, self._clock = variant, data, clock
        self._contract, self._load_timeout = contract, load_timeout
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
        if self._contract is not None and self._contract.given:
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
                return Running(stream, raw, resources.pop_all())

    def _failed(self, failure: _Failed) -> None:
        self.report.update(stage=failure.stage, error={"errno": failure.errno, "text": failure.text})
        for report in self._programs.values():
            report["attached"] = False

    def _choose(self, contract: Contract) -> None:
        """Let the contract decide which forms are loaded; what is off is no part of the variant here."""
        with libbpf.said() as lines, self._clock("open"):
            try:
                opened = contract.open()
            except LibbpfError as error:
                raise _Failed("open", **describe(lines, error)) from None
            contract.choose(opened)
            opened.close()
        for name in self._required.keys() & contract.off.keys():
            self._programs[name]["off"] = contract.off[name]
            del self._required[name]
        self.report["one_of"] = contract.chosen
        for group in contract.chosen:
            if group["ran"] is None:
                raise _Failed("load", None, f"no form of one_of can run here: {'; '.join(group['why'])}")

    def _open(self, resources: ExitStack) -> Object:
        try:
            with libbpf.said() as lines, self._clock("open"):
                opened = Object(self._data, self._variant["name"]) if self._contract is None else self._contract.open()
        except LibbpfError as error:
            raise _Failed("open", **describe(lines, error)) from None
        finally:
            self._log += lines
        resources.callback(opened.close)
        for name in self._required.keys() - opened.programs.keys():
            self._programs[name]["error"] = "the object has no such program"
            if self._required[name]:
                raise _Failed("open", None, f"the object has no program {name}")
            self._given_up.add(name)
        for name, report in self._programs.items():
            if name in opened.programs:  # the manifest's hook may say less than the section does
                report["section"] = libbpf.program_section(opened.programs[name]).decode()
        buffer = self._variant.get("buffer")
        if buffer is not None and buffer not in opened.maps:
            raise _Failed("open", None, f"the object has no map {buffer}")
        opened.choose(self._required.keys() - self._given_up)
        if self._contract is not None:
            self._set(lambda contract: contract.apply(opened, self._required.keys() - self._given_up, resources), "open")
        return opened

    def _set(self, step: Callable[[Contract], None], stage: str) -> None:
        """A step of the contract; where it is about an optional program, that is given up."""
        assert self._contract is not None, "there is something to set"
        try:
            step(self._contract)
        except CannotSet as error:
            if error.program is not None and error.program in self._programs:
                self._programs[error.program].update(error=error.text, errno=error.errno)
                if not self._required.get(error.program, True):
                    self._given_up.add(error.program)
                    raise _TryWithout from None
            raise _Failed("load" if error.program else stage, error.errno, error.text) from None

    def _load(self, opened: Object) -> None:
        try:
            with libbpf.said() as lines, self._clock("load"):
                opened.load(self._load_timeout)
        except LibbpfError as error:
            failure = describe(lines, error)
            blamed = culprit(lines)
            if blamed is not None and blamed in self._programs:
                log = verifier_log()
                known = {
                    "errno": failure["errno"],
                    "btf": why.facts("\n".join([*lines, log])),
                    "wants": wanted(opened.programs[blamed]),
                }
                self._programs[blamed].update(error=failure["text"], log=log, **known)
            bad = uncreatable_map(lines)
            if bad is not None and bad in opened.maps:
                self.report["maps"][bad] = {
                    "id": None,
                    **asked_of(opened.maps[bad]),
                    "error": failure["text"],
                    "errno": failure["errno"],
                }
            if self._give_up(blamed, lines, failure["text"]):
                raise _TryWithout from None
            raise _Failed("load", **failure) from None
        finally:
            self._log += lines
        for name in self._required.keys() - self._given_up:
            note_loaded(self._programs[name], opened.programs[name])
        self.report["maps"] = created_maps(opened)
        if self._contract is not None:
            self._set(lambda contract: contract.fill(opened), "load")

    def _give_up(self, blamed: str | None, lines: Sequence[str], text: str) -> bool:
        """Do without the optional program that is to blame, or all of them where none is blamed; whether that changes anything."""
        if blamed is not None and blamed in self._required:
            optional = set() if self._required[blamed] else {blamed}
        elif uncreatable_map(lines) is not None:
            return False
        else:
            optional = {name for name, required in self._required.items() if not required}
        optional -= self._given_up
        for name in optional:
            self._programs[name]["error"] = self._programs[name]["error"] or text
        self._given_up |= optional
        return bool(optional)

    def _consume(self, opened: Object, resources: ExitStack) -> tuple[Stream | None, list[bytes]]:
        """The consumer of the buffer, by the type that the kernel gives the map; none where it is of no type that is consumed."""
        raw: list[bytes] = []
        name = self._variant.get("buffer")
        if name is None:
            return None, raw
        try:
            with libbpf.said() as lines, self._clock("attach"):
                stream = Stream.of(self.report["maps"][name]["type"], libbpf.map_fd(opened.maps[name]), raw.append)
        except LibbpfError as error:
            raise _Failed("attach", **describe(lines, error)) from None
        finally:
            self._log += lines
        if stream is not None:
            resources.callback(stream.close)
        return stream, raw

    def _attach(self, opened: Object, resources: ExitStack) -> None:
        """Attach in the manifest's order; the first required program that cannot be ends it.

        A program that others call, or that the collector attaches by itself, is only loaded (`attach` false).
        """
        with self._clock("attach"):
            for name, required in self._required.items():
                if name in self._given_up or name not in self._to_attach:
                    continue
                if self._contract is not None and not self._contract.attaches(name):
                    continue
                to = self._contract.target(name) if self._contract is not None else None
                failure, lines = attach_one(opened.programs[name], self._programs[name], resources, opened.maps.values(), to)
                self._log += lines
                if failure is not None and self._programs[name]["attached"] is None:  # the manifest says that it is to be attached
                    self._programs[name].update(attached=False, error=failure["text"])
                if failure is not None and required:
                    raise _Failed("attach", failure["errno"], f"prog '{name}': {failure['text']}")
