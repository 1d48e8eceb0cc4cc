"""An object that libbpf has opened: loading it, and what is said of its programs and maps on the way."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import bpf, libbpf, limit, sections
from .libbpf import LibbpfError

if TYPE_CHECKING:
    pass

Report = dict[str, Any]

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
