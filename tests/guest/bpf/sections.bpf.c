// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Section names that other loaders take, and libbpf 1.x does not. */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

#define NOTHING(section, name, value) SEC(section) int name(void *context) { (void)context; return value; }

NOTHING("socket1", numbered, 0)
NOTHING("classifier/egress", outwards, 0)
NOTHING("cgroup/skb/egress", leaving, 1)
NOTHING("kprobe_do_exit", underscored, 0)
NOTHING("mine", unknown, 0)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
