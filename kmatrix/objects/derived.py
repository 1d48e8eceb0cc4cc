"""derived(): a collector whose variants need what their objects show, where their manifest does not say what they need.

A `needs` that is written is a promise, and stays as it is: an object that asks for more then fails its cell. Only needs that have a first
release are taken from an object. That one kernel has no such function or type is a failure of the collector there, and not a promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kmatrix.host.later import later
from kmatrix.host.parsed import parsed
from kmatrix.matrix import history
from kmatrix.objects import compiled

if TYPE_CHECKING:
    from kmatrix.manifest.collector import Collector
    from kmatrix.manifest.variant import Variant
    from kmatrix.matrix.arch import Arch
    from kmatrix.objects import code as codes
    from kmatrix.objects import needs
else:  # most manifests say what their variants need
    codes, needs = later("kmatrix.objects.code"), later("kmatrix.objects.needs")


def derived(collector: Collector, arches: Iterable[Arch]) -> Collector:
    """The collector with `needs` for each variant that has none in its manifest, by its objects for `arches`; `derived` names those variants.

    Raises InputError where such an object is not there, or is none.
    """
    if collector.loader is not None:
        return collector
    wanted, read, variants = list(arches), set(collector.derived), []
    for variant in collector.variants:
        if "needs" not in variant.model_fields_set or variant.name in read:
            names = [name for arch in wanted if arch in variant.arches for name in _needs(collector, variant, arch)]
            variant = variant.model_copy(update={"needs": tuple(dict.fromkeys(names))})
            read.add(variant.name)
        variants.append(variant)
    return collector.model_copy(update={"variants": tuple(variants), "derived": frozenset(read)})


def _needs(collector: Collector, variant: Variant, arch: Arch) -> list[str]:
    """What the variant's required programs need on `arch`, the newest first; of programs that exclude each other, what all forms need."""
    found = _features(compiled.inspect(compiled.locate(collector, variant, arch)), arch)

    def of(programs: Iterable[str]) -> dict[str, None]:
        return dict.fromkeys(feature for name in programs for feature in found.get(name, ()))

    contract = variant.contract
    decided = contract.in_groups if contract is not None else frozenset()
    names = of(p.name for p in collector.programs_of(variant, arch) if p.required and p.name not in decided)
    for group in contract.one_of if contract is not None else ():
        forms = [of(form.programs) for form in group]
        names |= {name: None for name in forms[0] if all(name in each for each in forms)}
    return sorted(names, key=lambda name: (history.first(name, arch) or needs.OLDEST, name), reverse=True)


def _features(info: compiled.ObjectInfo, arch: Arch) -> Mapping[str, tuple[str, ...]]:
    """What each program of an object needs on `arch`, by its name; an object that was read before is not read again."""

    def read() -> dict[str, tuple[str, ...]]:
        code = codes.Code(info.path, info.data)
        return {
            name: tuple(
                dict.fromkeys(
                    (
                        *(needs.feature_of(need) for need in found if _counts(need, arch)),
                        *needs.hook_features(code.info.programs[name]),
                        *needs.often_taken(code, code.programs[name]),
                    )
                )
            )
            for name, found in needs.needs(code).items()
        }

    return parsed("features", (str(info.path).encode(), info.data, arch.encode()), read)


def _counts(need: needs.Need, arch: Arch) -> bool:
    since = history.first(need.name, arch)
    return not need.optional and since is not None and since > needs.OLDEST
