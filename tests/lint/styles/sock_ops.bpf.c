/* Socket operations, a tail call, a loop, global counters: what kernels from 5.3 on take. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

static __u64 established;
__u32 last_port;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} next SEC(".maps");

SEC("sockops")
int on_operation(struct bpf_sock_ops *ops)
{
	__u32 sum = 0;

	for (int i = 0; i < 16; i++)
		sum += ops->local_port >> i;
	if (ops->op == 4) {
		__sync_fetch_and_add(&established, 1);
		last_port = ops->local_port;
	}
	bpf_tail_call(ops, &next, 1);
	return sum ? 1 : 0;
}

char LICENSE[] SEC("license") = "GPL";
