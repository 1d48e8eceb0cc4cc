"""The rules over compiled objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.lint.engine import Options, lint
from kmatrix.matrix.arch import INFO
from tests.lint import samples
from tests.lint.samples import RING, TASK, body
from tests.lint.test_standard import CLAIMS

OPTIONS = Options(includes=(samples.INCLUDE, samples.BPF_COMMON))
LOOP = (
    "\tint sum = 0;\n\n\tfor (__u32 i = 0; i < bpf_get_prandom_u32() % 100; i++)\n\t\tsum += bpf_get_prandom_u32();\n\treturn sum;"
)
CALL = "static __attribute__((noinline)) int other(void)\n{\n\treturn bpf_get_prandom_u32() / 3;\n}\n" + body(
    "\treturn other() + other();"
)
MANY = "\tlong sum = 0;\n\n#pragma unroll\n\tfor (int i = 0; i < 2500; i++)\n\t\tsum ^= bpf_get_prandom_u32() * (i + 3);\n\treturn sum != 0;"


def build(folder: Path, text: str, needs: list[str], *flags: str, arch: str = "") -> Path:
    """The objects of a source that is not there any more, beside a manifest: one for all arches, or with `arch`, both compiled for that one."""
    folder.mkdir(exist_ok=True)
    source = folder / "other.c"
    source.write_text(samples.whole(text))
    for name in ("sample_x86_bpfel.o", "sample_arm64_bpfel.o") if arch else ("sample.o",):
        samples.compile_c(source, folder / name, "-Wno-unused", *flags, arch=arch or "x86")
    source.unlink()
    program = '[[program]]\nname = "sample"\nhook = "kprobe/do_exit"\n'
    (folder / "collector.toml").write_text(samples.manifest(needs, program=program))
    return folder


def found(folder: Path) -> list[str]:
    return sorted({finding.code for finding in lint([folder], OPTIONS).findings})


@pytest.mark.parametrize(
    ("text", "needs", "code"),
    [
        (body("\treturn bpf_get_prandom_u32() == 3;"), [], ""),
        (body(LOOP), [], "KM706"),
        (body(LOOP), ["bounded_loops"], ""),
        (CALL, [], "KM706"),
        (CALL, ["bpf2bpf"], ""),
        (body(MANY), [], "KM706"),
        (body(MANY), ["insns_1m"], ""),
        (body(""), [], "KM703"),
        (
            "struct kernfs_node___v { unsigned int ino; } __attribute__((preserve_access_index));\n"
            + body("\tstruct kernfs_node___v *kn = (void *)bpf_get_current_task();\n\treturn BPF_CORE_READ(kn, ino);"),
            ["btf"],
            "KM702",
        ),
        (
            "struct pt_regs___user { unsigned long rdi; } __attribute__((preserve_access_index));\n"
            + body("\treturn BPF_CORE_READ((struct pt_regs___user *)ctx, rdi) != 0;"),
            ["btf"],
            "KM702",
        ),
    ],
    ids=["sound", "loop", "loop-claimed", "call", "call-claimed", "long", "long-claimed", "empty", "ino", "rdi"],
)
def test_object(text: str, needs: list[str], code: str, tmp_path: Path) -> None:
    assert found(build(tmp_path, text, needs)) == code.split()


@pytest.mark.parametrize("name", [name for name, (text, _, _) in CLAIMS.items() if "offset" not in name and "storage" not in name])
def test_what_is_said_of_sources_is_said_of_their_objects(name: str, tmp_path: Path) -> None:
    text, needs, code = CLAIMS[name]
    if text == RING:
        text += body("\tlong *place = bpf_ringbuf_reserve(&events, 8, 0);\n\tif (place)\n\t\tbpf_ringbuf_submit(place, 0);")
    codes = set(found(build(tmp_path, text, needs, "-include", "stddef.h"))) - {"KM703", "KM707"}
    assert sorted(codes) == code.split()


def test_a_source_and_its_objects_say_a_thing_once(tmp_path: Path) -> None:
    text = body('\tbpf_printk("hello");')
    build(tmp_path, text, [])
    (tmp_path / "sample.bpf.c").write_text(samples.whole(text))
    findings = lint([tmp_path], OPTIONS).findings
    assert [(f.code, Path(f.place.file).name) for f in findings] == [("KM501", "sample.bpf.c")]


def test_an_object_without_btf(tmp_path: Path) -> None:
    assert "KM701" in found(build(tmp_path, body(TASK + "\treturn task != 0;"), ["btf"], "-g0"))


def test_an_object_of_the_other_arch(tmp_path: Path) -> None:
    build(tmp_path, body("\treturn PT_REGS_PARM1_CORE(ctx) != 0;"), ["btf"], arch="x86")
    findings = lint([tmp_path], OPTIONS).findings
    assert [(f.code, Path(f.place.file).name) for f in findings] == [("KM705", f"sample_{INFO['arm64'].bpf2go}_bpfel.o")]


def test_an_object_that_is_missing(tmp_path: Path) -> None:
    build(tmp_path, body(TASK + "\treturn task != 0;"), [], arch="x86")
    assert found(tmp_path) == []
    (tmp_path / "sample_arm64_bpfel.o").unlink()
    assert found(tmp_path) == ["KM704"]


def test_noqa_file_in_the_source_counts_for_its_objects(tmp_path: Path) -> None:
    build(tmp_path, body(""), [])
    (tmp_path / "sample.bpf.c").write_text(samples.whole(body("") + "/* kmatrix: noqa-file KM703: a placeholder */\n"))
    assert found(tmp_path) == []


def test_a_broken_object_is_a_finding_and_other_objects_are_not_looked_at(tmp_path: Path) -> None:
    build(tmp_path, body(TASK + "\treturn task != 0;"), ["btf"])
    whole = (tmp_path / "sample.o").read_bytes()
    (tmp_path / "sample.o").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "host.o").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(40))
    assert found(tmp_path) == ["KM001"]


def test_a_need_that_the_object_does_not_have(tmp_path: Path) -> None:
    text = body("\treturn bpf_get_current_pid_tgid() != 0;")
    assert found(build(tmp_path, text, ["ringbuf", "cgroup_v2", "kprobes"])) == ["KM707"]
    assert found(build(tmp_path / "right", text, ["cgroup_v2", "kprobes"])) == []


def calling(weak: str = "") -> str:
    """A program that calls a function of the kernel (6.2)."""
    test = "if (bpf_rcu_read_lock) " if weak else ""
    declared = f"extern void bpf_rcu_read_lock(void) __ksym{weak};\nextern void bpf_rcu_read_unlock(void) __ksym{weak};\n"
    return declared + body(f"\t{test}{{\n\t\tbpf_rcu_read_lock();\n\t\tbpf_rcu_read_unlock();\n\t}}", "fentry/do_exit")


@pytest.mark.parametrize(
    ("text", "needs", "said"),
    [
        (body("\treturn 1;", "fentry/do_exit"), ["btf"], "sample asks for attach:trace_fentry (5.5 on x86_64)"),
        (body("\treturn 1;", "fentry/do_exit"), ["btf", "fentry"], ""),
        (body("\treturn 1;", "netfilter"), ["btf", "attach:tcx_ingress"], ""),
        (body("\treturn 1;", "netfilter"), ["btf"], "sample asks for prog:netfilter (6.4 on"),
        (calling(), ["btf", "fentry"], "sample asks for kfunc:bpf_rcu_read_lock (6.2 on"),
        (calling(" __weak"), ["btf", "fentry"], ""),
        (
            "long total;\n" + body("\treturn __sync_fetch_and_add(&total, 1) == 7;"),
            ["btf", "global_data"],
            "sample asks for insn:atomic_fetch (5.12 on x86_64)",
        ),
    ],
)
def test_what_an_object_asks_for_and_its_needs_do_not_say(text: str, needs: list[str], said: str, tmp_path: Path) -> None:
    build(tmp_path, text, needs, "-mcpu=v3")
    findings = [finding for finding in lint([tmp_path], OPTIONS).findings if finding.code not in ("KM703", "KM707")]
    assert {finding.code for finding in findings} == ({"KM504"} if said else set())
    assert said in (findings[0].message if findings else "")
