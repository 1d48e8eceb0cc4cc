"""The reference collectors broken on purpose, each the way of a trap that kernels and arches lay: the cell that should turn red does.

The traps are those of the standard's text and of the differences between kernels. One has no cell: a ring buffer of 4096 bytes, which arm64
kernels with pages of 64 KiB refuse. No such kernel is in the matrix, and libbpf rounds the size up by itself (2048 bytes load as well).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.manifest.load import load_collector
from kmatrix.matrix.load import load_matrix
from kmatrix.runs import cell
from kmatrix.runs.machine_room import MachineRoom

COLLECTORS = Path(__file__).parents[2] / "collectors"


@dataclass(frozen=True)
class Trap:
    """An edit of a collector, and what its cells then say: the class of failure and words of the reason, or None for a green one."""

    collector: str
    edits: tuple[tuple[str, str, str], ...]
    """(file below collectors/, what is there, what stands there instead)"""
    cells: dict[str, tuple[str, str] | None]


REGISTERS_OF_USER_SPACE = """
#if defined(ARCH_X86_64) && !defined(CORE_COMPAT_FALLBACK)
struct pt_regs___x86 { unsigned long rdi; } __attribute__((preserve_access_index));
#define get_arg0(ctx) BPF_CORE_READ((struct pt_regs___x86 *)(ctx), rdi)
#endif
struct connect_event {"""
OPEN_PROGRAM = """
SEC("tracepoint/syscalls/sys_enter_open")
int enter_open(void *record)
{
	(void)record;
	return 0;
}

char LICENSE[]"""
OPEN_IN_MANIFEST = """[[program]]
name = "enter_open"
hook = "tracepoint/syscalls/sys_enter_open"
fires = false

[[map]]"""

TRAPS = {
    # Register names: one C source, refused on one arch only.
    "the names that user space has for registers": Trap(
        "tcpconnect",
        (("tcpconnect/tcpconnect.h", "\nstruct connect_event {", REGISTERS_OF_USER_SPACE),),
        {"6.1-x86_64": ("load", "core-ringbuf"), "6.1-arm64": None, "5.4-x86_64": ("load", "core-perf"), "5.4-arm64": None},
    ),
    "the place that x86_64 has its first argument in": Trap(
        "tcpconnect",
        (("tcpconnect/tcpconnect.h", "= get_arg0(ctx)", "= *(__u64 *)((char *)ctx + 112)"),),
        {"6.1-x86_64": None, "6.1-arm64": ("wrong-data", "connect"), "4.14-x86_64": None, "4.14-arm64": ("wrong-data", "connect")},
    ),
    "the result taken for an argument": Trap(
        "tcpconnect",
        (("tcpconnect/tcpconnect.h", "get_return_value(ctx)", "get_arg0(ctx)"),),
        {"6.1-x86_64": ("wrong-data", "ret is"), "6.1-arm64": None},  # one register on arm64
    ),
    # Tracepoints and functions that are not everywhere.
    "a system call that arm64 has not": Trap(
        "openat",
        (("openat/openat.h", "\nchar LICENSE[]", OPEN_PROGRAM), ("openat/collector.toml", "[[map]]", OPEN_IN_MANIFEST)),
        {"6.1-x86_64": None, "6.1-arm64": ("attach", "enter_open"), "5.4-arm64": ("attach", "enter_open")},
    ),
    "a function that has another name now": Trap(
        "oom",
        (
            ("oom/oom_ringbuf.bpf.c", "kprobe/oom_kill_process", "kprobe/oom_kill_task"),
            ("oom/oom_perf.h", "kprobe/oom_kill_process", "kprobe/oom_kill_task"),
            ("oom/collector.toml", "kprobe/oom_kill_process", "kprobe/oom_kill_task"),
        ),
        {"6.1-x86_64": ("worse", "program:kill_process"), "6.1-arm64": ("worse", "program:kill_process")},
    ),
    "kprobes load where they cannot be attached": Trap(
        "tcpconnect",
        (
            ("tcpconnect/collector.toml", '"ringbuf", "kprobes"', '"ringbuf"'),
            ("tcpconnect/collector.toml", '"btf", "perf_buffer", "kprobes"', '"btf", "perf_buffer"'),
            ("tcpconnect/collector.toml", '["perf_buffer", "kprobes"', '["perf_buffer"'),
        ),
        {"6.1-nokprobes-x86_64": ("attach", "enter_connect"), "6.1-x86_64": None},
    ),
    "fentry loads on arm64 before it can be attached": Trap(
        "fentrysched",
        (("fentrysched/collector.toml", '["fentry", ', "["),),
        {"6.1-arm64": ("attach", "at_exec"), "6.1-x86_64": None, "6.12-arm64": None},
    ),
    # Feature tests.
    "#ifdef of an enumerator": Trap(
        "openat",
        (("bpf_common/core_compat.h", "KMATRIX_HELPER_EXISTS(ringbuf_reserve)", "0"),),
        {"6.1-x86_64": ("silent", "open"), "6.1-arm64": ("silent", "open"), "5.4-x86_64": None},
    ),
    "a global variable in the variant for 4.14": Trap(
        "openat",
        (
            ("openat/openat_plain.bpf.c", "\nstruct {", "\nint seen;\n\nstruct {"),
            ("openat/openat_plain.bpf.c", "\treturn remember_call(record);", "\tseen++;\n\treturn remember_call(record);"),
        ),
        {"4.14-x86_64": ("load", "plain-perf"), "4.14-arm64": ("load", "plain-perf"), "4.14-sim-x86_64": ("load", "plain-perf")},
    ),
    # Cgroups.
    "a member that kernfs_node has not any more": Trap(
        "execexit",
        (
            ("bpf_common/core_compat.h", "since_5_5 {\n\t__u64 id;", "since_5_5 {\n\t__u64 id;\n\t__u64 ino;"),
            ("bpf_common/core_compat.h", "BPF_CORE_READ((struct kernfs_node___since_5_5 *)node, id)",
             "BPF_CORE_READ((struct kernfs_node___since_5_5 *)node, ino)"),
        ),
        {"6.1-x86_64": ("load", "core-ringbuf"), "5.4-x86_64": None},  # there it is dead code
    ),
    "the new layout of kernfs_node on an old kernel": Trap(
        "execexit",
        (("bpf_common/core_compat.h", "if (bpf_core_field_exists(((struct kernfs_node___before_5_5 *)0)->id.generation))", "if (0)"),),
        {"5.4-x86_64": ("load", "core-perf"), "5.4-arm64": ("load", "core-perf"), "6.1-x86_64": None},
    ),
    "a cgroup id that is invented": Trap(
        "execexit",
        (("bpf_common/core_compat.h", "\t(void)task;\n\treturn 0;", "\treturn (__u64)task;"),),
        {"4.14-x86_64": ("wrong-data", "cgroup_id"), "4.14-sim-arm64": ("wrong-data", "cgroup_id")},
    ),
    # What wrong data would look like.
    "a packet that is dropped": Trap(
        "dns",
        (("bpf_common/core_compat.h", "#define CORE_COMPAT_NEUTRAL_tc (-1)", "#define CORE_COMPAT_NEUTRAL_tc 2"),),
        {"6.1-x86_64": ("worse", "does not work as before"), "4.14-sim-arm64": ("worse", "does not work as before"),
         "5.4-arm64": ("worse", "does not work as before")},
    ),
    "a port in the wrong byte order": Trap(
        "tcpconnect",
        (("tcpconnect/tcpconnect.h", "event->sport = BPF_CORE_READ(common, skc_num)", "event->sport = bpf_htons(BPF_CORE_READ(common, skc_num))"),),
        {"6.1-arm64": ("wrong-data", "sport")},
    ),
    "who takes the memory taken for who is killed": Trap(
        "oom",
        (("oom/oom.h", "event->victim = record->pid", "event->victim = (__u32)thread"),),
        {"6.1-x86_64": ("wrong-data", "victim"), "5.4-arm64": ("wrong-data", "victim")},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def room() -> MachineRoom:
    return MachineRoom(load_matrix())


def broken(trap: Trap, folder: Path) -> Path:
    """The collector with the trap's edits, compiled; its manifest."""
    need_programs("clang")
    home = folder / "collectors"
    shutil.copytree(COLLECTORS, home, ignore=shutil.ignore_patterns("build"))
    for file, there, instead in trap.edits:
        text = (home / file).read_text()
        assert there in text, f"{file} has no {there!r} to break"
        (home / file).write_text(text.replace(there, instead))
    done = subprocess.run(["make", "-s", "-C", str(home), trap.collector], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / trap.collector


@pytest.mark.parametrize("name", TRAPS)
def test_the_cell_turns_red(name: str, room: MachineRoom, need: Callable[[str], None], tmp_path: Path) -> None:
    trap = TRAPS[name]
    collector = load_collector(broken(trap, tmp_path))
    seen = 0
    for target, wanted in trap.cells.items():
        try:
            need(target)
        except pytest.skip.Exception:
            continue  # the others show it too
        record = cell.run(collector, room.matrix.target(target), room, tmp_path)
        assert record.failure == (wanted[0] if wanted else None), f"{target}: {record.reason}"
        assert wanted is None or wanted[1] in record.reason, f"{target}: {record.reason}"
        seen += 1
    if not seen:
        pytest.skip(f"none of {', '.join(trap.cells)} can be had")
