// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs of many kinds in one object: some load, some do not, some attach, some do not, some say nowhere where. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} slot SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int good(void *record)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&slot, &zero);

	(void)record;
	return value ? (int)*value : 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int follows_null(void *record)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&slot, &zero);

	(void)record;
	return (int)*value;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int uses_ring(void *record)
{
	bpf_ringbuf_output(&ring, &record, 1, 0);
	return 0;
}

#define NOTHING(section, name, value) SEC(section) int name(void *context) { (void)context; return value; }

NOTHING("kprobe/vfs_open", on_kprobe, 0)
NOTHING("kretprobe/vfs_open", on_kretprobe, 0)
NOTHING("kprobe/there_is_no_such_function", on_missing_function, 0)
NOTHING("tracepoint/no/such", on_missing_tracepoint, 0)
NOTHING("raw_tracepoint/sched_process_exec", on_raw_tracepoint, 0)
NOTHING("kprobe", nowhere, 0)
NOTHING("socket", on_socket, 0)
NOTHING("xdp", on_xdp, 2)
NOTHING("tc", on_tc, 0)
NOTHING("cgroup_skb/egress", on_cgroup, 1)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
