"""The two architectures, as data: every name that differs between them stands here and nowhere else."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean

Arch = Literal["x86_64", "arm64"]
ARCHES: tuple[Arch, ...] = get_args(Arch)


@dataclass(frozen=True)
class ArchInfo:
    """What one architecture is called by the tools around it."""

    name: Arch
    aliases: tuple[str, ...]
    """Spellings accepted on input."""
    debian: str
    """Debian's (Go's, and container registries') name."""
    machine: str
    """What `uname -m` says, and RPM's name."""
    bpf2go: str
    """The name in bpf2go's object files (`prog_x86_bpfel.o`) and in clang's `__TARGET_ARCH_…`."""
    kbuild: str
    """`ARCH=` of the kernel's makefiles, and the folder under arch/."""
    image: str
    """The make target of a bootable image."""
    cross_prefix: str
    qemu: str
    """The system emulator's program."""
    qemu_package: str
    """Debian's package of it."""
    console: str
    """The kernel's name of the serial console that QEMU's machine has."""
    elf_machine: str
    """e_machine of programs of this arch."""
    most_cpus: int
    """CPUs that QEMU's machine has at most, as virtme sets it up (arm64's has a GICv2, which serves 8)."""


INFO: Mapping[Arch, ArchInfo] = {
    "x86_64": ArchInfo(
        name="x86_64",
        aliases=("x86_64", "amd64", "x86", "x86-64", "x64"),
        debian="amd64",
        machine="x86_64",
        bpf2go="x86",
        kbuild="x86",
        image="bzImage",
        cross_prefix="x86_64-linux-gnu-",
        qemu="qemu-system-x86_64",
        qemu_package="qemu-system-x86",
        console="ttyS0",
        elf_machine="EM_X86_64",
        most_cpus=64,
    ),
    "arm64": ArchInfo(
        name="arm64",
        aliases=("arm64", "aarch64"),
        debian="arm64",
        machine="aarch64",
        bpf2go="arm64",
        kbuild="arm64",
        image="Image",
        cross_prefix="aarch64-linux-gnu-",
        qemu="qemu-system-aarch64",
        qemu_package="qemu-system-arm",
        console="ttyAMA0",
        elf_machine="EM_AARCH64",
        most_cpus=8,
    ),
}

_BY_ALIAS: Mapping[str, Arch] = {alias: info.name for info in INFO.values() for alias in info.aliases}


def parse_arch(text: str, *, where: str = "--arch", or_: str = "") -> Arch:
    """The arch that `text` means; aliases (`amd64`, `aarch64`, `x86`…) are understood. `or_` is what else may be written there.

    Raises InputError, with the nearest name, for anything else.
    """
    arch = _BY_ALIAS.get(text.strip().lower())
    if arch is None:
        raise InputError(
            f"unknown arch {text!r}{did_you_mean(text, _BY_ALIAS)}", where=where, fix=f"use one of: {', '.join(ARCHES)}{or_}"
        )
    return arch


def parse_arches(text: str, *, where: str = "--arch") -> tuple[Arch, ...]:
    """A comma-separated list of arches, or `all`, in the order of ARCHES and without repeats."""
    terms = [term for term in (t.strip() for t in text.split(",")) if term]
    if not terms:
        raise InputError("no arch given", where=where, fix=f"use one or more of: {', '.join(ARCHES)} (or all)")
    chosen = {
        arch for term in terms for arch in (ARCHES if term.lower() == "all" else (parse_arch(term, where=where, or_=" (or all)"),))
    }
    return tuple(arch for arch in ARCHES if arch in chosen)


def host_arch() -> Arch | None:
    """The arch kmatrix runs on, or None where it is neither of the two."""
    return _BY_ALIAS.get(platform.machine().lower())
