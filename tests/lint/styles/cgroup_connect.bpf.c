/* Hooks of a cgroup: the verdict 0 denies on purpose. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

const volatile __u16 forbidden_port = 25;

SEC("cgroup/connect4")
int on_connect(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port == bpf_htons(forbidden_port))
		return 0;
	return 1;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	return skb->len < 65536;
}

char LICENSE[] SEC("license") = "GPL";
