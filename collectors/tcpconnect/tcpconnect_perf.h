/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The programs of the variants with the perf buffer. */
#ifndef KMATRIX_TCPCONNECT_PERF_H
#define KMATRIX_TCPCONNECT_PERF_H

#include "tcpconnect.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("kprobe/tcp_v4_connect")
int enter_connect(struct pt_regs *ctx)
{
	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(REQUIRED);
	return remember_socket(ctx);
}

SEC("kretprobe/tcp_v4_connect")
int exit_connect(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 *sock = bpf_map_lookup_elem(&connecting, &thread);
	struct connect_event event = {};

	INIT_CORE_COMPAT();
	REQUIRE_CORE_FEATURES(REQUIRED);
	if (!sock)
		return 0;
	fill_event(&event, ctx, thread, *sock);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	bpf_map_delete_elem(&connecting, &thread);
	return 0;
}

#endif
