"""What is read off objects, held against booted kernels: a program loads where its dated needs are met, and nowhere else."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import need_programs
from kmatrix.cli import cli
from kmatrix.matrix import history
from kmatrix.matrix.arch import Arch
from kmatrix.objects.code import Code
from kmatrix.objects.needs import needs
from tests.lint.samples import compile_c

HEAD = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
enum bpf_func_id___new { BPF_FUNC_loop___new = 181, BPF_FUNC_user_ringbuf_drain___new = 209 };
#define THERE(name) bpf_core_enum_value_exists(enum bpf_func_id___new, BPF_FUNC_##name##___new)
extern int LINUX_KERNEL_VERSION __kconfig;
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;
static __attribute__((unused)) long add(__u32 i, void *ctx) { *(long *)ctx += i; return 0; }
"""
RUN = 'SEC("tracepoint/sched/sched_process_exec") int run(void *ctx) '
MAP = 'struct {{ __uint(type, BPF_MAP_TYPE_{0}); __uint(max_entries, 4096); {1} }} m SEC(".maps"); '
BODIES = {
    "plain": RUN + "{ return bpf_get_current_pid_tgid() & 1; }",
    "global_data": "long seen; " + RUN + "{ seen += 1; return 0; }",
    "loop_helper": RUN + "{ long n = 0; return bpf_loop(10, add, &n, 0) & 1; }",
    "loop_helper_guarded": RUN + "{ long n = 0; if (THERE(loop)) bpf_loop(10, add, &n, 0); return n & 1; }",
    "guarded": RUN + "{ if (LINUX_KERNEL_VERSION >= (5 << 16 | 17 << 8)) return bpf_strncmp((void *)ctx, 0, ctx) & 1; return 0; }",
    "fetch": "long n; " + RUN + "{ return __sync_fetch_and_add(&n, 1) & 1; }",
    "ringbuf": MAP.format("RINGBUF", "") + RUN + "{ return bpf_ringbuf_output(&m, &(long){1}, 8, 0) & 1; }",
    "bloom": MAP.format("BLOOM_FILTER", "__uint(value_size, 4);") + RUN + "{ return bpf_map_peek_elem(&m, &(int){1}) & 1; }",
    "unused_map": MAP.format("BLOOM_FILTER", "__uint(value_size, 4);") + RUN + "{ return 0; }",
    "kfunc": RUN.replace("tracepoint/sched/sched_process_exec", "tp_btf/sched_process_exec")
    + "{ bpf_rcu_read_lock(); bpf_rcu_read_unlock(); return 0; }",
    "kfunc_guarded": RUN.replace("tracepoint/sched/sched_process_exec", "tp_btf/sched_process_exec")
    + "{ if (bpf_rcu_read_lock && bpf_rcu_read_unlock) { bpf_rcu_read_lock(); bpf_rcu_read_unlock(); } return 0; }",
    "netfilter": 'SEC("netfilter") int run(void *ctx) { return 1; }',
    "tail_call_in_function": MAP.format("PROG_ARRAY", "__uint(key_size, 4); __uint(value_size, 4);")
    + "static __attribute__((noinline)) int go(struct __sk_buff *skb) { bpf_tail_call(skb, &m, 0); return skb->len; } "
    + 'SEC("socket") int run(struct __sk_buff *skb) { return go(skb); }',
    "dead_by_constant": "const volatile int wanted = 0; "
    + RUN
    + "{ long n = 0; if (wanted) bpf_get_current_task_btf(); return n; }",
}
"""Name → a program called `run`. `guarded` has arguments that no verifier would take: it is never looked at where it is dead."""
DEAD_ONLY = {"guarded"}


@pytest.mark.parametrize(
    "target", ["4.14-x86_64", "5.4-x86_64", "5.10-x86_64", "5.10-arm64", "5.15-arm64", "6.1-x86_64", "6.1-arm64", "6.12-x86_64"]
)
def test_a_program_loads_where_its_needs_are_met(target: str, need: Callable[[str], None], tmp_path: Path) -> None:
    need_programs("clang")
    need(target)
    kernel, _, arch = target.rpartition("-")
    version = tuple(map(int, kernel.split(".")))
    unmet: dict[str, list[str]] = {}
    for name, body in BODIES.items():
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(f'{HEAD}{body}\nchar LICENSE[] SEC("license") = "GPL";\n')
        quiet = ("-Wno-unused-variable", "-Wno-int-conversion", "-Wno-pedantic")
        made = compile_c(
            source, tmp_path / f"{name}.bpf.o", "-mcpu=v3", *quiet, includes=[Path(f"/usr/include/{platform.machine()}-linux-gnu")]
        )
        asked = [need.name for need in needs(Code(made))["run"] if not need.optional]
        unmet[name] = [each for each in asked if (since := history.first(each, _arch(arch))) is not None and since > version]
    objects = [str(tmp_path / f"{name}.bpf.o") for name in BODIES]
    done = CliRunner().invoke(cli, ["run", *objects, f"--kernels={kernel}", f"--arch={arch}", "--json"])
    assert done.stdout, done.stderr
    runs = {Path(each["object"]).name.removesuffix(".bpf.o"): each["targets"][0] for each in json.loads(done.stdout)}
    loaded = {
        name: run["programs"].get("run", {}).get("loaded", False) and all(m["id"] for m in run["maps"].values())
        for name, run in runs.items()
    }
    wrong = {
        name: (unmet[name], runs[name]["programs"].get("run", {}).get("error"), runs[name]["error"])
        for name in BODIES
        if loaded[name] != (not unmet[name]) and not (name in DEAD_ONLY and version >= (5, 17))
    }
    assert not wrong


def _arch(text: str) -> Arch:
    assert text in ("x86_64", "arm64")
    return "x86_64" if text == "x86_64" else "arm64"
