"""Needs with a parameter, in cells: the expected variant is chosen by what is declared, and by the guest's probe where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Shell
from kmatrix.matrix.arch import ARCHES
from kmatrix.runs import cell_records
from tests.cells import broken

OWN = """
[features.modern]
all = ["helper:bpf_loop", "state", "tracepoint-field:syscalls/sys_enter_openat.flags", "symbol:vfs_open", "helper:bpf_loop@tracepoint"]

[features.state]
any = ["btf:task_struct.__state", "btf:task_struct.no_such_field"]
"""


@pytest.fixture
def kernels(need: Callable[[str], None]) -> str:
    for kernel in ("5.10", "6.1"):
        for arch in ARCHES:
            need(f"{kernel}-{arch}")
    return "5.10,6.1"


def test_the_variant_is_chosen_by_needs_with_a_parameter(tmp_path: Path, run_in: Shell, kernels: str) -> None:
    """The ring variant calls bpf_loop (5.17): it cannot load on 5.10, and must run on 6.1."""
    broken.write(tmp_path, "declared", "USE_LOOP", ring_needs='"helper:bpf_loop"')
    own = broken.write(tmp_path, "own", "USE_LOOP", ring_needs='"modern"')
    own.write_text(own.read_text() + OWN)
    done = run_in("pytest", f"--kernels={kernels}", "-n", "2")
    assert done.returncode == 0, done.stdout
    records = {(r.collector, r.kernel, r.arch): r for r in cell_records.read_all(tmp_path / ".kmatrix")}
    assert len(records) == 8
    for (name, kernel, _), record in records.items():
        assert record.observed == ("full" if kernel == "6.1" else "fallback"), record.reason
        assert record.probe is not None
        assert record.probe["features"]["helper:bpf_loop"] is (kernel == "6.1")
        found = f"btf:task_struct.__state is {'there' if kernel == '6.1' else 'not there'}"
        assert (found in record.expectation["why"]) == (name == "own")


def test_a_wrong_declaration_is_a_table_failure(tmp_path: Path, run_in: Shell, kernels: str) -> None:
    broken.write(tmp_path, "declared", "USE_LOOP", ring_needs='"helper:bpf_loop"')
    (tmp_path / "kernels.toml").write_text(
        'schema = 1\n[kernels."5.10"]\nversion = "5.10"\nfeatures = { "helper:bpf_loop" = true, lsm = false }\n'
        'sources = [{ kind = "debian", suite = "bullseye", series = "5.10" }]\n'
    )
    run_in("pytest", f"--kernels={kernels.split(',')[0]}", "--arch=x86_64")
    (record,) = cell_records.read_all(tmp_path / ".kmatrix")
    assert record.failure == "table"
    assert record.reason == "helper:bpf_loop is declared present, the guest finds it absent"


def test_needs_that_no_manifest_says_are_read_from_the_objects(tmp_path: Path, run_in: Shell, kernels: str) -> None:
    manifest = broken.write(tmp_path, "silent", "USE_LOOP")
    lines = [line for line in manifest.read_text().splitlines() if not line.startswith("needs")]
    assert len(lines) < len(manifest.read_text().splitlines())
    manifest.write_text("\n".join(lines))
    done = run_in("pytest", f"--kernels={kernels}", "-n", "2")
    assert done.returncode == 0, done.stdout
    records = {(r.kernel, r.arch): r for r in cell_records.read_all(tmp_path / ".kmatrix")}
    assert {key: record.observed for key, record in records.items()} == {
        (kernel, arch): "full" if kernel == "6.1" else "fallback" for kernel in kernels.split(",") for arch in ARCHES
    }
    why = records["5.10", "x86_64"].expectation["why"]
    assert why.startswith("ring needs helper:bpf_loop, insn:callback (read from its object); perf has all it needs")


def test_needs_that_a_manifest_says_are_a_promise(tmp_path: Path, run_in: Shell, kernels: str) -> None:
    """The object asks for more than its manifest says: red, with the cause."""
    broken.write(tmp_path, "promised", "USE_LOOP")
    done = run_in("pytest", f"--kernels={kernels.split(',')[0]}", "--arch=x86_64")
    assert done.returncode == 1
    (record,) = cell_records.read_all(tmp_path / ".kmatrix")
    assert record.failure == "load"
