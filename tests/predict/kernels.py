"""Small kernels of our own: C that is compiled to BTF, and objects to hold against it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from elftools.elf.elffile import ELFFile

from conftest import need_programs
from kmatrix.predict import pack, profile
from kmatrix.predict.judge import Judge
from kmatrix.predict.kernel import Kernel
from kmatrix.predict.pack import Pack
from kmatrix.predict.subject import Subject

HEAD = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
"""
COMMON = Path(__file__).parents[2] / "collectors" / "bpf_common"


def clang() -> int:
    """The major version of clang."""
    need_programs("clang")
    said = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)", said)
    return int(found[1]) if found else 0


def compiled(folder: Path, name: str, code: str, *, debug: bool = True) -> Path:
    """The object of some C; without `debug` it has no BTF."""
    need_programs("clang")
    source, output = folder / f"{name}.bpf.c", folder / f"{name}.bpf.o"
    source.write_text(code)
    machine = subprocess.run(["clang", "-dumpmachine"], capture_output=True, text=True, check=True).stdout.strip()
    include = [f"-I/usr/include/{machine.replace('-pc-', '-').replace('-unknown-', '-')}", f"-I{COMMON}"]
    subprocess.run(
        ["clang", "-target", "bpf", *(["-g"] if debug else []), "-O2", *include, "-c", str(source), "-o", str(output)], check=True
    )
    return output


def kernel(folder: Path, types: str, name: str = "made", release: str = "6.1.0") -> Kernel:
    """A kernel that has these types, of which each has to be used by a variable."""
    section = ELFFile(compiled(folder, f"kernel-{name}", types).open("rb")).get_section_by_name(".BTF")
    btf = folder / f"{name}.btf"
    btf.write_bytes(section.data())
    path = folder / f"{name}.kmp"
    pack.write(path, *pack.merged([profile.of_btf(btf, release, "x86_64", name)]))
    return Kernel(Pack(path), 0)


def judge(folder: Path, code: str, on: Kernel, name: str = "object") -> Judge:
    """The object of some C, to be judged on a kernel's pack."""
    return Judge(Subject(compiled(folder, name, code)), on.pack)
