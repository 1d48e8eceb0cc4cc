// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs that no verifier takes, or no older one. lacks.bpf.c says how to read the comments. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key {
	__u8 kind;
	__u32 pid;
	__u64 when;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, struct key);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, char[64]);
} array SEC(".maps");

// all: null: a pointer that may be NULL is used unchecked
SEC("tracepoint/sched/sched_process_exec")
int unchecked(void *ctx)
{
	struct key key = {};
	__u64 *found;

	found = bpf_map_lookup_elem(&hash, &key);
	return *found; /* here */
}

// all: pointer: a number is used as a pointer
SEC("tracepoint/sched/sched_process_exec")
int number(void *ctx)
{
	long *task = (void *)bpf_get_current_task();

	return *task; /* here */
}

// all: bounds: an offset or size that the verifier cannot bound
SEC("tracepoint/sched/sched_process_exec")
int unbounded(void *ctx)
{
	__u32 zero = 0, n = bpf_get_prandom_u32();
	char *bytes = bpf_map_lookup_elem(&array, &zero);

	if (!bytes)
		return 0;
	return bytes[n]; /* here */
}

// < 5.5: stack: uninitialised stack given to a helper (bytes 1 to 3 of struct key)
SEC("tracepoint/sched/sched_process_exec")
int padding(void *ctx)
{
	struct key key;
	__u64 one = 1;

	key.kind = 1;
	key.pid = bpf_get_current_pid_tgid() >> 32;
	key.when = bpf_ktime_get_ns();
	bpf_map_update_elem(&hash, &key, &one, 0); /* here */
	return 0;
}

// all: packet: packet data is read without a check of its bounds
SEC("xdp")
int packet(struct xdp_md *ctx)
{
	__u16 *data = (void *)(long)ctx->data;

	return *data == 8 ? XDP_DROP : XDP_PASS; /* here */
}

// all: context: __sk_buff.len is not for programs of type socket_filter on this kernel, or not in this way
SEC("socket")
int field(struct __sk_buff *skb)
{
	skb->len = 3; /* here */
	return 0;
}

// all: reference: a reference is not released on every path
SEC("tc")
int kept(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	return sk != 0;
}

// all: return-value: the program returns what its type does not allow
SEC("cgroup/skb")
int returns(struct __sk_buff *skb)
{
	return 7;
}

static __attribute__((noinline)) int inner(__u32 n)
{
	char more[300];

	bpf_get_current_comm(more, sizeof(more));
	return more[0] + n;
}

// all: verifier-stack: more than 512 bytes of stack
SEC("tracepoint/sched/sched_process_exec")
int deep(void *ctx)
{
	char bytes[300];

	bpf_get_current_comm(bytes, sizeof(bytes));
	return inner(bytes[0]);
}

// < 5.10: ok
// < 5.13: global-function: global function bigger() with a pointer argument, since 5.13
__attribute__((noinline)) int bigger(struct key *key) /* here */
{
	return key ? key->pid > key->when : 0;
}

SEC("tracepoint/sched/sched_process_exec")
int global(void *ctx)
{
	struct key key = { .pid = bpf_get_prandom_u32(), .when = bpf_ktime_get_ns() };

	return bigger(&key);
}

char LICENSE[] SEC("license") = "GPL";
