/* XDP with the kernel's interface headers, packet pointers, no license-bound helper. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int count(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + 14;
	__u64 one = 1, *value;
	__u32 source;

	if ((void *)(eth + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	source = ip->saddr;
	value = bpf_map_lookup_elem(&packets, &source);
	if (value)
		__sync_fetch_and_add(value, 1);
	else
		bpf_map_update_elem(&packets, &source, &one, BPF_NOEXIST);
	return XDP_PASS;
}

char _license[] SEC("license") = "MIT";
