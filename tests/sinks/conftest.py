"""Whole cells of small collectors, on booted guests: a manifest, an object, a record."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import cell
from kmatrix.runs.cell_records import Record
from kmatrix.runs.machine_room import MachineRoom

HERE = Path(__file__).parent
COMMON = HERE.parents[1] / "collectors" / "bpf_common"
Build = Callable[..., Path]
Judge = Callable[[str, str], Record]


@pytest.fixture(scope="session")
def room() -> MachineRoom:
    return MachineRoom(load_matrix(), accel="tcg")


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """build("records", "USE_RINGBUF"): the object of records.bpf.c for both arches, as `records_x86_bpfel.o` and `records_arm64_bpfel.o`."""
    need_programs("clang")

    def compile_(name: str, *defines: str, output: str | None = None) -> Path:
        for arch in ("x86", "arm64"):
            macros = [f"-D{define}" for define in (f"__TARGET_ARCH_{arch}", *defines)]
            machine = subprocess.run(["gcc", "-dumpmachine"], capture_output=True, text=True, check=False).stdout.strip()
            include = ["-idirafter", f"/usr/include/{machine or 'x86_64-linux-gnu'}", f"-I{COMMON}"]
            flags = ["-target", "bpf", "-mcpu=v1", "-g", "-O2", "-Wall", *include, *macros]
            made = tmp_path / f"{output or name}_{arch}_bpfel.o"
            subprocess.run(["clang", *flags, "-c", str(HERE / f"{name}.bpf.c"), "-o", str(made)], check=True)
        return tmp_path

    return compile_


@pytest.fixture
def judge(tmp_path: Path, room: MachineRoom, need: Callable[[str], None]) -> Judge:
    """judge("6.1-x86_64", manifest): the record of the cell of that collector.toml, whose objects `build` made."""

    def run(name: str, manifest: str) -> Record:
        need(name)
        (tmp_path / "collector.toml").write_text(manifest)
        return cell.run(load_collector(tmp_path), room.matrix.target(name), room, tmp_path / ".kmatrix")

    return run
