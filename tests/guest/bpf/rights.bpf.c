// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs that take different capabilities: CAP_BPF alone, CAP_PERFMON with it, CAP_NET_ADMIN with it. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

SEC("socket")
int plain(void *skb __attribute__((unused)))
{
	return 0;
}

SEC("raw_tp/sched_process_exec")
int traces(void *context __attribute__((unused)))
{
	return 0;
}

SEC("tc")
int classifies(void *skb __attribute__((unused)))
{
	return 0;
}

char _license[] SEC("license") = "GPL";
