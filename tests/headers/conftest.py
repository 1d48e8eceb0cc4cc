"""BPF objects compiled against collectors/bpf_common in the ways a user may, and the guests to load them in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.matrix.arch import INFO, Arch
from tests.guest.conftest import boot, room

__all__ = ["boot", "room"]  # fixtures

HERE = Path(__file__).parent
COMMON = HERE.parents[1] / "collectors" / "bpf_common"
FLAGS = ("-target", "bpf", "-g", "-O2", "-Wall", "-Wextra", "-Werror")

Build = Callable[..., bytes]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """build("features", "arm64", "CORE_COMPAT_FALLBACK"): the object of features.bpf.c, compiled for the arch with these macros."""
    need_programs("clang")

    def compile_(name: str, arch: Arch, *defines: str, flags: tuple[str, ...] = ()) -> bytes:
        output = tmp_path / "object.o"
        macros = [f"-D{define}" for define in (f"__TARGET_ARCH_{INFO[arch].bpf2go}", *defines)]
        command = ["clang", *FLAGS, *macros, *flags, f"-I{COMMON}", "-c", str(HERE / f"{name}.bpf.c"), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return output.read_bytes()

    return compile_
