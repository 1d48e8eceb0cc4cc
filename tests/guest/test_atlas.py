"""The verifier's atlas, of booted kernels: what is read off the log is what the kernel itself counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import KMATRIX
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix


def _atlas(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KMATRIX, "atlas", "hooks.bpf.o", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_instructions_states_and_lines(
    compiled: Callable[[str, Target], bytes], need: Callable[[str], None], tmp_path: Path
) -> None:
    need("6.12-x86_64")
    need("6.1-x86_64")
    (tmp_path / "hooks.bpf.o").write_bytes(compiled("hooks", load_matrix().target("6.12-x86_64")))
    done = _atlas(tmp_path, "--kernels=6.1,6.12", "--arch=x86_64", "--program=works", "--lines", "--json", "--save=kept.json")
    assert done.returncode == 0, done.stderr
    for page in json.loads(done.stdout)["pages"]:
        effort = page["efforts"]["works"]
        assert effort["limit"] == 1_000_000
        assert effort["insns"] == sum(count for _, count in page["visits"]["works"]) > 2
        assert effort["states"] >= effort["peak_states"] > 0
        assert effort["time_ratio"] is None
        assert effort["jited"] > effort["xlated"] // 8
        assert effort["stack"] != []

    kept = json.loads((tmp_path / "kept.json").read_text())
    for page in kept["pages"]:
        page["efforts"]["works"]["insns"] = 1
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    done = _atlas(tmp_path, "--kernels=6.12", "--arch=x86_64", "--program=works", "--against=kept.json", "--budget=0.0001%")
    assert done.returncode == 1, done.stderr
    assert "hooks.bpf.o works on 6.12-x86_64: 1 -> " in done.stdout
    assert "above 0.0001% of a limit" in done.stdout
