"""Simulated kernels: a real one with features hidden, by name or as of an older release. What is hidden, and what is not simulated.

The hiding itself is done in the guest (kmatrix.guest.simulate), by the tables of kmatrix.guest.past. docs/simulated-kernels.md says how
faithful it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmatrix.arch import Arch
from kmatrix.features import FEATURES, Version
from kmatrix.guest.past import GONE, hidden_with

if TYPE_CHECKING:
    from kmatrix.matrix import Kernel

OLDEST_BASE: Version = (5, 10)
"""The supervisor in the guest lets calls go on to the kernel, which seccomp can do from 5.5 on; 5.10 is the oldest it was tried on."""

HIDEABLE = frozenset(GONE)
"""The features that can be hidden; the others are not behind bpf(2) or a file."""

NOT_SIMULATED = (
    "struct layouts and symbols (CO-RE relocations and kprobes see the base kernel's)",
    "the verifier's judgement (beyond loops, size, helpers and instructions that it did not know)",
    "which program type may call which helper, where only that changed",
    "sizes and fields of what bpf(2) hands back (bpf_prog_info and such)",
    "the kernel version in the vDSO (Go's loaders read it for kprobes; both that and the simulated one are accepted)",
    "system calls other than bpf, perf_event_open and uname; netlink",
)
"""What a simulated kernel does as its base does."""


@dataclass(frozen=True)
class Simulation:
    """How a simulated kernel differs from the one that is booted."""

    base: Kernel
    as_of: Version | None = None
    """Everything that the feature table dates after this release is hidden."""
    hide: frozenset[str] = frozenset()
    """Features hidden by name."""

    def hidden(self, arch: Arch) -> frozenset[str]:
        """The features out of sight: those named, what cannot be without them, and what came after `as_of`."""
        named = hidden_with(self.hide)
        if self.as_of is None:
            return named
        later = (name for name, f in FEATURES.items() if not f.default(self.as_of, arch, self.base.config))
        return named | hidden_with(name for name in later if name in HIDEABLE)

    def unhideable(self, arch: Arch) -> frozenset[str]:
        """What the base has, `as_of` did not, and nothing hides."""
        if self.as_of is None:
            return frozenset()
        later = {name for name, f in FEATURES.items() if not f.default(self.as_of, arch, self.base.config)}
        return frozenset(later & self.base.features(arch)) - HIDEABLE

    @property
    def release(self) -> str | None:
        """What uname says in the guest; None for the base's own."""
        return f"{self.as_of[0]}.{self.as_of[1]}.0-kmatrix-sim" if self.as_of else None

    def request(self, arch: Arch) -> dict[str, Any]:
        """The simulation as the guest is told it."""
        return {"as_of": list(self.as_of) if self.as_of else None, "hidden": sorted(self.hidden(arch)), "release": self.release}

    def account(self, arch: Arch) -> dict[str, Any]:
        """The simulation as a record has it: base, as_of, what is hidden of what the base has, what uname says, what is not simulated."""
        return {
            "base": self.base.name,
            "as_of": _text(self.as_of) if self.as_of else None,
            "hidden": sorted(self.hidden(arch) & self.base.features(arch)),
            "release": self.release,
            "not_simulated": list(NOT_SIMULATED),
        }

    def __str__(self) -> str:
        parts = [f"as of {_text(self.as_of)}"] if self.as_of else []
        parts += [f"without {', '.join(sorted(self.hide))}"] if self.hide else []
        return f"{self.base.name} {' '.join(parts)}"


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def not_hideable(names: Iterable[str]) -> list[str]:
    """Of the features, those that cannot be hidden."""
    return sorted(set(names) - HIDEABLE)
