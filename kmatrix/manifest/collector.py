"""Collector: what a collector.toml says, checked. docs/collector-toml.md explains every key."""

from __future__ import annotations

from pathlib import Path

from kmatrix.host.validation import Strict
from kmatrix.manifest.budget import Budget
from kmatrix.manifest.event import Event, EventField, layout, whole
from kmatrix.manifest.guest_test import TestCommand
from kmatrix.manifest.libraries import Library
from kmatrix.manifest.own_loader import Loader
from kmatrix.manifest.sink import TestRun
from kmatrix.manifest.stress import Stress
from kmatrix.manifest.trigger import Trigger
from kmatrix.manifest.variant import Expect, Map, Program, Variant, applies
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.features import Version
from kmatrix.matrix.parameters import Definition, leaves


class Collector(Strict):
    """What a collector.toml says: one collector's objects, variants, programs, trigger, events."""

    name: str
    path: Path
    """The manifest."""
    summary: str
    min_kernel: Version | None
    timeout: float
    """Seconds to wait for the events after the trigger."""
    load_timeout: float
    """Seconds that the verifier may be at work on one program."""
    variants: tuple[Variant, ...]
    programs: tuple[Program, ...]
    maps: tuple[Map, ...]
    loader: Loader | None
    """The collector's own; None where kmatrix loads its objects."""
    library: Library = "libbpf"
    """What loads its objects, where it has no loader of its own."""
    trigger: Trigger | None
    events: tuple[Event, ...]
    """Those of [[event]], and one for each entry that a [[map]] must hold."""
    test_runs: tuple[TestRun, ...] = ()
    stress: Stress | None = None
    """What it promises under load."""
    budget: Budget | None = None
    """How close to the verifier's limits its programs may come."""
    atlas: bool = False
    """Whether the verifier's work on all its programs is measured, also of those without a budget."""
    stressed: bool = False
    """Whether this is the collector under load."""
    expects: tuple[Expect, ...]
    test: TestCommand | None = None
    """A test program to be run on every target; with one, there need be no variants."""
    defined: dict[str, Definition] = {}
    """Own names for features: the manifest's, and those of kernels.toml."""
    derived: frozenset[str] = frozenset()
    """The variants whose needs were read from their objects, as the manifest does not say them."""

    def loaded_by(self, library: Library) -> Collector:
        """The same collector with its objects loaded by that library. Where that is another than its manifest says, its name has it: `openat+cilium`.

        A collector with a loader of its own stays as it is. A budget is measured where libbpf loads, and not in another library's cells.
        """
        if self.loader is not None or library == self.library:
            return self
        return self.model_copy(update={"library": library, "name": f"{self.name}+{library}", "budget": None})

    @property
    def measured(self) -> list[str]:
        """The programs of which the verifier's work is measured; only where libbpf loads them."""
        names = [program.name for program in self.programs]
        if self.atlas and self.loader is None and self.library == "libbpf" and not self.stressed:
            return list(dict.fromkeys(names))
        return self.budget.measured(names) if self.budget is not None else []

    def under_stress(self) -> Collector:
        """The same collector under the load of its [stress], by the name `openat+stress`; it must have one.

        The verifier does the same for it as without load, so that its budget is not measured again.
        """
        assert self.stress is not None, "the manifest has a [stress]"
        assert self.trigger is not None, "which needs a trigger"
        load = {"trigger": self.stress.trigger(self.trigger), "events": tuple(map(self.stress.event, self.events))}
        return self.model_copy(update={**load, "name": f"{self.name}+stress", "stressed": True, "budget": None})

    def programs_of(self, variant: Variant, arch: Arch) -> tuple[Program, ...]:
        """The programs that `variant` has on `arch`."""
        return tuple(p for p in self.programs if applies(p.variants, variant.name) and arch in p.arches)

    def maps_of(self, variant: Variant) -> tuple[Map, ...]:
        """The maps that must exist while `variant` runs; not the sections of global variables, whose maps have names of libbpf's."""
        return tuple(m for m in self.maps if applies(m.variants, variant.name) and not m.name.startswith("."))

    def events_of(self, variant: Variant) -> tuple[Event, ...]:
        """The events that must come while `variant` runs."""
        return tuple(event for event in self.events if applies(event.variants, variant.name))

    def layout(self, event: Event) -> tuple[EventField, ...]:
        """The fields of `event` in the order of the C struct, with what is asserted of each."""
        return layout(event, self.events)

    def known_names(self) -> frozenset[str]:
        """What the events ask of the trigger: every NAME of a `known.NAME`."""
        return frozenset(name for event in self.events for name in whole(event, self.events).known())

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    def relevant_features(self, arch: Arch) -> frozenset[str]:
        """The features that decide anything for this collector on `arch`; own names stand for what they come down to."""
        needs = [variant.needs for variant in self.variants if arch in variant.arches]
        needs += [program.needs for program in self.programs if arch in program.arches]
        needs += [f.needs for event in self.events for f in self.layout(event)]
        needs += [
            form.needs or ()
            for variant in self.variants
            if arch in variant.arches and variant.contract is not None
            for group in variant.contract.one_of
            for form in group
        ]
        return frozenset(leaves((name for names in needs for name in names), self.defined))
