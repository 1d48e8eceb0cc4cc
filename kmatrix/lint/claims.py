"""Which kernels a source or an object claims: the variants of a collector.toml whose object it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmatrix.host.version import Version
from kmatrix.lint.facts import OLDEST, Needed
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.variant import Variant
from kmatrix.matrix.arch import ARCHES, INFO, Arch
from kmatrix.matrix.parameters import certain, feature, first

_SUFFIXES = (".bpf", ".o", *(f"_{INFO[a].bpf2go}_bpfel" for a in ARCHES), *(f"_bpfel_{INFO[a].bpf2go}" for a in ARCHES), "_bpfel")


@dataclass(frozen=True)
class Claim:
    """A variant of a collector: it is expected to run wherever its needs are met."""

    collector: Collector
    variant: Variant

    def __str__(self) -> str:
        return f"variant {self.variant.name!r} of {self.collector.path.parent.name}"

    def needs(self, program: str | None = None) -> frozenset[str]:
        """The features that the variant's kernels have: its needs, those of its required programs, and those of `program`."""
        programs = [p for p in self.collector.programs if not p.variants or self.variant.name in p.variants]
        more = [p.needs for p in programs if p.required or p.name == program]
        return certain(frozenset(self.variant.needs).union(*more), self.collector.defined)

    def floor(self, arch: Arch, program: str | None = None) -> Version:
        """The oldest upstream release that has the needs."""
        return max([self.collector.min_kernel or OLDEST, OLDEST, *(self._since(name, arch) for name in self.needs(program))])

    def lacks(self, needed: Needed, arch: Arch, program: str | None = None) -> bool:
        """Whether some kernel that the variant claims may not have what is needed."""
        if needed.feature is not None and needed.feature in self.needs(program):
            return False
        since = needed.since if needed.feature is None else max(needed.since, self._since(needed.feature, arch))
        return since > self.floor(arch, program)

    def _since(self, name: str, arch: Arch) -> Version:
        return first(name, arch, self.collector.defined)

    @property
    def has_btf(self) -> bool:
        """Whether all its kernels have BTF."""
        return "btf" in self.needs() or any("DEBUG_INFO_BTF" in feature(name).config for name in self.needs())

    def arches_of(self, program: str) -> tuple[Arch, ...]:
        """The arches that a program is for."""
        found = [p for p in self.collector.programs if p.name == program]
        return tuple(a for a in self.variant.arches if not found or any(a in p.arches for p in found))


def stem(path: str | Path) -> str:
    """What a source and its objects have in common: `openat_perf` of openat_perf.bpf.c and of build/openat_perf_x86_bpfel.o."""
    name = Path(path).name
    name = name.removesuffix(".c").removesuffix(".o")
    changed = True
    while changed:
        shorter = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix) and name != suffix), name)
        changed, name = shorter != name, shorter
    return name.replace("_{arch}", "").replace("{arch}", "")


def claims(collectors: Iterable[Collector], path: Path, aliases: Iterable[str] = ()) -> tuple[Claim, ...]:
    """The variants that `path` (a source or an object) is of: those of the nearest collector above it whose object has its name.

    `aliases` are further names that its objects have, as a generate.go gives them.
    """
    above = [c for c in collectors if c.path.resolve().parent in path.resolve().parents]
    if not above:
        return ()
    nearest = max(len(c.path.resolve().parts) for c in above)
    names = {stem(path), *aliases}
    return tuple(
        Claim(collector, variant)
        for collector in above
        if len(collector.path.resolve().parts) == nearest
        for variant in collector.variants
        if any(stem(text) in names for text in _objects(variant))
    )


def _objects(variant: Variant) -> list[str]:
    if variant.object is None:  # a loader of the collector's own decides what it loads where
        return []
    return [variant.object] if isinstance(variant.object, str) else list(variant.object.values())
