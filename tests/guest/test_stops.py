"""Where the absence of a feature stops a loader (kmatrix.matrix.features, `stops`): an object that needs just that, on kernels without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kmatrix.matrix.arch import INFO
from kmatrix.matrix.features import FEATURES
from kmatrix.verdict import observation
from tests.cells.broken import compile_object
from tests.guest.conftest import Guest

SOURCE = Path(__file__).with_name("bpf") / "stops.bpf.c"
OLD = (
    *("btf", "ringbuf", "global_data", "bpf2bpf", "bounded_loops", "insns_1m", "raw_tracepoint", "lsm", "fentry", "task_storage"),
    *("cgroup_id_helper", "current_task_btf", "kprobe_multi"),
)
LACKING = {
    "4.14-x86_64": OLD,
    "4.14-sim-arm64": OLD,
    "5.4-arm64": ("ringbuf", "fentry", "lsm", "task_storage", "current_task_btf", "kprobe_multi"),
    "5.15-nobtf-x86_64": ("btf", "fentry", "lsm", "current_task_btf"),
    "6.1-arm64": ("fentry", "lsm", "kprobe_multi"),
    "6.1-nokprobes-x86_64": ("kprobes", "kprobe_multi"),
    "6.1-cgroup1-x86_64": ("cgroup_v2",),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_is_missing_stops_a_loader_where_the_table_says(boot: Callable[[str], Guest], tmp_path: Path, name: str) -> None:
    guest = boot(name)
    found, said = {}, {}
    for feature in LACKING[name]:
        assert feature not in guest.target.features
        path = tmp_path / f"{feature}.o"
        compile_object(path, INFO[guest.target.arch].bpf2go, f"NEEDS_{feature}", source=SOURCE)
        (attempt,) = guest.cell(path.read_bytes(), programs=["enter"])["attempts"]
        assert attempt["stage"] is not None, f"{feature} is there"
        found[feature], said[feature] = observation._stopped_at(attempt), attempt["error"]
    assert {feature: step in FEATURES[feature].stops for feature, step in found.items()} == dict.fromkeys(found, True), said


def test_and_what_is_there_stops_none(boot: Callable[[str], Guest], tmp_path: Path) -> None:
    guest = boot("6.12-x86_64")
    for feature in (*OLD, "kprobes", "cgroup_v2"):
        if feature in guest.target.features:
            compile_object(tmp_path / "o", "x86", f"NEEDS_{feature}", source=SOURCE)
            facts = guest.cell((tmp_path / "o").read_bytes(), programs=["enter"])
            assert facts["running"] == "only", (feature, facts["attempts"])
