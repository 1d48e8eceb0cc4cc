"""What a worker can run, and what it lacks: judged by its description (kmatrix.runs.workers.describe)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.runs.doctor import MEMORY_MIB, Finding, Level

SNAPSHOT = 128 << 20
"""Bytes that a target's snapshot takes on a disk: 50 to 110 MiB were measured."""
MARGIN = 256 << 20
"""Bytes that are left free on a worker's disk."""
_ENOUGH = 8 << 30


@dataclass(frozen=True)
class Able:
    """What a worker can run."""

    arches: frozenset[Arch]
    native: Arch | None
    """The arch that its own CPU has."""
    why: Mapping[Arch, str]
    """By arch that it cannot run: why."""


def able(description: Mapping[str, Any], accel: str = "auto") -> Able:
    """What the worker that says `description` of itself can run, under --accel as it is given."""
    why: dict[Arch, str] = {}
    for arch in ARCHES:
        if description["virtme"] is None:
            why[arch] = "virtme-ng is not installed there"
        elif description["setpriv"] is None:
            why[arch] = "setpriv (util-linux) is not installed there"
        elif description["qemu"].get(arch) is None:
            why[arch] = f"{INFO[arch].qemu} is not in its PATH"
        elif accel == "kvm" and arch != description["arch"]:
            why[arch] = f"--accel=kvm, and its CPU runs no {arch} guest"
        elif accel == "kvm" and description["accel"]["name"] == "tcg":
            why[arch] = f"--accel=kvm, and {description['accel']['why']}"
    native = description["arch"]
    return Able(frozenset(arch for arch in ARCHES if arch not in why), native, why)


def findings(description: Mapping[str, Any]) -> Iterator[Finding]:
    """What `kmatrix hosts check` says of a worker that can be spoken with."""
    install = f"{'' if description['user'] == 0 else 'sudo '}apt-get install --no-install-recommends"
    cpus, memory, free = description["cpus"], description["memory_mib"], description["free"]
    yield Finding("ok", "machine", f"{description['node']} ({description['machine']}, {cpus} CPUs)")
    yield Finding("ok", "python", description["python"])
    can = able(description)
    for arch in ARCHES:
        version = description["qemu"].get(arch)
        if version is not None:
            yield Finding("ok", f"QEMU for {arch}", version)
        else:
            level: Level = "note" if can.arches else "lacks"
            found = f"{INFO[arch].qemu} is not in its PATH: it gets no cells of {arch}"
            yield Finding(level, f"QEMU for {arch}", found, f"{install} {INFO[arch].qemu_package}")
    if description["setpriv"] is None:
        yield Finding("lacks", "setpriv", "not installed: it ends QEMU with its parent", f"{install} util-linux")
    if description["virtme"] is None:
        yield Finding("lacks", "virtme-ng", "not installed", "install kmatrix anew there")
    accel = description["accel"]
    shown = accel["why"] if accel["name"] is None else f"{accel['name']} ({accel['why']})"
    yield Finding("ok" if accel["name"] == "kvm" else "note", "acceleration", shown)
    yield Finding(
        "ok" if memory >= MEMORY_MIB else "lacks", "memory", f"{memory} MiB available", f"free memory up to {MEMORY_MIB} MiB"
    )
    room = f"{free / (1 << 30):.1f} GiB free for {description['cache']}"
    fix = "free some there, or give it a cache on a larger disk: //env:KMATRIX_CACHE=/path"
    yield Finding("lacks" if free < MARGIN + SNAPSHOT else "ok" if free >= _ENOUGH else "note", "disk", room, fix)
    yield Finding("ok", "store", _store(description["kernels"], description["images"]))


def _store(kernels: Sequence[Sequence[str]], images: Sequence[str]) -> str:
    by_name: dict[str, list[str]] = {}
    for name, arch in kernels:
        by_name.setdefault(name, []).append(arch)
    said = ", ".join(name if len(arches) == len(ARCHES) else f"{name}-{arches[0]}" for name, arches in by_name.items())
    return f"kernels: {said or 'none'}; guest images: {', '.join(dict.fromkeys(images)) or 'none'}; a run brings what is missing"


def fitting(free: int, wanted: Sequence[tuple[str, Sequence[tuple[str, int]]]]) -> tuple[list[str], list[str]]:
    """Of `wanted`, in order, the targets that fit on a disk with `free` bytes, and those that do not.

    Each target comes with what it takes, as (name, bytes): what several take (a guest image) is counted once.
    """
    there: set[str] = set()
    fit, left = [], []
    free -= MARGIN
    for target, parts in wanted:
        cost = sum(size for name, size in parts if name not in there)
        if cost > max(free, 0):
            left.append(target)
            continue
        free -= cost
        there.update(name for name, _ in parts)
        fit.append(target)
    return fit, left
