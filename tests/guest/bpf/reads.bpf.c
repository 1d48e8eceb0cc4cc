// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Reads the kernel's memory by an address, which a kernel that is locked down forbids. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

long seen;

SEC("kprobe/do_unlinkat")
int by_address(void *context)
{
	return bpf_probe_read_kernel(&seen, sizeof(seen), context);
}

char _license[] SEC("license") = "GPL";
