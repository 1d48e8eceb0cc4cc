// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* openat, partial: CO-RE for the parent, the perf buffer for the events. Needs BTF. */
#include "openat.h"
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int enter_openat(struct sys_enter_record *record)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);
	return remember_call(record);
}

SEC("tracepoint/syscalls/sys_exit_openat")
int exit_openat(struct sys_exit_record *record)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct open_call *call = bpf_map_lookup_elem(&calls, &thread);
	struct open_event event = {};
	struct task_struct *task;

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF);
	if (!call)
		return 0;
	task = (void *)bpf_get_current_task();
	fill_event(&event, call, thread, record->ret);
	event.ppid = BPF_CORE_READ(task, real_parent, tgid);
	bpf_probe_read_user_str(event.path, sizeof(event.path), (void *)call->path);
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	bpf_map_delete_elem(&calls, &thread);
	return 0;
}
