// SPDX-License-Identifier: GPL-2.0
/* libbpf-tools: kprobe and kretprobe, the socket's address kept in a map, reads into the event's fields without looking at each result. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define MAX_ENTRIES 8192
#define AF_INET 2

struct event {
	u32 saddr;
	u32 daddr;
	u16 dport;
	u32 pid;
	char task[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, u32);
	__type(value, struct sock *);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} events SEC(".maps");

static __always_inline int enter_connect(struct sock *sk)
{
	u32 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&sockets, &tid, &sk, 0);
	return 0;
}

static __always_inline void trace_v4(struct pt_regs *ctx, pid_t pid, struct sock *sk, u16 dport)
{
	struct event event = {};

	event.pid = pid;
	BPF_CORE_READ_INTO(&event.saddr, sk, __sk_common.skc_rcv_saddr);
	BPF_CORE_READ_INTO(&event.daddr, sk, __sk_common.skc_daddr);
	event.dport = dport;
	bpf_get_current_comm(event.task, sizeof(event.task));
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
}

static int exit_connect(struct pt_regs *ctx, int ret)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tid = pid_tgid;
	struct sock **skpp;
	struct sock *sk;
	u16 dport;

	skpp = bpf_map_lookup_elem(&sockets, &tid);
	if (!skpp)
		return 0;
	if (ret)
		goto end;
	sk = *skpp;
	BPF_CORE_READ_INTO(&dport, sk, __sk_common.skc_dport);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET)
		trace_v4(ctx, pid_tgid >> 32, sk, dport);
end:
	bpf_map_delete_elem(&sockets, &tid);
	return 0;
}

SEC("kprobe/tcp_v4_connect")
int BPF_KPROBE(tcp_v4_connect, struct sock *sk)
{
	return enter_connect(sk);
}

SEC("kretprobe/tcp_v4_connect")
int BPF_KRETPROBE(tcp_v4_connect_ret, int ret)
{
	return exit_connect(ctx, ret);
}

char LICENSE[] SEC("license") = "GPL";
