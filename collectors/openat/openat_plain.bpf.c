// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* openat, fallback: no relocation, no global data, nothing after 4.14. Who the parent is it cannot say. */
#define CORE_COMPAT_FALLBACK
#include "openat.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int enter_openat(struct sys_enter_record *record)
{
	return remember_call(record);
}

SEC("tracepoint/syscalls/sys_exit_openat")
int exit_openat(struct sys_exit_record *record)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct open_call *call = bpf_map_lookup_elem(&calls, &thread);
	struct open_event event = {};

	if (!call)
		return 0;
	fill_event(&event, call, thread, record->ret);
	/* Not probe_read_user_str: that is 5.5. On x86_64 and arm64 this one reads user memory too. */
	bpf_probe_read_str(event.path, sizeof(event.path), (void *)call->path);
	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	bpf_map_delete_elem(&calls, &thread);
	return 0;
}
