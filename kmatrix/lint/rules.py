"""Every rule of `kmatrix lint` as data: its code, what it is for, the kernel's evidence, a wrong and a right example.

Codes are stable: a rule that goes away leaves a gap, and no code is used twice. `kmatrix lint --explain KM201` prints an entry, docs/lint.md lists them all, and
the tests lint every example: the wrong one must give its code, the right one nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]
Language = Literal["c", "go"]


@dataclass(frozen=True)
class Rule:
    """One thing that a collector must do, or must not."""

    code: str
    name: str
    summary: str
    why: str
    evidence: str
    """What shows it: a kernel it was seen on, a test or cell of this repository, or the document that says so."""
    wrong: str
    right: str
    level: Level = "error"
    """`error` does not work on some kernel or arch that is claimed; `warning` works, and says less or other than its author thinks."""
    fixable: bool = False
    """Whether `--fix` can mend (some of) its findings."""
    language: Language = "c"
    needs: tuple[str, ...] = ("btf", "ringbuf")
    """What the variant of the examples claims: its `needs` in collector.toml."""


GROUPS: Mapping[str, str] = {
    "KM0": "the lint itself",
    "KM1": "headers and structure",
    "KM2": "reading kernel memory",
    "KM3": "features and compatibility",
    "KM4": "architectures",
    "KM5": "what a variant claims",
    "KM6": "generate.go",
    "KM7": "compiled objects",
}

_RULES: tuple[Rule, ...] = (
    # --- the lint itself ---------------------------------------------------------------------------------------------------------
    Rule(
        "KM001",
        "unreadable",
        "a file could not be read as what it is",
        "Where clang cannot make sense of a source, the rules that need its types see nothing there: silence would not mean that all is well. "
        "Mend what clang names; a missing header is found with -I DIR (the -I of a generate.go's bpf2go line are known).",
        "clang's own first error.",
        wrong='#include "not_generated_yet.h"\n\nint f(struct task_struct *task)\n{\n\treturn task->pid\n}\n',
        right="struct task_struct;\n\nint f(struct task_struct *task);\n",
    ),
    Rule(
        "KM002",
        "noqa-without-reason",
        "a suppression does not say why",
        "A finding that is wrong here has a reason, and the next reader needs it more than the lint does. "
        "A suppression without one, or with an unknown code, suppresses nothing.",
        "docs/lint.md, Suppressing a finding.",
        wrong="int f(void); /* kmatrix: noqa KM201 */\n",
        right='__u32 version SEC("version") = 0; /* the form is: kmatrix, a colon, noqa, the codes, a colon, the reason */\n',
        level="warning",
    ),
    Rule(
        "KM003",
        "unused-noqa",
        "a suppression suppresses nothing",
        "What it was written for is gone; the next real finding on that line would go unseen. Remove it.",
        "docs/lint.md, Suppressing a finding.",
        wrong="int f(void); /* kmatrix: noqa KM201: was needed once */\n",
        right="int f(void);\n",
        level="warning",
        fixable=True,
    ),
    # --- headers and structure ---------------------------------------------------------------------------------------------------
    Rule(
        "KM101",
        "system-header",
        "a header of the host's C library, or of one kernel's inside, in BPF code",
        "The C library's headers are the build host's and need its arch (clang -target bpf does not even find gnu/stubs-32.h); a kernel's internal headers are "
        "one kernel's, and what is read through them has that kernel's offsets. Kernel types come from vmlinux_minimal.h (or vmlinux.h), and the interface "
        "headers that user space shares with the kernel (<linux/bpf.h>, <linux/if_ether.h>…) are fine.",
        "Standard, Required Headers. Struct layouts differ between the kernels of the matrix: tests/lint/test_kernel_facts.py reads their BTF.",
        wrong="#include <sys/types.h>\n#include <linux/sched.h>\n#include <linux/ptrace.h>\n",
        right='#include "vmlinux_minimal.h"\n#include <linux/if_ether.h>\n',
    ),
    Rule(
        "KM102",
        "missing-header",
        "a macro or function is used without its header",
        "Without the header a macro is an implicit function: clang says so as a warning or an error, and what comes out is not a CO-RE read.",
        "clang 14: `BPF_CORE_READ` without <bpf/bpf_core_read.h> does not link.",
        wrong='#include "vmlinux_minimal.h"\n#include <bpf/bpf_helpers.h>\n\nSEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n'
        "\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n\t(void)ctx;\n\treturn BPF_CORE_READ(task, tgid);\n}\n\n"
        'char LICENSE[] SEC("license") = "GPL";\n',
        right='#include "vmlinux_minimal.h"\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_core_read.h>\n',
        fixable=True,
    ),
    Rule(
        "KM103",
        "no-license",
        "programs, and no license section",
        "The helpers that tracing needs (bpf_probe_read*, bpf_get_current_task, bpf_perf_event_output in tracing…) are for GPL-compatible programs only: without "
        'char LICENSE[] SEC("license") = "Dual BSD/GPL"; the verifier refuses the first call.',
        'Verifier: "cannot call GPL-restricted function from non-GPL compatible program" (kernel/bpf/verifier.c); tests/lint/test_kernel_facts.py.',
        wrong='SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_task() != 0;\n}\n',
        right='SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_task() != 0;\n}\n\n'
        'char LICENSE[] SEC("license") = "GPL";\n',
    ),
    Rule(
        "KM104",
        "redefines-libbpf",
        "defines a name that libbpf's headers define",
        "bpf_ntohs and its like are macros of <bpf/bpf_endian.h>. A function or macro of that name beside it does not compile, or only in one order of includes. "
        "Include libbpf's header, or guard the definition by #ifndef.",
        "tests/headers/test_compiling.py::test_in_any_order_of_includes; the standard's helpers.h after <bpf/bpf_endian.h> does not compile (clang 14).",
        wrong='#include "vmlinux_minimal.h"\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_endian.h>\n\n#define bpf_ntohs(x) __builtin_bswap16(x)\n',
        right='#include "vmlinux_minimal.h"\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_endian.h>\n\n'
        "static __always_inline __u16 port(__be16 wire)\n{\n\treturn bpf_ntohs(wire);\n}\n",
    ),
    Rule(
        "KM105",
        "legacy-map",
        'a map in SEC("maps")',
        'libbpf 1.0 dropped struct bpf_map_def and SEC("maps"): the object is refused. Define the map with __uint and __type in SEC(".maps").',
        "libbpf 1.1: \"legacy map definitions in 'maps' section are not supported\"; the guest's libbpf is 1.x.",
        wrong="struct bpf_map_def {\n\tunsigned int type, key_size, value_size, max_entries;\n};\n\n"
        'struct bpf_map_def counts SEC("maps") = { BPF_MAP_TYPE_HASH, 4, 8, 64 };\n',
        right="struct {\n\t__uint(type, BPF_MAP_TYPE_HASH);\n\t__uint(max_entries, 64);\n\t__type(key, __u32);\n\t__type(value, __u64);\n"
        '} counts SEC(".maps");\n',
    ),
    Rule(
        "KM106",
        "section-name",
        "a section name that libbpf 1.x does not take",
        "libbpf 1.0 and later wants the whole name of a kind of program: classifier/egress, socket1 or kprobe_tcp_connect leave the program without a type, and "
        "the object is refused. Old libbpf, iproute2 and some releases of cilium/ebpf go by what the name begins with, and so does kmatrix. Write a name that all take: a "
        "function's name tells programs of one kind apart, not the section's.",
        "tests/guest/test_sections.py: libbpf 1.5 gives such programs no type.",
        wrong='SEC("socket1")\nint watch(struct __sk_buff *skb)\n{\n\t(void)skb;\n\treturn 0;\n}\n',
        right='SEC("socket")\nint watch(struct __sk_buff *skb)\n{\n\t(void)skb;\n\treturn 0;\n}\n',
        level="warning",
    ),
    # --- reading kernel memory ---------------------------------------------------------------------------------------------------
    Rule(
        "KM201",
        "direct-access",
        "a kernel structure is read through a pointer that the verifier does not trust",
        "A pointer from bpf_get_current_task(), a kprobe's argument, a tracepoint's record or an earlier read is a mere number to the verifier: following it is "
        "refused. BPF_CORE_READ reads through it. Direct access is right, and not reported, where the pointer is typed by the kernel's BTF (tp_btf, fentry, fexit, "
        "lsm, iterators, struct_ops, bpf_get_current_task_btf(), kfuncs), in the program's own context, and in the program's own memory.",
        "Verifier: \"R1 invalid mem access 'scalar'\" ('inv' before 5.18); both sides in tests/lint/test_kernel_facts.py.",
        wrong='SEC("kprobe/do_exit")\nint BPF_KPROBE(on_exit, long code)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n'
        '\tpid_t pid = task->pid;\n\n\tbpf_printk("%d %ld", pid, code);\n\treturn 0;\n}\n',
        right='SEC("kprobe/do_exit")\nint BPF_KPROBE(on_exit, long code)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n'
        '\tpid_t pid = BPF_CORE_READ(task, pid);\n\n\tbpf_printk("%d %ld", pid, code);\n\treturn 0;\n}\n\n'
        'SEC("tp_btf/sched_process_exit")\nint BPF_PROG(on_exit_btf, struct task_struct *task)\n{\n\tbpf_printk("%d", task->pid);\n\treturn 0;\n}\n',
        fixable=True,
    ),
    Rule(
        "KM202",
        "hard-coded-offset",
        "a kernel structure is read at a number of bytes",
        "The offset is one kernel's and one configuration's; elsewhere the same bytes are another field, and wrong data comes out without an error. Name the field and "
        "let CO-RE find it. A variant without BTF has no other way than offsets, and is not reported.",
        "tests/lint/test_kernel_facts.py: offsets of the same field in the matrix's kernels differ.",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tvoid *task = (void *)bpf_get_current_task();\n\tint pid = 0;\n\n'
        "\t(void)ctx;\n\tbpf_probe_read_kernel(&pid, sizeof(pid), (char *)task + 1234);\n\treturn pid;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n'
        "\t(void)ctx;\n\treturn BPF_CORE_READ(task, pid);\n}\n",
    ),
    Rule(
        "KM203",
        "unrelocated-struct",
        "a kernel structure declared without preserve_access_index is read at compiled-in offsets",
        "A kernel type that is written down by hand has the offsets it was written with. With __attribute__((preserve_access_index)) on it, or through BPF_CORE_READ, "
        "each access is a relocation that the loader resolves with the running kernel's BTF.",
        "clang -target bpf: no .BTF.ext relocation for the access without the attribute (tests/lint).",
        wrong="struct task_struct {\n\tint unknown[300];\n\tint tgid;\n};\n\n"
        'SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tint tgid = 0;\n\n'
        "\t(void)ctx;\n\tbpf_probe_read_kernel(&tgid, sizeof(tgid), &task->tgid);\n\treturn tgid;\n}\n",
        right="struct task_struct {\n\tint tgid;\n} __attribute__((preserve_access_index));\n\n"
        'SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tint tgid = 0;\n\n'
        "\t(void)ctx;\n\tbpf_probe_read_kernel(&tgid, sizeof(tgid), &task->tgid);\n\treturn tgid;\n}\n",
    ),
    Rule(
        "KM204",
        "legacy-probe-read",
        "bpf_probe_read of a field, in a variant that has BTF",
        "bpf_probe_read does not say whose memory is meant. BPF_CORE_READ_INTO(&value, src, field) does, follows several hops, and relocates the field even where its "
        "structure lacks the attribute. Variants without BTF need bpf_probe_read, and are not reported.",
        "Standard, Migration Guidelines. bpf_probe_read_kernel is 5.5; libbpf writes bpf_probe_read in its place below.",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tint tgid = 0;\n\n'
        "\t(void)ctx;\n\tbpf_probe_read(&tgid, sizeof(tgid), &task->tgid);\n\treturn tgid;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tint tgid = 0;\n\n'
        "\t(void)ctx;\n\tBPF_CORE_READ_INTO(&tgid, task, tgid);\n\treturn tgid;\n}\n",
        level="warning",
        fixable=True,
    ),
    Rule(
        "KM205",
        "unchecked-read",
        "a read's result is dropped, and its destination was never given a value",
        "A failed read leaves zeroes: pid 0, address 0.0.0.0, which nobody can tell from a real one. Check the result, or initialise the variable and so say what a failed "
        "read means. BPF_CORE_READ_INTO's result is that of the last hop; a NULL on the way makes the last one fail too, as it then reads near address 0.",
        "bpf_probe_read_kernel_common() zeroes the destination on failure (kernel/trace/bpf_trace.c).",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tpid_t tgid;\n\n'
        "\t(void)ctx;\n\tBPF_CORE_READ_INTO(&tgid, task, real_parent, tgid);\n\treturn tgid;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tpid_t tgid;\n\n'
        "\t(void)ctx;\n\tif (BPF_CORE_READ_INTO(&tgid, task, real_parent, tgid))\n\t\treturn 0;\n\treturn tgid;\n}\n",
        level="warning",
    ),
    Rule(
        "KM206",
        "needless-guard",
        "a field-existence test of a field that every supported kernel has",
        "bpf_core_field_exists(task->pid) is 1 wherever there is BTF, and where there is none the loader has refused the object: the other branch never runs. Guard "
        "only what differs between supported kernels, so that a guard tells its reader something.",
        "tests/lint/test_kernel_facts.py looks the field up in the BTF of every kernel of the matrix that is here.",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n'
        "\t(void)ctx;\n\tif (bpf_core_field_exists(task->pid))\n\t\treturn BPF_CORE_READ(task, pid);\n\treturn 0;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n'
        "\t(void)ctx;\n\treturn BPF_CORE_READ(task, pid);\n}\n",
        level="warning",
    ),
    Rule(
        "KM207",
        "missing-guard",
        "a field that supported kernels do not all have is read without a test",
        "Where the field is not there, libbpf poisons the instruction and the verifier refuses the whole program. Test it with bpf_core_field_exists() and read the other "
        "kernels' form through a second flavour of the type (struct task_struct___new).",
        "tests/lint/test_kernel_facts.py: task_struct.state is in 5.10's BTF and not in 6.1's; the cell of \"the new layout of kernfs_node on an old kernel\" is red on 5.4 (tests/collectors/test_traps.py).",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n'
        "\t(void)ctx;\n\treturn BPF_CORE_READ(task, __state);\n}\n",
        right="struct task_struct___before_5_14 {\n\tlong state;\n} __attribute__((preserve_access_index));\n\n"
        'SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n'
        "\tstruct task_struct___before_5_14 *old = (void *)task;\n\n"
        "\t(void)ctx;\n\tif (bpf_core_field_exists(task->__state))\n\t\treturn BPF_CORE_READ(task, __state);\n\treturn BPF_CORE_READ(old, state);\n}\n",
        needs=("btf",),
    ),
    Rule(
        "KM208",
        "no-such-field",
        "a field that no supported kernel with BTF has",
        "Its relocation is poisoned on every kernel. kernfs_node.ino is gone since 4.14: the id of a task's cgroup is dfl_cgrp->kn->id, a union until 5.4 and a u64 since "
        "5.5 (bpf_common's safe_cgroup_id_extraction reads both).",
        'tests/lint/test_kernel_facts.py: the field is in no kernel\'s BTF, and 6.1 refuses the wrong example ("invalid CO-RE relocation").',
        wrong="struct kernfs_node___old {\n\tunsigned int ino;\n} __attribute__((preserve_access_index));\n\n"
        'SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n'
        "\tstruct kernfs_node___old *node = (void *)BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);\n\n\t(void)ctx;\n\treturn BPF_CORE_READ(node, ino);\n}\n",
        right='SEC("tracepoint/sched/sched_process_exec")\nint on_exec(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_cgroup_id() != 0;\n}\n',
    ),
    Rule(
        "KM209",
        "not-the-v2-cgroup",
        "a cgroup is taken from subsys[]",
        "subsys[i] is the state of one controller, in whatever hierarchy that is mounted: on a machine with v1 mounts it is not the cgroup that "
        "bpf_get_current_cgroup_id() and the v2 directory mean. css_set.dfl_cgrp is.",
        "tests/headers/test_on_kernels.py::test_the_cgroup_id_over_both_layouts: dfl_cgrp's id is the v2 directory's on 5.4 and later; cells execexit[…].",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n'
        "\t(void)ctx;\n\treturn BPF_CORE_READ(task, cgroups, subsys[0], cgroup) != 0;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n'
        "\t(void)ctx;\n\treturn BPF_CORE_READ(task, cgroups, dfl_cgrp) != 0;\n}\n",
    ),
    Rule(
        "KM210",
        "invented-id",
        "a kernel pointer is made into an identifier",
        "A hashed or shifted kernel address identifies nothing outside the kernel, differs at every boot and gives the kernel's layout away. Where the kernel cannot tell, "
        "the value is absent (0), and the manifest says so (degradable, absent).",
        'tests/headers/test_on_kernels.py::test_the_cgroup_id_without_btf; the cell of "a cgroup id that is invented" is wrong-data on 4.14 (tests/collectors/test_traps.py).',
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n'
        "\tstruct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);\n\t__u64 cgroup_id = (__u64)cgroup ^ ((__u64)cgroup >> 32);\n\n"
        "\t(void)ctx;\n\treturn cgroup_id != 0;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\t__u64 cgroup_id = bpf_get_current_cgroup_id();\n\n\t(void)ctx;\n\treturn cgroup_id != 0;\n}\n',
    ),
    # --- features and compatibility ----------------------------------------------------------------------------------------------
    Rule(
        "KM301",
        "ifdef-enumerator",
        "#ifdef on an enumerator",
        "BPF_FUNC_ringbuf_reserve and BPF_MAP_TYPE_RINGBUF are enumerators: the preprocessor never knows them, so the branch is never taken, on any kernel. The program "
        "then loads, attaches and emits nothing. Ask the kernel: bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ringbuf_reserve).",
        'The cell of "#ifdef of an enumerator" is `silent` on 6.1 (tests/collectors/test_traps.py).',
        wrong="#ifdef BPF_FUNC_ringbuf_reserve\n#define HAS_RINGBUF 1\n#else\n#define HAS_RINGBUF 0\n#endif\n",
        right="#define HAS_RINGBUF bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ringbuf_reserve)\n",
    ),
    Rule(
        "KM302",
        "ifdef-core-macro",
        "#ifdef on a CO-RE macro, as a test of the kernel",
        "bpf_core_field_exists is a macro of the header, defined on every kernel: the test is always true, and the other branch compiles to nothing. Whether a kernel has "
        "BTF cannot be tested in a program with relocations: without BTF the loader refuses the object. The fallback is a variant of its own.",
        "tests/headers/test_on_kernels.py::test_an_object_that_tests_for_features_does_not_load_without_btf.",
        wrong="#ifdef bpf_core_field_exists\n#define HAS_BTF 1\n#else\n#define HAS_BTF 0\n#endif\n",
        right="/* openat_plain.bpf.c: no relocation, no global data; collector.toml names it as the variant that does not need btf */\n",
    ),
    Rule(
        "KM303",
        "fallback-in-the-same-object",
        "a branch for kernels without BTF, in an object with CO-RE relocations",
        "On a kernel without BTF the loader refuses the object as a whole, so the branch never runs. Put the fallback in an object of its own, without a relocation, and "
        "name it in collector.toml as a variant that does not need btf.",
        "tests/headers/test_on_kernels.py::test_an_object_that_tests_for_features_does_not_load_without_btf; cells openat[4.14-…] are fallback by another object.",
        wrong="struct features {\n\tint has_btf;\n};\n\nstatic struct features g_core_features;\n\n"
        'SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\tpid_t pid = 0;\n\n'
        "\t(void)ctx;\n\tif (g_core_features.has_btf)\n\t\tBPF_CORE_READ_INTO(&pid, task, pid);\n"
        "\telse\n\t\tbpf_probe_read_kernel(&pid, sizeof(pid), &task->pid);\n\treturn pid;\n}\n",
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n\t(void)ctx;\n\treturn BPF_CORE_READ(task, pid);\n}\n',
    ),
    Rule(
        "KM304",
        "require-without-init",
        "REQUIRE_CORE_FEATURES without INIT_CORE_COMPAT before it",
        "INIT_CORE_COMPAT() (or INIT_CORE_COMPAT_FOR(type)) stands first in the function: it says which value the refusal returns.",
        "collectors/bpf_common/core_compat.h; tests/headers/test_compiling.py::test_what_is_wrong_does_not_compile.",
        wrong='SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\tREQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);\n\treturn 0;\n}\n',
        right='SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\tINIT_CORE_COMPAT();\n'
        "\tREQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);\n\treturn 0;\n}\n",
    ),
    Rule(
        "KM305",
        "refusal-cuts-the-network",
        "a network program refuses with a value that is not neutral",
        "0 means drop in a socket filter and in cgroup_skb, and aborted in XDP: a collector that refuses would cut the network. INIT_CORE_COMPAT_FOR(xdp), "
        "…FOR(cgroup_skb), …FOR(socket_filter) name the type, and the refusal lets traffic through.",
        "tests/headers/test_on_kernels.py::test_zero_would_have_cut_the_network and ::test_a_refusal_lets_traffic_through.",
        wrong='SEC("xdp")\nint watch(struct xdp_md *ctx)\n{\n\t(void)ctx;\n\tINIT_CORE_COMPAT();\n\tREQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);\n\treturn 2;\n}\n',
        right='SEC("xdp")\nint watch(struct xdp_md *ctx)\n{\n\t(void)ctx;\n\tINIT_CORE_COMPAT_FOR(xdp);\n\tREQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);\n\treturn 2;\n}\n',
    ),
    Rule(
        "KM306",
        "features-at-first-event",
        "a global is filled in at the first event",
        "Programs run on all CPUs at once: another one sees the flag set before the values are, or both fill in. And it costs a test per event. Let the loader decide "
        "before the program runs: CO-RE tests (bpf_core_enum_value_exists…), or const volatile configuration.",
        "The BPF memory model gives plain stores no order between CPUs (arm64 reorders them).",
        wrong="struct features {\n\tint ready;\n\tint has_ringbuf;\n};\n\nstatic struct features features;\n\n"
        'SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\tif (!features.ready) {\n\t\tfeatures.has_ringbuf = 1;\n'
        "\t\tfeatures.ready = 1;\n\t}\n\treturn features.has_ringbuf;\n}\n",
        right='SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ringbuf_reserve);\n}\n',
    ),
    Rule(
        "KM307",
        "version-is-not-a-feature",
        "the kernel's version decides what it can do",
        "Vendors backport and switch off: RHEL's 4.18 has much of 5.x, and 5.4 with and without BTF are different targets. LINUX_VERSION_CODE is worse: the build host's "
        "version. Ask for the thing itself: bpf_core_field_exists, bpf_core_type_exists, bpf_core_enum_value_exists; or a variant with needs.",
        "kernels.toml declares features by kernel, and the guest's probe compares (a difference is the failure `table`).",
        wrong="extern int LINUX_KERNEL_VERSION __kconfig;\n\n"
        'SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\tif (LINUX_KERNEL_VERSION >= KERNEL_VERSION(5, 8, 0))\n\t\treturn 1;\n\treturn 0;\n}\n',
        right='SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n'
        "\tif (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ringbuf_reserve))\n\t\treturn 1;\n\treturn 0;\n}\n",
        level="warning",
    ),
    # --- architectures -----------------------------------------------------------------------------------------------------------
    Rule(
        "KM401",
        "register-by-name",
        "a register by one arch's name, outside code for that arch",
        "ctx->di exists on x86_64 only; on arm64 it is regs[0]. PT_REGS_PARM1_CORE(ctx), BPF_KPROBE's arguments and bpf_common's get_arg0(ctx) mean the same on both; "
        "else stand inside #ifdef ARCH_X86_64 / ARCH_ARM64 (or __TARGET_ARCH_…) with both sides there.",
        'tests/headers/test_on_kernels.py::test_arguments_and_result; the cell of "the place that x86_64 has its first argument in" is wrong-data on arm64 (tests/collectors/test_traps.py).',
        wrong='SEC("kprobe/tcp_v4_connect")\nint on_connect(struct pt_regs *ctx)\n{\n\treturn ctx->di != 0;\n}\n',
        right='SEC("kprobe/tcp_v4_connect")\nint on_connect(struct pt_regs *ctx)\n{\n\treturn PT_REGS_PARM1_CORE(ctx) != 0;\n}\n',
    ),
    Rule(
        "KM402",
        "userspace-register-name",
        "struct pt_regs with user space's register names",
        "User space's <asm/ptrace.h> says rdi and rax, the kernel's BTF says di and ax: a relocation against rdi is poisoned, so x86_64 refuses the program and arm64, "
        "from the same C, does not. Kernel names; on arm64 the registers are read through struct user_pt_regs.",
        "tests/lint/test_kernel_facts.py: pt_regs in the BTF of each arch; the cell is red on x86_64 and green on arm64 (tests/collectors/test_traps.py).",
        wrong="struct pt_regs {\n\tunsigned long rdi;\n\tunsigned long rax;\n} __attribute__((preserve_access_index));\n",
        right="struct pt_regs {\n\tunsigned long di;\n\tunsigned long ax;\n} __attribute__((preserve_access_index));\n",
    ),
    Rule(
        "KM403",
        "x86-only-tracepoint",
        "a system call's tracepoint that arm64 does not have",
        "arm64 has only the generic system calls: no open, fork, poll, stat…; their tracepoints are not there, and the collector does not attach. Use the call that both have "
        '(openat, clone, ppoll, newfstatat) or another hook (sched_process_fork), or say arches = ["x86_64"] on the program in collector.toml.',
        "events/syscalls of booted 6.1 guests, x86_64 against arm64 (tests/lint/test_kernel_facts.py); the cell of openat with open is `attach` on arm64 (tests/collectors/test_traps.py).",
        wrong='SEC("tracepoint/syscalls/sys_enter_open")\nint on_open(void *ctx)\n{\n\t(void)ctx;\n\treturn 0;\n}\n',
        right='SEC("tracepoint/syscalls/sys_enter_openat")\nint on_openat(void *ctx)\n{\n\t(void)ctx;\n\treturn 0;\n}\n',
    ),
    Rule(
        "KM404",
        "syscall-symbol",
        "a kprobe on a system call's symbol",
        "The symbol of a system call differs by release and arch: sys_getpid until 4.16, __x64_sys_getpid or __arm64_sys_getpid since 4.17 (arm64: 4.19), and since then its one "
        'argument is the caller\'s pt_regs. SEC("ksyscall/getpid") lets libbpf find the name; a tracepoint (syscalls/sys_enter_getpid) needs none.',
        "/proc/kallsyms of booted 4.14 and 6.1 guests of both arches (tests/lint/test_kernel_facts.py).",
        wrong='SEC("kprobe/__x64_sys_getpid")\nint on_getpid(void *ctx)\n{\n\t(void)ctx;\n\treturn 0;\n}\n',
        right='SEC("ksyscall/getpid")\nint on_getpid(void *ctx)\n{\n\t(void)ctx;\n\treturn 0;\n}\n',
    ),
    Rule(
        "KM405",
        "ringbuf-size",
        "a ring buffer whose size is not a power of two and a multiple of 64 KiB",
        "max_entries must be a power of two and a multiple of the page, which is 4, 16 or 64 KiB on arm64: 4096 works on x86_64 and is EINVAL on an arm64 kernel with large "
        "pages, unless the loader rounds up.",
        "kernel/bpf/ringbuf.c, ringbuf_map_alloc(): is_power_of_2 and PAGE_ALIGNED. libbpf 1.x rounds up by itself, other loaders do not; no kernel of the matrix has larger pages.",
        wrong='struct {\n\t__uint(type, BPF_MAP_TYPE_RINGBUF);\n\t__uint(max_entries, 4096);\n} events SEC(".maps");\n',
        right='struct {\n\t__uint(type, BPF_MAP_TYPE_RINGBUF);\n\t__uint(max_entries, 256 * 1024);\n} events SEC(".maps");\n',
        level="warning",
    ),
    Rule(
        "KM406",
        "host-arch-macro",
        "__x86_64__ or __aarch64__ in BPF code",
        "clang -target bpf defines neither: BPF is the arch, so the branch is never taken. The arch of the kernel is __TARGET_ARCH_x86 or __TARGET_ARCH_arm64, which bpf2go and the "
        "Makefile define, and bpf_common's ARCH_X86_64 and ARCH_ARM64.",
        "clang -target bpf -dM -E (tests/lint).",
        wrong="#ifdef __x86_64__\n#define RED_ZONE 128\n#else\n#define RED_ZONE 0\n#endif\n",
        right="#if defined(__TARGET_ARCH_x86)\n#define RED_ZONE 128\n#elif defined(__TARGET_ARCH_arm64)\n#define RED_ZONE 0\n#endif\n",
    ),
    Rule(
        "KM407",
        "one-arch",
        "code for one arch, and nothing for the other",
        "Both arches are built from the same source. Give the other one its branch, an #else, or an #error that says it is not supported.",
        "Standard, Architecture Neutral; every collector here has a cell for both arches.",
        wrong="#ifdef __TARGET_ARCH_x86\nstatic __always_inline unsigned long first(struct pt_regs *ctx)\n{\n\treturn BPF_CORE_READ(ctx, di);\n}\n#endif\n",
        right="static __always_inline unsigned long first(struct pt_regs *ctx)\n{\n\treturn PT_REGS_PARM1_CORE(ctx);\n}\n",
    ),
    # --- what a variant claims ---------------------------------------------------------------------------------------------------
    Rule(
        "KM501",
        "global-data",
        "global variables or constants, in a variant that claims kernels before 5.2",
        ".data, .bss and .rodata are maps that need 5.2: on 4.14 the object is not loaded at all. Format strings of bpf_printk, string literals and tables of constants are "
        ".rodata. Keep state in a map, build constants on the stack, or add global_data to the variant's needs.",
        "A 4.14 guest refuses the wrong example (tests/lint/test_kernel_facts.py); feature global_data, probed in every guest.",
        wrong="static __u64 count;\n\n"
        'SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t(void)ctx;\n\tcount++;\n\treturn 0;\n}\n',
        right='struct {\n\t__uint(type, BPF_MAP_TYPE_ARRAY);\n\t__uint(max_entries, 1);\n\t__type(key, __u32);\n\t__type(value, __u64);\n} counts SEC(".maps");\n\n'
        'SEC("tracepoint/sched/sched_switch")\nint handle(void *ctx)\n{\n\t__u32 zero = 0;\n\t__u64 *count = bpf_map_lookup_elem(&counts, &zero);\n\n'
        "\t(void)ctx;\n\tif (count)\n\t\t__sync_fetch_and_add(count, 1);\n\treturn 0;\n}\n",
        needs=("perf_buffer",),
    ),
    Rule(
        "KM502",
        "core-in-fallback",
        "a CO-RE relocation, in a variant that does not need btf",
        "Without BTF the loader refuses an object with relocations, the one kernel this variant is for. Leave the field out, use a helper or the tracepoint's record, or add btf to its needs.",
        "A 4.14 guest refuses the wrong example (tests/lint/test_kernel_facts.py).",
        wrong='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\tstruct task_struct *task = (void *)bpf_get_current_task();\n\n\t(void)ctx;\n\treturn BPF_CORE_READ(task, tgid);\n}\n',
        right='SEC("kprobe/do_exit")\nint on_exit(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_pid_tgid() >> 32;\n}\n',
        needs=("perf_buffer",),
    ),
    Rule(
        "KM503",
        "ringbuf-not-claimed",
        "a ring buffer map, in a variant that does not need ringbuf",
        "Maps are created before any program: where there is no ring buffer, creation is EINVAL and nothing is loaded, whatever the programs test. The variant without ring buffer "
        "must not have the map.",
        "A 5.4 guest: EINVAL at the map's creation (tests/lint/test_kernel_facts.py); cells openat[5.4-…] are partial by another object.",
        wrong='struct {\n\t__uint(type, BPF_MAP_TYPE_RINGBUF);\n\t__uint(max_entries, 256 * 1024);\n} events SEC(".maps");\n',
        right='struct {\n\t__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);\n\t__uint(key_size, sizeof(__u32));\n\t__uint(value_size, sizeof(__u32));\n} events SEC(".maps");\n',
        needs=("btf", "perf_buffer"),
    ),
    Rule(
        "KM504",
        "newer-than-claimed",
        "a helper, map, program type or attachment newer than the kernels that the variant claims",
        "A variant is expected to run on every kernel that has its needs. A helper that one of them lacks is EINVAL at load there, for the whole program. Add the feature to the variant's "
        "needs, test it (bpf_core_enum_value_exists), or do without. cgroup_v2 is not enough for bpf_get_current_cgroup_id(): the helper is 4.18, feature cgroup_id_helper.",
        "A 4.14 guest refuses the wrong example (tests/lint/test_kernel_facts.py); the releases are kmatrix/matrix/features.py's and kmatrix/guest/past.py's.",
        wrong='SEC("tracepoint/sched/sched_process_exec")\nint on_exec(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_cgroup_id() != 0;\n}\n',
        right='SEC("tracepoint/sched/sched_process_exec")\nint on_exec(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_pid_tgid() != 0;\n}\n',
        needs=("perf_buffer", "cgroup_v2"),
    ),
    # --- generate.go -------------------------------------------------------------------------------------------------------------
    Rule(
        "KM601",
        "one-target",
        "bpf2go without -target amd64,arm64",
        "Kprobe arguments and registers differ by arch, so one object does not serve both. With both targets bpf2go writes name_x86_bpfel.o and name_arm64_bpfel.o, and kmatrix finds them.",
        "Standard, Generate Commands. Without -target bpf2go builds bpfel and bpfeb, with no __TARGET_ARCH_….",
        wrong="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go program program.bpf.c -- -g -O2 -Wall -Wextra\n",
        right="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -g -O2 -Wall -Wextra\n",
        fixable=True,
        language="go",
    ),
    Rule(
        "KM602",
        "missing-flags",
        "bpf2go without -g -O2 -Wall -Wextra",
        "-g writes BTF, without which there is no CO-RE; -O2 is what the verifier is made for; the warnings find what a refused program would show later.",
        "Standard, Compilation Flags.",
        wrong="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -O2\n",
        right="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -g -O2 -Wall -Wextra\n",
        level="warning",
        fixable=True,
        language="go",
    ),
    Rule(
        "KM603",
        "target-as-clang-flag",
        "-target amd64,arm64 given to clang",
        "It is bpf2go's option and stands before the --; after it clang gets it, and knows no such target. clang's own is -target bpf, which bpf2go adds.",
        "clang 14: unknown target triple 'amd64,arm64'.",
        wrong="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go program program.bpf.c -- -g -O2 -Wall -Wextra -target amd64,arm64\n",
        right="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -g -O2 -Wall -Wextra\n",
        fixable=True,
        language="go",
    ),
    Rule(
        "KM604",
        "fixed-arch",
        "one __TARGET_ARCH_… for all targets",
        "bpf2go defines __TARGET_ARCH_x86 or __TARGET_ARCH_arm64 for each target by itself. Given by hand it holds for both: the arm64 object reads x86's registers.",
        "bpf2go's source passes -D__TARGET_ARCH_… per target; struct pt_regs differs (KM401).",
        wrong="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -g -O2 -Wall -Wextra -D__TARGET_ARCH_x86\n",
        right="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -g -O2 -Wall -Wextra\n",
        fixable=True,
        language="go",
    ),
    Rule(
        "KM605",
        "generates-nothing",
        "the source that bpf2go is to compile is not there",
        "`go generate` fails, and the objects in the tree are those of an older source.",
        "The file system.",
        wrong="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 gone ../bpf_src/gone.bpf.c -- -g -O2 -Wall -Wextra\n",
        right="package agent\n\n//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64,arm64 program program.bpf.c -- -g -O2 -Wall -Wextra\n",
        language="go",
    ),
    # --- compiled objects --------------------------------------------------------------------------------------------------------
    Rule(
        "KM701",
        "no-btf",
        "the object has no BTF",
        "Without -g clang writes no .BTF: no CO-RE, no map types, no field names for the loader. Compile with -g, and strip with llvm-strip -g, which keeps .BTF.",
        "Standard, Compilation Flags.",
        wrong="/* clang -target bpf -O2 -c program.bpf.c */\n",
        right="/* clang -target bpf -g -O2 -c program.bpf.c */\n",
    ),
    Rule(
        "KM702",
        "poisoned-relocation",
        "a relocation that no supported kernel resolves",
        'The object reads a field that the kernel of its arch does not have: libbpf poisons the instruction and the verifier refuses the program ("invalid CO-RE relocation").',
        "libbpf's log on 5.10 and 6.1; vmlinux BTF (tests/lint/test_kernel_facts.py).",
        wrong="/* pt_regs.rdi, kernfs_node.ino in .BTF.ext */\n",
        right="/* pt_regs.di, kernfs_node.id */\n",
    ),
    Rule(
        "KM703",
        "empty-program",
        "a program that only returns",
        "Its body was deleted by the compiler: a feature test that is constant (KM301), or a return too early. It loads, attaches, and emits nothing on every kernel.",
        "clang 14: REQUIRE_CORE_FEATURES by #ifdef; in a cell such a program is `silent`.",
        wrong="/* r0 = 0; exit */\n",
        right="/* whatever the source says */\n",
        level="warning",
    ),
    Rule(
        "KM704",
        "missing-object",
        "an object for one arch, and none for the other",
        "The variant claims both arches and one of them was not built. Build it, or say arches = [...] on the variant.",
        "kmatrix's cell for that arch is an input error.",
        wrong="/* build/program_x86_bpfel.o alone */\n",
        right="/* build/program_x86_bpfel.o and build/program_arm64_bpfel.o */\n",
    ),
    Rule(
        "KM705",
        "wrong-arch",
        "an object compiled for another arch than its name says",
        "program_arm64_bpfel.o that reads x86's registers was compiled with -D__TARGET_ARCH_x86: every register it reads on arm64 is poisoned.",
        "struct pt_regs in the object's BTF.",
        wrong="/* program_arm64_bpfel.o with pt_regs.di in .BTF.ext */\n",
        right="/* program_arm64_bpfel.o with user_pt_regs.regs */\n",
    ),
    Rule(
        "KM706",
        "old-verifier",
        "a loop, a call or a size that the verifier of a claimed kernel refuses",
        "Backward jumps need 5.3, calls between BPF functions 4.16, more than 4096 instructions 5.2. #pragma unroll, __always_inline and smaller programs, or the features bounded_loops, "
        "bpf2bpf, insns_1m in the variant's needs.",
        "Features bounded_loops, bpf2bpf and insns_1m, probed in every guest.",
        wrong="/* a variant without needs, whose object has a backward jump */\n",
        right="/* the same with #pragma unroll */\n",
    ),
)

RULES: Mapping[str, Rule] = {rule.code: rule for rule in _RULES}


def matching(patterns: Iterable[str]) -> frozenset[str]:
    """The codes that begin with one of `patterns` (KM2, KM201) or have it as their name (direct-access)."""
    wanted = tuple(pattern.strip() for pattern in patterns)
    return frozenset(code for code, rule in RULES.items() if any(code.startswith(w.upper()) or rule.name == w for w in wanted if w))
