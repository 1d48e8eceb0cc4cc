"""The needs of the six reference collectors: what their manifests declare is what their objects show."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.manifest import load
from kmatrix.objects import compiled
from kmatrix.objects.code import Code
from kmatrix.objects.needs import named_features, needs, often_taken

MANIFESTS = sorted((Path(__file__).parents[2] / "collectors").glob("*/collector.toml"))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_declared_needs_are_those_of_the_object(manifest: Path) -> None:
    collector = load.load_collector(manifest)
    for variant in collector.variants:
        for arch in variant.arches:
            code = Code(compiled.locate(collector, variant, arch))
            found = needs(code)
            required = [program for program in collector.programs_of(variant, arch) if program.required]
            shown = frozenset[str]().union(*(named_features(code.info.programs[p.name], found[p.name]) for p in required))
            shown |= {name for p in required for name in often_taken(code, code.programs[p.name])}
            declared = frozenset(variant.needs).union(*(p.needs for p in required))
            assert shown == declared, f"{variant.name} on {arch}"
