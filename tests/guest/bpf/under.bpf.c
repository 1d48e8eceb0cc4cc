// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A program and a map for each of several circumstances: no BPF among the LSMs, no JIT, little memory, events that are restricted. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 24 << 20);
	__type(key, __u32);
	__type(value, __u64);
} large SEC(".maps");

SEC("lsm/file_open")
int needs_lsm(void *ctx __attribute__((unused)))
{
	return 0;
}

static long each(__u32 index __attribute__((unused)), void *total)
{
	*(long *)total += 1;
	return 0;
}

SEC("raw_tp/sched_process_exec")
int needs_jit(void *ctx __attribute__((unused)))
{
	long total = 0;

	bpf_loop(3, each, &total, 0);
	return total == 4;
}

SEC("socket")
int needs_memory(void *ctx __attribute__((unused)))
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&large, &zero) != 0;
}

SEC("tracepoint/sched/sched_process_exit")
int needs_events(void *ctx __attribute__((unused)))
{
	return 0;
}

char _license[] SEC("license") = "GPL";
