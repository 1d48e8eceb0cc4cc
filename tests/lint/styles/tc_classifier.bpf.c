/* tc in direct-action mode: offsets into packets are the protocol's, not the kernel's. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define TC_ACT_OK 0
#define ETH_HLEN 14
#define UDP_PORT_OFFSET (ETH_HLEN + 20 + 2)

SEC("tc")
int classify(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__be16 port = 0;

	if (data + 42 > end)
		return TC_ACT_OK;
	port = *(__be16 *)((char *)data + 36);
	if (bpf_skb_load_bytes(skb, UDP_PORT_OFFSET, &port, sizeof(port)) < 0)
		return TC_ACT_OK;
	if (port == bpf_htons(53))
		skb->mark = 53;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
