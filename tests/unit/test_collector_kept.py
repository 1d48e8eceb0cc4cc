"""A collector.toml that was read before is not checked again: what is kept is the same collector, for as long as nothing that it rests on changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kmatrix.host.errors import InputError
from kmatrix.host.toml import read_toml
from kmatrix.manifest import schema
from kmatrix.manifest.collector import Collector
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.parameters import Definition

HERE = Path(__file__).resolve().parents[2] / "collectors"
MANIFESTS = sorted(HERE.glob("*/collector.toml"))
DEFINED = {"any_buffer": Definition("any_buffer", ("ringbuf", "perf_buffer"), True)}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The manifests that were checked, in a cache of the test's own."""
    monkeypatch.setenv("KMATRIX_CACHE", str(tmp_path / "cache"))
    checked: list[Path] = []
    parse = schema.parse

    def counted(data: object, *, path: Path, **others: object) -> Collector:
        checked.append(path)
        return parse(data, path=path, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(schema, "parse", counted)
    return checked


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_what_is_kept_is_the_same_collector(manifest: Path, made: list[Path]) -> None:
    fresh = schema.parse(read_toml(manifest), path=manifest, defined=DEFINED)
    first, kept = load_collector(manifest, DEFINED), load_collector(manifest, DEFINED)
    assert made == [manifest] * 2  # by this test, and by the first of the two
    assert kept is not first
    assert kept == first == fresh
    assert (repr(kept), kept.model_dump_json()) == (repr(fresh), fresh.model_dump_json())
    assert kept.model_fields_set == fresh.model_fields_set
    assert [each.model_fields_set for each in kept.variants] == [each.model_fields_set for each in fresh.variants]
    assert kept.trigger is not None
    assert fresh.trigger is not None
    assert kept.trigger.options == fresh.trigger.options
    for part, name in ((kept, "name"), (kept.variants[0], "object"), (kept.trigger, "kind")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, "other")


def test_it_is_checked_again_where_anything_changed_that_it_rests_on(tmp_path: Path, made: list[Path]) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    text = MANIFESTS[0].read_text()
    first.write_text(text)
    second.write_text(text)
    for path in (first, second, first, second):
        assert load_collector(path, {}).path == path
    assert made == [first, second]
    assert load_collector(first, DEFINED).defined == DEFINED
    assert load_collector(first, {}).defined == {}
    assert made == [first, second, first]
    first.write_text(
        text.replace("timeout", "tiemout") if "timeout" in text else text.replace("[collector]", "[collector]\ntiemout = 1")
    )
    for _ in range(2):  # an error is not kept, and is the same each time
        with pytest.raises(InputError, match=r"collector\.tiemout: unknown key; did you mean timeout"):
            load_collector(first, {})
    assert made == [first, second, first, first, first]


def test_a_manifest_that_is_known_costs_no_model_of_its_file_and_no_trigger(tmp_path: Path) -> None:
    """Building pydantic's schemas, and importing what the guest does, took longer than all that a run reads."""
    code = (
        "import sys; from pathlib import Path; from kmatrix.manifest.load import load_collector\n"
        f"found = load_collector(Path({str(MANIFESTS[0])!r}), {{}})\n"
        "print(*[name for name in ('kmatrix.manifest.schema', 'kmatrix.guest.triggers', 'tomllib') if name in sys.modules])\n"
        "print(type(found).__pydantic_complete__)"
    )
    environment = {"KMATRIX_CACHE": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    ]
    assert said[0].splitlines()[0] == "kmatrix.manifest.schema kmatrix.guest.triggers tomllib"
    assert said[1].splitlines() == ["tomllib", "False"]
