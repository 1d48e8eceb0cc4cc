/* Socket lookup: the context is the program's, and read directly. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} target SEC(".maps");

SEC("sk_lookup")
int dispatch(struct bpf_sk_lookup *ctx)
{
	const u32 zero = 0;
	void *sk;

	if (ctx->local_port < 7000 || ctx->local_port > 7010)
		return SK_PASS;
	sk = bpf_map_lookup_elem(&target, &zero);
	return sk ? SK_PASS : SK_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
