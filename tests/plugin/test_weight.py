"""What the plugin costs a pytest run that has nothing to do with kmatrix: pytest loads it wherever it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Shell
from kmatrix import plugin
from kmatrix.manifest import load
from kmatrix.plugin import options
from kmatrix.runs import record_files
from tests.cells import broken

HEAVY = ("pydantic", "requests", "elftools", "jinja2", "rich", "tabulate", "kmatrix.matrix", "kmatrix.runs", "kmatrix.vm")


def test_the_entry_point_imports_pytest_and_the_standard_library_only() -> None:
    before_and_after = (
        "import sys, pytest; before = set(sys.modules); import kmatrix.plugin\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('kmatrix')))"
    )
    said = subprocess.run([sys.executable, "-c", before_and_after], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["kmatrix", "kmatrix kmatrix.plugin kmatrix.plugin.options"]


def test_a_run_without_collectors_loads_nothing_and_says_nothing(run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        f"import sys\n\ndef test_plain():\n    assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
    )
    done = run_in("pytest")
    assert done.returncode == 0, done.stdout
    assert "kmatrix:" not in done.stdout
    assert not (tmp_path / ".kmatrix").exists()


def test_an_option_is_said_back(run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    assert "kmatrix: kernels 6.1, arch arm64" in run_in("pytest", "--kernels=6.1", "--arch=arm64", "--collect-only").stdout


def test_what_stood_in_the_entry_point_can_be_imported_from_it() -> None:
    from kmatrix.plugin import CellFailed, CellItem, CollectorFile, Run, session

    assert (CellFailed, CellItem, CollectorFile, Run) == (
        session.CellFailed,
        session.CellItem,
        session.CollectorFile,
        session.Run,
    )


def test_what_the_entry_point_repeats_is_what_it_stands_for() -> None:
    """It cannot import these: that is what it is light for."""
    assert plugin.COLLECTOR_FILE == load.COLLECTOR_FILE
    assert options.DEFAULT_DIRECTORY == record_files.DEFAULT_DIRECTORY


def test_a_run_of_cells_imports_no_reader_of_elf_and_no_client() -> None:
    """Objects that were parsed before are not read again, and nothing is fetched where all is here."""
    code = "import sys, kmatrix.plugin.session; print([name for name in ('elftools', 'requests', 'paramiko', 'jinja2') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_whether_a_source_can_fetch_is_told_without_a_client() -> None:
    """Every run asks that of kernels that are not in the store, and rarely does one fetch."""
    code = (
        "import sys; from kmatrix import kernels\n"
        "for kind in ('debian', 'oci', 'mainline', 'tarball'): assert kernels.by_kind()[kind].fetches\n"
        "print([name for name in ('requests', 'tarfile', 'debian.deb822', 'kmatrix.fetch.apt', 'kmatrix.kernels.build') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_kmatrix_is_imported_as_it_stands_and_tests_are_rewritten(run_in: Shell, tmp_path: Path) -> None:
    """pytest would read and hash the source of each module of kmatrix, to explain asserts that are no test's."""
    (tmp_path / "test_loaders.py").write_text(
        "import sys\n\nfor name in ('kmatrix.plugin.session', 'kmatrix.runs.cell'):\n"
        "    assert 'rewrite' not in type(sys.modules[name].__loader__).__module__\n"
        "assert 'rewrite' in type(__loader__).__module__\n"
    )
    done = run_in("pytest", "--kernels=6.1", "--collect-only", "-q")
    assert (done.returncode, "1 error" in done.stdout) == (5, False), done.stdout


FOR_OTHERS = {
    "a manifest that was not read before": ("kmatrix.manifest.schema",),
    "a [test]": ("kmatrix.plugin.guest_tests", "kmatrix.runs.guest_test", "kmatrix.report.tests", "kmatrix.verdict.suites"),
    "what is red": (
        "kmatrix.report.explain",
        "kmatrix.plugin.reds",
        "kmatrix.verdict.diagnosis.rows",
        "kmatrix.verdict.diagnosis.own_words",
    ),
    "an object that was not read before": ("elftools", "kmatrix.objects.code", "kmatrix.objects.needs"),
    "simulated kernels, and predictions": ("kmatrix.predict",),
    "`kmatrix run`": ("kmatrix.runs.object_run",),
    "what is fetched, and other machines": ("requests", "paramiko", "kmatrix.fetch.apt", "kmatrix.fetch.download"),
    "an HTML report": ("jinja2",),
}


@pytest.mark.usefixtures("both_of_6_1")
def test_a_cell_that_is_as_promised_imports_nothing_that_others_need(run_in: Shell, tmp_path: Path) -> None:
    broken.write(tmp_path, "sound")
    (tmp_path / "conftest.py").write_text(
        "import json, sys\nfrom pathlib import Path\n\n"
        "def pytest_unconfigure():\n    Path('imported.json').write_text(json.dumps(sorted(sys.modules)))\n"
    )
    arguments = ("--kernels=6.1", "--arch=x86_64", "-q")
    assert run_in("pytest", *arguments).returncode == 0  # what it reads is kept now
    done = run_in("pytest", *arguments)
    assert "1 passed" in done.stdout, done.stdout
    imported = json.loads((tmp_path / "imported.json").read_text())
    found = {
        why: [name for name in imported for unwanted in names if name == unwanted or name.startswith(f"{unwanted}.")]
        for why, names in FOR_OTHERS.items()
    }
    assert {why: names for why, names in found.items() if names} == {}


def test_only_a_run_of_cells_alone_keeps_the_collector_from_what_stands(run_in: Shell, tmp_path: Path) -> None:
    """A test of somebody's own may look through all objects, or leave garbage that pytest is to find."""
    broken.write(tmp_path, "sound")
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "conftest.py").write_text(
        "import gc\n\ndef pytest_collection_finish():\n    print('kept', gc.get_freeze_count() > 0, gc.isenabled())\n"
    )
    for selected, said in (("sound or test_own", "kept False True"), ("sound", "kept True True")):
        assert said in run_in("pytest", "--collect-only", "-s", "-k", selected).stdout


@pytest.mark.parametrize(("imports", "said"), [("sys", "False"), ("hypothesis", "True")])
def test_here_hypothesis_is_imported_for_tests_that_use_it(tmp_path: Path, imports: str, said: str) -> None:
    """By this repository's conftest.py: cells are run beside its plugin."""
    (tmp_path / "test_plain.py").write_text(f"import {imports}\n\ndef test_plain(): pass\n")
    code = "import pytest, sys; pytest.main(['-q', '-p', 'conftest', 'test_plain.py']); print('hypothesis' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == said, done.stdout + done.stderr
