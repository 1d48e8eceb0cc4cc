// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What a loader sets that every library can: a constant, the size of a map, its contents, a tail call. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

const volatile __u32 wanted = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

struct {
	__uint(type, 3); /* BPF_MAP_TYPE_PROG_ARRAY */
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} jumps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_swapon")
int checked(void *ctx)
{
	(void)ctx;
	if (wanted != 42)
		return *(volatile int *)0;
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int entry(void *ctx)
{
	bpf_tail_call(ctx, &jumps, 2);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int called(void *ctx)
{
	__u32 key = 1;
	__u64 *entry = bpf_map_lookup_elem(&table, &key);
	__u32 event[2] = {wanted, entry ? *entry : 0};

	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, event, sizeof(event));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
