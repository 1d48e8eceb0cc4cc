"""The rules about the lint itself (KM0), headers and structure (KM1), and reading kernel memory (KM2)."""

from __future__ import annotations

from kmatrix.lint.rules.rule import Rule

SOURCES: tuple[Rule, ...] = (
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
)
