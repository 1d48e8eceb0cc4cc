"""Collectors that are broken on purpose: one way each, laid out in a folder where pytest can run them."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("tiny.bpf.c")

RING = """
[[variant]]
name = "ring"
behaviour = "full"
object = "ring"
needs = [{needs}]
transport = "ringbuf"
buffer = "events"
"""
PERF = """
[[variant]]
name = "perf"
behaviour = "fallback"
object = "perf"
transport = "perf"
buffer = "events"
"""

MANIFEST = """
schema = 1
[collector]
name = "{name}"
timeout = 2.0
{variants}
[[program]]
name = "enter"
hook = "tracepoint/syscalls/sys_enter_openat"
{program}
[trigger]
{trigger}

[[event]]
name = "open"
match = {{ tgid = "known.tgid" }}
[[event.field]]
name = "tgid"
type = "u32"
[[event.field]]
name = "uid"
type = "u32"
{check}
"""

PANIC = """#!/bin/sh
echo c > /proc/sysrq-trigger
"""


def write(
    folder: Path,
    name: str,
    *defines: str,
    ring_needs: str = '"ringbuf"',
    trigger: str = 'kind = "open"',
    files: dict[str, str] | None = None,
    check: str = 'equals = "known.uid"',
    program: str = "",
    fallback: bool = True,
) -> Path:
    """A tiny collector in folder/name, compiled for both arches with `defines`, with a variant to fall back on or not; returns its manifest."""
    home = folder / name
    home.mkdir(parents=True)
    variants = RING.format(needs=ring_needs) + PERF * fallback
    manifest = home / "collector.toml"
    manifest.write_text(MANIFEST.format(name=name, variants=variants, trigger=trigger, check=check, program=program))
    for file, text in (files or {}).items():
        (home / file).write_text(text)
        (home / file).chmod(0o755)
    for arch in ("x86", "arm64"):
        compile_object(home / f"ring_{arch}_bpfel.o", arch, "USE_RINGBUF", *defines)
        compile_object(home / f"perf_{arch}_bpfel.o", arch, *defines)
    return manifest


def compile_object(output: Path, arch: str, *defines: str, source: Path = SOURCE) -> None:
    """Compile `source` for `arch` (bpf2go's name)."""
    macros = [f"-D{define}" for define in (f"__TARGET_ARCH_{arch}", *defines)]
    # -idirafter: linux-libc-dev's asm/ stands in a folder that -target bpf does not look into.
    include = ["-idirafter", f"/usr/include/{_triplet()}"]
    command = ["clang", "-target", "bpf", "-g", "-O2", "-Wall", *include, *macros, "-c", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _triplet() -> str:
    return (
        subprocess.run(["clang", "-dumpmachine"], capture_output=True, text=True, check=True)
        .stdout.strip()
        .replace("-pc-", "-")
        .replace("-unknown-", "-")
    )


def all_of_them(folder: Path) -> None:
    """A collector that is sound, and others that are each broken in another way."""
    write(folder, "sound")
    write(folder, "silent", "BREAK_SILENT")
    idle = '[[program]]\nname = "idle"\nhook = "tracepoint/syscalls/sys_enter_swapoff"\n'
    write(folder, "idle", "HOOK_IDLE", program=idle)
    write(folder, "wrong", "BREAK_VALUE")
    # The ring variant claims to need what no shipped kernel below is declared to have, and runs all the same.
    write(folder, "modest", ring_needs='"ringbuf", "kprobe_multi"')
    write(folder, "lopsided", "BREAK_LOAD_ON_ARM64")
    write(folder, "messy", "BREAK_PIN")
    trigger = 'kind = "command"\ncommand = ["./panic.sh"]\nfiles = ["panic.sh"]'
    write(folder, "deadly", trigger=trigger, files={"panic.sh": PANIC}, check="")
