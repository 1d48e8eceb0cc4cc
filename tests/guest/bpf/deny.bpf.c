// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A program that does harm: the trigger's user may open no file. */
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

SEC("lsm/file_open")
int deny(void *context)
{
	(void)context;
	return (__u32)bpf_get_current_uid_gid() == 4201 ? -1 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
