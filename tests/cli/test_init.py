"""`kmatrix init`, as its user types it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import KMATRIX
from kmatrix.manifest.load import load_collector

OPENAT = Path(__file__).parents[2] / "collectors" / "openat"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(OPENAT / "build", tmp_path / "opens" / "build")
    return tmp_path / "opens"


def init(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KMATRIX, "init", *words], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_a_folder_gets_its_manifest_and_keeps_it(folder: Path) -> None:
    done = init("opens", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "opens/collector.toml: ringbuf (full), perf (partial), plain (fallback); 2 programs; the trigger open\n"
    )
    text = (folder / "collector.toml").read_text()
    again = init(cwd=folder)
    assert (again.returncode, (folder / "collector.toml").read_text()) == (2, text)
    assert "collector.toml: it is there already, and is not overwritten\n  fix: write elsewhere with --output FILE" in again.stderr


def test_objects_by_name_into_another_file_and_to_standard_output(folder: Path) -> None:
    (folder / "other").mkdir()
    one = "build/openat_plain_x86_bpfel.o"
    assert init("--yes", "--output=other/collector.toml", one, cwd=folder).returncode == 0
    [variant] = load_collector(folder / "other").variants
    assert (variant.object, variant.arches) == ("../build/openat_plain", ("x86_64",))
    shown = init("--output=-", one, cwd=folder)
    assert 'object = "build/openat_plain"' in shown.stdout
    assert "Guessed: the trigger" in shown.stderr
    assert not (folder / "collector.toml").exists()


def test_sources_without_objects_get_the_lines_that_compile_them(tmp_path: Path) -> None:
    (tmp_path / "opens.bpf.c").touch()
    done = init(cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no compiled BPF object in it" in done.stderr
    assert "build/%_arm64_bpfel.o: %.bpf.c" in done.stderr


def test_a_terminal_is_asked(folder: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen([*KMATRIX, "init"], cwd=folder, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, b"mine\nexec\n\nfallback\n\n")
    try:
        while os.read(master, 65536):
            pass
    except OSError:  # a terminal that nobody writes to any more ends so
        pass
    os.close(master)
    assert process.wait(60) == 0
    collector = load_collector(folder)
    assert (collector.name, [v.behaviour for v in collector.variants]) == ("mine", ["full", "fallback", "fallback"])
    assert collector.trigger is not None
    assert collector.trigger.kind == "exec"
