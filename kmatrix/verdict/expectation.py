"""expected(): what a collector must do on a target, by its manifest and the declared features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kmatrix.manifest.variant import Variant, form_needs

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.event import Event, EventField
    from kmatrix.manifest.types import Behaviour
    from kmatrix.matrix.kernel import Target
    from kmatrix.matrix.selection import Matrix


@dataclass(frozen=True)
class Expectation:
    """What must happen in a cell, and why."""

    behaviour: Behaviour
    variant: str | None
    degradations: frozenset[str]
    """What is missing from the variant there: `program:NAME` (an optional hook), `field:EVENT.NAME`."""
    missing: frozenset[str]
    """The undeclared features that ruled the earlier variants out."""
    why: str
    message: str | None = None
    """The regular expression that a refusal's message must hold, where an [[expect]] gives one; else it must name what is missing."""


def expected(collector: Collector, target: Target, matrix: Matrix) -> Expectation:
    """The behaviour promised for `target`: the first variant whose needs are all declared; none, a refusal.

    An `[[expect]]` entry for the target overrides it. Raises InputError where such an entry's `kernels` names none of the matrix.
    What nothing declares of the target counts as it was found in its guest (`Target.found`), and as absent before that.
    """
    target = target.knowing(collector.defined, target.found)
    derived = _derived(collector, target)
    if found := [name for name in undeclared(collector, target) if name in target.found]:
        words = ", ".join(f"{name} is {'there' if target.found[name] else 'not there'}" for name in found)
        derived = replace(derived, why=f"{derived.why}; not declared, so as found in the guest: {words}")
    for entry in collector.expects:
        where = f"{collector.path}: expect.kernels"
        if target in matrix.targets(entry.kernels, entry.arch, where=where):
            variant = None if entry.behaviour == "refusal" else entry.variant or _variant_for(collector, entry.behaviour, derived)
            why = f"[[expect]]: {entry.reason}"
            return Expectation(entry.behaviour, variant, frozenset(entry.degraded), derived.missing, why, entry.message)
    return derived


def only_warns(collector: Collector, target: Target) -> bool:
    """Whether what is not as promised there is a warning of what comes: on a kernel that moves on, unless an [[expect]] names it.

    A name in a list counts, a set or a range that has the kernel in it does not.
    """
    named = {term.strip() for entry in collector.expects for term in entry.kernels.split(",")}
    return target.kernel.real.moving and target.kernel.name not in named


def undeclared(collector: Collector, target: Target) -> list[str]:
    """The features that decide anything for the collector on the target, and of which only a probe can say whether it has them."""
    names = sorted(collector.relevant_features(target.arch))
    return [name for name in names if target.kernel.has(name, target.arch) is None]


def _derived(collector: Collector, target: Target) -> Expectation:
    features = target.features
    if collector.min_kernel is not None and target.kernel.version < collector.min_kernel:
        floor = ".".join(map(str, collector.min_kernel))
        return Expectation(
            "refusal", None, frozenset(), frozenset({f"kernel {floor}"}), f"below {floor}, the collector's min_kernel"
        )
    missing: set[str] = set()
    ruled_out: list[str] = []
    for variant in collector.variants:
        if target.arch not in variant.arches:
            ruled_out.append(f"{variant.name} is not for {target.arch}")
            continue
        lacking = [name for name in needs_of(collector, variant, target) if name not in features]
        if not lacking:
            degradations = _declared_degradations(collector, variant, target)
            behaviour: Behaviour = "partial" if variant.behaviour == "full" and degradations else variant.behaviour
            why = "; ".join([*ruled_out, f"{variant.name} has all it needs"])
            return Expectation(behaviour, variant.name, degradations, frozenset(missing), why)
        missing.update(lacking)
        source = " (read from its object)" if variant.name in collector.derived else ""
        ruled_out.append(f"{variant.name} needs {', '.join(lacking)}{source}")
    return Expectation("refusal", None, frozenset(), frozenset(missing), "; ".join(ruled_out))


def needs_of(collector: Collector, variant: Variant, target: Target) -> list[str]:
    """The variant's own needs and those of its required programs, in order, each once; of a group of forms, those of the form that runs there."""
    programs = {program.name: program for program in collector.programs_of(variant, target.arch)}
    groups = variant.contract.one_of if variant.contract is not None else ()
    decided = {name for group in groups for form in group for name in form.programs}
    required = [program.needs for program in programs.values() if program.required and program.name not in decided]
    for group in groups:
        forms = [form_needs(form, programs) for form in group]
        required.append(tuple(next((needs for needs in forms if target.features.issuperset(needs)), forms[-1])))
    return list(dict.fromkeys(name for needs in (variant.needs, *required) for name in needs))


def _declared_degradations(collector: Collector, variant: Variant, target: Target) -> frozenset[str]:
    """The optional programs and degradable fields of the variant whose needs are not declared for the target."""
    decided = variant.contract.in_groups if variant.contract is not None else frozenset()
    programs = {
        f"program:{program.name}"
        for program in collector.programs
        if not program.required
        and program.name not in decided
        and (not program.variants or variant.name in program.variants)
        and (target.arch not in program.arches or not target.features.issuperset(program.needs))
    }
    fields = {
        field_part(event, f)
        for event in collector.events_of(variant)
        for f in collector.layout(event)
        if f.needs and not target.features.issuperset(f.needs)
    }
    return frozenset(programs | fields)


def field_part(event: Event, f: EventField) -> str:
    """A field as a degradation names it: `field:EVENT.NAME`."""
    return f"field:{event.name}.{f.name}"


def _variant_for(collector: Collector, behaviour: Behaviour, derived: Expectation) -> str | None:
    """The variant an override means without naming it: the derived one if it can show that behaviour, else the first that does."""
    if derived.variant is not None and derived.behaviour == behaviour:
        return derived.variant
    return next((v.name for v in collector.variants if v.behaviour == behaviour), derived.variant)
