"""What a simulated kernel's base and the real kernel have not in common, by their profiles: functions to probe, and tracepoints.

What the base has and the real one lacks is sent to the guest, which hides it (kmatrix.guest.absent). What the real one has and the base lacks
cannot be given: `Difference.marked` says so of the programs that want it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kmatrix.host import version as versions
from kmatrix.predict import store
from kmatrix.predict.kernel import TYPED_TRACEPOINT, Kernel, Symbol
from kmatrix.verdict.diagnosis.cause import Diagnosis

if TYPE_CHECKING:
    from kmatrix.matrix.arch import Arch
    from kmatrix.matrix.kernel import Simulation, Target

_KPROBES = ("kprobe", "kretprobe")
_TRACEPOINTS = ("tp", "tracepoint")
_RAW_TRACEPOINTS = ("raw_tp", "raw_tracepoint", "raw_tp.w", "raw_tracepoint.w")
_KINDS = ("symbol", "tracepoint")
"""The classes of causes that are for a hook that is not there."""


@dataclass(frozen=True)
class Difference:
    """Two kernels compared: names that one of them has alone."""

    base: str
    """The kernel that is booted, as its profile is called."""
    real: str
    """The kernel that is simulated, as its profile is called."""
    hidden: Mapping[str, tuple[str, ...]]
    """What the base has and the real one lacks: `symbols`, `untraceable` (the real one has the function and takes no probe there),
    `tracepoints` (`group/name`), `raw_tracepoints`; each sorted."""
    lacking: Mapping[str, frozenset[str]]
    """What the real one has and the base lacks: `symbols`, `untraceable` (the base has the function and takes no probe there),
    `tracepoints`, `raw_tracepoints`."""

    def packed(self) -> str:
        """What is hidden, as the guest reads it: JSON, compressed, in base64. 60,000 names are some 200 kB."""
        text = json.dumps({part: " ".join(names) for part, names in self.hidden.items()}, sort_keys=True)
        return base64.b64encode(zlib.compress(text.encode(), 9)).decode()

    def marked(self, programs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """The guest's reports of programs, with another cause where one failed for a hook that only the real kernel has."""
        return {name: self._marked(report) for name, report in programs.items()}

    def _marked(self, report: Mapping[str, Any]) -> Mapping[str, Any]:
        cause = report.get("diagnosis") or {}
        wanted = self._wanted(str(report.get("section") or ""), report.get("target"))
        if cause.get("kind") not in _KINDS or wanted is None:
            return report
        real, base = (name.rpartition("-")[0] for name in (self.real, self.base))
        found = Diagnosis(
            "simulation",
            f"{wanted[0]}: {real} has it, and the base {base} {wanted[1]}: the simulation cannot show it",
            f"run it on the real kernel: --kernels={real}",
            None,
            cause.get("where"),
        )
        return {**report, "diagnosis": found.plain()}

    def _wanted(self, section: str, target: str | None) -> tuple[str, str] | None:
        """The hook of a section (or `target` in its place), where only the real kernel has it; and what is the matter at the base."""
        kind, _, named = section.lstrip("?").partition("/")
        name = (target or named).partition("+")[0]
        for kinds, part, word, matter in (
            (_KPROBES, "symbols", "symbol", "lacks it"),
            (_KPROBES, "untraceable", "symbol", "takes no probe there"),
            (_TRACEPOINTS, "tracepoints", "tracepoint", "lacks it"),
            (_RAW_TRACEPOINTS, "raw_tracepoints", "tracepoint", "lacks it"),
        ):
            if kind in kinds and name in self.lacking[part]:
                return f"{word} {name}", matter
        return None


def request(target: Target) -> dict[str, Any] | None:
    """The simulation as the guest is told it, with what the profiles add; None for a real kernel."""
    simulation = target.simulated
    if simulation is None:
        return None
    asked, found = simulation.request(target.arch), difference(target)
    return asked | {"absent": found.packed()} if found is not None else asked


def difference(target: Target) -> Difference | None:
    """How the kernel that a simulated target stands for and its base differ; None for a real one, and where there is no profile of both."""
    simulation = target.simulated
    names = profiles(simulation, target.arch) if simulation is not None else None
    if names is None:
        return None
    known = {kernel.name: kernel for kernel in store.kernels()}
    base, real = (known.get(name) for name in names)
    if base is None or real is None or not all(kernel.knows("symbols") and kernel.knows("events") for kernel in (base, real)):
        return None
    return _difference(*names, base.pack.digest, real.pack.digest)


def profiles(simulation: Simulation, arch: Arch) -> tuple[str, str] | None:
    """The names of the profiles of the base and of the real kernel; None where the simulation is of no release."""
    if simulation.as_of is None:
        return None
    return f"{simulation.base.name}-{arch}", f"{versions.text(simulation.as_of)}-{arch}"


@lru_cache(maxsize=16)
def _difference(base_name: str, real_name: str, *_digests: str) -> Difference:
    return between(store.named(base_name), store.named(real_name))


def between(base: Kernel, real: Kernel) -> Difference:
    """Compare two kernels of which there are profiles with symbols and tracepoints."""
    at_base, at_real = _Hooks(base), _Hooks(real)
    gone = at_base.symbols - at_real.symbols
    parts = {
        "symbols": gone - at_real.functions,
        "untraceable": gone & at_real.functions,
        "tracepoints": at_base.tracepoints - at_real.tracepoints,
        # A profile that names none does not tell.
        "raw_tracepoints": at_base.raw_tracepoints - at_real.raw_tracepoints if at_real.raw_tracepoints else frozenset(),
    }
    lacking = {
        "symbols": at_real.symbols - at_base.functions,
        "untraceable": (at_real.symbols - at_base.symbols) & at_base.functions,
        "tracepoints": at_real.tracepoints - at_base.tracepoints,
        "raw_tracepoints": at_real.raw_tracepoints - at_base.raw_tracepoints,
    }
    return Difference(base.name, real.name, {part: tuple(sorted(names)) for part, names in parts.items()}, lacking)


class _Hooks:
    """The hooks of a kernel, by name."""

    def __init__(self, kernel: Kernel) -> None:
        symbols = {name: Symbol.parsed(value) for name, value in kernel.values("names")}
        self.functions = frozenset(name for name, each in symbols.items() if "S" in each.flags)
        self.symbols = frozenset(name for name in self.functions if kernel.takes_probe(symbols[name]))
        self.tracepoints = frozenset(kernel.names("events"))
        typed = frozenset(
            name.removeprefix(TYPED_TRACEPOINT) for name in kernel.names("types") if name.startswith(TYPED_TRACEPOINT)
        )
        self.raw_tracepoints = typed | {name for name, each in symbols.items() if "R" in each.flags}
