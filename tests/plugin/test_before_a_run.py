"""What the plugin says before any VM is started: workers, what cannot be had, wrong objects, records that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Shell
from tests.cells import broken

NOTHING_HAD = "--offline"


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """A machine on which, offline, nothing can be had."""
    return {"KMATRIX_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return broken.write(tmp_path, "sound")


SMALL_MACHINE = """
import os
from kmatrix.host import memory
memory.available_mib = lambda: 500  # room for two
os.sched_getaffinity = lambda _: {0, 1, 2}
"""


@pytest.mark.parametrize(
    ("collector", "asked", "workers"),
    [(True, None, 2), (False, None, 3), (True, "1", 1)],
    ids=["as memory allows", "nothing of kmatrix", "told by the user"],
)
def test_auto_is_as_many_workers_as_fit(
    collector: bool, asked: str | None, workers: int, bare: dict[str, str], tmp_path: Path, run_in: Shell
) -> None:
    (tmp_path / "conftest.py").write_text(SMALL_MACHINE)
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    if collector:
        broken.write(tmp_path, "sound")
    done = run_in("pytest", "-n", "auto", NOTHING_HAD, env=bare | ({"PYTEST_XDIST_AUTO_NUM_WORKERS": asked} if asked else {}))
    assert f"created: {workers}/{workers} worker" in done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("how", [[], ["-n", "2"]], ids=["alone", "side by side"])
def test_a_run_that_can_have_nothing_says_what_and_why(how: list[str], bare: dict[str, str], run_in: Shell) -> None:
    done = run_in("pytest", NOTHING_HAD, *how, env=bare)
    assert done.returncode == 5
    assert "not run (could not be had):" in done.stdout
    assert "6.1 (x86_64, arm64): is not in the kernel store, and kmatrix is offline" in done.stdout


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize(("arch", "named"), [("aarch64", ["arm64"]), ("all", ["x86_64", "arm64"])])
def test_an_arch_asked_for_of_which_nothing_can_be_had_is_an_error(
    arch: str, named: list[str], bare: dict[str, str], run_in: Shell
) -> None:
    done = run_in("pytest", f"--arch={arch}", NOTHING_HAD, env=bare)
    assert done.returncode == 4
    assert f"--arch={arch}: no kernel for {' or '.join(named)} can be had:" in done.stderr
    whose = f"6.1 ({', '.join(named)})" if len(named) > 1 else f"6.1-{named[0]}"
    assert f"  {whose}: is not in the kernel store" in done.stderr
    assert "no tests ran" not in done.stdout


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("how", [[], ["-n", "2"]], ids=["alone", "side by side"])
def test_a_collector_that_is_not_there_is_an_error(how: list[str], bare: dict[str, str], run_in: Shell, tmp_path: Path) -> None:
    done = run_in("pytest", "--collectors=sond", NOTHING_HAD, *how, env=bare)
    assert done.returncode == 4
    assert (done.stdout + done.stderr).count("unknown collector 'sond'; did you mean sound?") == 1
    assert not (tmp_path / ".kmatrix").exists()


@pytest.mark.usefixtures("both_of_6_1", "sound")
@pytest.mark.parametrize("how", [[], ["-n", "2"]], ids=["alone", "side by side"])
def test_records_that_cannot_be_written_end_the_run_before_the_first_cell(how: list[str], run_in: Shell, tmp_path: Path) -> None:
    (tmp_path / ".kmatrix").write_text("a file of somebody's")
    done = run_in("pytest", "--kernels=6.1", *how)
    assert done.returncode == 4
    assert (done.stdout + done.stderr).count("cannot write records: File exists") == 1
    assert "fix: move the file that has its name, or choose another folder with --kmatrix-dir" in done.stdout + done.stderr
    assert "sound[" not in done.stdout
    assert (tmp_path / ".kmatrix").read_text() == "a file of somebody's"


@pytest.mark.usefixtures("both_of_6_1")
@pytest.mark.parametrize("how", [["--collect-only"], [], ["-n", "2"]], ids=["listed", "alone", "side by side"])
def test_an_object_that_is_not_there_is_one_error_and_nothing_runs(
    how: list[str], sound: Path, run_in: Shell, tmp_path: Path
) -> None:
    (sound.parent / "perf_arm64_bpfel.o").unlink()
    done = run_in("pytest", "--kernels=6.1", *how)
    assert "1 error" in done.stdout.splitlines()[-1]
    assert "no object for arm64 (looked in" in done.stdout
    assert "fix: compile it for arm64, or correct `object`" in done.stdout
    assert "sound[" not in done.stdout
    assert not (tmp_path / ".kmatrix").exists()
    only = run_in("pytest", "--kernels=6.1", "--arch=x86_64", "--collect-only", "-q")
    assert "sound[6.1-x86_64]" in only.stdout  # the arch that does not run needs none


@pytest.mark.usefixtures("both_of_6_1")
@pytest.mark.parametrize("how", [["--collect-only"], ["-n", "2", "--deselect=sound"]], ids=["listed", "side by side"])
def test_an_object_older_than_its_source_is_a_warning_once(how: list[str], sound: Path, run_in: Shell) -> None:
    source = sound.with_name("ring.bpf.c")
    for each in (source, sound.with_name("perf.bpf.c")):
        each.write_text("// edited\n")
    built = (sound.parent / "ring_arm64_bpfel.o").stat().st_mtime
    os.utime(source, (built + 30, built + 30))
    assert "is older than" not in run_in("pytest", "--kernels=6.1", *how).stdout
    os.utime(source, (built + 300, built + 300))
    said = run_in("pytest", "--kernels=6.1", *how).stdout
    listed = "ring_x86_bpfel.o is older than ring.bpf.c, ring_arm64_bpfel.o is older than ring.bpf.c: compile them again"
    assert said.count(listed) == 1


@pytest.mark.usefixtures("both_of_6_1")
@pytest.mark.parametrize("how", [[], ["-n", "2"]], ids=["alone", "side by side"])
def test_an_arch_that_no_variant_is_for_is_skipped_and_never_green(
    how: list[str], sound: Path, run_in: Shell, tmp_path: Path
) -> None:
    sound.write_text(sound.read_text().replace("[[variant]]", '[[variant]]\narches = ["x86_64"]'))
    (sound.parent / "ring_arm64_bpfel.o").unlink()
    of_before = tmp_path / ".kmatrix/cells/sound@6.1-arm64.json"
    of_before.parent.mkdir(parents=True)
    of_before.write_text("{}")
    done = run_in("pytest", "--kernels=6.1", "--arch=arm64", "-rs", *how)
    assert "1 skipped" in done.stdout.splitlines()[-1]
    why = "no variant of sound is for arm64 (variant.arches)"
    assert why in next(line for line in done.stdout.splitlines() if line.startswith("SKIPPED"))
    assert "│ sound       │ skipped │" in done.stdout
    assert any(line.split()[:3] == ["sound", "skipped", "6.1-arm64"] and why in line for line in done.stdout.splitlines())
    assert not of_before.exists()


HINT = "kmatrix: no collector.toml was found here"


@pytest.mark.parametrize(
    ("test", "options", "hinted"),
    [
        (None, [], True),
        ("def test_plain(): pass", [], False),  # a project that has nothing to do with kmatrix
        ("def test_plain(): pass", ["-k", "nothing"], False),
        ("def test_plain(): pass", ["--arch=x86_64"], True),
        ("def test_of_a_target(target): pass", ["--arch=x86_64", "--kernels=6.1"], False),
        ("def test_plain(: pass", [], False),
    ],
)
def test_where_no_collector_is_found_pytest_says_so(
    test: str | None, options: list[str], hinted: bool, run_in: Shell, tmp_path: Path, need: Callable[[str], None]
) -> None:
    need("6.1-x86_64")
    if test is not None:
        (tmp_path / "test_it.py").write_text(test + "\n")
    assert (HINT in run_in("pytest", *options).stdout) is hinted


@pytest.mark.usefixtures("sound")
def test_with_a_collector_there_is_no_hint(bare: dict[str, str], run_in: Shell) -> None:
    assert HINT not in run_in("pytest", NOTHING_HAD, env=bare).stdout


@pytest.mark.usefixtures("sound")
def test_the_default_set_named_is_what_can_be_had_of_it_as_the_help_says(bare: dict[str, str], run_in: Shell) -> None:
    said = run_in("pytest", NOTHING_HAD, "--kernels=default", env=bare)
    assert said.returncode == 5
    assert "not run (could not be had):" in said.stdout
    strict = run_in("pytest", NOTHING_HAD, "--kernels=default,6.1", env=bare)
    assert strict.returncode == 4


@pytest.mark.usefixtures("sound")
def test_a_store_with_nothing_in_it_is_said(bare: dict[str, str], run_in: Shell) -> None:
    said = run_in("pytest", NOTHING_HAD, "--kernels=store", env=bare)
    assert "--kernels=store: no kernel for x86_64 or arm64 is in the kernel store\n  fix: kmatrix prepare" in said.stderr
    assert said.returncode == 4
