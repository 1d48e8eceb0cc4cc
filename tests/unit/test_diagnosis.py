"""The words of kernels and libbpf, as they came from booted guests, and the cause that each has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import need_programs
from kmatrix.matrix import history
from kmatrix.objects.source_lines import SourceLines
from kmatrix.verdict.diagnosis import Failing, diagnose, explain
from tests.lint.samples import compile_c

LOAD = "prog 'p': BPF program load failed: Invalid argument"
TASK = {"type": "tracepoint", "attach_type": 0}


def failing(
    stage: str = "load", version: tuple[int, int] = (5, 10), arch: Any = "x86_64", error: str = LOAD, **more: Any
) -> Failing:
    return Failing(stage=stage, error=error, version=version, arch=arch, **more)


ROWS: dict[str, tuple[Failing, str, str]] = {
    "5.4: a helper": (
        failing(version=(5, 4), log="; bpf_ringbuf_output(&r, &x, 8, 0);\n5: (85) call unknown#130\ninvalid func unknown#130\n"),
        "helper",
        "helper bpf_ringbuf_output, since 5.8",
    ),
    "6.12: a helper of another type": (
        failing(version=(6, 12), log="program of this type cannot use helper bpf_get_stack#67", wants={"type": "xdp"}),
        "helper-type",
        "helper bpf_get_stack is not for programs of type xdp on this kernel",
    ),
    "5.10: fetching atomics": (
        failing(log="BPF_STX uses reserved fields\n"),
        "instruction",
        "instruction atomic_fetch (an atomic operation whose old value is used), since 5.12",
    ),
    "5.4: fetching atomics": (
        failing(version=(5, 4), log="BPF_XADD uses reserved fields"),
        "instruction",
        "instruction atomic_fetch (an atomic operation whose old value is used), since 5.12",
    ),
    "5.10: a callback": (
        failing(log="number of funcs in func_info doesn't match number of subprogs"),
        "callback",
        "a reference to a function (a callback, as bpf_loop and bpf_for_each_map_elem take it), since 5.13",
    ),
    "5.10: a global function": (
        failing(log="Validating bigger() func#1...\nArg#0 type PTR in bigger() is not supported yet.\n"),
        "global-function",
        "global function bigger() with a pointer argument, since 5.13",
    ),
    "6.1: a renamed type": (
        failing(
            version=(6, 1),
            log="failed to resolve CO-RE relocation <byte_off> [5] struct bpf_lpm_trie_key.prefixlen (0:0 @ offset 0)",
            btf={"type": {"kind": "struct", "name": "bpf_lpm_trie_key", "there": False, "alike": ["bpf_lpm_trie_key_u8"]}},
        ),
        "btf-type",
        "CO-RE: btf:struct bpf_lpm_trie_key is not in this kernel; the nearest is bpf_lpm_trie_key_u8",
    ),
    "a field": (
        failing(
            log="failed to resolve CO-RE relocation <byte_off> [5] struct task_struct___o.state (0:0 @ offset 0)",
            btf={"type": {"kind": "struct", "name": "task_struct", "there": True, "alike": []}},
        ),
        "btf-field",
        "CO-RE: btf:task_struct.state is not in this kernel, or of another kind",
    ),
    "6.12: an argument": (
        failing(
            version=(6, 12),
            section="fexit/inet_csk_accept",
            log="func 'inet_csk_accept' doesn't have 4-th argument\ninvalid bpf_context access off=32 size=8",
            btf={"function": {"name": "inet_csk_accept", "arguments": 2}},
        ),
        "btf-function",
        "btf:func/inet_csk_accept has 2 arguments on this kernel, and the program reads argument 5 (or its return value, which comes after the last)",
    ),
    "5.10-arm64: a tail call": (
        failing(arch="arm64", log="tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls"),
        "tail-call",
        "a tail call in a program with subprograms, on arm64, since 6.0",
    ),
    "5.4: a tail call": (
        failing(version=(5, 4), log="tail_calls are not allowed in programs with bpf-to-bpf calls"),
        "tail-call",
        "a tail call in a program with subprograms, on x86_64, since 5.10",
    ),
    "4.14: global data": (
        failing(version=(4, 14), error="kernel doesn't support global data; failed to load object 'p'", errno=95),
        "global-data",
        "global variables (.data, .rodata, .bss), since 5.2",
    ),
    "4.14: a loop": (
        failing(version=(4, 14), log="back-edge from insn 12 to 4\n"),
        "loop",
        "a bounded loop, since 5.3",
    ),
    "4.14: a function": (
        failing(version=(4, 14), log="BPF_CALL uses reserved fields\n"),
        "instruction",
        "instruction call_function (a call of a function of the program's own), since 4.16",
    ),
    "4.14: a field of bpf(2) that it does not know": (
        failing(
            version=(4, 14),
            error="prog 'ingress': BPF program load failed: Argument list too long",
            errno=7,
            section="tcx/ingress",
            wants={"type": "sched_cls", "attach_type": 46},
        ),
        "attach-type",
        "attach type tcx_ingress, since 6.6",
    ),
    "a Go loader's words": (
        failing(
            version=(5, 4),
            error="creating map: map create: operation not permitted (MEMLOCK may be too low, consider rlimit.RemoveMemlock)",
        ),
        "memlock",
        "no more memory may be locked (RLIMIT_MEMLOCK counts before 5.11)",
    ),
    "5.4: no more locked memory for a program": (
        failing(version=(5, 4), error="prog 'p': BPF program load failed: Operation not permitted", errno=1),
        "memlock",
        "no more memory may be locked for the program (RLIMIT_MEMLOCK counts before 5.11)",
    ),
    "6.12: no right": (
        failing(version=(6, 12), error="prog 'p': BPF program load failed: Operation not permitted", errno=1),
        "permission",
        "loading is not permitted",
    ),
    "6.1 without BTF": (
        failing(version=(6, 1), error="failed to find valid kernel BTF; Error loading vmlinux BTF: -3", errno=3),
        "btf",
        "this kernel has no BTF of its own (CONFIG_DEBUG_INFO_BTF, 5.2 on)",
    ),
    "4.14: more than 4096 instructions": (
        failing(version=(4, 14), error="prog 'p': BPF program load failed: Argument list too long", errno=7),
        "verifier-size",
        "the verifier gave up: the program is too complex (1,000,000 instructions on all paths; 4,096 in all before 5.2)",
    ),
    "6.12: a million instructions": (
        failing(version=(6, 12), log="BPF program is too large. Processed 1000001 insn\n", errno=7),
        "verifier-size",
        "the verifier gave up: the program is too complex (1,000,000 instructions on all paths; 4,096 in all before 5.2)",
    ),
    "5.4: padding": (
        failing(version=(5, 4), log="invalid indirect read from stack off -16+1 size 16"),
        "stack",
        "uninitialised stack given to a helper (byte 1 of 16, and perhaps those after it)",
    ),
    "6.1-arm64: fentry": (
        failing("attach", (6, 1), "arm64", "prog 'p': failed to attach: unknown error (-524)", section="fentry/tcp_v4_connect"),
        "attach-type",
        "no fentry on arm64 before 6.4",
    ),
    "5.15-arm64: an instruction that the JIT does not take": (
        failing(
            version=(5, 15),
            arch="arm64",
            error="prog 'number': BPF program load failed: unknown error (-524)",
            errno=524,
            section="tracepoint/sched/sched_process_exec",
            wants=TASK,
            log="processed 19 insns (limit 1000000) max_states_per_insn 0 total_states 2 peak_states 2 mark_read 1\n",
        ),
        "jit",
        "the kernel's JIT for arm64 does not take an instruction of the program, and the kernel has no interpreter (CONFIG_BPF_JIT_ALWAYS_ON)",
    ),
    "5.4: fentry": (
        failing(version=(5, 4), section="fentry/tcp_v4_connect", wants={"type": "tracing", "attach_type": 24}),
        "attach-type",
        "fentry, since 5.5",
    ),
    "5.4: an iterator": (
        failing(
            version=(5, 4),
            section="iter/task",
            error="prog 'p': failed to find kernel BTF type ID of 'task': -3",
            wants={"type": "tracing", "attach_type": 28},
        ),
        "attach-type",
        "attach type trace_iter, since 5.8",
    ),
    "6.1: netfilter": (
        failing(version=(6, 1), section="netfilter", wants={"type": "netfilter", "attach_type": 45}),
        "program-type",
        "program type netfilter, since 6.4",
    ),
    "6.1: tcx": (
        failing(
            "attach",
            (6, 1),
            error="attach type tcx_ingress, since 6.6: this kernel has none (Invalid argument)",
            section="tcx/ingress",
        ),
        "attach-type",
        "attach type tcx_ingress, since 6.6",
    ),
    "6.1: kprobe.multi": (
        failing(
            "attach", (6, 1), error="prog 'p': failed to attach: Operation not supported", errno=95, section="kprobe.multi/tcp_*"
        ),
        "config",
        "link kprobe_multi needs CONFIG_FPROBE, which this kernel was built without",
    ),
    "5.4: xdp.frags": (
        failing(version=(5, 4), section="xdp.frags", wants={"type": "xdp", "attach_type": 0}),
        "flag",
        "XDP programs for packets in several buffers (xdp.frags), since 5.18",
    ),
    "a placeholder": (
        failing(
            error="prog 'p': failed to find kernel BTF type ID of 'dummy_fentry': -3",
            section="fentry/dummy_fentry",
            wants={"type": "tracing", "attach_type": 24},
        ),
        "placeholder",
        "dummy_fentry stands for a target that the loader chooses",
    ),
    "no such function": (
        failing("attach", error="prog 'p': failed to attach", errno=2, section="kprobe/mutex_lock_nested"),
        "symbol",
        "symbol mutex_lock_nested: this kernel has no such function, or it may not be probed",
    ),
    "6.12: a function without an entry": (
        failing(
            "attach",
            (6, 12),
            error="prog 'p': failed to attach: Device or resource busy",
            errno=16,
            section="fentry/blk_account_io_start",
        ),
        "symbol",
        "function blk_account_io_start cannot be traced by fentry on this kernel: its entry has no place for it",
    ),
    "6.12: a function that may not be probed": (
        failing(
            "attach",
            (6, 12),
            error="prog 'p': failed to create kprobe 'blk_account_io_start+0x0' perf event: Invalid argument",
            errno=22,
            section="kprobe/blk_account_io_start",
        ),
        "symbol",
        "symbol blk_account_io_start: this kernel has no such function, or it may not be probed",
    ),
    "a uprobe without a place": (
        failing(
            "attach",
            error="prog 'p': section 'uretprobe/readline' missing ':function[+offset]' specification",
            section="uretprobe/readline",
        ),
        "placeholder",
        "uretprobe/readline stands for a target that the loader chooses",
    ),
    "no such tracepoint": (
        failing("attach", error="x", errno=2, section="tp/no/such"),
        "tracepoint",
        "tracepoint no/such is not in this kernel",
    ),
    "a map type": (
        failing(
            "map",
            (5, 4),
            error="map 'm': failed to create: Invalid argument(-22)",
            errno=22,
            name="m",
            map_type="ringbuf",
            max_entries=65536,
        ),
        "map-type",
        "map type ringbuf, since 5.8",
    ),
    "a map without a size": (
        failing("map", (6, 12), error="map 'm': failed to create", errno=22, name="m", map_type="hash", max_entries=0),
        "map-size",
        "map m has max_entries = 0",
    ),
    "a ring buffer without a size": (
        failing("map", (6, 12), error="map 'm': failed to create", errno=22, name="m", map_type="ringbuf", max_entries=0),
        "map-size",
        "map m has max_entries = 0",
    ),
    "a map too large for the VM": (
        failing("map", (6, 12), error="map 'm': failed to create", errno=12, name="m", map_type="hash", max_entries=102400),
        "memory",
        "map m of 102400 entries: the VM's memory is too small for it",
    ),
}


@pytest.mark.parametrize("case", ROWS.values(), ids=ROWS)
def test_the_cause(case: tuple[Failing, str, str]) -> None:
    given, kind, headline = case
    found = diagnose(given)
    assert found is not None
    assert (found.kind, found.headline()) == (kind, headline)
    assert found.fix


@pytest.mark.parametrize("version", [(5, 12), (6, 1)])
def test_what_the_kernel_has_is_not_blamed(version: tuple[int, int]) -> None:
    """The same words on a kernel that has the instruction mean something else."""
    found = diagnose(failing(version=version, log="BPF_STX uses reserved fields"))
    assert found is not None
    assert found.what == "an instruction that this kernel does not know (BPF_STX uses reserved fields)"
    assert found.since is None


def test_words_that_no_row_knows() -> None:
    assert diagnose(failing(log="something new")) is None
    assert diagnose(failing("attach", error="something new", errno=5)) is None
    assert diagnose(failing("map", error="x", errno=5, map_type="hash", max_entries=1)) is None
    assert diagnose(failing("map", (6, 12), error="x", errno=22, map_type="task_storage", max_entries=0)) is None


def test_the_line_of_source() -> None:
    log = "; first @ a.c:1\n0: (b7) r0 = 0\n; second(x); @ a.c:2\n1: (85) call\nR1 invalid mem access 'scalar'\n"
    found = diagnose(failing(log=log))
    assert found is not None
    assert found.where == "second(x); @ a.c:2"


def test_since_when() -> None:
    assert history.helper(181) == ("bpf_loop", (5, 17))
    assert history.helper(211) == ("bpf_cgrp_storage_delete", (6, 2))
    assert history.helper(195896080) is None  # libbpf's poison
    assert history.map_type_since("ringbuf") == (5, 8)
    assert history.prog_type_since("lsm") == (5, 7)
    assert history.attach_type(46) == ("tcx_ingress", (6, 6))
    assert history.attach_type(55) == ("netkit_peer", (6, 7))


RING = {"type": "ringbuf", "max_entries": 4096, "error": "map 'ring': failed to create: Invalid argument(-22)", "errno": 22}
FAILED = {"loaded": False, "error": LOAD, "errno": 22, "section": "tp/sched/sched_switch"}


@pytest.mark.parametrize(
    "log",
    ["0: <invalid BPF map reference>\nBPF map 'ring' is referenced but wasn't created\n", "invalid func unknown#131\n"],
    ids=["libbpf's word", "a simulated kernel's"],
)
def test_a_program_that_fails_for_want_of_a_map_has_its_cause(log: str) -> None:
    programs, maps = explain({"p": FAILED | {"log": log}}, {"ring": RING}, (5, 4), "x86_64")
    assert maps["ring"]["diagnosis"]["headline"] == "map type ringbuf, since 5.8"
    assert programs["p"]["diagnosis"] == maps["ring"]["diagnosis"]


def test_an_attach_type_that_older_kernels_do_not_look_at_is_not_why() -> None:
    number = next(n for n in range(99) if (found := history.attach_type(n)) and found[0] == "sk_reuseport_select")
    found = diagnose(
        failing(version=(4, 14), section="sk_reuseport", errno=22, wants={"type": "sk_reuseport", "attach_type": number})
    )
    assert found is not None
    assert found.headline() == "program type sk_reuseport, since 4.19"


def test_what_did_not_fail_has_no_cause() -> None:
    programs, maps = explain({"p": {"loaded": True, "error": None}}, {"m": {"type": "hash", "error": None}}, (6, 12), "arm64")
    assert programs["p"]["diagnosis"] is None
    assert maps["m"]["diagnosis"] is None


def test_before_4_16_a_function_that_is_called_is_code_that_no_jump_leads_to(tmp_path: Path) -> None:
    need_programs("clang")
    source = tmp_path / "calls.bpf.c"
    source.write_text(
        '__attribute__((section("license"), used)) char LICENSE[] = "GPL";\n'
        "static __attribute__((noinline)) int half(unsigned *x) { return *x >> 1; }\n"
        '__attribute__((section("socket"), used)) int calls(void *ctx) { unsigned x = (long)ctx; return half(&x); }\n'
        '__attribute__((section("socket"), used)) int plain(void *ctx) { (void)ctx; return 0; }\n'
    )
    lines = SourceLines(compile_c(source, tmp_path / "calls.bpf.o").read_bytes())

    def said(name: str, version: tuple[int, int]) -> str:
        found = diagnose(failing(version=version, name=name, section="socket", log="unreachable insn 4\n", lines=lines))
        assert found is not None
        return found.headline()

    assert said("calls", (4, 14)) == "instruction call_function (a call of a function of the program's own), since 4.16"
    assert said("plain", (4, 14)).startswith("the program has instructions that no jump leads to")
    assert said("calls", (5, 4)).startswith("the program has instructions that no jump leads to")
