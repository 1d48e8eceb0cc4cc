"""The needs of the six reference collectors: what their manifests declare is what their objects show."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.manifest import load
from kmatrix.objects import compiled
from kmatrix.objects.code import Code
from kmatrix.objects.derived import derived
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


def test_what_all_forms_of_a_group_need_is_needed(tmp_path: Path) -> None:
    """Also where every program of the object is in a group: CO-RE takes BTF, whichever form runs."""
    folder = MANIFESTS[0].parents[1] / "openat"
    (tmp_path / "build").symlink_to(folder / "build")
    (tmp_path / "collector.toml").write_text(
        """
schema = 1
[collector]
name = "forms"
[[variant]]
name = "only"
behaviour = "full"
object = "build/openat_ringbuf"
[variant.contract]
one_of = [{ forms = ["enter_openat", "exit_openat"] }]
[[program]]
name = "enter_openat"
hook = "tracepoint/syscalls/sys_enter_openat"
[[program]]
name = "exit_openat"
hook = "tracepoint/syscalls/sys_exit_openat"
"""
    )
    collector = derived(load.load_collector(tmp_path / "collector.toml"), ["x86_64", "arm64"])
    assert set(collector.variants[0].needs) == {"btf", "ringbuf", "syscall_tracepoints"}
