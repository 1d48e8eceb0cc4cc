// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* All six arguments and the result of sendto(2)'s function in the kernel, told in an event. FUNCTION is its name there. */
#include "vmlinux_minimal.h"
#include "helpers.h"
#include "core_compat.h"

struct event {
	__u32 tgid;
	__u32 returned; /* 0: the arguments; 1: the result */
	__u64 values[6];
	__u8 packet[2]; /* the first bytes of what argument 1 points to */
	__be16 port; /* of the address that argument 4 points to */
	__u32 unused; /* the verifier wants every byte that is sent to be initialised */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("kprobe/" FUNCTION)
int arguments(struct pt_regs *ctx)
{
	struct event event = {
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.values = {get_arg0(ctx), get_arg1(ctx), get_arg2(ctx), get_arg3(ctx), get_arg4(ctx), get_arg5(ctx)},
	};

	bpf_probe_read(event.packet, sizeof(event.packet), (void *)event.values[1]);
	bpf_probe_read(&event.port, sizeof(event.port), (char *)event.values[4] + 2);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("kretprobe/" FUNCTION)
int result(struct pt_regs *ctx)
{
	struct event event = {.tgid = bpf_get_current_pid_tgid() >> 32, .returned = 1, .values = {get_return_value(ctx)}};

	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
