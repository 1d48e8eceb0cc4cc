"""BTF from a file, on 4.14, which has none: 5.4's stands in for what an agent ships for such kernels."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import KMATRIX, Shell
from kmatrix.host.errors import InputError
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import external_btf

OPENAT = Path(__file__).parents[2] / "collectors" / "openat"


def kmatrix(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [*KMATRIX, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)


def test_with_btf_from_a_file_core_loads(need: Callable[[str], None], tmp_path: Path, run_in: Shell) -> None:
    """A collector takes its CO-RE variant, as promised with the file; an object loads that does not without it."""
    need("4.14-x86_64")
    need("5.4-x86_64")
    (tmp_path / "5.4.btf").write_bytes(kmatrix(tmp_path, "exec", "5.4-x86_64", "--", "cat", "/sys/kernel/btf/vmlinux").stdout)
    kernels = ("--kernels=4.14,4.14+btf=5.4.btf", "--arch=x86_64")
    done = run_in("pytest", str(OPENAT), "-q", "-p", "no:cacheprovider", *kernels)
    assert done.returncode == 0, done.stdout
    record = json.loads((tmp_path / ".kmatrix/cells/openat@4.14+btf=5.4.btf-x86_64.json").read_text())
    assert (record["observed"], record["facts"]["running"]) == ("partial", "core-perf")
    assert record["probe"]["features"]["btf"] is True
    tried = json.loads(kmatrix(tmp_path, "run", str(OPENAT / "build/openat_perf_x86_bpfel.o"), "--json", *kernels).stdout)
    loaded = {each["target"]: {program["loaded"] for program in each["programs"].values()} for each in tried["targets"]}
    assert loaded == {"4.14-x86_64": {False}, "4.14+btf=5.4.btf-x86_64": {True}}


def target(name: str = "4.14+btf=x.btf") -> Target:
    return Target(load_matrix().kernel(name), "x86_64")


def test_what_loads_has_btf_and_the_kernel_has_not() -> None:
    kernel = target("5.15-nobtf+btf=x.btf").kernel
    assert kernel.has("btf", "x86_64") is True
    assert kernel.has("fentry", "x86_64") is False
    assert kernel.image_of.name == "5.15-nobtf"


@pytest.mark.parametrize("name", ["4.14+btf", "4.14+btf=", "4.14+btf=a/b.btf", "4.14+btf=.."])
def test_what_names_no_file(name: str) -> None:
    with pytest.raises(InputError, match=r"is no circumstance"):
        target(name)


def test_a_file_that_is_not_there_or_is_no_btf(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    with pytest.raises(InputError, match=r"there is no file x\.btf in"):
        external_btf.data_of(target(), below)
    (tmp_path / "x.btf").write_bytes(b"PK")
    with pytest.raises(InputError, match="is neither BTF nor"):
        external_btf.data_of(target(), below)
    (tmp_path / "x.btf").write_bytes(b"\x9f\xeb\x01")
    assert external_btf.data_of(target(), below) == b"\x9f\xeb\x01"
    assert external_btf.data_of(target("4.14"), below) is None
