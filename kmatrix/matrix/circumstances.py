"""Circumstances: what a kernel is run under, written behind its name: 6.1+lockdown, 6.1+cpus=4+mem=256M.

A circumstance changes nothing of the kernel's image. It is a boot option, a version of cgroups, a size of the machine. What it takes away of
the kernel's features stands beside it, so that the promised behaviour follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.version import Version
from kmatrix.matrix.kernel import Kernel, Variation, vary

SEPARATOR = "+"
_SIZED = {"cpus": re.compile(r"([1-9]|[1-5]\d|6[0-4])"), "mem": re.compile(r"([1-9]\d*)([MG])")}
"""Those that take a value, and what it looks like."""
_BTF = "btf"
_FILE = re.compile(r"\w[\w.-]*")
"""A file's name without a folder: a target's name is part of the names of records."""
LEAST_MIB = 160
"""The least memory in MiB of a guest: with it, 6.1 and 6.12 came up on both arches, and 20 MiB were left. With 128, 6.1 did not."""
_MOST_MIB = 64 << 10


@dataclass(frozen=True)
class Circumstance:
    """An entry of [circumstances] in kernels.toml."""

    name: str
    variation: Variation
    since: Version | None = None
    """The first release that knows its boot option."""
    excludes: tuple[str, ...] = ()
    """Circumstances that cannot be there with it."""


Known = Mapping[str, Circumstance]


def parts(text: str) -> tuple[str, list[str]]:
    """The kernel's name and the circumstances, of `6.1+lockdown+cpus=4`."""
    base, *names = text.split(SEPARATOR)
    return base, names


def under(base: Kernel, names: list[str], known: Known, *, where: str) -> Kernel:
    """`base` under the circumstances. Raises InputError for one that is unknown, wrong, given twice, too new for the kernel, or excluded."""
    text = SEPARATOR.join([base.name, *names])
    if base.simulation is not None:
        raise InputError(
            f"{base.name!r} is simulated, and has no circumstances", where=where, fix=f"name a real kernel: {base.real.name}"
        )
    kinds = [name.partition("=")[0] for name in names]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise InputError(f"{text!r} has {twice} twice", where=where, fix="give it once")
    for name in kinds:
        if name in known and (other := next((each for each in known[name].excludes if each in kinds), None)) is not None:
            raise InputError(f"{text!r}: {name} and {other} exclude each other", where=where, fix="give one of them")
    kernel = base
    for name in names:
        kernel = _under(kernel, name, known, where)
    # What it was a flavour of says where its image comes from; each circumstance of several was one more step.
    return replace(kernel, name=text, flavour_of=base, summary=f"{base.name} under {', '.join(names)}")


def _under(kernel: Kernel, text: str, known: Known, where: str) -> Kernel:
    name, equals, value = text.partition("=")
    if name == _BTF:
        return _with_btf(kernel, text, value, where)
    if name in _SIZED:
        match = _SIZED[name].fullmatch(value)
        if match is None:
            written = "cpus=4" if name == "cpus" else "mem=256M, or mem=2G"
            raise InputError(f"{text!r} is no circumstance", where=where, fix=f"write {written}")
        if name == "cpus":
            return replace(kernel, cpus=int(match[1]))
        mib = int(match[1]) << (10 if match[2] == "G" else 0)
        if not LEAST_MIB <= mib <= _MOST_MIB:
            raise InputError(
                f"{text!r}: a guest has {LEAST_MIB}M to {_MOST_MIB >> 10}G", where=where, fix=f"write mem={LEAST_MIB}M or more"
            )
        return replace(kernel, memory_mib=mib)
    if name not in known or equals:
        choices = [*known, *(f"{each}=…" for each in (*_SIZED, _BTF))]
        raise InputError(
            f"unknown circumstance {text!r}{did_you_mean(name, [*known, *_SIZED])}", where=where, fix=f"known: {', '.join(choices)}"
        )
    chosen = known[name]
    if chosen.since is not None and kernel.version < chosen.since:
        since = versions.text(chosen.since)
        raise InputError(
            f"{kernel.name!r} cannot have {name}: it came with {since}", where=where, fix=f"name a kernel from {since} on"
        )
    return vary(kernel, kernel.name, chosen.variation, kernel.declared_in)


def _with_btf(kernel: Kernel, text: str, value: str, where: str) -> Kernel:
    """`kernel` with BTF from a file: what loads has the feature `btf`, and what the kernel itself does with BTF is as before."""
    if not _FILE.fullmatch(value):
        fix = "write btf=4.19.btf: the name of a file in the current folder or above it, without a folder"
        raise InputError(f"{text!r} is no circumstance", where=where, fix=fix)
    return replace(kernel, btf=value, overrides={**kernel.overrides, _BTF: True})
