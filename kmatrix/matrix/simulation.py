"""What a simulated kernel can hide, and what it does as its base does: plain data and functions over names of features.

The hiding itself is done in the guest (kmatrix.guest.simulate), by the tables of kmatrix.guest (table_*.py). docs/simulated-kernels.md says how
faithful it is. `Simulation`, what one simulated kernel hides, stands beside `Kernel` in kmatrix.matrix.kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kmatrix.guest.table_hidden import GONE
from kmatrix.host.version import Version
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import FEATURES

OLDEST_BASE: Version = (5, 10)
"""The supervisor in the guest lets calls go on to the kernel, which seccomp can do from 5.5 on; 5.10 is the oldest it was tried on."""

HIDEABLE = frozenset(GONE)
"""The features that can be hidden; the others are not behind bpf(2) or a file."""

NOT_SIMULATED = (
    "struct layouts (CO-RE relocations see the base kernel's)",
    "functions and tracepoints that the base lacks; and where there is no profile of both kernels, those that only the base has",
    "the verifier's judgement (beyond loops, size, helpers and instructions that it did not know)",
    "which program type may call which helper, where only that changed",
    "sizes and fields of what bpf(2) hands back (bpf_prog_info and such)",
    "the kernel version in the vDSO (Go's loaders read it for kprobes; both that and the simulated one are accepted)",
    "system calls other than bpf, perf_event_open and uname; netlink",
)
"""What a simulated kernel does as its base does."""


def not_hideable(names: Iterable[str]) -> list[str]:
    """Of the features, those that cannot be hidden."""
    return sorted(set(names) - HIDEABLE)


def later_than(as_of: Version, arch: Arch, config: Mapping[str, bool]) -> frozenset[str]:
    """Return the features that a kernel of `as_of`, with these options, does not have."""
    return frozenset(name for name, feature in FEATURES.items() if not feature.default(as_of, arch, config))
