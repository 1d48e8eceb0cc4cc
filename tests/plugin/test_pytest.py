"""The plugin as its users run it: in a folder of their own, on real guests."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from conftest import Shell
from tests.cells import broken

pytestmark = pytest.mark.usefixtures("both_of_6_1")

NOTHING = ("-p", "no:cacheprovider")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    broken.write(tmp_path, "sound")
    broken.write(tmp_path, "silent", "BREAK_SILENT")
    return tmp_path


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.usefixtures("here")
def test_ids_markers_and_selection(run_in: Shell) -> None:
    listed = run_in("pytest", "--collect-only", "-q", "--kernels=5.4,6.1", "--arch=aarch64", *NOTHING).stdout.splitlines()
    assert listed[:4] == [
        "silent/collector.toml::silent[5.4-arm64]",
        "silent/collector.toml::silent[6.1-arm64]",
        "sound/collector.toml::sound[5.4-arm64]",
        "sound/collector.toml::sound[6.1-arm64]",
    ]
    chosen = run_in("pytest", "--collect-only", "-q", "--kernels=6.1", "-k", "sound and arm64", *NOTHING).stdout.splitlines()
    assert chosen[0] == "sound/collector.toml::sound[6.1-arm64]"
    only = run_in("pytest", "--collect-only", "-q", "--kernels=6.1", "--collectors=silent", *NOTHING).stdout
    assert "sound" not in only
    marked = run_in("pytest", "--collect-only", "-q", "--kernels=6.1", "-m", "arch and collector", *NOTHING).stdout
    assert len([line for line in marked.splitlines() if "::" in line]) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kernels=6.13"], "unknown kernel '6.13'; did you mean 6.1"),
        (["--kernels=debain"], "did you mean debian"),
        (["--kernels=>=9"], "no kernel of"),
        (["--kernels="], "no kernel given"),
        (["--arch="], "no arch given"),
        (["--collectors=sond"], "unknown collector 'sond'; did you mean sound"),
        (["--kmatrix-dir=/proc/nowhere"], "cannot write records"),
        (["--arch=arm46"], "unknown arch 'arm46'; did you mean arm64"),
        (["--kernels-file=nowhere.toml", "--kernels=6.1"], "no such file"),
    ],
)
def test_bad_options_are_one_error_before_anything_runs(here: Path, run_in: Shell, options: list[str], says: str) -> None:
    done = run_in("pytest", *options)
    assert done.returncode == 4
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (here / ".kmatrix").exists()


def test_an_explicit_kernel_that_cannot_be_had_is_an_error_and_a_bare_run_lists_it(here: Path, run_in: Shell) -> None:
    (here / "kernels.toml").write_text(
        'schema = 1\n[sets]\ndefault = ["6.1", "3.10-vendor"]\n[kernels."3.10-vendor"]\nversion = "3.10"\nsources = [{ kind = "import" }]\n'
    )
    strict = run_in("pytest", "--kernels=3.10-vendor", "--arch=x86_64")
    assert strict.returncode == 4
    assert "3.10-vendor-x86_64" in strict.stderr
    assert "kmatrix kernels import 3.10-vendor --arch x86_64" in strict.stderr
    bare = run_in("pytest", "--collectors=sound")
    assert "2 passed" in outcome(bare)
    assert "could not be had" in bare.stdout
    assert "3.10-vendor (x86_64, arm64)" in bare.stdout
    assert bare.returncode == 0
    of_an_arch = run_in("pytest", "--collectors=sound", "--arch=arm64")  # strict only where nothing of it can be had
    assert "1 passed" in outcome(of_an_arch)
    assert "3.10-vendor (arm64)" in of_an_arch.stdout


def test_a_run_side_by_side_leaves_records_junit_and_the_table(here: Path, run_in: Shell) -> None:
    done = run_in("pytest", "--kernels=6.1", "-n", "2", "--junitxml=out.xml")
    assert "2 failed, 2 passed" in outcome(done)
    assert "│ sound       │ full" in done.stdout
    assert "✗ full→silent" in done.stdout

    record = json.loads((here / ".kmatrix/cells/sound@6.1-arm64.json").read_text())
    assert record["schema"] == "kmatrix.cell/1"
    assert (record["cell"], record["ok"], record["observed"]) == ("sound[6.1-arm64]", True, "full")
    assert record["timings"]["total"] > 0
    assert (here / ".kmatrix" / record["console"]).exists()

    case = next(c for c in ElementTree.parse(here / "out.xml").iter("testcase") if c.get("name") == "silent[6.1-x86_64]")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert (properties["expected"], properties["failure"], properties["arch"]) == ("full", "silent", "x86_64")

    again = run_in("pytest", "--kernels=6.1", "--lf")
    assert "2 failed" in outcome(again)
    assert "passed" not in outcome(again)


def test_a_wrong_manifest_or_object_is_one_error(here: Path, run_in: Shell) -> None:
    manifest = here / "sound" / "collector.toml"
    manifest.write_text(manifest.read_text().replace("timeout", "tiemout"))
    (here / "silent" / "ring_arm64_bpfel.o").write_bytes(b"\x7fELF")
    done = run_in("pytest", "--kernels=6.1", "--arch=arm64")
    assert "tiemout: unknown key; did you mean timeout or load_timeout?" in done.stdout
    assert "Traceback" not in done.stdout
    done = run_in("pytest", "--kernels=6.1", "--arch=arm64", "silent")
    assert done.stdout.count("fix: compile it with clang") == 1
    assert "not a whole ELF file" in done.stdout
    assert "raise InputError" not in done.stdout
    assert "1 error" in outcome(done)
    assert not (here / ".kmatrix" / "cells").exists()


def test_two_collectors_of_one_name_are_refused(here: Path, run_in: Shell) -> None:
    manifest = here / "silent" / "collector.toml"
    manifest.write_text(manifest.read_text().replace('"silent"', '"sound"'))
    done = run_in("pytest", "--kernels=6.1", "--collect-only")
    assert "the collector 'sound' is also" in done.stdout


def test_fixtures_give_tests_of_ones_own_the_same_machines(here: Path, run_in: Shell) -> None:
    (here / "test_own.py").write_text(
        """
def test_uname(vm, target):
    said = vm.run(["uname", "-m"]).stdout.decode().strip()
    assert said == {"arm64": "aarch64"}.get(target.arch, target.arch)

def test_pristine(vm):
    assert vm.run(["test", "-e", "/tmp/left"]).exit == 1
    vm.put("/tmp/left", b"x")

def test_cell(cell):
    record = cell("sound")
    assert record.ok and record.observed == "full"
"""
    )
    done = run_in("pytest", "test_own.py", "test_own.py", "--kernels=6.1", "-v", *NOTHING)
    assert "test_own.py::test_uname[6.1-arm64] PASSED" in done.stdout
    assert "6 passed" in outcome(done)


@pytest.mark.usefixtures("here")
def test_cold_boots_afresh(run_in: Shell) -> None:
    done = run_in("pytest", "--kernels=6.1", "--arch=x86_64", "--collectors=sound", "--cold")
    assert "1 passed" in outcome(done)


def test_a_run_without_collectors_is_left_alone(tmp_path: Path, run_in: Shell) -> None:
    """Other projects' tests may call an argument or a fixture of theirs `target`."""
    (tmp_path / "test_plain.py").write_text(
        """
import pytest

@pytest.mark.parametrize("target", ["a", "b"])
def test_argument(target): assert target in "ab"

class TestOwn:
    @pytest.fixture
    def target(self): return "own"
    def test_fixture(self, target): assert target == "own"
"""
    )
    done = run_in("pytest", "-q", cwd=tmp_path)
    assert "3 passed" in outcome(done)
    assert "kmatrix ===" not in done.stdout
