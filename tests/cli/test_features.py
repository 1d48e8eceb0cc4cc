"""`kmatrix features`: what it takes, what it prints, and how it fits."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conftest import KMATRIX
from kmatrix.matrix.arch import host_arch


@pytest.fixture
def features(tmp_path: Path) -> Any:
    (tmp_path / "kernels.toml").write_text('schema = 1\n[features.text]\nany = ["helper:bpf_loop", "ringbuf"]\n')

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*KMATRIX, "features", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["6.1", "helper:bpf_lop"], "did you mean bpf_loop"),
        (["halper:bpf_loop"], "did you mean helper?"),
        (["6.1", "text", "txet"], "did you mean text?"),
        (["6.l"], "unknown kernel '6.l'; did you mean 6."),
        (["6.1-x87"], "unknown arch 'x87'"),
        (["ringbuff"], "did you mean ringbuf"),
    ],
)
def test_a_wrong_name_is_one_error_before_a_vm_starts(features: Any, arguments: list[str], says: str) -> None:
    done = features(*arguments)
    assert says in done.stderr
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)


@pytest.mark.parametrize("columns", [80, 132])
def test_the_tables_fit_the_terminal(features: Any, columns: int) -> None:
    done = features(COLUMNS=str(columns))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "memcg_accounting" in done.stdout
    assert "helper, map, prog" in done.stdout


def test_one_feature_on_all_kernels(features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = [line.split() for line in features("helper:bpf_loop", "text", "btf:task_struct.pid").stdout.splitlines()]
    assert ["helper:bpf_loop", "5.17", "helper", "function", "bpf_loop"] in rows
    lacking = {row[0]: row[3:] for row in rows if row[1:2] in (["both"], ["x86_64"])}
    assert lacking["5.10"] == ["helper:bpf_loop,", "btf:task_struct.pid", "(?)"]
    assert lacking["6.1"] == ["btf:task_struct.pid", "(?)"]
    assert lacking["5.4"] == ["helper:bpf_loop,", "text,", "btf:task_struct.pid", "(?)"]
    answer = json.loads(features("helper:bpf_loop", "btf:task_struct.pid", "--json").stdout)
    assert answer["5.15-arm64"] == {"helper:bpf_loop": False, "btf:task_struct.pid": None}


def test_all_names_of_a_kind(features: Any) -> None:
    said = features("insn:").stdout
    assert "insn:atomic_fetch           5.12 x86_64, 5.18 arm64" in said
    assert "insn:load_acquire" in said


@pytest.mark.usefixtures("both_of_6_1")
def test_a_kernel_without_an_arch_is_this_machines(features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = features("6.1", "helper:bpf_loop", "map:arena", "btf:task_struct.__state", "text", "module:nf_conntrack")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines() if ":" in line}
    assert rows["helper:bpf_loop"] == ["✓", "✓"]
    assert rows["map:arena"] == ["·", "·"]
    assert rows["btf:task_struct.__state"] == ["-", "✓"]
    assert rows["module:nf_conntrack"] == ["-", "✓"]
    assert "any of helper:bpf_loop, ringbuf" in done.stdout
    named = json.loads(features(f"6.1-{host_arch()}", "helper:bpf_loop", "text", "--json").stdout)
    assert named["declared"] == {"helper:bpf_loop": True, "ringbuf": True}
    assert named["probed"] == {"helper:bpf_loop": True, "ringbuf": True, "text": True}
    assert named["mismatches"] == []
