"""Circumstances: what a kernel is run under, written behind its name: 6.1+lockdown, 6.1+cpus=4+mem=256M, 6.1+cap=bpf,perfmon.

A circumstance changes nothing of the kernel's image. It is a boot option, a sysctl, a version of cgroups, a size of the machine, or what is left of
root's privileges to whatever loads. What it takes away of the kernel's features stands beside it, so that the promised behaviour follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kmatrix.host import version as versions
from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.version import Version
from kmatrix.matrix.arch import ARCHES, Arch
from kmatrix.matrix.kernel import Condition, Kernel, Variation, vary
from kmatrix.matrix.privileges import ROOT, Privileges, capability, too_new

SEPARATOR = "+"
_SIZED = {"cpus": re.compile(r"([1-9]|[1-5]\d|6[0-4])"), "mem": re.compile(r"([1-9]\d*)([MG])")}
"""Those that take a size, and what it looks like."""
_CAP = "cap"
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
    """The first release that can have it."""
    excludes: tuple[str, ...] = ()
    """Circumstances that cannot be there with it."""
    arches: tuple[Arch, ...] = ARCHES
    config: Mapping[str, bool] = field(default_factory=dict)
    """Options that the kernel must have been built with (or, false, without)."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    cpus: int | None = None
    privileges: Privileges = ROOT


Known = Mapping[str, Circumstance]


def parts(text: str) -> tuple[str, list[str]]:
    """The kernel's name and the circumstances, of `6.1+lockdown+cpus=4`."""
    base, *names = text.split(SEPARATOR)
    return base, names


def choices(known: Known) -> list[str]:
    """All circumstances, as they are written."""
    return [*known, *(f"{each}=…" for each in (*_SIZED, _CAP, _BTF))]


def gives_memory(text: str) -> bool:
    """Whether the circumstances in a kernel's name say how much memory its guest has."""
    return any(name.startswith("mem=") for name in parts(text)[1])


def is_open(term: str) -> bool:
    """Whether a term of a comma-separated list ends in a list of its own, `cap=bpf,perfmon`: what comes behind the comma may be of it."""
    return term.rpartition(SEPARATOR)[2].startswith(f"{_CAP}=") and SEPARATOR in term


def under(base: Kernel, names: list[str], known: Known, *, where: str) -> Kernel:
    """`base` under the circumstances.

    Raises InputError for one that is unknown, wrong, given twice, excluded, or that this kernel cannot have.
    """
    text = SEPARATOR.join([base.name, *names])
    if base.simulation is not None:
        raise InputError(
            f"{base.name!r} is simulated, and has no circumstances", where=where, fix=f"name a real kernel: {base.real.name}"
        )
    kinds = [name.partition("=")[0] for name in names]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise InputError(f"{text!r} has {twice} twice", where=where, fix="give it once")
    for name in names:
        if name in known and (other := _excluded(known[name], names, kinds)) is not None:
            raise InputError(f"{text!r}: {name} and {other} exclude each other", where=where, fix="give one of them")
    kernel = base
    # What is said of capabilities in so many words holds for what another circumstance would leave: so it comes last.
    for name in sorted(names, key=lambda name: name.startswith(f"{_CAP}=")):
        kernel = _under(kernel, name, known, where)
    # What it was a flavour of says where its image comes from; each circumstance of several was one more step.
    return replace(kernel, name=text, flavour_of=base, summary=f"{base.name} under {', '.join(names)}")


def _excluded(chosen: Circumstance, names: list[str], kinds: list[str]) -> str | None:
    return next((each for each in chosen.excludes if each in kinds or each in names), None)


def _under(kernel: Kernel, text: str, known: Known, where: str) -> Kernel:
    name, equals, value = text.partition("=")
    if name == _BTF:
        return _with_btf(kernel, text, value, where)
    if name in _SIZED:
        return _sized(kernel, text, name, value, where)
    if name == _CAP:
        return _with_caps(kernel, text, value, where)
    if text not in known:
        near = did_you_mean(text if equals else name, [*known, *_SIZED, _CAP, _BTF])
        raise InputError(f"unknown circumstance {text!r}{near}", where=where, fix=f"known: {', '.join(choices(known))}")
    chosen = known[text]
    if chosen.since is not None and kernel.version < chosen.since:
        since = versions.text(chosen.since)
        raise InputError(
            f"{kernel.name!r} cannot have {text}: it came with {since}", where=where, fix=f"name a kernel from {since} on"
        )
    conditions = [Condition(text, option, on) for option, on in chosen.config.items()]
    varied = vary(kernel, kernel.name, chosen.variation, kernel.declared_in)
    return replace(
        varied,
        cpus=chosen.cpus or kernel.cpus,
        sysctls={**kernel.sysctls, **chosen.sysctls},
        conditions=(*kernel.conditions, *conditions),
        arches=tuple(arch for arch in kernel.arches if arch in chosen.arches),
        privileges=_both(kernel.privileges, chosen.privileges),
    )


def _sized(kernel: Kernel, text: str, name: str, value: str, where: str) -> Kernel:
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


def _with_caps(kernel: Kernel, text: str, value: str, where: str) -> Kernel:
    """`cap=bpf,perfmon`: these capabilities and no others; `cap=none`: none."""
    if not value:
        raise InputError(f"{text!r} is no circumstance", where=where, fix="write cap=bpf,perfmon, or cap=none")
    try:
        caps = tuple(dict.fromkeys(capability(each) for each in value.split(",") if each != "none"))
    except ValueError as error:
        raise InputError(
            f"{text!r}: {error}", where=where, fix="name it as capabilities(7) does, such as bpf or net_admin"
        ) from None
    if new := too_new(caps, kernel.version):
        raise InputError(
            f"{kernel.name!r} cannot have {text}: it has no {', '.join(f'CAP_{each.upper()}' for each in new)} (CAP_BPF and CAP_PERFMON came with 5.8)",
            where=where,
            fix=f"before 5.8 CAP_SYS_ADMIN stands for both: cap={','.join(dict.fromkeys(each if each not in new else 'sys_admin' for each in caps))}",
        )
    return replace(kernel, privileges=replace(kernel.privileges, caps=caps))


def _both(one: Privileges, other: Privileges) -> Privileges:
    """What both leave."""
    caps = one.caps if other.caps is None else other.caps
    if one.caps is not None and other.caps is not None:
        caps = tuple(name for name in one.caps if name in other.caps)
    return Privileges(other.user or one.user, caps, other.filter or one.filter, (*one.namespaces, *other.namespaces))


def _with_btf(kernel: Kernel, text: str, value: str, where: str) -> Kernel:
    """`kernel` with BTF from a file: what loads has the feature `btf`, and what the kernel itself does with BTF is as before."""
    if not _FILE.fullmatch(value):
        fix = "write btf=4.19.btf: the name of a file in the current folder or above it, without a folder"
        raise InputError(f"{text!r} is no circumstance", where=where, fix=fix)
    return replace(kernel, btf=value, overrides={**kernel.overrides, _BTF: True})
