"""An object that libbpf has opened: loading it, and what is said of its programs and maps on the way."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from . import bpf, libbpf, limit, sections
from .attach import attach
from .confirm import Attachment
from .libbpf import LibbpfError
from .library import CannotSet, Opened, Refused, Report

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

    # -- what is in it ---------------------------------------------------------------------------------------------------------

    def section(self, name: str) -> str:
        """The name of a program's section."""
        return str(libbpf.program_section(self.programs[name]).decode())

    def autoload(self, name: str) -> bool:
        """Whether the program is loaded where nobody says otherwise: not where its section begins with `?`."""
        return bool(libbpf.program_autoload(self.programs[name]))

    def insns(self, name: str) -> int:
        """How many instructions a program has."""
        return int(libbpf.program_insn_cnt(self.programs[name]))

    def wanted(self, name: str) -> Report:
        """What a program is to be: its type, by name, and its expected attach type, by number."""
        kind = bpf.name_of(bpf.PROG_TYPES, libbpf.program_type(self.programs[name]))
        return {"type": kind, "attach_type": int(libbpf.program_attach_type(self.programs[name]))}

    def asked_of(self, name: str) -> Report:
        """What the object asks of a map: type, number of entries, sizes in bytes, flags."""
        pointer = self.maps[name]
        return {
            "type": bpf.name_of(bpf.MAP_TYPES, int(libbpf.map_type(pointer))),
            "max_entries": int(libbpf.map_max_entries(pointer)),
            "key_size": int(libbpf.map_key_size(pointer)),
            "value_size": int(libbpf.map_value_size(pointer)),
            "flags": int(libbpf.map_flags(pointer)),
        }

    # -- what its loader sets --------------------------------------------------------------------------------------------------

    def leave_out(self, name: str) -> None:
        """Do not create this map."""
        _set_of_map(name, "autocreate", libbpf.map_set_autocreate, self.maps[name], False)

    def set_bytes(self, section: str, offset: int, data: bytes) -> None:
        """Write into the initial value of global variables."""
        # libbpf's map of a section is called after the object and the section, or after the section alone.
        found = next((pointer for name, pointer in self.maps.items() if name.endswith(section)), None)
        size = ctypes.c_size_t()
        start = libbpf.map_initial_value(found, ctypes.byref(size)) if found else None
        if not start:
            raise CannotSet(f"variables: this libbpf ({libbpf.version()}) has no memory for the object's {section}")
        if offset + len(data) > size.value:
            raise CannotSet(f"variables: {section} has {size.value} bytes in libbpf's eyes, too few for byte {offset} on")
        ctypes.memmove(start + offset, data, len(data))

    def set_map(self, name: str, key: str, value: int) -> None:
        """Set type, key_size, value_size or max_entries of a map."""
        _set_of_map(name, key, _OF_A_MAP[key](), self.maps[name], value)

    def set_inner(self, name: str, inner: Report, resources: ExitStack) -> None:
        """Say what maps a map of maps holds, by one of them."""
        try:
            fd = bpf.map_create(
                int(inner["type"]),
                int(inner["key_size"]),
                int(inner["value_size"]),
                int(inner["max_entries"]),
                flags=int(inner["flags"]),
            )
        except OSError as error:
            raise CannotSet(f"inner map: {error.strerror}", error.errno) from None
        resources.callback(os.close, fd)
        _set_of_map(name, "inner", libbpf.map_set_inner_map_fd, self.maps[name], fd)

    def set_pin(self, name: str, path: str) -> None:
        """Pin a map there once it is created, or take the one that is pinned there."""
        _set_of_map(name, "pin", libbpf.map_set_pin_path, self.maps[name], path.encode())

    def set_program(self, name: str, key: str, value: int | str) -> None:
        """Set type, expected_attach_type or attach_to of a program."""
        with libbpf.said() as lines:
            if key == "attach_to":
                failed = libbpf.program_set_attach_target(self.programs[name], 0, str(value).encode())
            else:
                failed = _OF_A_PROGRAM[key]()(self.programs[name], value)
        if failed:
            said = describe(lines, LibbpfError(key, -failed))
            raise CannotSet(said["text"], -failed, name)

    # -- loading ---------------------------------------------------------------------------------------------------------------

    def load(self, seconds: float = limit.SECONDS) -> list[str]:
        """Create the maps and load the chosen programs; what libbpf said. The verifier has so many seconds for each program.

        Raises Refused.
        """
        try:
            with libbpf.said() as lines:
                self._load(seconds)
        except LibbpfError as error:
            failure = describe(lines, error)
            raise Refused(**failure, lines=lines, program=culprit(lines), map_=uncreatable_map(lines), log=verifier_log()) from None
        return lines

    def fd(self, name: str) -> int:
        """The descriptor of a loaded program; negative where it is not in the kernel."""
        return int(libbpf.program_fd(self.programs[name]))

    def map_fd(self, name: str) -> int:
        """The descriptor of a map; of one that is not created, libbpf holds a place for it with a file that is no map."""
        return int(libbpf.map_fd(self.maps[name]))

    def attach(self, name: str, resources: ExitStack, to: str | None) -> tuple[Attachment, list[str]]:
        """Attach a loaded program where its section says, or `to` that target; and what libbpf said."""
        with refusing() as lines:
            found = attach(self.programs[name], resources, self.maps.values(), to)
        return found, lines

    def _load(self, seconds: float) -> None:
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
                target._load(seconds)
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


def _set_of_map(name: str, key: str, function: Callable[..., int], pointer: int, value: Any) -> None:
    failed = function(pointer, value)
    if failed:
        raise CannotSet(f"maps.{name}.{key}: {bpf.error_text(-failed)}", -failed)


# Looked up when they are called: libbpf.start_afresh replaces them.
_OF_A_MAP: dict[str, Callable[[], Callable[..., int]]] = {
    "type": lambda: libbpf.map_set_type,
    "key_size": lambda: libbpf.map_set_key_size,
    "value_size": lambda: libbpf.map_set_value_size,
    "max_entries": lambda: libbpf.map_set_max_entries,
}
_OF_A_PROGRAM: dict[str, Callable[[], Callable[..., int]]] = {
    "type": lambda: libbpf.program_set_type,
    "expected_attach_type": lambda: libbpf.program_set_attach_type,
}


@contextmanager
def refusing() -> Iterator[list[str]]:
    """Collect what libbpf says; its failures inside, and the kernel's, become Refused."""
    lines: list[str] = []
    try:
        with libbpf.said() as said:
            yield lines
        lines += said
    except (LibbpfError, OSError) as error:
        lines += said
        # An OSError has our own words: libbpf's are of what was tried before.
        failure = describe(said if isinstance(error, LibbpfError) else (), error)
        raise Refused(**failure, lines=lines) from None


def open_object(data: bytes, name: str, *, kconfig: str | None = None, btf: str | None = None) -> Opened:
    """The object opened by libbpf. Raises Refused."""
    with refusing():
        return Object(data, name, kconfig=kconfig, btf=btf)


def note_loaded(report: Report, fd: int) -> None:
    """Put what the kernel says of a loaded program into its report."""
    if fd >= 0:
        info = bpf.prog_info(fd)
        report.update(id=info.id, tag=info.tag, type=info.type, loaded=True)


def created_maps(opened: Opened) -> dict[str, Report]:
    """The object's maps that are in the kernel: id and type."""
    found = {}
    for name in opened.maps:
        try:
            info = bpf.map_info(opened.map_fd(name))
        except OSError:  # not created
            continue
        found[name] = {"id": info.id, "type": info.type}
    return found
