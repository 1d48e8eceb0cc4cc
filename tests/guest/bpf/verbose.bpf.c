// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A program that the verifier talks of for long before it refuses it: 2000 instructions, then a pointer that may be NULL. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} slot SEC(".maps");

#define X4(x) x x x x
#define X256(x) X4(X4(X4(X4(x))))

SEC("tracepoint/syscalls/sys_enter_openat")
int verbose(void *record)
{
	__u32 zero = 0;
	volatile __u64 sum = bpf_get_current_pid_tgid();
	__u64 *value;

	(void)record;
	X256(sum += 1; sum ^= 3;)
	value = bpf_map_lookup_elem(&slot, &zero);
	return (int)(*value + sum);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
