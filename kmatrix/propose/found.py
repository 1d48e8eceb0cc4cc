"""find(): the compiled objects of a collector, as the ways it can run: those of one name for several arches are one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kmatrix.host.errors import InputError
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.objects.code import Code
from kmatrix.objects.compiled import is_bpf
from kmatrix.objects.needs import Need, needs

_ALIASES: Mapping[str, Arch] = {alias: arch for arch in ARCHES for alias in INFO[arch].aliases}
_ARCH = "|".join(sorted(map(re.escape, _ALIASES), key=len, reverse=True))
_BPF2GO = re.compile(rf"(?P<stem>.+?)(?:_(?P<new>{_ARCH})_bpfel|_bpfel_(?P<old>{_ARCH}))\.o")
_IN_PATH = re.compile(rf"(?<![a-zA-Z0-9])({'|'.join(ARCHES)})(?![a-zA-Z0-9])")
_END = re.compile(r"(_bpfel)?(\.bpf)?\.o$")
_DEPTH = ("*.o", "*/*.o")
"""Where a folder's objects are looked for: in it, and one below, such as build/."""


@dataclass(frozen=True)
class Group:
    """One way to run: an object for each arch that there is one for."""

    object: str
    """What `object` of the [[variant]] says."""
    stem: str
    """The objects' name, without arch and ending."""
    codes: Mapping[Arch, Code]
    arches: tuple[Arch, ...]
    """Those that it can be loaded on: an object that gives no arch away is for all."""

    @property
    def code(self) -> Code:
        """The object, of one arch."""
        return next(iter(self.codes.values()))

    @cached_property
    def needs(self) -> Mapping[str, tuple[Need, ...]]:
        """What each program needs."""
        return needs(self.code)

    @property
    def programs(self) -> Mapping[str, str]:
        """Function → section, without those that begin with `?`: a loader leaves these out unless it is told."""
        return {name: section for name, section in self.code.info.programs.items() if not section.startswith("?")}

    @property
    def left_out(self) -> list[str]:
        """The programs that begin with `?`."""
        return [name for name, section in self.code.info.programs.items() if section.startswith("?")]


def objects_in(folder: Path) -> list[Path]:
    """The BPF objects in a folder and those right below it; other object files are passed over."""
    found = sorted({path for pattern in _DEPTH for path in folder.glob(pattern) if path.is_file()})
    return [path for path in found if is_bpf(path)]


def sources_in(folder: Path) -> list[Path]:
    """The BPF sources in a folder."""
    return sorted(folder.glob("*.bpf.c"))


def find(objects: Iterable[Path], beside: Path) -> list[Group]:
    """The objects as ways to run, for a manifest in the folder `beside`. Raises InputError for what is not a BPF object with its types."""
    parts: dict[str, tuple[str, dict[Arch, Code], set[Arch]]] = {}
    for path in dict.fromkeys(each.resolve() for each in objects):
        code = _readable(path)
        name, stem, arch = _named(Path(os.path.relpath(path, beside.resolve())))
        if arch is not None and code.info.compiled_for not in (None, arch):
            raise InputError(
                f"its path says {arch}, and it is compiled for {code.info.compiled_for} ({code.info.compiled_because})",
                where=str(path),
                fix=f"compile it with -D__TARGET_ARCH_{INFO[arch].bpf2go}, or correct its path",
            )
        arch = arch or code.info.compiled_for
        _, codes, arches = parts.setdefault(name, (stem, {}, set()))
        codes[arch or ARCHES[0]] = code
        arches |= {arch} if arch is not None else set(ARCHES)
    return [
        Group(name, stem, codes, tuple(arch for arch in ARCHES if arch in arches)) for name, (stem, codes, arches) in parts.items()
    ]


def check_one_collector(groups: Sequence[Group]) -> None:
    """Raise InputError where the objects have nothing in common: then they are not variants of one collector."""
    first, *others = groups
    for other in others:
        if _marks(first).isdisjoint(_marks(other)):
            shown = " and ".join(f"{each.object} ({', '.join(each.code.info.programs)})" for each in (first, other))
            raise InputError(
                f"no program or hook is in both {shown}, so they are not variants of one collector",
                where="OBJECT",
                fix="give the objects of one collector at a time, each collector in a folder of its own",
            )


def _marks(group: Group) -> set[str]:
    return {*group.code.info.programs, *group.code.info.programs.values()}


def _readable(path: Path) -> Code:
    code = Code(path)
    if not code.info.programs:
        raise InputError("the object has no programs", where=str(path), fix='give a function a SEC("…"), and compile it again')
    if code.btf is None:
        raise InputError(
            "the object has no .BTF section, which says what its maps and records are",
            where=str(path),
            fix="compile it with -g, and strip it with llvm-strip -g at most",
        )
    return code


def _named(path: Path) -> tuple[str, str, Arch | None]:
    """What a manifest calls an object by, its name without arch and ending, and the arch that its name or folder says."""
    text = path.as_posix()
    if (found := _BPF2GO.fullmatch(path.name)) is not None:
        stem = found["stem"]
        return path.with_name(stem).as_posix(), stem, _ALIASES[found["new"] or found["old"]]
    arches = {found[1] for found in _IN_PATH.finditer(text)}
    if len(arches) == 1:
        [arch] = arches
        stem = _IN_PATH.sub("", _END.sub("", path.name)).strip("-_.")
        return _IN_PATH.sub("{arch}", text), stem, _ALIASES[arch]
    return text, _END.sub("", path.name), None
