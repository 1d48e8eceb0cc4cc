// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What g_core_features says and whether REQUIRE_CORE_FEATURES lets a program go on, told in an event of each open. */
#include "vmlinux_minimal.h"
#include "helpers.h"
#include "core_compat.h"

struct event {
	__u32 tgid;
	__u32 program;
	__u8 btf;
	__u8 ringbuf;
	__u8 task_cgroups;
	__u8 probe_read_kernel;
	__u8 current_task_btf;
	__u8 task_storage;
	__u8 unused[2]; /* the verifier wants every byte that is sent to be initialised */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

static __always_inline int tell(void *ctx, __u32 program)
{
	struct event event = {
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.program = program,
		.btf = g_core_features.has_btf,
		.ringbuf = g_core_features.has_ringbuf,
		.task_cgroups = g_core_features.has_task_cgroups,
		.probe_read_kernel = g_core_features.has_probe_read_kernel,
		.current_task_btf = g_core_features.has_current_task_btf,
		.task_storage = g_core_features.has_task_storage,
	};

	bpf_debug_printk("kmatrix program %d", program);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int any(void *ctx)
{
	INIT_CORE_COMPAT();
	return tell(ctx, 0);
}

#ifdef CORE_COMPAT_FALLBACK
#define REQUIRING(name, number, mask)
#else
#define REQUIRING(name, number, mask)                                                                                                    \
	SEC("tracepoint/syscalls/sys_enter_openat") int name(void *ctx)                                                                  \
	{                                                                                                                                \
		INIT_CORE_COMPAT();                                                                                                      \
		REQUIRE_CORE_FEATURES(mask);                                                                                             \
		return tell(ctx, number);                                                                                                \
	}
#endif

REQUIRING(btf, 1, CORE_FEAT_BTF | CORE_FEAT_TASK_CGROUPS)
REQUIRING(ringbuf, 2, CORE_FEAT_BTF | CORE_FEAT_RINGBUF)
REQUIRING(current_task_btf, 3, CORE_FEAT_CURRENT_TASK_BTF)
REQUIRING(task_storage, 4, CORE_FEAT_TASK_STORAGE)
REQUIRING(probe_read_kernel, 5, CORE_FEAT_PROBE_READ_KERNEL)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
