// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs on the network that tell that they ran, in the trace (a socket filter has no other way on 4.14). */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

#define TELLING(section, name, value)                                                                                                   \
	SEC(section) int name(void *packet)                                                                                              \
	{                                                                                                                                \
		(void)packet;                                                                                                            \
		bpf_printk("kmatrix " #name);                                                                                            \
		return value;                                                                                                            \
	}

TELLING("socket", on_socket, -1)
TELLING("cgroup_skb/egress", first, 1)
TELLING("cgroup_skb/egress", second, 1)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
