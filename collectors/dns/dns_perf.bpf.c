// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* dns, partial: the perf buffer for the events. Nothing after 4.14. */
#include "dns.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

SEC("tc")
int watch(struct __sk_buff *skb)
{
	struct dns_event event = {};

	if (fill_event(&event, skb) == 0)
		bpf_perf_event_output(skb, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return CORE_COMPAT_NEUTRAL_tc;
}
