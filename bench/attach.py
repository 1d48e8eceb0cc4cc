"""`python -m bench.attach`: a tiny object for each section name that libbpf 1.5 knows, tried on booted guests; writes docs/attach.md.

libbpf's table of sections (section_defs in its libbpf.c, 1.5) is walked once. A name that takes a target is given one that kernels have. Needs clang.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kmatrix.matrix.arch import INFO, Arch
from kmatrix.matrix.kernel import Target
from kmatrix.matrix.load import load_matrix
from kmatrix.runs.machine_room import MachineRoom
from kmatrix.verdict import diagnosis
from kmatrix.vm.channel import pack

HERE = Path(__file__).parents[1]
PAGE = HERE / "docs" / "attach.md"
KERNELS = ("4.14", "5.4", "5.10", "5.15", "6.1", "6.12", "6.18")
HEADERS = HERE / "collectors" / "bpf_common"

PLAIN = """
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
SEC("{section}") int program(void *context) {{ (void)context; return {value}; }}
char LICENSE[] SEC("license") = "GPL";
"""
USDT = """
#define BPF_NO_GLOBAL_DATA
#include <linux/bpf.h>
#include <linux/ptrace.h>
typedef _Bool bool;
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>
SEC("{section}") int program(struct pt_regs *ctx) {{ return bpf_usdt_arg_cnt(ctx) < 0; }}
char LICENSE[] SEC("license") = "GPL";
"""
EXTENSION = """
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
__attribute__((noinline)) int replaced(struct __sk_buff *skb) {{ asm volatile("" : "+r"(skb)); return skb ? 1 : 0; }}
SEC("tc") int target(struct __sk_buff *skb) {{ return replaced(skb); }}
SEC("{section}") int program(struct __sk_buff *skb) {{ asm volatile("" : "+r"(skb)); return 2; }}
char LICENSE[] SEC("license") = "GPL";
"""
CONGESTION = """
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
struct tcp_congestion_ops {{
	unsigned int (*ssthresh)(void *);
	void (*cong_avoid)(void *, unsigned int, unsigned int);
	unsigned int (*undo_cwnd)(void *);
	char name[16];
}};
SEC("{section}") unsigned int program(void *context) {{ (void)context; return 2; }}
SEC("struct_ops/avoid") void avoid(void *context) {{ (void)context; }}
SEC("struct_ops/undo") unsigned int undo(void *context) {{ (void)context; return 2; }}
SEC("{map}") struct tcp_congestion_ops congestion = {{ (void *)program, (void *)avoid, (void *)undo, "kmatrix" }};
char LICENSE[] SEC("license") = "GPL";
"""
SCHEDULER = """
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>
struct sched_ext_ops {{ int (*init)(void); char name[128]; }};
SEC("{section}") int program(void *context) {{ (void)context; return 0; }}
SEC("{map}") struct sched_ext_ops scheduler = {{ (void *)program, "kmatrix" }};
char LICENSE[] SEC("license") = "GPL";
"""

VICTIM = """
.globl _start
.text
_start: nop
.Lprobe: nop
    ret
.section .stapsdt.base,"a"
base: .space 1
.section .note.stapsdt,"","note"
.balign 4
.4byte 8, .Lend - .Lbegin, 3
.asciz "stapsdt"
.Lbegin: .8byte .Lprobe, base, 0
.asciz "kmatrix"
.asciz "probe"
.byte 0
.Lend:
.balign 4
"""
"""A program with one USDT probe, as <sys/sdt.h> makes it: a nop, and a note that says where."""
VICTIM_PATH = "/tmp/victim"

LIBC = "libc.so.6:getpid"
ADDRESS_HOOKS = ("bind4", "bind6", "connect4", "connect6", "connect_unix", "sendmsg4", "sendmsg6", "sendmsg_unix", "recvmsg4", "recvmsg6",
                 "recvmsg_unix", "getpeername4", "getpeername6", "getpeername_unix", "getsockname4", "getsockname6", "getsockname_unix")  # fmt: skip


def sections() -> Iterator[tuple[str, str]]:
    """Each section name, with the source of its object."""

    def plain(value: int, *names: str) -> Iterator[tuple[str, str]]:
        return ((name, PLAIN.format(section=name, value=value)) for name in names)

    yield from plain(0, "socket")
    yield from plain(1, "sk_reuseport/migrate", "sk_reuseport")
    yield from plain(0, "kprobe", "kprobe/hrtimer_nanosleep", "kretprobe/hrtimer_nanosleep")
    yield from plain(
        0, "uprobe", f"uprobe/{LIBC}", f"uprobe.s/{LIBC}", f"uretprobe/{LIBC}", f"uretprobe.s/{LIBC}", "uprobe//opt/agent:main"
    )
    yield from plain(0, "kprobe.multi/hrtimer_nanosl*", "kretprobe.multi/hrtimer_nanosl*", "kprobe.session/hrtimer_nanosl*")
    yield from plain(0, *(f"{kind}.multi{s}/{LIBC}" for s in ("", ".s") for kind in ("uprobe", "uretprobe")))
    yield from plain(0, "ksyscall/getpgid", "kretsyscall/getpgid")
    yield from (
        (name, USDT.format(section=name)) for name in (f"usdt/{VICTIM_PATH}:kmatrix:probe", f"usdt.s/{VICTIM_PATH}:kmatrix:probe")
    )
    yield from plain(0, "tc", "tc/ingress", "tc/egress", "classifier", "action")
    yield from plain(-1, "tcx/ingress", "tcx/egress", "netkit/primary", "netkit/peer")
    yield from plain(0, "tracepoint/sched/sched_switch", "tp/sched/sched_switch")
    yield from plain(0, "raw_tracepoint/sched_switch", "raw_tp/sched_switch")
    yield from plain(0, "raw_tracepoint.w/bpf_test_finish", "raw_tp.w/bpf_test_finish", "tp_btf/sched_switch")
    yield from plain(0, *(f"{kind}/hrtimer_nanosleep" for kind in ("fentry", "fexit")), "fmod_ret/security_file_open")
    yield from plain(0, *(f"{kind}.s/bpf_fentry_test1" for kind in ("fentry", "fexit", "fmod_ret")))
    yield "freplace/replaced", EXTENSION.format(section="freplace/replaced")
    yield from plain(0, "freplace/of_another_object")
    yield from plain(0, "lsm/file_open", "lsm.s/file_open")
    yield from plain(1, "lsm_cgroup/socket_bind")
    yield from plain(0, "iter/task", "iter.s/task", "syscall")
    yield from plain(2, "xdp.frags/devmap", "xdp/devmap", "xdp.frags/cpumap", "xdp/cpumap", "xdp.frags", "xdp")
    yield from plain(0, "perf_event", "lwt_in", "lwt_out", "lwt_xmit", "lwt_seg6local")
    yield from plain(1, "sockops", "sk_skb/stream_parser", "sk_skb/stream_verdict", "sk_skb/verdict", "sk_skb", "sk_msg")
    yield from plain(0, "lirc_mode2", "flow_dissector")
    yield from plain(1, "cgroup_skb/ingress", "cgroup_skb/egress", "cgroup/skb")
    yield from plain(1, "cgroup/sock_create", "cgroup/sock_release", "cgroup/sock", "cgroup/post_bind4", "cgroup/post_bind6")
    yield from plain(1, *(f"cgroup/{hook}" for hook in ADDRESS_HOOKS))
    yield from plain(1, "cgroup/sysctl", "cgroup/getsockopt", "cgroup/setsockopt", "cgroup/dev")
    yield "struct_ops", CONGESTION.format(section="struct_ops/program", map=".struct_ops")
    yield "struct_ops (a link)", CONGESTION.format(section="struct_ops/program", map=".struct_ops.link")
    yield "struct_ops.s (sched_ext)", SCHEDULER.format(section="struct_ops.s/program", map=".struct_ops.link")
    yield from plain(1, "sk_lookup", "netfilter")


def compile_all(arch: Arch, folder: Path) -> dict[str, bytes]:
    """The object of each section name."""
    flags = ["-target", "bpf", "-g", "-O2", "-Wall", "-Werror", f"-D__TARGET_ARCH_{INFO[arch].bpf2go}", f"-I{HEADERS}"]
    flags += ["-idirafter", "/usr/include/x86_64-linux-gnu" if arch == "x86_64" else "/usr/aarch64-linux-gnu/include"]

    def one(number: int, source: str) -> bytes:
        path = folder / f"{number}.bpf.c"
        path.write_text(source)
        subprocess.run(["clang", *flags, "-c", str(path), "-o", str(path.with_suffix(".o"))], check=True)
        return path.with_suffix(".o").read_bytes()

    return {name: one(number, source) for number, (name, source) in enumerate(sections())}


def victim(arch: Arch, folder: Path) -> bytes:
    """A binary with a USDT probe."""
    source, unlinked, linked = folder / "victim.S", folder / "victim.o", folder / "victim"
    source.write_text(VICTIM)
    machine = "x86_64" if arch == "x86_64" else "aarch64"
    subprocess.run(["clang", f"--target={machine}-linux-gnu", "-c", str(source), "-o", str(unlinked)], check=True)
    subprocess.run([f"{machine}-linux-gnu-ld", str(unlinked), "-o", str(linked)], check=True)
    return linked.read_bytes()


def on_target(target: Target, room: MachineRoom, objects: Mapping[str, bytes], only: Sequence[str]) -> dict[str, str]:
    """What becomes of each section's program on one target, as the page shows it; all in one VM, one after another."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, room.machine(target, Path(folder) / "console") as (vm, _):
        vm.put(VICTIM_PATH, victim(target.arch, Path(folder)), 0o755)
        for section, data in objects.items():
            if only and section not in only:
                continue
            answer = vm.call("object", timeout=120, name="attach", data=pack(data))
            found[section] = words(answer, target)
    return found


def on_arch(arch: Arch, targets: Sequence[Target], room: MachineRoom, only: Sequence[str]) -> dict[str, dict[str, str]]:
    """What becomes of each section's program on the targets of one arch, two of them side by side."""
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_all(arch, Path(folder))
    for target in targets:
        room.spec(target)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda target: on_target(target, room, objects, only), targets))
    return {str(target): result for target, result in zip(targets, results, strict=True)}


def words(answer: Mapping[str, Any], target: Target) -> str:
    """One cell of the table."""
    programs, maps = diagnosis.explain(answer["programs"], answer["maps"], target.kernel.version, target.arch)
    if answer["error"]:
        return f"✗ {answer['error']['text']}"
    program = programs["program"]
    if program["attached"]:
        confirmed = program["hook"]
        return f"✓ {program['via']}: {confirmed}" if confirmed else f"✓ {program['via']} (the kernel does not tell)"
    if program["attached"] is None:
        return f"– {program['note']}"
    failed = program if program["error"] else next((found for found in maps.values() if found["error"]), program)
    cause = failed.get("diagnosis")
    return f"✗ {cause['headline'] if cause else failed['error']}"


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(prog="bench.attach", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="such as 6.1-arm64 (default: the page's kernels that can be had)"
    )
    parser.add_argument("--section", action="append", default=[], help="only this one; prints, and writes no page")
    parser.add_argument("--json", type=Path, help="write what was found there, and add to what is there")
    parser.add_argument("--page", action="store_true", help="write docs/attach.md from the file of --json")
    options = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())
    room = MachineRoom(load_matrix(), accel="auto")
    targets = [room.matrix.target(name) for name in options.targets]
    if not options.targets and not options.page:
        every = [room.matrix.target(f"{kernel}-{arch}") for kernel in KERNELS for arch in INFO]
        missing = room.unavailable(every, asked=False)
        targets = [target for target in every if str(target) not in missing]
    for arch in sorted({target.arch for target in targets}):
        mine = [target for target in targets if target.arch == arch]
        found |= on_arch(arch, mine, room, options.section)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    if options.section:
        rows = [f"{target} {section}: {result[section]}" for target, result in found.items() for section in options.section]
        sys.stdout.write("\n".join([*rows, ""]))
    if options.page or not (options.section or options.json):
        PAGE.write_text(page(found))


INTRODUCTION = """# What is attached where

This page is made by a run: `python -m bench.attach` compiles a tiny object for each section name that libbpf 1.5 knows, has each tried on
booted guests ({targets}), and writes down what came of it. Do not edit it.

| mark | meaning |
|---|---|
| ✓ | attached, and the kernel says that it is there |
| ✓° | attached; of this kind of attachment the kernel tells nothing |
| – | loaded; the section does not say where to attach it, or it has nothing to be attached to |
| ✗ | not attached |

A number stands for a reason below. One mark is for both arches, two are for x86_64 and arm64 in this order. "Where" is what the newest
kernel of the run says of the place; numbers of programs and maps in it are of that run.

"""


def page(found: Mapping[str, Mapping[str, str]]) -> str:
    """docs/attach.md."""
    kernels = [kernel for kernel in KERNELS if any(f"{kernel}-{arch}" in found for arch in INFO)]
    reasons: dict[str, int] = {}

    def mark(text: str) -> str:
        if text.startswith("✓"):
            return "✓°" if text.endswith("(the kernel does not tell)") else "✓"
        reason = text[2:].replace("|", "\\|")
        return f"{text[0]} {reasons.setdefault(reason, len(reasons) + 1)}"

    def cell(kernel: str, section: str) -> str:
        marks = [mark(found[f"{kernel}-{arch}"][section]) if f"{kernel}-{arch}" in found else "not run" for arch in INFO]
        return marks[0] if len(set(marks)) == 1 else ", ".join(marks)

    def place(section: str) -> str:
        texts = [found[f"{kernel}-{arch}"][section] for kernel in reversed(kernels) for arch in INFO if f"{kernel}-{arch}" in found]
        return next((text[2:].replace("|", "\\|") for text in texts if text.startswith("✓")), "")

    names = list(next(iter(found.values())))
    rows = [f"| `{name}` | {place(name)} | {' | '.join(cell(kernel, name) for kernel in kernels)} |" for name in names]
    head = [f"| section | where | {' | '.join(kernels)} |", f"|---|---|{'---|' * len(kernels)}"]
    why = [f"{number}. {reason}" for reason, number in reasons.items()]
    targets = ", ".join(f"{kernel}-{arch}" for kernel in kernels for arch in INFO if f"{kernel}-{arch}" in found)
    return "\n".join([INTRODUCTION.format(targets=targets).rstrip(), "", *head, *rows, "", "## Reasons", "", *why, ""])


if __name__ == "__main__":
    main()
