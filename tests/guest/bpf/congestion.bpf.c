// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A TCP congestion control: a structure of programs that is registered as a whole. */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

struct tcp_congestion_ops {
	unsigned int (*ssthresh)(void *);
	void (*cong_avoid)(void *, unsigned int, unsigned int);
	unsigned int (*undo_cwnd)(void *);
	char name[16];
};

SEC("struct_ops/threshold")
unsigned int threshold(void *context)
{
	(void)context;
	return 2;
}

SEC("struct_ops/avoid")
void avoid(void *context)
{
	(void)context;
}

SEC("struct_ops/undo")
unsigned int undo(void *context)
{
	(void)context;
	return 2;
}

SEC(".struct_ops")
struct tcp_congestion_ops control = { (void *)threshold, (void *)avoid, (void *)undo, "kmatrix" };

char LICENSE[] SEC("license") = "GPL";
