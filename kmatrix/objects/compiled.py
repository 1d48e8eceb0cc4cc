"""Compiled BPF objects on the host: found by their names, and checked before a VM is spent on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kmatrix.host.errors import InputError
from kmatrix.host.nearest import did_you_mean
from kmatrix.host.parsed import parsed
from kmatrix.matrix.arch import INFO, Arch
from kmatrix.objects.btf import Btf
from kmatrix.objects.maps import Definition, check_buffer, definitions

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.variant import Variant


@dataclass(frozen=True)
class ObjectInfo:
    """What a BPF object holds."""

    path: Path
    data: bytes
    programs: Mapping[str, str]
    """Function name → section name, of the entry functions (not of `.text`)."""
    maps: frozenset[str]
    has_btf: bool
    uses_core: bool
    """Whether it has CO-RE relocations, which the loader can only resolve with the kernel's BTF."""
    compiled_for: Arch | None
    """The arch it gives itself away as compiled for, by its name or the registers it reads; None where it is the same for all."""
    compiled_because: str = ""
    """What gives it away, as a clause."""
    symbols: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Its variables and maps by name: the section, and the offset in it in bytes."""
    raw_btf: bytes = b""
    """The section .BTF."""
    core_types: tuple[str, ...] | None = None
    """The kernel's types that its CO-RE relocations begin at; None where they may need all of the kernel's BTF (min_core_btf)."""
    legacy_maps: bytes = b""
    """The section `maps` (struct bpf_map_def), which libbpf before 1.0 took."""

    @cached_property
    def btf(self) -> Btf | None:
        """Its BTF; None where it has none, or none that can be read."""
        try:
            return Btf(self.raw_btf) if self.has_btf else None
        except ValueError:
            return None

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Its maps as it defines them."""
        old = {name: self.legacy_maps[at:] for name, (section, at) in self.symbols.items() if section == "maps"}
        return definitions(self.btf, old)


def is_bpf(path: Path) -> bool:
    """Whether a file is an ELF object for BPF (e_machine is 247), of either byte order."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little" if head[5:6] == b"\x01" else "big") == 247


def inspect(path: Path) -> ObjectInfo:
    """What the object at `path` holds; raises InputError where it is not a (whole, little-endian) BPF object."""
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix=f"name the objects in it: {path / '*.o'}") from None
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), fix="compile it, or correct the path") from None

    def read() -> ObjectInfo:
        from kmatrix.objects import elf  # here, and not above: an object that was read before needs no reader

        return elf.read(path, data)

    return parsed("object", (str(path).encode(), data), read)


def locate(collector: Collector, variant: Variant, arch: Arch) -> Path:
    """The file of the variant's object for `arch`; raises InputError where there is none, or several."""
    folder = collector.path.parent
    candidates = variant.candidates(arch)
    where = f"{collector.path}: variant {variant.name!r}: object"
    if not candidates:
        raise InputError(
            f"no object is named for {arch}", where=where, fix=f'add {arch} = "…", or say arches = [...] on the variant'
        )
    found = [path for name in dict.fromkeys(candidates) if (path := folder / name).is_file()]
    if not found:
        names = ", ".join(dict.fromkeys(candidates))
        raise InputError(
            f"no object for {arch} (looked in {folder} for {names})", where=where, fix=f"compile it for {arch}, or correct `object`"
        )
    if len(found) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in found)
        raise InputError(
            f"which is the object for {arch}? In {folder} there are {names}",
            where=where,
            fix="remove all but one, or name one in `object`",
        )
    return found[0]


def load(collector: Collector, variant: Variant, arch: Arch) -> ObjectInfo:
    """The variant's object for `arch`, checked against the manifest.

    Raises InputError where the object is missing, broken, of the other arch, without BTF though the variant needs it, or lacks a
    program or map that the manifest names.
    """
    info = inspect(locate(collector, variant, arch))
    where = f"{info.path} (variant {variant.name!r} of {collector.path})"
    if info.compiled_for not in (None, arch):
        raise InputError(
            f"compiled for {info.compiled_for}, wanted for {arch} ({info.compiled_because})",
            where=where,
            fix=f'compile it with -D__TARGET_ARCH_{INFO[arch].bpf2go}, or say arches = ["{info.compiled_for}"] on the variant',
        )
    if "btf" in variant.needs and not info.has_btf:
        raise InputError(
            "the variant needs btf (CO-RE), but the object has no .BTF section",
            where=where,
            fix="compile with -g, and do not strip .BTF",
        )
    if "btf" not in variant.needs and info.uses_core:
        raise InputError(
            "the object has CO-RE relocations, but the variant does not need btf",
            where=where,
            fix='add "btf" to its needs, or compile it without preserve_access_index and BPF_CORE_READ',
        )
    for program in collector.programs_of(variant, arch):
        section = info.programs.get(program.name)
        if section is None:
            raise InputError(
                f"no program {program.name!r} in the object{did_you_mean(program.name, info.programs)}",
                where=where,
                fix=f"it has: {', '.join(info.programs) or 'none'}; correct [[program]] name, or say which variants have it",
            )
        if _hook(section) != _hook(program.hook):
            raise InputError(
                f"program {program.name!r} is in section {section!r}, the manifest says {program.hook!r}",
                where=where,
                fix="make hook and SEC() agree",
            )
    wanted = ([variant.buffer] if variant.buffer else []) + [m.name for m in collector.maps_of(variant)]
    for name in wanted:
        if name not in info.maps:
            raise InputError(
                f"no map {name!r} in the object{did_you_mean(name, info.maps)}",
                where=where,
                fix=f"it has: {', '.join(sorted(info.maps)) or 'none'}",
            )
    check_buffer(variant, info.definitions, where)
    return info


def check(collector: Collector, arches: Iterable[Arch]) -> dict[Path, ObjectInfo]:
    """Every object that the collector has for `arches`, by its path, checked as `load` does; none where it brings a loader of its own."""
    if collector.loader is not None:
        return {}
    wanted = [(variant, arch) for variant in collector.variants for arch in arches if arch in variant.arches]
    return {info.path: info for variant, arch in wanted for info in [load(collector, variant, arch)]}


STALE_SECONDS = 60
"""How much older than its source an object may be: a fresh checkout writes all files within seconds, in any order."""


def stale(written: Mapping[Path, float], sources: Mapping[Path, float]) -> dict[Path, Path]:
    """Of the objects those older than a source of theirs, with it. Both are given with the time of their last change, in seconds.

    A source is an object's where the object's name begins with the source's (the longest that does); where none does, each may be.
    """
    found = {}
    for path, when in written.items():
        named = [source for source in sources if path.name.startswith(source.name.removesuffix(".bpf.c"))]
        own = [max(named, key=lambda source: len(source.name))] if named else list(sources)
        newer = [source for source in own if sources[source] - when > STALE_SECONDS]
        if newer:
            found[path] = newer[0]
    return found


def out_of_date(collector: Collector, objects: Iterable[Path]) -> str | None:
    """What to say of the objects that are older than their source beside the manifest; None where none is."""
    sources = sorted(collector.path.parent.glob("*.bpf.c"))
    found = stale(*({path: path.stat().st_mtime for path in paths} for paths in (objects, sources)))
    listed = ", ".join(f"{path.name} is older than {source.name}" for path, source in found.items())
    return f"{collector.path}: {listed}: compile {'it' if len(found) == 1 else 'them'} again" if found else None


def nothing_for(collector: Collector, arch: Arch) -> str | None:
    """Why there is nothing to try on `arch`, where that is so: then no behaviour could be shown, refusal least of all."""
    if collector.loader is not None or any(arch in variant.arches for variant in collector.variants):
        return None
    return f"no variant of {collector.name} is for {arch} (variant.arches)"


def _hook(section: str) -> str:
    """A section name as libbpf reads it: `?` (not loaded by default) does not count, and `tp/` is short for `tracepoint/`."""
    text = section.removeprefix("?")
    short = {"tp/": "tracepoint/", "raw_tp/": "raw_tracepoint/"}
    return next(
        (full + text.removeprefix(abbreviation) for abbreviation, full in short.items() if text.startswith(abbreviation)), text
    )
