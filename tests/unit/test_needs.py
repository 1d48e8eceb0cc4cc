"""What an object needs, read off its code: objects of a few lines, compiled here, and what must be said of them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.objects.btf import Relocation
from kmatrix.objects.code import Code
from kmatrix.objects.needs import Need, asked, needs
from kmatrix.objects.reach import Known, reachable
from tests.lint.samples import compile_c

HEADERS = Path(f"/usr/include/{platform.machine()}-linux-gnu")
HEAD = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#define CORE __attribute__((preserve_access_index))
extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool CONFIG_CGROUPS __kconfig __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
struct task_struct { int pid; int old; int young; } CORE;
struct renamed { int x; } CORE;
enum bpf_func_id___new { BPF_FUNC_loop___new = 181, BPF_FUNC_strncmp___new = 182 };
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
"""


def compiled(folder: Path, body: str) -> Code:
    need_programs("clang")
    source = folder / "probe.bpf.c"
    source.write_text(f'{HEAD}{body}\nchar LICENSE[] SEC("license") = "GPL";\n')
    quiet = ("-Wno-unused-variable", "-Wno-pass-failed", "-Wno-unused-but-set-variable")
    return Code(compile_c(source, folder / "probe.bpf.o", "-mcpu=v3", *quiet, includes=[HEADERS]))


def told(folder: Path, body: str, section: str = "tracepoint/sched/sched_process_exec") -> dict[str, Need]:
    """The needs of one program, by name."""
    code = compiled(
        folder, f'SEC("{section}") int run(void *ctx) {{ struct task_struct *task = (void *)bpf_get_current_task(); {body} }}'
    )
    return {need.name: need for need in needs(code)["run"]}


def test_what_is_called_and_read(tmp_path: Path) -> None:
    found = told(tmp_path, "int pid; bpf_core_read(&pid, sizeof(pid), &task->pid); return bpf_jiffies64() + pid;")
    always = {name for name, need in found.items() if not need.optional}
    assert {"helper:bpf_jiffies64", "btf:task_struct.pid", "btf", "map:ringbuf", "prog:tracepoint"} <= always
    assert "tracepoint:sched/sched_process_exec" in always
    line = found["helper:bpf_jiffies64"].line
    assert line is not None
    assert line.file.endswith("probe.bpf.c")
    assert "bpf_jiffies64()" in line.text


@pytest.mark.parametrize(
    ("test", "guard"),
    [
        ("bpf_core_field_exists(task->young)", "btf:task_struct.young"),
        ("bpf_core_type_exists(struct renamed)", "btf:struct renamed"),
        ("bpf_core_enum_value_exists(enum bpf_func_id___new, BPF_FUNC_strncmp___new)", "btf:enum bpf_func_id/BPF_FUNC_strncmp"),
        ("CONFIG_CGROUPS", "CONFIG_CGROUPS"),
        ("bpf_rcu_read_lock", "bpf_rcu_read_lock"),
        ("LINUX_KERNEL_VERSION >= KERNEL(5, 17)", "kernel >= 5.17"),
        ("LINUX_KERNEL_VERSION > KERNEL(5, 17) - 1", "kernel >= 5.17"),
    ],
)
def test_a_test_guards_what_only_newer_kernels_have(tmp_path: Path, test: str, guard: str) -> None:
    test = test.replace("KERNEL(5, 17)", "(5 << 16 | 17 << 8)")
    found = told(tmp_path, f"if ({test}) return bpf_jiffies64(); return bpf_get_current_uid_gid();")
    assert found["helper:bpf_jiffies64"].optional
    assert found["helper:bpf_jiffies64"].guards == (guard,)
    assert found["helper:bpf_get_current_uid_gid"].guards == (f"not {guard}",)


def test_both_of_two_tests_must_hold(tmp_path: Path) -> None:
    found = told(tmp_path, "if (bpf_core_field_exists(task->young) && CONFIG_CGROUPS) return bpf_jiffies64(); return 0;")
    assert set(found["helper:bpf_jiffies64"].guards) == {"btf:task_struct.young", "CONFIG_CGROUPS"}


def test_either_of_two_tests_is_optional_too(tmp_path: Path) -> None:
    found = told(
        tmp_path, "if (bpf_core_field_exists(task->young) || bpf_core_field_exists(task->old)) return bpf_jiffies64(); return 0;"
    )
    assert found["helper:bpf_jiffies64"].optional


def test_what_is_used_with_and_without_the_test_is_needed(tmp_path: Path) -> None:
    body = "if (bpf_core_field_exists(task->young)) bpf_get_current_uid_gid(); return bpf_jiffies64();"
    assert not told(tmp_path, body)["helper:bpf_jiffies64"].optional


def test_a_test_at_run_time_guards_nothing(tmp_path: Path) -> None:
    found = told(tmp_path, "if (bpf_get_current_uid_gid() == 7) return bpf_jiffies64(); return 0;")
    assert not found["helper:bpf_jiffies64"].optional


def test_a_test_far_from_its_use(tmp_path: Path) -> None:
    """The answer is kept on the stack over a call."""
    body = """
    volatile int keep = bpf_core_field_exists(task->young);
    bpf_get_current_uid_gid(); bpf_get_prandom_u32();
    if (keep) return bpf_jiffies64();
    return 0;"""
    assert told(tmp_path, body)["helper:bpf_jiffies64"].guards == ("btf:task_struct.young",)


def test_a_constant_of_read_only_data_decides(tmp_path: Path) -> None:
    body = 'const volatile int wanted = 0; SEC("socket") int run(void *ctx) { if (wanted) return bpf_jiffies64(); return 0; }'
    found = {need.name for need in needs(compiled(tmp_path, body))["run"]}
    assert "helper:bpf_jiffies64" not in found
    assert "global_data" in found
    on = compiled(tmp_path, body.replace("wanted = 0", "wanted = 1"))
    assert "helper:bpf_jiffies64" in {need.name for need in needs(on)["run"]}


def test_data_that_is_written_decides_nothing(tmp_path: Path) -> None:
    body = 'volatile int wanted = 0; SEC("socket") int run(void *ctx) { if (wanted) return bpf_jiffies64(); return 0; }'
    assert not {n.name: n for n in needs(compiled(tmp_path, body))["run"]}["helper:bpf_jiffies64"].optional


def test_a_callback_is_refused_where_it_is_dead_too(tmp_path: Path) -> None:
    body = """
    static long add(__u32 i, void *ctx) { *(long *)ctx += i; return 0; }
    SEC("socket") int run(void *ctx) {
        long total = 0;
        if (bpf_core_enum_value_exists(enum bpf_func_id___new, BPF_FUNC_loop___new)) bpf_loop(10, add, &total, 0);
        return total;
    }"""
    found = {need.name: need for need in needs(compiled(tmp_path, body))["run"]}
    assert found["helper:bpf_loop"].optional
    assert not found["insn:callback"].optional


def test_functions_that_are_called_count(tmp_path: Path) -> None:
    body = """
    static __attribute__((noinline)) __u64 inner(int *x) { return bpf_jiffies64() + *x; }
    SEC("socket") int run(struct __sk_buff *skb) { int x = skb->len; return inner(&x); }
    SEC("socket") int other(void *ctx) { return 0; }"""
    found = {program: {need.name for need in each} for program, each in needs(compiled(tmp_path, body)).items()}
    assert {"helper:bpf_jiffies64", "bpf2bpf"} <= found["run"]
    assert not {"helper:bpf_jiffies64", "bpf2bpf"} & found["other"]


def test_a_loop_and_a_large_program(tmp_path: Path) -> None:
    loop = compiled(
        tmp_path,
        'SEC("socket") int run(struct __sk_buff *skb) { long n = 0; for (volatile int i = 0; i < 99; i++) n += i; return n; }',
    )
    assert "bounded_loops" in {need.name for need in needs(loop)["run"]}
    large = compiled(
        tmp_path,
        'SEC("socket") int run(struct __sk_buff *skb) { volatile int n = 0;\n#pragma unroll\nfor (int i = 0; i < 2000; i++) n += i; return n; }',
    )
    assert "insns_1m" in {need.name for need in needs(large)["run"]}


def test_a_kernel_function_that_is_weak(tmp_path: Path) -> None:
    found = told(tmp_path, "if (bpf_rcu_read_lock) bpf_rcu_read_lock(); return 0;")
    assert found["kfunc:bpf_rcu_read_lock"].guards == ("bpf_rcu_read_lock",)
    assert not told(tmp_path, "bpf_rcu_read_lock(); return 0;")["kfunc:bpf_rcu_read_lock"].optional


@pytest.mark.parametrize(("declared", "needed"), [("const int", True), ("const void", False)])
def test_a_variable_of_the_kernel(declared: str, needed: bool, tmp_path: Path) -> None:
    body = f'extern {declared} bpf_prog_active __ksym;\nSEC("socket") int run(void *ctx) {{ return (long)&bpf_prog_active == 3; }}'
    assert ("insn:ksym" in {need.name for need in needs(compiled(tmp_path, body))["run"]}) == needed


def test_kinds_of_instructions(tmp_path: Path) -> None:
    body = 'long n; SEC("socket") int run(void *ctx) { return __sync_fetch_and_add(&n, 1) == 7; }'
    assert "insn:atomic_fetch" in {need.name for need in needs(compiled(tmp_path, body))["run"]}
    plain = 'long n; SEC("socket") int run(void *ctx) { __sync_fetch_and_add(&n, 1); return 0; }'
    assert "insn:atomic_fetch" not in {need.name for need in needs(compiled(tmp_path, plain))["run"]}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("fentry/tcp_v4_connect", {"prog:tracing", "attach:trace_fentry", "btf:func/tcp_v4_connect", "btf"}),
        ("kprobe/tcp_v4_connect+8", {"prog:kprobe", "symbol:tcp_v4_connect"}),
        ("?tp/syscalls/sys_enter_openat", {"prog:tracepoint", "tracepoint:syscalls/sys_enter_openat"}),
        ("lsm.s/bprm_check_security", {"prog:lsm", "attach:lsm_mac", "btf:func/bpf_lsm_bprm_check_security"}),
        ("tcx/ingress", {"prog:sched_cls", "attach:tcx_ingress"}),
        ("xdp.frags/devmap", {"prog:xdp", "attach:xdp_devmap"}),
        ("kprobe.multi/tcp_*", {"prog:kprobe", "attach:trace_kprobe_multi"}),
        ("cgroup/connect4", {"prog:cgroup_sock_addr", "attach:cgroup_inet4_connect"}),
        ("raw_tp.w/module_load", {"prog:raw_tracepoint_writable"}),
    ],
)
def test_sections(tmp_path: Path, section: str, expected: set[str]) -> None:
    body = f'SEC("{section}") int run(void *ctx) {{ return 0; }}'
    assert expected <= {need.name for need in needs(compiled(tmp_path, body))["run"]}


def test_what_a_relocation_asks_for() -> None:
    assert asked(Relocation("s", 0, "task_struct___old", (("task_struct___old", "state"),), 0, "struct")) == "btf:task_struct.state"
    assert asked(Relocation("s", 8, "bpf_iter___x", (), 0, "struct")) == "btf:struct bpf_iter"


def test_what_is_known_of_a_kernel_closes_ways(tmp_path: Path) -> None:
    body = 'SEC("socket") int run(void *ctx) { struct task_struct *t = (void *)ctx; if (bpf_core_field_exists(t->young)) return bpf_jiffies64(); return 1; }'
    code = compiled(tmp_path, body)
    program = code.programs["run"]
    ways = {
        answer: reachable(code, program, Known(exists=lambda _, answer=answer: answer))[program] for answer in (True, False, None)
    }  # type: ignore[misc]
    assert ways[True] | ways[False] == ways[None]
    assert ways[True] - ways[False]
