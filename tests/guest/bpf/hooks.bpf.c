// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* One program that always works, and some that may not: for what becomes of a variant with optional programs. Loads on 4.14. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int works(void *record)
{
	__u64 id = bpf_get_current_pid_tgid();

	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &id, sizeof(id));
	return 0;
}

SEC("kprobe/vfs_open")
int on_kprobe(void *context)
{
	(void)context;
	return 0;
}

SEC("kprobe/there_is_no_such_function")
int cannot_attach(void *context)
{
	(void)context;
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int cannot_load(void *record)
{
	(void)record;
	return *(volatile int *)bpf_get_current_pid_tgid();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
