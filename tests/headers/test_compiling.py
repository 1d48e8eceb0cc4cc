"""The headers as a compiler sees them: no warning, in any order, whatever is defined; and what is wrong does not compile."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import need_programs
from tests.headers.conftest import COMMON, FLAGS, HERE

CLANGS = [name for name in ("clang", *(f"clang-{number}" for number in range(14, 30))) if shutil.which(name)]
HEADERS = ("vmlinux_minimal.h", "helpers.h", "core_compat.h")
VARIANTS = ((), ("BPF_DEBUG",), ("CORE_COMPAT_FALLBACK",), ("CORE_COMPAT_FALLBACK", "BPF_DEBUG"))
VARIANTS += (("CORE_COMPAT_FALLBACK", "CORE_COMPAT_CGROUP_ID_HELPER"), ("BPF_NO_PRESERVE_ACCESS_INDEX",))

EVERYTHING = f'#include "{HERE}/everything.h"\n'


def compile_(text: str, folder: Path, *flags: str, clang: str = "clang", arch: str = "x86") -> str:
    """What the compiler has to say; nothing where it compiles without a warning."""
    need_programs(clang)
    source = folder / "source.bpf.c"
    source.write_text(text)
    target = [f"-D__TARGET_ARCH_{arch}"] if arch else []
    command = [clang, *FLAGS, *target, f"-I{COMMON}", *flags, "-c", str(source), "-o", str(folder / "object.o")]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def including(*headers: str) -> str:
    return "".join(f"#include {name}\n" if name.startswith("<") else f'#include "{name}"\n' for name in headers)


@pytest.mark.parametrize("clang", CLANGS)
@pytest.mark.parametrize("arch", ["x86", "arm64"])
@pytest.mark.parametrize("defines", VARIANTS, ids=lambda names: "+".join(names) or "plain")
def test_without_a_warning(tmp_path: Path, clang: str, arch: str, defines: tuple[str, ...]) -> None:
    said = compile_(including(*HEADERS) + EVERYTHING, tmp_path, *(f"-D{name}" for name in defines), clang=clang, arch=arch)
    assert said == ""


@pytest.mark.parametrize("first", [*itertools.permutations(HEADERS), ("core_compat.h",)], ids=lambda names: names[0])
@pytest.mark.parametrize("endian", ["before", "after"])
def test_in_any_order_of_includes(tmp_path: Path, first: tuple[str, ...], endian: str) -> None:
    """Also libbpf's bpf_endian.h before helpers.h, where the standard's headers define bpf_ntohs a second time."""
    libbpf = ("<bpf/bpf_endian.h>", "<bpf/bpf_tracing.h>")
    order = ("vmlinux_minimal.h", *libbpf, *first) if endian == "before" else (*first, *libbpf)
    assert compile_(including(*order) + EVERYTHING, tmp_path) == ""


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_libbpfs_own_macros_find_the_registers(tmp_path: Path, arch: str) -> None:
    program = """
SEC("kprobe/tcp_v4_connect") int BPF_KPROBE(connect, struct sock *sk)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);
	return BPF_CORE_READ(sk, __sk_common.skc_num) + PT_REGS_PARM2(ctx) + PT_REGS_PARM3_CORE(ctx);
}
SEC("kprobe/vfs_open") int as_in_the_standard(struct pt_regs *ctx)
{
#ifdef ARCH_X86_64
	return BPF_CORE_READ(ctx, di);
#elif defined(ARCH_ARM64)
	return BPF_CORE_READ(ctx, regs[0]);
#endif
}
"""
    assert compile_(including(*HEADERS, "<bpf/bpf_core_read.h>", "<bpf/bpf_tracing.h>") + program, tmp_path, arch=arch) == ""


def program(body: str, context: str = "void *ctx") -> str:
    return f'{including(*HEADERS)}\nSEC("x") int program({context})\n{{\n(void)ctx;\n{body}\nreturn 0;\n}}\n'


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        (program("REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);"), [], "INIT_CORE_COMPAT_comes_first"),
        (program("INIT_CORE_COMPAT(); REQUIRE_CORE_FEATURES(1 << 20);"), [], "an unknown CORE_FEAT_"),
        (program("INIT_CORE_COMPAT_FOR(socket);"), [], "CORE_COMPAT_NEUTRAL_socket"),
        (program("INIT_CORE_COMPAT(); REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);"), ["-DCORE_COMPAT_FALLBACK"], "cannot require a feature"),
        # A layout that is not relocated would be an invented one.
        (program("return task->pid;", "struct task_struct *task, void *ctx"), ["-DCORE_COMPAT_FALLBACK"], "incomplete definition"),
        (program(f'bpf_debug_printk("{"x" * 128}");'), [], "too long for the stack"),
        (program("return ctx->rdi;", "struct pt_regs *ctx"), [], "no member named 'rdi'"),
    ],
)  # fmt: skip
def test_what_is_wrong_does_not_compile(tmp_path: Path, text: str, flags: list[str], says: str) -> None:
    assert says in compile_(text, tmp_path, *flags)
    assert says not in compile_(program(""), tmp_path, *flags)


def test_an_arch_is_needed_by_who_reads_registers_only(tmp_path: Path) -> None:
    assert compile_(program("return g_core_features.has_ringbuf;"), tmp_path, arch="") == ""
    said = compile_(program("return get_arg0(ctx);", "struct pt_regs *ctx"), tmp_path, arch="")
    assert "compile with -D__TARGET_ARCH_x86 or -D__TARGET_ARCH_arm64" in said


# As bpftool writes it, of an old kernel (no ring buffer among the helpers, kernfs_node.id a union), but for all that nobody reads here.
WHOLE = """
#ifndef __VMLINUX_H__
#define __VMLINUX_H__
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif
typedef unsigned char __u8; typedef short unsigned int __u16; typedef unsigned int __u32; typedef long long unsigned int __u64;
typedef signed char __s8; typedef short int __s16; typedef int __s32; typedef long long int __s64;
typedef __u16 __be16; typedef __u32 __be32; typedef __u32 __wsum; typedef int pid_t; typedef _Bool bool;
enum { false = 0, true = 1 };
enum bpf_map_type { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4 };
enum bpf_func_id { BPF_FUNC_unspec = 0, BPF_FUNC_get_current_cgroup_id = 80 };
enum { BPF_F_CURRENT_CPU = 4294967295 };
enum { TASK_COMM_LEN = 16 };
union kernfs_node_id { struct { __u32 ino; __u32 generation; }; __u64 id; };
struct kernfs_node { long count; union kernfs_node_id id; };
struct cgroup { long self; struct kernfs_node *kn; };
struct css_set { long subsys[14]; struct cgroup *dfl_cgrp; };
struct task_struct { long state; pid_t pid; pid_t tgid; struct task_struct *real_parent; struct css_set *cgroups; };
struct __sk_buff { __u32 len; };
struct user_pt_regs { __u64 regs[31]; __u64 sp; __u64 pc; __u64 pstate; };
struct pt_regs { long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss; };
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif
#endif
"""


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_a_whole_vmlinux_h_instead(tmp_path: Path, arch: str) -> None:
    """The same names compile without a warning, also in a fallback variant that takes the relocations out of vmlinux.h."""
    (tmp_path / "vmlinux.h").write_text(WHOLE)
    include = f"-I{tmp_path}"
    text = including("vmlinux.h", *HEADERS)
    assert compile_(text + EVERYTHING, tmp_path, include, arch=arch) == ""
    assert compile_(including(*HEADERS) + EVERYTHING, tmp_path, "-include", str(tmp_path / "vmlinux.h"), arch=arch) == ""
    fallback = "-DCORE_COMPAT_FALLBACK"
    assert compile_(text + EVERYTHING, tmp_path, include, fallback, "-DBPF_NO_PRESERVE_ACCESS_INDEX", arch=arch) == ""
    assert "a fallback variant has no CO-RE relocation" in compile_(text, tmp_path, include, fallback, arch=arch)
