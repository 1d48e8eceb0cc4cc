"""What is read off objects of a few lines, compiled here."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from conftest import need_programs
from kmatrix.guest import triggers
from kmatrix.host.errors import InputError
from kmatrix.manifest.contract import Form
from kmatrix.propose.found import find, objects_in
from kmatrix.propose.hooks import TABLE, fitting, place
from kmatrix.propose.manifest import Written, propose, written
from kmatrix.propose.sends import sends
from tests.lint.samples import compile_c

HEADERS = Path(f"/usr/include/{platform.machine()}-linux-gnu")
HEAD = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 65536); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } perf SEC(".maps");
"""
EVENT = """\
struct event { __u32 pid; __u32 tgid; char comm[16]; __u64 when; };
const struct event *unused_event __attribute__((unused));
static __attribute__((noinline)) int tell(void) {
    struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event) return 0;
    event->pid = 1; event->tgid = 2; event->when = 0; bpf_get_current_comm(event->comm, 16);
    bpf_ringbuf_submit(event, 0);
    return 0;
}
"""


def program(section: str, name: str, body: str = "return 0;") -> str:
    return f'SEC("{section}") int {name}(void *ctx) {{ {body} }}\n'


def compiled(folder: Path, body: str, name: str = "probe.bpf.o") -> Path:
    need_programs("clang")
    source = folder / "probe.c"
    source.write_text(f'{HEAD}{body}\nchar LICENSE[] SEC("license") = "GPL";\n')
    return compile_c(source, folder / name, "-mcpu=v3", includes=[HEADERS])


def manifest(folder: Path) -> Written:
    return written(propose(find(objects_in(folder), folder), folder.name), folder / "collector.toml")


def test_a_struct_in_the_objects_is_named_and_not_listed(tmp_path: Path) -> None:
    compiled(tmp_path, EVENT + program("tracepoint/sched/sched_process_exec", "at_exec", "return tell();"))
    [event] = manifest(tmp_path).collector.events
    assert (event.struct, event.match) == ("event", {"tgid": "known.tgid"})
    assert {f.name: f.equals for f in event.fields} == {"pid": "known.pid", "tgid": "known.tgid", "comm": "known.comm"}


def test_a_pid_alone_may_be_the_threads_or_the_processs(tmp_path: Path) -> None:
    alone = EVENT.replace("__u32 tgid;", "__s32 ret;").replace("event->tgid", "event->ret")
    compiled(tmp_path, alone + program("tracepoint/syscalls/sys_enter_openat", "at_open", "return tell();"))
    [event] = manifest(tmp_path).collector.events
    assert event.match == {"comm": "known.comm", "ret": "known.ret"}
    assert {f.name: f.one_of for f in event.fields if f.one_of} == {"pid": ("known.pid", "known.tgid")}


def test_what_no_trigger_is_known_for_stays_open_and_is_valid(tmp_path: Path) -> None:
    compiled(tmp_path, EVENT + program("tracepoint/irq/irq_handler_entry", "at_irq", "return tell();"))
    said = manifest(tmp_path)
    assert (said.collector.trigger, said.collector.events, said.collector.variants[0].transport) == (None, (), None)
    assert any("what makes the programs run" in remark for remark in said.missing)
    assert any("at_irq sends records of 32 bytes" in remark for remark in said.missing)


def test_sizes_of_either_buffer(tmp_path: Path) -> None:
    perf = "struct event e = {}; bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &e, sizeof(e)); return 0;"
    varies = "return bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &ctx, bpf_get_smp_processor_id() & 7);"
    body = program("kprobe/a", "a", perf) + program("kprobe/b", "b", varies) + program("kprobe/c", "c", "return tell();")
    [group] = find([compiled(tmp_path, EVENT + body)], tmp_path)
    found = {sent.programs: (sent.transport, sent.buffer, sent.size) for sent in sends(group.code)}
    assert found == {("a",): ("perf", "perf", 32), ("b",): ("perf", "perf", None), ("c",): ("ringbuf", "events", 32)}


def test_programs_that_are_forms_of_one_and_those_that_no_section_attaches(tmp_path: Path) -> None:
    body = "".join(
        program(section, name)
        for section, name in [
            ("kprobe/tcp_v4_connect", "with_kprobe"),
            ("fentry/tcp_v4_connect", "with_fentry"),
            ("uprobe", "no_target"),
            ("?kprobe/do_exit", "not_by_default"),
            ("tracepoint/syscalls/sys_enter_open", "only_x86"),
        ]
    )
    compiled(tmp_path, body)
    said = manifest(tmp_path)
    [variant] = said.collector.variants
    assert variant.contract is not None
    assert variant.contract.one_of == ((Form(programs=("with_fentry",)), Form(programs=("with_kprobe",))),)
    programs = {p.name: (p.attach, p.fires, p.arches) for p in said.collector.programs}
    both = ("x86_64", "arm64")
    assert programs == {
        "with_kprobe": (True, True, both),
        "with_fentry": (True, True, both),
        "no_target": (False, True, both),
        "only_x86": (True, False, ("x86_64",)),
    }
    assert any("not_by_default" in remark for remark in said.missing)


def test_sizes_that_the_object_leaves_to_its_loader(tmp_path: Path) -> None:
    maps = (
        'struct { __uint(type, BPF_MAP_TYPE_HASH); __type(key, __u32); __type(value, __u64); } starts SEC(".maps");\n'
        'struct { __uint(type, BPF_MAP_TYPE_STACK_TRACE); __uint(key_size, 4); } stacks SEC(".maps");\n'
    )
    compiled(tmp_path, maps + program("kprobe/do_exit", "a"))
    contract = manifest(tmp_path).collector.variants[0].contract
    assert contract is not None
    assert {name: (terms.max_entries, terms.value_size) for name, terms in contract.maps.items()} == {
        "starts": (1024, None),
        "stacks": (1024, 1016),
    }


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ("tp_btf/sched_switch", "sched_switch"),
        ("tracepoint/sched/sched_switch", "sched_switch"),
        ("?fentry.s/do_exit", "do_exit"),
        ("tracepoint/syscalls/sys_exit_openat", "sys_openat"),
        ("ksyscall/openat", "sys_openat"),
        ("kprobe/__x64_sys_openat", "sys_openat"),
        ("tc", "tc"),
        ("lsm/file_open", "file_open"),
    ],
)
def test_a_place_is_the_same_whichever_way_it_is_attached_to(section: str, where: str) -> None:
    assert place(section) == where


def test_the_trigger_that_reaches_most_programs_comes_first() -> None:
    assert fitting(["kprobe/tcp_v4_connect", "kretprobe/tcp_v4_connect", "kprobe/oom_kill_process"])[:2] == ["tcp_connect", "oom"]
    assert fitting(["tracepoint/irq/irq_handler_entry"]) == []
    assert {row.kind for row in TABLE} <= set(triggers.KINDS)


def test_objects_that_are_not_of_one_collector(tmp_path: Path) -> None:
    compiled(tmp_path, program("kprobe/a", "a"), "one.bpf.o")
    compiled(tmp_path, program("kprobe/b", "b"), "two.bpf.o")
    with pytest.raises(InputError, match=r"no program or hook is in both one.bpf.o \(a\) and two.bpf.o \(b\)"):
        manifest(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"\x7fELF\2\2" + data[6:18] + b"\0\xf7" + data[20:], "not a whole ELF file|big-endian"),
        (lambda data: data.replace(b".BTF\0", b".BTX\0"), "has no .BTF section"),
        (lambda data: data[: len(data) // 2], "not a whole ELF file"),
        (lambda _: b"#!/bin/sh\n", "not a whole ELF file"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    path = compiled(tmp_path, program("kprobe/a", "a"))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=says):
        find([path], tmp_path)


def test_a_folder_that_says_another_arch_than_the_code(tmp_path: Path) -> None:
    (tmp_path / "arm64").mkdir()
    registers = "struct pt_regs { unsigned long orig_ax; }; struct pt_regs *held;\n"
    path = compiled(tmp_path, registers + program("kprobe/a", "a", "return held != 0;"), "arm64/a.bpf.o")
    with pytest.raises(InputError, match="its path says arm64"):
        find([path], tmp_path)
