"""Predictions on the shipped profiles. Each case stood otherwise once, and a booted kernel said so (make predict-score)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.predict import store
from kmatrix.predict.judge import Prediction, predict
from kmatrix.predict.subject import Subject
from tests.predict.kernels import HEAD, compiled

TYPES = """
struct task_struct { int pid; unsigned int __state; } __attribute__((preserve_access_index));
struct task_struct___old { long state; } __attribute__((preserve_access_index));
enum bpf_func_id___new { BPF_FUNC_loop___new = 181 };
static __attribute__((unused)) long add(__u32 i, void *ctx) { *(long *)ctx += i; return 0; }
"""
RAW = 'SEC("raw_tp/sched_switch") int run(void *ctx) '
CURRENT = "struct task_struct *t = (void *)bpf_get_current_task(); "


def foreseen(folder: Path, code: str, *kernels: str) -> dict[str, Prediction]:
    """What is foreseen of the program `run`, by kernel."""
    found = predict(Subject(compiled(folder, "object", HEAD + TYPES + code)), [store.named(name) for name in kernels])
    return {here[0].kernel: next(each for each in here if each.program == "run") for here in found}


def told(folder: Path, code: str, *kernels: str) -> dict[str, tuple[str, str]]:
    """The states and classes."""
    found = foreseen(folder, code, *kernels)
    return {name: (each.state, each.cause.kind if each.cause is not None else "") for name, each in found.items()}


OLD, MID, NEW = "4.14-x86_64", "5.4-x86_64", "6.12-x86_64"


def test_a_field_that_one_kernel_has(tmp_path: Path) -> None:
    found = foreseen(tmp_path, RAW + "{" + CURRENT + "return BPF_CORE_READ(t, __state); }", OLD, MID, NEW)
    assert [each.state for each in found.values()] == ["not loaded", "not loaded", "attached"]
    assert found[OLD].cause is not None
    assert found[OLD].cause.kind == "btf"
    cause = found[MID].cause
    assert cause is not None
    assert (cause.kind, cause.what) == ("btf-field", "CO-RE: btf:task_struct.__state is not in this kernel, or of another kind")
    assert cause.where is not None
    assert "BPF_CORE_READ(t, __state)" in cause.where


def test_code_that_a_guard_makes_dead_asks_for_nothing(tmp_path: Path) -> None:
    code = (
        RAW
        + "{"
        + CURRENT
        + (
            "if (bpf_core_field_exists(t->__state)) return BPF_CORE_READ(t, __state);"
            "struct task_struct___old *o = (void *)t; return BPF_CORE_READ(o, state); }"
        )
    )
    assert told(tmp_path, code, MID, NEW) == {MID: ("attached", ""), NEW: ("attached", "")}


def test_a_helper_behind_the_enumerator(tmp_path: Path) -> None:
    code = (
        RAW
        + "{ long n = 0; if (bpf_core_enum_value_exists(enum bpf_func_id___new, BPF_FUNC_loop___new)) bpf_get_attach_cookie(ctx); return n; }"
    )
    assert told(tmp_path, code, MID)[MID] == ("attached", "")
    assert told(tmp_path, RAW + "{ return bpf_get_attach_cookie(ctx); }", MID)[MID] == ("not loaded", "helper")


def test_a_helper_that_is_not_for_the_type(tmp_path: Path) -> None:
    assert told(tmp_path, RAW + "{ return bpf_get_socket_cookie(ctx); }", NEW)[NEW] == ("not loaded", "helper-type")


def test_a_helper_that_libbpf_replaces(tmp_path: Path) -> None:
    code = RAW + "{ long n; return bpf_probe_read_kernel(&n, 8, ctx); }"
    assert told(tmp_path, code, MID) == {MID: ("attached", "")}


MAP = 'struct {{ __uint(type, BPF_MAP_TYPE_{0}); {1} }} m SEC(".maps"); '
MAPS = {
    "too new": (MAP.format("RINGBUF", "__uint(max_entries, 4096);"), ("not loaded", "map-type")),
    "without a size": (MAP.format("HASH", "__uint(key_size, 4); __uint(value_size, 4);"), ("not loaded", "map-size")),
    "of programs": (
        'int next(void *); struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 1); __uint(key_size, 4); __array(values, int(void *)); } '
        'm SEC(".maps") = { .values = { (void *)&next } }; SEC("raw_tp/sched_switch") int next(void *ctx) { return 0; } ',
        ("attached", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MAPS)
def test_maps(tmp_path: Path, case: str) -> None:
    declared, wanted = MAPS[case]
    assert told(tmp_path, declared + RAW + "{ return bpf_map_lookup_elem(&m, &(int){0}) != 0; }", MID)[MID] == wanted


def test_a_map_that_only_dead_code_refers_to(tmp_path: Path) -> None:
    declared = MAP.format("HASH", "__uint(key_size, 4); __uint(value_size, 4);") + "const volatile int wanted = 0; "
    code = declared + RAW + "{ if (wanted) return bpf_map_lookup_elem(&m, &(int){0}) != 0; return 0; }"
    assert told(tmp_path, code, NEW) == {NEW: ("attached", "")}


HOOKS = {
    "kprobe/vfs_open": {OLD: "attached", NEW: "attached", "5.10-arm64": "attached"},
    "kprobe/no_such_function": {NEW: "not attached symbol"},
    # In /proc/kallsyms, and ftrace cannot trace it: refused on both arches.
    "kprobe/blk_account_io_done": {"6.12-arm64": "not attached symbol", "5.10-arm64": "attached"},
    "kprobe": {NEW: "loaded"},
    "kprobe_do_exit": {NEW: "loaded"},
    "ksyscall/openat": {OLD: "not attached symbol", NEW: "attached", "6.1-arm64": "attached"},
    "tracepoint/sched/sched_switch": {OLD: "attached", NEW: "attached"},
    "tracepoint/syscalls/sys_enter_open": {NEW: "attached", "6.12-arm64": "not attached tracepoint"},
    "raw_tp/no_such": {NEW: "not attached tracepoint"},
    "tp_btf/sched_switch": {MID: "not loaded program-type", NEW: "attached"},
    "tp_btf/no_such": {NEW: "not loaded tracepoint"},
    "fentry/vfs_open": {
        MID: "not loaded attach-type",
        NEW: "attached",
        "5.10-arm64": "not attached attach-type",
        "6.12-arm64": "attached",
    },
    "fentry/no_such": {NEW: "not loaded symbol"},
    "fentry/dummy_read": {NEW: "placeholder placeholder"},
    # In the BTF, and the compiler put it into its callers.
    "fentry/blk_account_io_done": {"6.18-x86_64": "not loaded symbol"},
    "lsm/file_open": {"5.4-x86_64": "not loaded program-type", "6.1-x86_64": "attached"},
    "iter/task": {"5.4-x86_64": "not loaded attach-type", NEW: "attached"},
    "kprobe.multi/vfs_*": {OLD: "not loaded attach-type", "5.15-x86_64": "not attached attach-type", "6.12-x86_64": "attached"},
    "uprobe/libc.so.6:malloc": {NEW: "loaded"},
    "uretprobe/readline": {NEW: "placeholder placeholder"},
    "tcx/ingress": {OLD: "not loaded attach-type", "6.1-x86_64": "not attached attach-type", NEW: "attached"},
    "tc": {OLD: "attached", NEW: "attached"},
    "xdp.frags": {"5.15-x86_64": "not loaded flag", NEW: "attached"},
    "lwt_in": {"5.15-x86_64": "not attached config", NEW: "attached"},
    "freplace/of_another": {NEW: "not loaded target"},
    "no_such_kind": {NEW: "not loaded section"},
    "sk_lookup": {"5.4-x86_64": "not loaded program-type", NEW: "attached"},
}


def hooks() -> str:
    """The source of a program for each of the hooks."""
    return HEAD + "".join(f'SEC("{section}") int run{number}(void *ctx) {{ return 0; }}\n' for number, section in enumerate(HOOKS))


def test_hooks(tmp_path: Path) -> None:
    wanted = {(section, kernel): state for section, by in HOOKS.items() for kernel, state in by.items()}
    kernels = list(dict.fromkeys(kernel for _, kernel in wanted))
    found = predict(Subject(compiled(tmp_path, "hooks", hooks())), [store.named(name) for name in kernels])
    by = {
        (each.section, each.kernel): f"{each.state} {each.cause.kind if each.cause else ''}".strip()
        for here in found
        for each in here
    }
    assert {key: by[key] for key in wanted} == wanted


def test_an_argument_that_the_function_has_not(tmp_path: Path) -> None:
    code = 'SEC("fentry/vfs_open") int run(unsigned long *ctx) { return ctx[2] & 1; }'
    found = foreseen(tmp_path, code, NEW)[NEW]
    assert (found.state, found.cause.kind if found.cause else "") == ("not loaded", "btf-function")
    assert told(tmp_path, code.replace("fentry", "fexit"), NEW)[NEW] == ("attached", "")


def test_a_field_of_the_context_that_came_later(tmp_path: Path) -> None:
    read = 'SEC("tc") int run(struct __sk_buff *skb) { return skb->gso_size != 0; }'
    found = foreseen(tmp_path, read, MID, NEW)
    assert [each.state for each in found.values()] == ["not loaded", "attached"]
    assert found[MID].cause is not None
    assert found[MID].cause.headline() == "context field __sk_buff.gso_size, since 5.7"


def test_what_kernels_take_before_its_name_came(tmp_path: Path) -> None:
    """A sleepable iterator, and an attach type that the kernel does not look at: attached on booted 5.10 and 5.4."""
    assert told(tmp_path, 'SEC("iter.s/task") int run(void *ctx) { return 0; }', "5.10-x86_64") == {"5.10-x86_64": ("attached", "")}
    migrate = 'SEC("sk_reuseport/migrate") int run(void *ctx) { return 1; }'
    assert told(tmp_path, migrate, OLD, MID) == {OLD: ("not loaded", "program-type"), MID: ("attached", "")}
    copies = 'SEC("uprobe.s/libc.so.6:malloc") int run(void *ctx) { char x[8]; return bpf_copy_from_user(x, 8, (void *)1); }'
    assert told(tmp_path, copies, "6.1-x86_64") == {"6.1-x86_64": ("loaded", "")}  # what is in the guest, a profile does not tell


def test_the_entries_of_a_stack_trace(tmp_path: Path) -> None:
    """With build IDs they have 32 bytes: made on booted 5.4 and 6.12."""
    traces = (
        "struct { __uint(type, BPF_MAP_TYPE_STACK_TRACE); __uint(max_entries, 8); __uint(map_flags, BPF_F_STACK_BUILD_ID); "
        '__uint(key_size, 4); __uint(value_size, 127 * 32); } traces SEC(".maps");\n'
    )
    assert told(tmp_path, traces + RAW + "{ return bpf_get_stackid(ctx, &traces, BPF_F_USER_STACK) > 0; }", MID, NEW) == {
        MID: ("attached", ""),
        NEW: ("attached", ""),
    }


def test_the_kernel_s_configuration(tmp_path: Path) -> None:
    """libbpf wants to see it also where the option is weak. A guest of Debian has no file of it."""
    code = "extern int CONFIG_HZ __kconfig __weak; " + RAW + "{ return CONFIG_HZ; }"
    assert told(tmp_path, code, "6.1-x86_64", MID) == {"6.1-x86_64": ("not loaded", "extern"), MID: ("attached", "")}


def test_a_weak_symbol_of_one_kernel_is_not_taken_for_another_s(tmp_path: Path) -> None:
    """5.4 has the first symbol alone, and 6.1 the second."""
    code = (
        "extern const void account_page_dirtied __ksym __weak; extern const void blk_account_io_merge_bio __ksym __weak; "
        + RAW
        + "{ if (!&account_page_dirtied) return bpf_get_socket_cookie(ctx); return &blk_account_io_merge_bio != 0; }"
    )
    wanted = {MID: ("attached", ""), "6.1-x86_64": ("not loaded", "helper-type")}
    assert told(tmp_path, code, *wanted) == wanted


def test_what_only_the_verifier_knows_is_not_foreseen(tmp_path: Path) -> None:
    assert told(tmp_path, RAW + "{ return *(int *)((long)ctx + 100000); }", NEW) == {NEW: ("attached", "")}


def test_what_a_profile_does_not_tell_is_said(tmp_path: Path) -> None:
    assert foreseen(tmp_path, 'SEC("uprobe/libc.so.6:malloc") int run(void *ctx) { return 0; }', NEW)[NEW].unknown == (
        "whether libc.so.6:malloc is there on the host",
    )
