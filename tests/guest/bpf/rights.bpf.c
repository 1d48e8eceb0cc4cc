// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs that take different capabilities: none of the others' for the first, CAP_PERFMON for the second, CAP_NET_ADMIN for the third. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

SEC("socket")
int plain(void *skb)
{
	return 0;
}

SEC("raw_tp/sched_process_exec")
int traces(void *context)
{
	return 0;
}

SEC("tc")
int classifies(void *skb)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
