"""The rules about features (KM3), architectures (KM4), and what a variant claims (KM5)."""

from __future__ import annotations

from kmatrix.lint.rules.rule import Rule

COMPATIBILITY: tuple[Rule, ...] = (
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
        "a helper, map, program type, attachment, kernel function or instruction newer than the kernels that the variant claims",
        "A variant is expected to run on every kernel that has its needs. A helper that one of them lacks is EINVAL at load there, for the whole program. Add the feature to the variant's "
        "needs, test it (bpf_core_enum_value_exists), or do without. cgroup_v2 is not enough for bpf_get_current_cgroup_id(): the helper is 4.18, feature cgroup_id_helper.",
        "A 4.14 guest refuses the wrong example (tests/lint/test_kernel_facts.py); the releases are kmatrix/matrix/features.py's and the tables' (kmatrix/guest/table_*.py).",
        wrong='SEC("tracepoint/sched/sched_process_exec")\nint on_exec(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_cgroup_id() != 0;\n}\n',
        right='SEC("tracepoint/sched/sched_process_exec")\nint on_exec(void *ctx)\n{\n\t(void)ctx;\n\treturn bpf_get_current_pid_tgid() != 0;\n}\n',
        needs=("perf_buffer", "cgroup_v2"),
    ),
)
