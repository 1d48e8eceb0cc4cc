"""Each anti-pattern of the CO-RE standard, each row of the table of where it fails on real kernels, each floor and arch trap: found in a sample written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmatrix.lint.engine import Options, lint
from tests.lint import samples
from tests.lint.samples import RING, TASK, body

OPTIONS = Options(includes=(samples.INCLUDE, samples.BPF_COMMON))


ANTI_PATTERNS = {
    "hard-coded offset": ("KM202", body(TASK + "\tint pid = *(int *)((char *)task + 1234);\n\treturn pid;")),
    "hard-coded offset in a helper": ("KM202", "static __always_inline int f(struct task_struct *task)\n{\n\treturn *(int *)((char *)task + 1234);\n}\n"),
    "offset by a macro": ("KM202", "#define PID_AT 1234\n" + body(TASK + "\tint pid = 0;\n\tbpf_probe_read_kernel(&pid, 4, (void *)task + PID_AT);")),
    "offset of a number": ("KM202", body("\t__u64 task = bpf_get_current_task();\n\tint pid = 0;\n\tbpf_probe_read_kernel(&pid, 4, (void *)(task + 1234));")),
    "offset of a variable for bytes": ("KM202", body("\tchar *task = (void *)bpf_get_current_task();\n\tint pid = 0;\n\tbpf_probe_read_kernel(&pid, 4, task + 1234);")),
    "offset of a structure's bytes": ("KM202", body(TASK + "\tunsigned char *bytes = (unsigned char *)task;\n\treturn *(int *)(bytes + 1234);")),
    "direct structure access": ("KM201", body(TASK + "\tif (task->cgroups != 0)\n\t\treturn 1;")),
    "direct field access": ("KM201", body(TASK + "\tpid_t pid = task->pid;\n\treturn pid;")),
    "direct pointer dereference": ("KM201", body(TASK + "\tstruct task_struct *parent = task->real_parent;\n\treturn parent != 0;")),
    "x86 register": ("KM401", body("\tunsigned long arg = ctx->di;\n\treturn arg != 0;")),
    "x86 register by CO-RE": ("KM401", body("\treturn BPF_CORE_READ(ctx, di) != 0;")),
    "missing error handling": ("KM205", body(TASK + "\tpid_t pid;\n\tBPF_CORE_READ_INTO(&pid, task, pid);\n\treturn pid;")),
    "no compatibility check": (
        "KM201",
        body(TASK + "\tstruct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);\n\tstruct kernfs_node *kn = cgroup->kn;\n\treturn kn != 0;"),
    ),
    "an id that changed its form": ("KM207", body(TASK + "\treturn BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id) != 0;")),
    "a kprobe's argument": ("KM201", 'SEC("kprobe/x")\nint BPF_KPROBE(sample, struct task_struct *task)\n{\n\t(void)ctx;\n\treturn task->pid;\n}\n'),
    "through a helper function": (
        "KM201",
        "static __always_inline int f(struct task_struct *t)\n{\n\treturn t->pid;\n}\n" + body(TASK + "\treturn f(task);"),
    ),
    "a structure as a whole": ("KM201", 'SEC("kprobe/x")\nint BPF_KPROBE(sample, struct file *file)\n{\n\tstruct path path = file->f_path;\n\treturn path.dentry != 0;\n}\n'),
    "a write": ("KM201", body(TASK + "\ttask->flags = 1;")),
    "a pointer that a map held": (
        "KM201",
        'struct {\n\t__uint(type, BPF_MAP_TYPE_HASH);\n\t__uint(max_entries, 8);\n\t__type(key, __u32);\n\t__type(value, struct task_struct *);\n} tasks SEC(".maps");\n'
        + body("\t__u32 zero = 0;\n\tstruct task_struct **found = bpf_map_lookup_elem(&tasks, &zero);\n\treturn found ? (*found)->pid : 0;"),
    ),
    "inside another macro's arguments": ("KM201", body(TASK + '\tbpf_printk("%d", task->pid);')),
}  # fmt: skip

ROWS = {
    "has_btf by #ifdef": ("KM302", "#ifdef bpf_core_field_exists\n#define HAS_BTF 1\n#else\n#define HAS_BTF 0\n#endif\n"),
    "has_btf by defined()": ("KM302", "#if defined(bpf_core_field_exists)\n#define HAS_BTF 1\n#endif\n"),
    "has_ringbuf by #ifdef": ("KM301", "#ifdef BPF_FUNC_ringbuf_reserve\n#define HAS_RINGBUF 1\n#endif\n"),
    "map type by #if": ("KM301", "#if defined(BPF_MAP_TYPE_RINGBUF) && 1\n#define HAS_RINGBUF 1\n#endif\n"),
    "REQUIRE_* returns 0 in cgroup_skb": (
        "KM305",
        body("\tINIT_CORE_COMPAT();\n\tREQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);\n\treturn 1;", "cgroup_skb/egress", "void *ctx"),
    ),
    "REQUIRE_* of another type in a socket filter": (
        "KM305",
        body("\tINIT_CORE_COMPAT_FOR(xdp);\n\tREQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);\n\treturn -1;", "socket", "void *ctx"),
    ),
    "a refusal by hand in XDP": (
        "KM305",
        body("\tif (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ringbuf_reserve))\n\t\treturn 0;\n\treturn XDP_PASS;", "xdp", "struct xdp_md *ctx"),
    ),
    "features at the first event": (
        "KM306",
        "static struct { int initialized, has_btf; } g_core_features;\n"
        + body("\tif (!g_core_features.initialized) {\n\t\tg_core_features.has_btf = 1;\n\t\tg_core_features.initialized = 1;\n\t}"),
    ),
    "kernfs_node.ino": (
        "KM208",
        "struct kernfs_node___v { unsigned int ino; } __attribute__((preserve_access_index));\n"
        + body("\tstruct kernfs_node___v *kn = (void *)bpf_get_current_task();\n\treturn BPF_CORE_READ(kn, ino);"),
    ),
    "subsys[0]": ("KM209", body(TASK + "\treturn BPF_CORE_READ(task, cgroups, subsys[0], cgroup, kn) != 0;")),
    "a hashed pointer as an id": (
        "KM210",
        "static __always_inline __u64 cgroup_id_of(struct cgroup *cgroup)\n{\n\treturn (__u64)cgroup * 0x9e3779b97f4a7c15;\n}\n",
    ),
    "a pointer returned as an id": ("KM210", "static __always_inline __u64 get_cgroup_id(struct cgroup *cgroup)\n{\n\treturn (__u64)cgroup;\n}\n"),
    "a guard around every read": ("KM206", body(TASK + "\tif (bpf_core_field_exists(task->pid))\n\t\treturn BPF_CORE_READ(task, pid);")),
    "the standard's own sample": (
        "KM205 KM206",
        body(TASK + "\tif (bpf_core_field_exists(task->pid)) {\n\t\tpid_t pid;\n\t\tBPF_CORE_READ_INTO(&pid, task, pid);\n\t\treturn pid;\n\t}"),
    ),
    "user space's register names": ("KM402", "struct pt_regs___user { unsigned long rdi, rax; } __attribute__((preserve_access_index));\n"),
    "BTF by version": (
        "KM307",
        "extern int LINUX_KERNEL_VERSION __kconfig;\n" + body("\tif (LINUX_KERNEL_VERSION < 328704)\n\t\treturn 1;"),
    ),
    "the build host's version": ("KM307", "#if LINUX_VERSION_CODE < 328704\n#define OLD 1\n#endif\n"),
    "helpers.h after bpf_endian.h": ("KM104", "static __always_inline __u16 bpf_ntohs(__u16 value)\n{\n\treturn __builtin_bswap16(value);\n}\n"),
    "open's tracepoint": ("KM403", body("", "tracepoint/syscalls/sys_enter_open", "void *ctx")),
    "fork's tracepoint": ("KM403", body("", "tp/syscalls/sys_exit_fork", "void *ctx")),
    "poll by ksyscall": ("KM403", body("", "ksyscall/poll", "void *ctx")),
    "a ring buffer of one page": ("KM405", RING.replace("262144", "4096")),
    "a ring buffer of three": ("KM405", RING.replace("262144", "3 * 65536")),
    "sys_getpid": ("KM404", body("", "kprobe/sys_getpid", "void *ctx")),
    "__x64_sys_getpid": ("KM404", body("", "kretprobe/__x64_sys_getpid", "void *ctx")),
    "iov_iter.iov": (
        "KM207",
        "struct iov_iter { const void *iov; } __attribute__((preserve_access_index));\n"
        + body("\tstruct iov_iter *iter = (void *)bpf_get_current_task();\n\treturn BPF_CORE_READ(iter, iov) != 0;"),
    ),
    "request.rq_disk": ("KM207", body("\tstruct request___before_5_17 *r = (void *)bpf_get_current_task();\n\treturn BPF_CORE_READ(r, rq_disk) != 0;")),
    "host's arch": ("KM406", "#if defined(__aarch64__)\n#define REGISTERS 31\n#endif\n"),
}  # fmt: skip


def found(path: Path) -> list[str]:
    return sorted({finding.code for finding in lint([path], OPTIONS).findings})


@pytest.mark.parametrize("name", [*ANTI_PATTERNS, *ROWS])
def test_sample(name: str, tmp_path: Path) -> None:
    wanted, text = (ANTI_PATTERNS | ROWS)[name]
    path = tmp_path / "sample.bpf.c"
    if "REQUIRE_CORE" not in text and "KM205" in wanted:
        text = '#include "vmlinux_minimal.h"\n' + samples.PREAMBLE.split("\n", 1)[1] + text + samples.LICENSE
    path.write_text(samples.whole(text))
    assert found(path) == wanted.split()


CLAIMS = {
    # what the source uses, the variant's needs, what is found
    "printk's format before 5.2": (body('\tbpf_printk("hello");'), ["kprobes"], "KM501"),
    "printk's format with btf": (body('\tbpf_printk("hello");'), ["btf"], ""),
    "a table of constants": ("static const __u32 table[] = { 1, 2, 3 };\n" + body("\treturn table[bpf_get_prandom_u32() % 3];"), [], "KM501"),
    "a constant that nobody uses": ("static const __u32 unused[] __attribute__((unused)) = { 1 };\n" + body(""), [], ""),
    "a format on the stack": (body('\tchar format[] = "hello";\n\tbpf_trace_printk(format, sizeof(format));'), [], ""),
    "a ring buffer that is not claimed": (RING, ["btf"], "KM503"),
    "a ring buffer that is claimed": (RING, ["btf", "ringbuf"], ""),
    "a ring buffer where 5.11 is claimed": (RING, ["current_task_btf"], ""),
    "CO-RE without btf": (body(TASK + "\treturn BPF_CORE_READ(task, pid);"), [], "KM502"),
    "a feature test without btf": (body("\treturn bpf_core_type_exists(struct task_struct);"), [], "KM502"),
    "a relocated record without btf": (body("\treturn ctx->id;", "tracepoint/raw_syscalls/sys_enter", "struct trace_event_raw_sys_enter *ctx"), [], "KM502"),
    "the cgroup id by cgroup_v2": (body("\treturn bpf_get_current_cgroup_id() != 0;"), ["cgroup_v2"], "KM504"),
    "the cgroup id by its own feature": (body("\treturn bpf_get_current_cgroup_id() != 0;"), ["cgroup_id_helper"], ""),
    "the typed task on 5.4": (body("\treturn bpf_get_current_task_btf() != 0;"), ["btf"], "KM504"),
    "the typed task, tested": (
        body("\tif (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf))\n\t\treturn bpf_get_current_task_btf() != 0;"), ["btf"], "",
    ),
    "bpf_probe_read_kernel on 4.14, which libbpf rewrites": (body(TASK + "\tlong x = 0;\n\tbpf_probe_read_kernel(&x, sizeof(x), task);\n\treturn x;"), [], ""),
    "a raw tracepoint on 4.14": (body("", "raw_tp/sched_switch", "void *ctx"), [], "KM504"),
    "fentry by btf alone": (body("", "fentry/do_exit", "void *ctx"), ["btf"], "KM504"),
    "fentry": (body("", "fentry/do_exit", "void *ctx"), ["fentry"], ""),
    "LSM by btf alone": (body("", "lsm/file_open", "void *ctx"), ["btf"], "KM504"),
    "hard-coded offset without btf": (body(TASK + "\tint pid = 0;\n\tbpf_probe_read(&pid, 4, (void *)task + 1234);"), ["perf_buffer"], ""),
    "task storage on 5.8": (RING.replace("RINGBUF", "TASK_STORAGE").replace("\t__uint(max_entries, 262144);\n", ""), ["btf", "ringbuf"], "KM504"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name: str, tmp_path: Path) -> None:
    text, needs, wanted = CLAIMS[name]
    path = tmp_path / "sample.bpf.c"
    path.write_text(samples.whole(text))
    (tmp_path / "collector.toml").write_text(
        samples.manifest(needs, program='[[program]]\nname = "sample"\nhook = "kprobe/do_exit"\n')
    )
    assert found(path) == wanted.split()


def test_a_program_for_one_arch_by_the_manifest_may_use_what_only_that_has(tmp_path: Path) -> None:
    path = tmp_path / "sample.bpf.c"
    path.write_text(samples.whole(body("", "tracepoint/syscalls/sys_enter_open", "void *ctx")))
    program = '[[program]]\nname = "sample"\nhook = "tracepoint/syscalls/sys_enter_open"\n'
    (tmp_path / "collector.toml").write_text(samples.manifest(["btf"], program=program))
    assert found(path) == ["KM403"]
    (tmp_path / "collector.toml").write_text(samples.manifest(["btf"], program=program + 'arches = ["x86_64"]\n'))
    assert found(path) == []


def test_the_other_archs_branch_is_linted_too(tmp_path: Path) -> None:
    path = tmp_path / "sample.bpf.c"
    text = "#ifdef __TARGET_ARCH_x86\n#define X 1\n#elif defined(__TARGET_ARCH_arm64)\nstatic __always_inline int f(struct task_struct *task)\n{\n\treturn *(int *)((char *)task + 8);\n}\n#endif\n"
    path.write_text(samples.whole(text))
    assert found(path) == ["KM202"]


SOUND = {
    # what comes close to a rule, and is right
    "a maximum in a global": "static __u64 most;\n" + body("\t__u64 now = bpf_ktime_get_ns();\n\tif (now > most)\n\t\tmost = now;"),
    "the first time in a global": "static __u64 first;\n" + body("\tif (!first)\n\t\tfirst = bpf_ktime_get_ns();"),
    "an offset into a packet": body(
        "\tstruct sk_buff *skb = (void *)PT_REGS_PARM1(ctx);\n\tstruct iphdr *ip = (void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header));\n"
        "\t__u16 port = 0;\n\tif (bpf_probe_read_kernel(&port, sizeof(port), (void *)ip + 20))\n\t\treturn 0;\n\treturn port;"
    ),
    "an offset into bytes that a structure points to": body(
        "\tstruct sk_buff *skb = (void *)PT_REGS_PARM1(ctx);\n\tunsigned char *head = BPF_CORE_READ(skb, head);\n\t__u16 port = 0;\n"
        "\tif (bpf_probe_read_kernel(&port, sizeof(port), head + 20))\n\t\treturn 0;\n\treturn port;"
    ),
    "a new form, with a ring buffer": RING + body(TASK + "\treturn BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id) != 0;"),
    "a block of __builtin_preserve_access_index": body(
        TASK + "\tpid_t pid = 0;\n\tbpf_probe_read_kernel(&pid, sizeof(pid), __builtin_preserve_access_index(&task->pid));\n\treturn pid;"
    ),
    "a callback": "struct state { int sum; };\nstatic long add(__u32 index, void *data)\n{\n\tstruct state *state = data;\n\tstate->sum += index;\n\treturn 0;\n}\n"
    + body("\tstruct state state = {};\n\tbpf_loop(10, add, &state, 0);\n\treturn state.sum;"),
    "sizeof and typeof": body(TASK + "\ttypeof(task->pid) pid = 0;\n\treturn sizeof(task->comm) + pid + (__builtin_offsetof(struct task_struct, pid) > 0);"),
    "an own structure behind a map": (
        'struct state {\n\tstruct state *next;\n\tint value;\n};\nstruct {\n\t__uint(type, BPF_MAP_TYPE_ARRAY);\n\t__uint(max_entries, 1);\n\t__type(key, __u32);\n'
        '\t__type(value, struct state);\n} states SEC(".maps");\n'
        + body("\t__u32 zero = 0;\n\tstruct state *state = bpf_map_lookup_elem(&states, &zero);\n\treturn state ? state->value : 0;")
    ),
    "a bare version section": '__u32 _version SEC("version") = 264721;\n',
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_no_finding(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sample.bpf.c"
    path.write_text(samples.whole(SOUND[name]))
    samples.compile_c(path, tmp_path / "sample.o", "-Wno-unused")
    assert found(path) == []


STYLES = sorted(Path(__file__).with_name("styles").glob("*.bpf.c"))


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name.split(".")[0])
def test_correct_programs_in_other_styles_compile_and_give_no_finding(path: Path, tmp_path: Path) -> None:
    samples.compile_c(path, tmp_path / "out.o", "-idirafter", "/usr/include/x86_64-linux-gnu")
    report = lint([path], OPTIONS)
    assert not report.findings, [f"{f.code} {f.place.line}: {f.message}" for f in report.findings]


def test_there_are_twenty_of_them() -> None:
    assert len(STYLES) >= 20


def test_the_reference_collectors_and_the_examples_are_clean() -> None:
    collectors = samples.BPF_COMMON.parent
    report = lint([collectors, collectors.parent / "examples"])
    assert not report.findings, [f"{f.place.file}:{f.place.line} {f.code} {f.message}" for f in report.findings]
    assert report.files > 30
    assert not report.errors
