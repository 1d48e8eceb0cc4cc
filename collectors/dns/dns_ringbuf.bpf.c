// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* dns, full: the ring buffer for the events. Needs 5.8, and no BTF. */
#include "dns.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* a multiple of the page, which is up to 64 KiB on arm64 */
} events SEC(".maps");

SEC("tc")
int watch(struct __sk_buff *skb)
{
	struct dns_event event = {};

	if (fill_event(&event, skb) == 0)
		bpf_ringbuf_output(&events, &event, sizeof(event), 0);
	return CORE_COMPAT_NEUTRAL_tc;
}
