"""Small sources, manifests and objects to lint."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from kmatrix.lint.rules import RULES, Rule

INCLUDE = Path(__file__).with_name("include")
BPF_COMMON = Path(__file__).parents[2] / "collectors" / "bpf_common"

PREAMBLE = """\
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>
"""
LICENSE = 'char LICENSE[] SEC("license") = "GPL";\n'
COMPAT = '#include "core_compat.h"\n'
OWN = {"KM203": ("task_struct",), "KM402": ("pt_regs",)}
"""Rules whose examples declare a kernel structure themselves."""

TASK = "\tstruct task_struct *task = (struct task_struct *)bpf_get_current_task();\n"
RING = 'struct {\n\t__uint(type, BPF_MAP_TYPE_RINGBUF);\n\t__uint(max_entries, 262144);\n} events SEC(".maps");\n'
"""What many samples begin with."""


def body(statements: str, section: str = "kprobe/do_exit", parameter: str = "struct pt_regs *ctx") -> str:
    """A program of these statements."""
    return f'SEC("{section}")\nint sample({parameter})\n{{\n\t(void)ctx;\n{statements}\n\treturn 0;\n}}\n'


def whole(text: str, code: str = "", *, licensed: bool = True) -> str:
    """A rule's example as a source that compiles: with the includes and the license that it leaves out."""
    if "#include" in text:
        return text
    head = PREAMBLE
    if "CORE_COMPAT" in text or "REQUIRE_CORE" in text:
        head = head.replace('"vmlinux.h"', '"vmlinux_minimal.h"') + COMPAT
    for struct in OWN.get(code, ()):
        head = f"#define {struct} {struct}___of_vmlinux\n{head}#undef {struct}\n"
    if code == "KM307":
        head += "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))\n"
    return f"{head}\n{text}\n{LICENSE if licensed and 'license' not in text else ''}"


PROGRAM = '[[program]]\nname = "on_exit"\nhook = "kprobe/do_exit"\n'


def manifest(needs: Iterable[str], stem: str = "sample", program: str = PROGRAM, arches: str = "") -> str:
    """A collector.toml of one variant whose object is `stem`."""
    listed = ", ".join(f'"{name}"' for name in needs)
    return f'schema = 1\n[collector]\nname = "sample"\n[[variant]]\nname = "only"\nbehaviour = "full"\nobject = "{stem}"\nneeds = [{listed}]\n{arches}\n{program}'


def write(folder: Path, text: str, rule: Rule, needs: Sequence[str] | None = None) -> Path:
    """An example of `rule` as a file in a folder of its own, with the manifest that says what it claims."""
    folder.mkdir(parents=True, exist_ok=True)
    if rule.language == "go":
        (folder / "program.bpf.c").write_text(whole(LICENSE))
        path = folder / "generate.go"
        path.write_text(text)
        return path
    path = folder / "sample.bpf.c"
    path.write_text(whole(text, rule.code, licensed=rule.code != "KM103"))
    (folder / "collector.toml").write_text(manifest(rule.needs if needs is None else needs))
    return path


def compile_c(source: Path, out: Path, *flags: str, arch: str = "x86", includes: Sequence[Path] = ()) -> Path:
    """The object of a source, by the host's clang; warnings are errors."""
    command = [
        "clang",
        "-target",
        "bpf",
        "-g",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
        f"-D__TARGET_ARCH_{arch}",
        *flags,
    ]
    command += [f"-I{path}" for path in (*includes, INCLUDE, BPF_COMMON)]
    done = subprocess.run([*command, "-c", str(source), "-o", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{source}:\n{done.stderr}"
    return out


C_RULES = [rule for rule in RULES.values() if not rule.code.startswith(("KM6", "KM7"))]
GO_RULES = [rule for rule in RULES.values() if rule.language == "go"]
