// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What a connection has sent and received by the time that it is closed, as the kernel counts it: for the trigger tcp_close. Needs BTF.
 *
 * BREAK_COUNTS is a mistake: it mixes the two up.
 */
#include "vmlinux_minimal.h"
#include "helpers.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct tcp_sock {
	__u64 bytes_acked;
	__u64 bytes_received;
} __attribute__((preserve_access_index));

struct counts {
	__u32 what;
	__u32 pid;
	__u32 tgid;
	__u32 unused;
	__u64 acked;
	__u64 received;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("kprobe/tcp_close")
int tcp_close(struct pt_regs *ctx)
{
	struct tcp_sock *tcp = (void *)get_arg0(ctx);
	__u64 id = bpf_get_current_pid_tgid();
	struct counts counts = { .what = 8, .pid = (__u32)id, .tgid = id >> 32 };

	counts.acked = BPF_CORE_READ(tcp, bytes_acked);
	counts.received = BPF_CORE_READ(tcp, bytes_received);
#ifdef BREAK_COUNTS
	__u64 acked = counts.acked;

	counts.acked = counts.received;
	counts.received = acked;
#endif
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &counts, sizeof(counts));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
