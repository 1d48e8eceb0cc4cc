"""What is foreseen, against booted kernels: programs that load and attach, what libbpf writes into instructions, and what a profile is made of."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.predict_score import cells
from bench.relocations import compare
from conftest import need_programs
from kmatrix.matrix.load import load_matrix
from kmatrix.objects.compiled import inspect
from kmatrix.predict import profile, store
from kmatrix.runs import object_run
from kmatrix.runs.capture import capture
from kmatrix.runs.machine_room import MachineRoom
from tests.predict.kernels import HEAD, compiled
from tests.predict.test_judge import CURRENT, MAP, RAW, TYPES, hooks

REPOSITORY = Path(__file__).parents[2]
TARGETS = ("6.1-x86_64", "6.12-arm64")


@pytest.fixture(scope="module")
def room() -> MachineRoom:
    return MachineRoom(load_matrix(), accel="tcg")


PROGRAMS = (
    TYPES
    + MAP.format("RINGBUF", "__uint(max_entries, 65536);")
    + RAW.replace("run", "field") + "{" + CURRENT + "return BPF_CORE_READ(t, __state); }"
    + RAW.replace("run", "guarded") + "{" + CURRENT + "if (bpf_core_field_exists(t->__state)) return BPF_CORE_READ(t, __state); return 0; }"
    + RAW.replace("run", "gone") + "{" + CURRENT + "struct task_struct___old *o = (void *)t; return BPF_CORE_READ(o, state); }"
    + RAW.replace("run", "helper") + "{ return bpf_get_attach_cookie(ctx); }"
    + RAW.replace("run", "ring") + "{ return bpf_ringbuf_output(&m, &(long){1}, 8, 0) & 1; }"
    + RAW.replace("run", "type") + "{ return bpf_core_type_exists(struct io_uring_sqe___x); }"
).replace("static __attribute__((unused)) long add", "struct io_uring_sqe___x {}; static __attribute__((unused)) long add")  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_programs(target: str, need: Callable[[str], None], room: MachineRoom, tmp_path: Path) -> None:
    need(target)
    objects = [compiled(tmp_path, "hooks", hooks()), compiled(tmp_path, "programs", HEAD + PROGRAMS)]
    tried = object_run.run([inspect(path) for path in objects], [room.matrix.target(target)], room)
    records = [{"object": str(path), "targets": [asdict(outcome) for outcome in outcomes]} for path, outcomes in tried.items()]
    found = [*cells(records)]
    judged = [cell for cell in found if cell.judged]
    assert len(judged) > 25
    assert [(cell.program, cell.section, cell.predicted, cell.state, cell.what) for cell in judged if not cell.agrees] == []
    kinds = [(cell.program, cell.predicted.cause.kind if cell.predicted.cause else "", cell.kind) for cell in judged]
    assert [each for each in kinds if each[1] != each[2]] == []


@pytest.mark.parametrize("target", ["6.12-arm64", "5.4-x86_64"])
def test_libbpf_writes_what_is_foreseen(target: str, need: Callable[[str], None], room: MachineRoom, tmp_path: Path) -> None:
    """Every relocation of the reference collectors, by libbpf's own account of the instructions that it changes."""
    need_programs("clang", "make")
    need(target)
    subprocess.run(["make", "-s", "collectors"], cwd=REPOSITORY, check=True, env={**os.environ, "MAKEFLAGS": ""})
    arch = target.rpartition("-")[2]
    objects = [path for path in sorted(REPOSITORY.glob("collectors/*/build/*.o")) if inspect(path).compiled_for in (None, arch)]
    with room.machine(room.matrix.target(target), tmp_path / "console.log") as (vm, _):
        for path in (REPOSITORY / "tests/guest/relocations.py", *objects):
            vm.call("put", path=f"/run/core/{path.name}", data=base64.b64encode(path.read_bytes()).decode())
        argv = ["python3", "/run/core/relocations.py", *(f"/run/core/{path.name}" for path in objects)]
        ended: dict[str, Any] = vm.call("run", {"argv": argv, "env": {"LIBBPF_LOG_LEVEL": "debug"}, "timeout": 100.0}, timeout=120)
    assert ended["exit"] == 0, ended["stderr"][-500:]
    agreeing, differing = compare(ended["stderr"], store.named(target), objects)
    assert differing == []
    assert agreeing > 20


def test_a_profile_of_a_booted_kernel(
    need: Callable[[str], None], room: MachineRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "6.1-x86_64"
    need(target)
    monkeypatch.setenv("KMATRIX_PROFILES", str(tmp_path / "own.kmp"))
    shipped = store.named(target)
    meta, contents = profile.of_capture(capture(room, room.matrix.target(target)), target)
    if meta["release"] == shipped.meta["release"] and meta["built"] == shipped.meta["built"]:
        same = ("prog_types", "map_types", "helpers", "lsm")
        assert {key: meta[key] for key in same} == {key: shipped.meta[key] for key in same}
        known = {*shipped.meta["has"], *shipped.meta["lacks"]}  # kmatrix may have learnt to ask for more since
        assert {key: known & set(meta[key]) for key in ("has", "lacks")} == {
            key: set(shipped.meta[key]) for key in ("has", "lacks")
        }
    store.add([(meta, contents)])
    own = store.named(target)
    assert own.pack.path == tmp_path / "own.kmp"
    assert own.pack.path.stat().st_size < 1_000_000
    assert own.probes("vfs_open") is True
    assert own.tracepoint("sched/sched_switch")
    assert own.option("BPF_SYSCALL") == "y"
    assert own.function("vfs_open") is not None
