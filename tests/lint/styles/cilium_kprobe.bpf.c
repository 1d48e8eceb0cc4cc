//go:build ignore
/* cilium/ebpf: its trimmed headers (a common.h with types and no vmlinux.h), a legacy-free map, a counter. */
#include "common.h"
#include <bpf/bpf_helpers.h>

char __license[] SEC("license") = "Dual MIT/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, u32);
	__type(value, u64);
	__uint(max_entries, 1);
} kprobe_map SEC(".maps");

SEC("kprobe/do_execveat_common")
int kprobe_execve(void *ctx)
{
	u32 key = 0;
	u64 initval = 1, *valp;

	(void)ctx;
	valp = bpf_map_lookup_elem(&kprobe_map, &key);
	if (!valp) {
		bpf_map_update_elem(&kprobe_map, &key, &initval, BPF_ANY);
		return 0;
	}
	__sync_fetch_and_add(valp, 1);
	return 0;
}
