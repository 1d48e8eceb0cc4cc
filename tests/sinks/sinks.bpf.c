// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What does not come out of a buffer: maps, global variables, an iterator's text, bpf_printk, programs that are run on a packet. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct who {
	__u32 tgid;
	__u32 uid;
};

struct what {
	__u64 opens;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct who);
	__type(value, struct what);
} opens SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__uint(value_size, 8);
} untyped SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(void *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), one = 1;
	struct who who = { .tgid = id >> 32, .uid = (__u32)bpf_get_current_uid_gid() };
	struct what what = { .opens = 1 }, *there;
	__u32 slot = 1, key = 5;
	__u64 *total;

	(void)ctx;
	there = bpf_map_lookup_elem(&opens, &who);
	if (there) {
		there->opens += 1;
	} else {
		bpf_get_current_comm(what.comm, sizeof(what.comm));
		bpf_map_update_elem(&opens, &who, &what, BPF_ANY);
	}
	total = bpf_map_lookup_elem(&totals, &slot);
	if (total)
		*total += 1;
	bpf_map_update_elem(&untyped, &key, &one, BPF_ANY);
	bpf_printk("opened by %d as %d", who.tgid, who.uid);
	return 0;
}

SEC("xdp")
int drop_short(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	eth->h_dest[0] = 0x42;
	return XDP_TX;
}

SEC("kprobe/vfs_open")
int on_kprobe(void *ctx)
{
	(void)ctx;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
