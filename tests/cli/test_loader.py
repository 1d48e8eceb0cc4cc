"""`--loader` of `kmatrix run` and of pytest: one library, both with the table of their differences, and wrong input."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from conftest import KMATRIX, Shell, lacking, need_programs
from kmatrix.host.errors import Unavailable
from kmatrix.vm.loaders import build
from tests.cells import broken
from tests.lint.samples import compile_c

Kmatrix = Callable[..., "CompletedProcess[str]"]
ON = ("--kernels=6.1", "--arch=x86_64")
SOURCE = """
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
SEC("tracepoint/syscalls/sys_enter_openat") int opened(void *ctx) { (void)ctx; return 0; }
SEC("ksyscall/getpgid") int called(void *ctx) { (void)ctx; return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def kmatrix(tmp_path: Path) -> Kmatrix:
    def run(*arguments: str) -> CompletedProcess[str]:
        command = [*KMATRIX, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)

    return run


@pytest.fixture
def cilium(need: Callable[[str], None]) -> str:
    """The version of cilium/ebpf that the loader is built with; the kernel is at hand."""
    need("6.1-x86_64")
    try:
        return build.cilium("x86_64").version
    except Unavailable as error:
        lacking(str(error))


@pytest.fixture
def prog(tmp_path: Path) -> Path:
    need_programs("clang")
    (tmp_path / "prog.bpf.c").write_text(SOURCE)
    return compile_c(tmp_path / "prog.bpf.c", tmp_path / "prog.bpf.o", "-DBPF_NO_GLOBAL_DATA")


@pytest.mark.usefixtures("prog")
def test_both_and_where_they_differ(kmatrix: Kmatrix, cilium: str) -> None:
    done = kmatrix("run", "prog.bpf.o", *ON, "--loader=all")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "loaded by libbpf 1." in done.stdout
    assert f"loaded by cilium/ebpf {cilium}" in done.stdout
    table = done.stdout.partition("where the loaders differ:\n")[2].splitlines()
    assert table[0].split() == ["program", "libbpf", "cilium", "on", "why"]
    assert table[2].split()[:5] == ["called", "attached", "not", "loaded", "6.1-x86_64"]
    assert "opened" not in "\n".join(table)
    both = json.loads(kmatrix("run", "prog.bpf.o", *ON, "--loader=all", "--program=opened", "--json").stdout)
    assert [(each["library"], each["programs"]["opened"]["attached"]) for each in both["targets"]] == [
        ("libbpf", True),
        ("cilium", True),
    ]
    one = kmatrix("run", "prog.bpf.o", *ON, "--loader=cilium", "--program=opened")
    assert one.returncode == 0, one.stdout + one.stderr
    assert "differ" not in one.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--loader=foo"], "--loader: unknown loader 'foo'\n  fix: one of: libbpf, cilium, all"),
        (["--loader=all", "--save=b.json"], "--loader=all: a baseline is of one loader"),
    ],
)
@pytest.mark.usefixtures("prog")
def test_wrong_input_is_one_error(kmatrix: Kmatrix, options: list[str], says: str) -> None:
    done = kmatrix("run", "prog.bpf.o", *ON, *options)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cells_of_both(run_in: Shell, cilium: str, tmp_path: Path) -> None:
    need_programs("clang")
    broken.write(tmp_path, "sound")
    done = run_in("pytest", *ON, "--loader=all", "-v", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sound+cilium[6.1-x86_64] PASSED" in done.stdout
    assert "the loaders do not differ" in done.stdout
    said = [json.loads(path.read_text())["versions"]["loader"] for path in sorted((tmp_path / ".kmatrix/cells").glob("*.json"))]
    assert said[0] == f"cilium/ebpf {cilium}"
    assert said[1].startswith("libbpf 1.")
    record = json.loads((tmp_path / ".kmatrix/cells/sound+cilium@6.1-x86_64.json").read_text())
    assert "--loader=all" in record["reproduce"]


def test_a_manifest_that_names_cilium(run_in: Shell, cilium: str, tmp_path: Path) -> None:
    need_programs("clang")
    broken.write(tmp_path, "sound")
    manifest = tmp_path / "sound/collector.toml"
    manifest.write_text(manifest.read_text().replace('name = "sound"', 'name = "sound"\nloader = "cilium"'))
    done = run_in("pytest", *ON, "-v", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sound[6.1-x86_64] PASSED" in done.stdout
    assert (
        json.loads((tmp_path / ".kmatrix/cells/sound@6.1-x86_64.json").read_text())["versions"]["loader"] == f"cilium/ebpf {cilium}"
    )


def test_an_unknown_loader_ends_a_pytest_run(run_in: Shell, tmp_path: Path) -> None:
    need_programs("clang")
    broken.write(tmp_path, "sound")
    done = run_in("pytest", "--loader=clium", "-p", "no:cacheprovider")
    assert done.returncode == 4
    assert "--loader: unknown loader 'clium'; did you mean cilium?" in done.stderr
