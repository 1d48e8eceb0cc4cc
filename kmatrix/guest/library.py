"""What a library that loads objects is to the rest of the guest: libbpf (`opened`), cilium/ebpf (`cilium`), and a place for Aya's.

A library opens an object, is told what its loader sets, loads what was chosen of it, and attaches. Everything else (triggers, sinks, what
the kernel says of programs, maps and links) goes by the descriptors, and is the same code for all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from .confirm import Attachment

Report = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A loaded program, as whoever attaches it needs it."""

    fd: int
    section: str
    """Without the `?` of a program that is not loaded by default."""
    type: str
    """By name, as bpftool writes it."""
    attach_type: int
    """The expected one (enum bpf_attach_type)."""


class Refused(Exception):
    """The library, or the kernel through it, would not: in its words."""

    def __init__(
        self,
        text: str,
        errno: int | None = None,
        *,
        lines: list[str] | None = None,
        program: str | None = None,
        map_: str | None = None,
        log: str = "",
    ) -> None:
        super().__init__(text)
        self.text, self.errno = text, errno
        self.lines = [text] if lines is None else lines
        """All that the library said."""
        self.program, self.map = program, map_
        """The program to blame, or the map that cannot be created, where that is known."""
        self.log = log
        """The verifier's."""

    @property
    def failure(self) -> Report:
        """`errno` and `text`, as reports have them."""
        return {"errno": self.errno, "text": self.text}


class CannotSet(Exception):
    """The kernel or the library does not take what the contract sets. `program` is who it is about, where it is about one."""

    def __init__(self, text: str, number: int | None = None, program: str | None = None) -> None:
        self.text, self.errno, self.program = text, number, program
        super().__init__(text)


class Opened(Protocol):
    """An object that a library has opened. After `load`, its programs and maps are in the kernel until `close`."""

    @property
    def programs(self) -> Mapping[str, Any]:
        """The programs that the library finds in the object, by name, in its order."""
        ...

    @property
    def maps(self) -> Mapping[str, Any]:
        """The maps, by the library's names for them."""
        ...

    def section(self, name: str) -> str:
        """The name of a program's section, as the object has it."""
        ...

    def autoload(self, name: str) -> bool:
        """Whether the program is loaded where nobody says otherwise."""
        ...

    def insns(self, name: str) -> int:
        """How many instructions a program has."""
        ...

    def wanted(self, name: str) -> Report:
        """What a program is to be: its `type`, by name, and its expected `attach_type`, by number."""
        ...

    def asked_of(self, name: str) -> Report:
        """What the object asks of a map: `type`, `max_entries`, `key_size` and `value_size` in bytes, `flags`."""
        ...

    # -- between opening and loading. What cannot be set raises CannotSet -----------------------------------------------------

    def choose(self, names: Collection[str]) -> None:
        """Load these programs and no others."""
        ...

    def leave_out(self, name: str) -> None:
        """Do not create this map."""
        ...

    def set_bytes(self, section: str, offset: int, data: bytes) -> None:
        """Write into the initial value of global variables (`.rodata`, `.data`, `.bss`)."""
        ...

    def set_map(self, name: str, key: str, value: int) -> None:
        """Set `type`, `key_size`, `value_size` or `max_entries` of a map."""
        ...

    def set_inner(self, name: str, inner: Report, resources: ExitStack) -> None:
        """Say what maps a map of maps holds: as `asked_of`. `resources` closes what is made for it."""
        ...

    def set_pin(self, name: str, path: str) -> None:
        """Pin a map there once it is created, or take the one that is pinned there."""
        ...

    def set_program(self, name: str, key: str, value: int | str) -> None:
        """Set `type`, `expected_attach_type` or, for programs that are aimed by BTF, `attach_to` of a program."""
        ...

    # -- loading and attaching -------------------------------------------------------------------------------------------------

    def load(self, seconds: float) -> list[str]:
        """Create the maps and load the chosen programs; what the library said. The verifier has so many seconds for each program.

        Raises Refused.
        """
        ...

    def fd(self, name: str) -> int:
        """The descriptor of a loaded program; -1 where it is not in the kernel."""
        ...

    def map_fd(self, name: str) -> int:
        """The descriptor of a map; -1 where there is none."""
        ...

    def attach(self, name: str, resources: ExitStack, to: str | None) -> tuple[Attachment, list[str]]:
        """Attach a loaded program where its section says, or `to` that target; and what the library said. `resources` will detach it.

        Raises Unplaced where the section does not say where, Refused where the kernel or the library would not.
        """
        ...

    def close(self) -> None:
        """Everything of the object out of the kernel, but for what is pinned."""
        ...


class Unplaced(Exception):
    """The program's section does not say where to attach it, or what it says is the application's to make; the text is why."""


DEFAULT = "libbpf"
PACKED = {"cilium": "/run/kmatrix/vm/loaders/cilium.gz"}
"""Where the host puts the program of a library that is none of the guest image's, compressed."""


def opener(library: str) -> Callable[..., Opened]:
    """The function that opens an object by a library: (data, name, kconfig=…, btf=…) → Opened. It raises Refused, and CannotSet.

    To add one, for Aya's say: a module with such a function, and its row here.
    """
    from .cilium import open_object as by_cilium  # a library's module needs this one
    from .opened import open_object as by_libbpf

    return {"libbpf": by_libbpf, "cilium": by_cilium}[library]
