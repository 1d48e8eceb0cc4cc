// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A loop that ends, and that the verifier walks through a million instructions before it gives up: many seconds where the CPU is emulated. */
#define BPF_NO_GLOBAL_DATA
#include "vmlinux_minimal.h"
#include <bpf/bpf_helpers.h>

SEC("socket")
int quick(void *context)
{
	(void)context;
	return 0;
}

SEC("socket")
int slow(void *context)
{
	unsigned long step = bpf_get_prandom_u32(), sum = 0;

	(void)context;
	for (int i = 0; i < 700000; i++) {
		sum += step;
		asm volatile("" : "+r"(sum));
		if (sum == (unsigned long)i)
			break;
	}
	return sum;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
