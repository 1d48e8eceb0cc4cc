// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A program at a USDT place, with libbpf's header for such. */
#include "vmlinux_minimal.h"
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <bpf/usdt.bpf.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

struct event {
	__u32 tgid;
	int number;
	long wide;
	long address;
	char text[32];
};

SEC("usdt//tmp/kmatrix/kmatrix-victim:kmatrix:victim")
int on_usdt(struct pt_regs *regs)
{
	struct event event = { .tgid = bpf_get_current_pid_tgid() >> 32 };
	long number = 0;

	bpf_usdt_arg(regs, 0, &number);
	bpf_usdt_arg(regs, 1, &event.wide);
	bpf_usdt_arg(regs, 2, &event.address);
	event.number = number;
	bpf_probe_read_str(event.text, sizeof(event.text), (void *)event.address);
	bpf_perf_event_output(regs, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
