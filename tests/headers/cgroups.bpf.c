// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The cgroup ids of who opens a file, of its parent, and of no task at all, told in an event. */
#include "vmlinux_minimal.h"
#include "helpers.h"
#include "core_compat.h"

struct event {
	__u32 tgid;
	__u32 unused; /* the verifier wants every byte that is sent to be initialised */
	__u64 own;
	__u64 parents;
	__u64 nobodys;
	__u64 by_helper;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int enter_openat(void *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct event event = {.tgid = bpf_get_current_pid_tgid() >> 32};

	event.own = safe_cgroup_id_extraction(task);
	event.nobodys = safe_cgroup_id_extraction((struct task_struct *)0);
#ifndef CORE_COMPAT_FALLBACK
	event.parents = safe_cgroup_id_extraction(BPF_CORE_READ(task, real_parent));
#endif
#if !defined(CORE_COMPAT_FALLBACK) || defined(CORE_COMPAT_CGROUP_ID_HELPER)
	event.by_helper = bpf_get_current_cgroup_id();
#endif
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
