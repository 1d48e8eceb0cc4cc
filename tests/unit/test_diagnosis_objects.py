"""Causes for which the diagnosis reads the object: the line that uses a map, what is inside a map of maps, reads of the context, addresses.

The words of kernels and libbpf are those of booted guests (x86_64; 5.15 also arm64).
"""

from __future__ import annotations

from typing import Any

import pytest

from conftest import need_programs
from kmatrix.objects.source_lines import SourceLines
from kmatrix.verdict.diagnosis import Failing, diagnose, explain
from tests.lint.samples import compile_c

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");
struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__type(key, __u32);
	__type(value, __u64);
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps");
extern const int bpf_prog_active __ksym;
SEC("kprobe/do_exit") int first(void *ctx)
{
	__u32 one = 1;
	return bpf_ringbuf_output(&ring, &one, 4, 0);
}
SEC("kprobe/do_exit") int second(void *ctx)
{
	__u64 two = 2;
	bpf_ringbuf_output(&ring, &two, 8, 0);
	return 0;
}
SEC("kprobe/do_exit") int nested(void *ctx)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&outer, &zero) != 0;
}
SEC("kprobe/do_exit") int variable(void *ctx)
{
	int *active = bpf_this_cpu_ptr(&bpf_prog_active);
	return *active;
}
SEC("tc") int stamped(struct __sk_buff *skb)
{
	if (skb->len > 9000)
		return 1;
	return skb->tstamp_type;
}
struct record {
	__u64 common;
	__u32 filename;
	int pid;
	__u64 more[6];
};
SEC("tracepoint/sched/sched_process_exec") int beyond(struct record *ctx)
{
	if (ctx->pid == 1)
		return 1;
	return ctx->more[5] == 3;
}
SEC("kprobe/do_exit") int adds(void *ctx)
{
	__u64 *place = (void *)bpf_get_current_task();
	return __sync_fetch_and_add(place, 1) == 7;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> SourceLines:
    need_programs("clang")
    folder = tmp_path_factory.mktemp("object")
    source = folder / "reads.bpf.c"
    source.write_text(SOURCE)
    flags = [flag for machine in ("x86_64", "aarch64") for flag in ("-idirafter", f"/usr/include/{machine}-linux-gnu")]
    made = compile_c(source, folder / "reads.bpf.o", "-mcpu=v3", *flags, "-Wno-incompatible-pointer-types-discards-qualifiers")
    return SourceLines(made.read_bytes())


def line(text: str) -> str:
    """The line of the source that begins so, as the diagnosis names it."""
    number, found = next((i, each) for i, each in enumerate(SOURCE.splitlines(), 1) if each.strip().startswith(text))
    return f"{found.strip()} @ reads.bpf.c:{number}"


def refused(name: str, version: tuple[int, int], log: str, lines: SourceLines, **more: Any) -> dict[str, Any]:
    """The diagnosis of a program that was not loaded."""
    error = f"prog '{name}': BPF program load failed: Invalid argument"
    found = diagnose(
        Failing(
            **(
                {"stage": "load", "error": error, "version": version, "arch": "x86_64", "log": log, "name": name, "lines": lines}
                | more
            )
        )
    )
    assert found is not None
    return found.plain()


def missing_map(name: str) -> str:
    return f"1: (63) *(u32 *)(r10 -4) = r6\n4: <invalid BPF map reference>\nBPF map '{name}' is referenced but wasn't created\n"


def test_a_map_is_placed_at_its_use(lines: SourceLines) -> None:
    report = {"error": "map 'ring': failed to create: Invalid argument(-22)", "errno": 22, "type": "ringbuf", "max_entries": 4096}
    failed = {
        "loaded": False,
        "error": "prog: BPF program load failed: Invalid argument",
        "log": missing_map("ring"),
        "section": "kprobe/do_exit",
    }
    programs, maps = explain({"first": failed, "second": failed}, {"ring": report}, (5, 4), "x86_64", lines)
    assert maps["ring"]["diagnosis"]["where"] == line("return bpf_ringbuf_output(&ring, &one")
    assert programs["first"]["diagnosis"]["where"] == line("return bpf_ringbuf_output(&ring, &one")
    assert programs["second"]["diagnosis"]["where"] == line("bpf_ringbuf_output(&ring, &two")
    assert {each["diagnosis"]["headline"] for each in (*programs.values(), *maps.values())} == {"map type ringbuf, since 5.8"}


def test_a_map_that_nothing_explains_is_told_once(lines: SourceLines) -> None:
    report = {"error": "map 'ring': failed to create: Bad address(-14)", "errno": 14, "type": "ringbuf", "max_entries": 4096}
    failed = {
        "loaded": False,
        "error": "prog: BPF program load failed: Invalid argument",
        "log": missing_map("ring"),
        "section": "kprobe/do_exit",
    }
    programs, _ = explain({"first": failed}, {"ring": report}, (6, 1), "x86_64", lines)
    assert (programs["first"]["diagnosis"]["kind"], programs["first"]["diagnosis"]["what"]) == ("unclassified", report["error"])


@pytest.mark.parametrize(
    ("version", "kind", "headline"),
    [
        ((5, 4), "map-flag", "map outer.inner: flag BPF_F_INNER_MAP, since 5.10"),
        ((5, 10), "map-inner", "map outer: the map inside it could not be made, or none is given"),
    ],
)
def test_the_map_inside_has_its_own_cause(version: tuple[int, int], kind: str, headline: str, lines: SourceLines) -> None:
    error = (
        "Error in bpf_create_map_xattr(outer.inner):Invalid argument(-22). Retrying without BTF.; map 'outer': failed to create inner map: -22; "
        "map 'outer': failed to create: Invalid argument(-22)"
    )
    report = {"error": error, "errno": 22, "type": "array_of_maps", "max_entries": 1, "key_size": 4, "value_size": 4, "flags": 0}
    _, maps = explain({}, {"outer": report}, version, "x86_64", lines)
    assert (maps["outer"]["diagnosis"]["kind"], maps["outer"]["diagnosis"]["headline"]) == (kind, headline)


def test_the_address_of_a_variable_is_no_callback(lines: SourceLines) -> None:
    log = "unrecognized bpf_ld_imm64 insn\nprocessed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"
    found = refused("variable", (5, 4), log, lines, section="kprobe/do_exit")
    assert found["headline"] == "instruction ksym (the address of a kernel variable, extern … __ksym), since 5.10"
    assert found["where"] == line("int *active =")


def test_a_variable_that_the_kernel_lacks_is_no_missing_option(lines: SourceLines) -> None:
    error = "extern (var ksym) 'bpf_prog_active': not found in kernel BTF"
    found = refused("variable", (5, 10), "", lines, error=error, errno=22, section="kprobe/do_exit", wants={"type": "kprobe"})
    assert (found["kind"], found["where"]) == ("extern", line("int *active ="))


def test_a_newer_field_is_found_where_the_verifier_names_no_place(lines: SourceLines) -> None:
    log = "bpf verifier is misconfigured\nprocessed 4 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"
    found = refused("stamped", (5, 10), log, lines, section="tc", wants={"type": "sched_cls"})
    assert (found["headline"], found["where"]) == (
        "context field __sk_buff.tstamp_type, since 5.18",
        line("return skb->tstamp_type"),
    )


def test_a_read_beyond_a_record_is_no_missing_right(lines: SourceLines) -> None:
    error = "prog 'beyond': failed to attach to perf_event FD 18: Permission denied; prog 'beyond': failed to attach to tracepoint 'sched/sched_process_exec': Permission denied"
    record = {"name": "sched/sched_process_exec", "size": 20, "fields": ["filename", "pid", "old_pid"]}
    section = "tracepoint/sched/sched_process_exec"
    found = refused("beyond", (5, 4), "", lines, stage="attach", error=error, errno=13, section=section, btf={"record": record})
    assert found["kind"] == "context"
    assert found["what"].startswith(
        "the program reads beyond (byte 56) the record of tracepoint sched/sched_process_exec, which has 20 bytes"
    )
    assert found["where"] == line("return ctx->more[5]")
    told = refused("beyond", (5, 4), "", lines, stage="attach", error=error, errno=13, section=section)
    assert told["kind"] == "permission"


@pytest.mark.parametrize(("version", "since"), [((5, 15), "5.18"), ((6, 1), None)])
def test_the_jit_is_told_by_the_instruction(version: tuple[int, int], since: str | None, lines: SourceLines) -> None:
    error, log = (
        "prog 'adds': BPF program load failed: unknown error (-524)",
        "processed 12 insns (limit 1000000) max_states_per_insn 0\n",
    )
    found = refused("adds", version, log, lines, arch="arm64", error=error, errno=524, section="kprobe/do_exit")
    assert (found["kind"], found["since"]) == ("jit", since)
    assert found["where"] == line("return __sync_fetch_and_add" if since else "__u64 *place =")
