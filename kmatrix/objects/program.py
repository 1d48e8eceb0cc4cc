"""Programs and libraries on the host, as files: which arch they are of, and what they ask for before they start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmatrix.host.errors import InputError
from kmatrix.host.later import later
from kmatrix.matrix.arch import INFO, Arch

if TYPE_CHECKING:
    from elftools.common import exceptions as elf_exceptions
    from elftools.elf import elffile
else:
    elf_exceptions = later("elftools.common.exceptions")
    elffile = later("elftools.elf.elffile")

_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)")


@dataclass(frozen=True)
class Program:
    """What an ELF program or library asks for."""

    machine: str
    """e_machine, such as EM_AARCH64."""
    arch_name: str
    """The machine in words."""
    interpreter: str | None
    """The dynamic linker; None of a static program and of a library."""
    needed: tuple[str, ...]
    """Names of the libraries that it is linked with (DT_NEEDED)."""
    search: tuple[str, ...]
    """Where it wants them looked for first (DT_RUNPATH, DT_RPATH), with $ORIGIN put in."""
    glibc: tuple[int, int]
    """The newest version of glibc that one of its symbols has; (0, 0) for none."""

    def runs_on(self, arch: Arch) -> bool:
        """Whether it is for that arch."""
        return self.machine == INFO[arch].elf_machine


def read(path: Path) -> Program | None:
    """What the file asks for; None where it is no ELF file, or one for the kernel's BPF. Raises InputError where it is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
            file.seek(0)
            return _program(elffile.ELFFile(file), path)
    except (elf_exceptions.ELFError, KeyError, ValueError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"it is not a whole ELF file ({error})", where=str(path), fix="build it again") from None
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", where=str(path)) from None


def interpreter(path: Path) -> tuple[str, ...] | None:
    """The words of a script's first line, as in `#!/usr/bin/env bash`; None where it does not begin so."""
    with path.open("rb") as file:
        line = file.readline(256)
    return tuple(line[2:].decode(errors="replace").split()) if line.startswith(b"#!") else None


def _program(elf: elffile.ELFFile, path: Path) -> Program | None:
    machine = str(elf["e_machine"])
    if machine == "EM_BPF":
        return None
    interpreter, needed, search = None, [], []
    segment: Any
    for segment in elf.iter_segments():
        kind = segment["p_type"]
        if kind == "PT_INTERP":
            interpreter = str(segment.get_interp_name())
        elif kind == "PT_DYNAMIC":
            for tag in segment.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(str(tag.needed))
                elif tag.entry.d_tag in ("DT_RUNPATH", "DT_RPATH"):
                    text = str(tag.runpath if tag.entry.d_tag == "DT_RUNPATH" else tag.rpath)
                    origin = str(path.resolve().parent)
                    search += [part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for part in text.split(":") if part]
    return Program(machine, elf.get_machine_arch(), interpreter, tuple(needed), tuple(search), _newest_glibc(elf))


def _newest_glibc(elf: elffile.ELFFile) -> tuple[int, int]:
    section: Any = elf.get_section_by_name(".gnu.version_r")
    if section is None:
        return (0, 0)
    names = [str(aux.name) for _, each in section.iter_versions() for aux in each]
    return max(((int(found[1]), int(found[2])) for name in names if (found := _GLIBC.match(name))), default=(0, 0))
