/* A socket filter: returns how much of the packet to keep. 0, for what is not wanted, is a verdict and not a refusal. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, long);
} by_protocol SEC(".maps");

SEC("socket")
int filter(struct __sk_buff *skb)
{
	u8 protocol = 0;
	u32 index;
	long *value;

	if (bpf_skb_load_bytes(skb, 14 + 9, &protocol, 1))
		return 0;
	index = protocol;
	value = bpf_map_lookup_elem(&by_protocol, &index);
	if (value)
		__sync_fetch_and_add(value, skb->len);
	return protocol == 17 ? -1 : 0;
}

char _license[] SEC("license") = "GPL";
