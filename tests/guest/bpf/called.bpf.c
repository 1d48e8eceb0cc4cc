// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A program that is attached nowhere: another calls it. Each open makes two events. Loads on 4.14. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

int called(void *record);

struct {
	__uint(type, 3); /* BPF_MAP_TYPE_PROG_ARRAY */
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} programs SEC(".maps") = {.values = {[0] = (void *)&called}};

static __always_inline void tell(void *record)
{
	__u64 id = bpf_get_current_pid_tgid();

	bpf_perf_event_output(record, &events, BPF_F_CURRENT_CPU, &id, sizeof(id));
}

SEC("tracepoint")
int called(void *record)
{
	tell(record);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int caller(void *record)
{
	tell(record);
	bpf_tail_call(record, &programs, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
